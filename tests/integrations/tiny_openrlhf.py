"""A tiny OpenRLHF training in one process on a CPU: the real actor trainer, or a stand-in that keeps its contract.

The stand-in follows what OpenRLHF 0.8, 0.10 and 0.11 have in common and where they differ: what `PolicyLoss` returns,
what `training_step` reports, and which normalisers the loss is given. "real" is the installed package:
`ActorPPOTrainer`, `Actor`, `PolicyLoss`, `Experience` and the replay buffer as they are; what cannot be had without a
GPU (flash-attn, vLLM) is an empty module, and DeepSpeed's engine is `Strategy` below.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

VOCABULARY, PROMPTS, EACH = 11, 2, 4
PROMPT_TOKENS = 3


class Output(dict[str, Any]):
    """Of a model: logits by name, and attributes."""


class Model(nn.Module):
    """A bigram policy that looks at one more token; as DeepSpeed's engine it counts its optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)
        self.global_steps = 0

    def forward(self, sequences: Tensor, attention_mask: Any = None, position_ids: Any = None) -> Output:
        return Output(logits=self.head(self.table(sequences)))


class StandInActor(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(
        self,
        sequences: Tensor,
        action_mask: Tensor,
        attention_mask: Tensor | None = None,
        return_output: bool = False,
        ring_attn_group: Any = None,
        packed_seq_lens: Any = None,
        return_entropy: bool = False,
    ) -> Any:
        self.calls += 1
        output = self.model(sequences)
        log_probs = torch.log_softmax(output["logits"], -1)
        if return_entropy:
            output.entropy = -(log_probs.exp() * log_probs).sum(-1)[:, :-1]
        own = log_probs[:, :-1].gather(-1, sequences[:, 1:, None])[..., 0]
        own = own[:, -action_mask.shape[1] :] * action_mask.float()
        return (own, output) if return_output else own


class StandInLoss(nn.Module):
    """`PolicyLoss` of three generations; the arithmetic is plain PPO's."""

    def __init__(self, generation: str) -> None:
        super().__init__()
        self.generation = generation
        if generation == "0.8":
            self.clip_eps = 0.2
        else:
            self.clip_eps_low, self.clip_eps_high = 0.2, 0.25

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor | None = None,
        rollout_log_probs: Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: Any = None,
        global_batch_size: Any = None,
    ) -> Any:
        assert action_mask is not None
        ratio = (log_probs - old_log_probs).exp()
        low, high = (0.2, 0.2) if self.generation == "0.8" else (self.clip_eps_low, self.clip_eps_high)
        each = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages) * action_mask
        tokens = action_mask.sum() if batch_num_tokens is None else batch_num_tokens
        loss = each.sum() / tokens * dp_size
        more = {"0.8": 0, "0.10": 3, "0.11": 4}[self.generation]
        return (loss, *[loss.detach()] * more) if more else loss


@dataclass
class Item:
    """One response in the replay buffer of the stand-in."""

    sequences: Tensor
    attention_mask: Tensor
    action_mask: Tensor
    action_log_probs: Tensor
    advantages: Tensor
    rewards: Tensor
    truncated: Tensor
    prompts: list[str]
    index: list[int] | None = None
    info: dict[str, Any] = field(default_factory=dict)


class StandInTrainer:
    """What is common to `ActorPPOTrainer` from 0.8 to 0.11, as far as an integration may count on it."""

    generation = "0.11"

    def __init__(self, strategy: Strategy, actor: Any, *, micro_train_batch_size: int) -> None:
        self.strategy, self.args, self.actor = strategy, strategy.args, actor
        self.micro_train_batch_size = micro_train_batch_size
        self.max_epochs = strategy.args.train.max_epochs
        self.actor_loss_fn = StandInLoss(self.generation)
        self.replay_buffer = SimpleNamespace(items=[])

    def ppo_train(self, kl_ctl: float) -> dict[str, Any]:
        status: dict[str, Any] = {}
        items, size = self.replay_buffer.items, self.micro_train_batch_size
        for _ in range(self.max_epochs):
            order = torch.randperm(len(items)).tolist()
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            for step, part in enumerate(parts):
                window = step // self.strategy.accumulated_gradient * self.strategy.accumulated_gradient
                together = [items[i] for p in parts[window : window + self.strategy.accumulated_gradient] for i in p]
                tokens = sum(item.action_mask.sum() for item in together) / self.strategy.accumulated_gradient
                status = self.training_step(self._batch([items[i] for i in part]), kl_ctl, step, float(tokens))
        return dict(status.get("metrics", status))

    def training_step(self, experience: Any, kl_ctl: float, step: int, tokens: float) -> dict[str, Any]:
        log_probs, _ = self.actor(
            experience.sequences,
            experience.action_mask,
            attention_mask=experience.attention_mask,
            return_output=True,
            return_entropy=self.args.actor.entropy_coef is not None,
        )
        counts = {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": len(log_probs)}
        out = self.actor_loss_fn(
            log_probs,
            experience.action_log_probs,
            experience.advantages,
            action_mask=experience.action_mask,
            **(counts if self.generation == "0.11" else {}),
        )
        loss = out[0] if isinstance(out, tuple) else out
        self.strategy.backward(loss, self.actor, None)
        self.strategy.optimizer_step(None, self.actor, None)
        if self.generation == "0.8":
            return {"policy_loss": loss.item(), "actor_lr": 0.1}
        norm = self.strategy.get_grad_norm(self.actor)
        return {"metrics": {"policy_loss": loss.detach(), "actor_lr": 0.1, "actor_grad_norm": norm}, "weights": {}}

    def _batch(self, items: list[Item]) -> Any:
        def stacked(name: str) -> Tensor:
            parts = [getattr(item, name) for item in items]
            longest = max(len(part) for part in parts)
            return torch.stack([pad(part, (0, longest - len(part))) for part in parts])

        names = ("sequences", "attention_mask", "action_mask", "action_log_probs", "advantages")
        known = [item.index for item in items]
        return SimpleNamespace(
            **{name: stacked(name) for name in names},
            rewards=torch.stack([item.rewards for item in items]),
            prompts=[prompt for item in items for prompt in item.prompts],
            index=None if None in known else [uid for index in known for uid in index or ()],
            info={},
        )


class Strategy:
    """Instead of OpenRLHF's, with DeepSpeed: plain torch."""

    ring_attn_group = None
    ring_attn_rank, ring_attn_size, ds_tensor_parallel_size = 0, 1, 1

    def __init__(self, args: Any, accumulated_gradient: int) -> None:
        self.args, self.accumulated_gradient = args, accumulated_gradient
        self.optimizer: Any = None
        self.seen: list[float] = []
        self._micro_steps, self._norm = 0, 0.0

    def is_rank_0(self) -> bool:
        return False

    def all_reduce(self, values: Any) -> Any:
        return values

    def backward(self, loss: Tensor, model: Any, optimizer: Any) -> None:
        self.seen.append(loss.item())
        (loss / self.accumulated_gradient).backward()

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, name: str = "") -> None:
        self._micro_steps += 1
        if self._micro_steps % self.accumulated_gradient:
            return
        if dist.is_initialized():  # as DeepSpeed does, which knows nothing of ranks that hold the same responses
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        self._norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1e9))
        self.optimizer.step()
        self.optimizer.zero_grad()
        model.model.global_steps += 1

    def get_grad_norm(self, model: Any) -> float:
        return self._norm


class World:
    """A training: fill the replay buffer, update on it, look at what came out."""

    def __init__(self, module: ModuleType, trainer: Any, actor: Any, strategy: Strategy) -> None:
        self.module, self.trainer, self.actor, self.strategy = module, trainer, actor, strategy
        self.statuses: list[dict[str, Any]] = []

    def step(self, number: int) -> None:
        """One rollout batch with its updates."""
        self.fill(number)
        torch.manual_seed(number)
        self.statuses.append(self.trainer.ppo_train(0.0))
        self.trainer.replay_buffer.items.clear()

    def fill(self, number: int) -> None:
        """Responses to `PROMPTS` prompts, `EACH` of them, of uneven length, two actions in each."""
        random = torch.Generator().manual_seed(100 + number)
        for prompt in range(PROMPTS):
            rewards = torch.tensor([float((prompt + place) % 2) for place in range(EACH)])
            for place in range(EACH):
                length = 6 + (prompt + 2 * place) % 4
                tokens = torch.randint(VOCABULARY, (PROMPT_TOKENS + length,), generator=random)
                mask = torch.ones(len(tokens) - 1, dtype=torch.bool)
                mask[: PROMPT_TOKENS - 1] = False
                mask[PROMPT_TOKENS + 2] = False  # tool feedback
                self.append(tokens, mask, float(rewards[place]), float(rewards[place] - rewards.mean()), prompt)

    def append(self, tokens: Tensor, mask: Tensor, reward: float, advantage: float, prompt: int) -> None:
        """One response, as OpenRLHF's driver would send it."""
        with torch.no_grad():
            old = self.actor(tokens[None], mask[None], attention_mask=torch.ones_like(tokens)[None])[0]
        known = {
            "sequences": tokens,
            "attention_mask": torch.ones_like(tokens),
            "action_mask": mask,
            "action_log_probs": old,
            "advantages": torch.full_like(old, advantage) * mask,
            "rewards": torch.tensor(reward),
            "truncated": torch.tensor(prompt == 0),
        }
        if isinstance(self.trainer, StandInTrainer):
            self.trainer.replay_buffer.items.append(Item(**known, prompts=[f"prompt {prompt}"]))
            return
        batch = {name: value[None] for name, value in known.items()}
        batch["total_length"] = batch["response_length"] = torch.tensor([len(tokens)])
        experience = importlib.import_module("openrlhf.trainer.ppo_utils.experience").Experience
        info = {"reward": batch["rewards"]}
        self.trainer.replay_buffer.append(experience(**batch, prompts=[f"prompt {prompt}"], index=[7], info=info))

    def weights(self) -> list[float]:
        """All parameters, bit for bit."""
        return [value for part in self.actor.parameters() for value in part.detach().flatten().tolist()]


def arguments(**given: Any) -> Any:
    """As OpenRLHF's command line has them, by section."""
    more = {"epochs": 1, "train_batch_size": PROMPTS * EACH // 2, "entropy_coef": 0, **given}
    space = SimpleNamespace
    advantage = space(
        is_correction_level="off",
        is_correction_mode="mask",
        is_correction_gating="ratio",
        is_correction_threshold=(0.5, 5.0),
    )
    return space(
        train=space(
            max_epochs=more["epochs"],
            batch_size=more["train_batch_size"],
            dynamic_batch_enable=False,
            colocate_all=False,
            async_enable=False,
        ),
        rollout=space(batch_size=PROMPTS, n_samples_per_prompt=EACH),
        actor=space(
            eps_clip_low_high=(0.2, 0.25),
            dual_clip=None,
            loss_agg_mode="token-mean",
            policy_loss_type="ppo",
            aux_loss_coef=0.0,
            entropy_coef=more["entropy_coef"],
        ),
        algo=space(advantage=advantage, kl=space(use_loss=False)),
        ds=space(packing_samples=False, tensor_parallel_size=1),
        vllm=space(sync_backend="gloo"),
        logger=space(wandb=space(key="a secret")),
    )


def world(kind: str, *, accumulate: int = 1, learning_rate: float = 0.5, **given: Any) -> World:
    """A training that is ready to begin; whoever wants it watched patches `module_of(kind)` before.

    Args:
        kind: "real", or the generation of the stand-in.
        accumulate: micro-batches of an update.
        learning_rate: of plain gradient descent.
        given: arguments of the command line.
    """
    torch.manual_seed(3)
    model, module = Model(), module_of(kind)
    strategy = Strategy(arguments(**given), accumulate)
    size = strategy.args.train.batch_size // accumulate
    actor: Any
    if kind == "real":
        actor = importlib.import_module("openrlhf.models").Actor(model)
        actor.packing_samples, actor.is_vlm = False, False  # what it has when it loads a model by its name
        options = {
            "ema_model": None,
            "actor_optim": None,
            "actor_scheduler": SimpleNamespace(get_last_lr=lambda: [0.1]),
        }
        trainer = module.ActorPPOTrainer(
            strategy, actor, micro_train_batch_size=size, dataloader_pin_memory=False, **options
        )
    else:
        actor = StandInActor(model)
        trainer = module.ActorPPOTrainer(strategy, actor, micro_train_batch_size=size)
    strategy.optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    return World(module, trainer, actor, strategy)


def module_of(kind: str) -> ModuleType:
    """`openrlhf.trainer.ray.ppo_actor`, or a fresh module that stands in for it."""
    if kind == "real":
        return importlib.import_module("openrlhf.trainer.ray.ppo_actor")
    module = _MODULES.setdefault(kind, ModuleType(f"stand_in_{kind}"))
    if not hasattr(module, "ActorPPOTrainer"):
        module.ActorPPOTrainer = type("ActorPPOTrainer", (StandInTrainer,), {"generation": kind})  # type: ignore[attr-defined]
    return module


_MODULES: dict[str, ModuleType] = {}


def forget_stand_ins() -> None:
    """The next ones are not patched."""
    _MODULES.clear()


NEEDS = ("openrlhf", "ray", "deepspeed", "peft", "pylatexenc", "transformers")
"""Packages that the real trainer is imported with."""


def why_not_real() -> str | None:
    """Why the real trainer cannot be had here; None: it can, and what has no build for a CPU is an empty module now."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: see tests/integrations/openrlhf.txt"

    def nothing(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    empty: dict[str, dict[str, Any]] = {
        "flash_attn": {},
        "flash_attn.bert_padding": dict.fromkeys(
            ("index_first_axis", "pad_input", "rearrange", "unpad_input"), nothing
        ),
        "flash_attn.utils": {},
        "flash_attn.utils.distributed": {"all_gather": nothing},
        "vllm": {"SamplingParams": object},
        "vllm.inputs": {"TokensPrompt": object},
        "vllm.utils": {"random_uuid": nothing},
    }
    absent = [
        name for name in ("flash_attn", "vllm") if name not in sys.modules and importlib.util.find_spec(name) is None
    ]
    for name, contents in empty.items():
        if name.partition(".")[0] in absent:
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            module.__path__ = []
            vars(module).update(contents)
            sys.modules[name] = module
    return None


def _is_absent(package: str) -> bool:
    return package not in sys.modules and importlib.util.find_spec(package) is None


class CurrentDevice(str):
    """What `torch.cuda.current_device()` is to say on a machine without one: the CPU, and 0 in a device's name."""

    def __format__(self, spec: str) -> str:
        return "0"
