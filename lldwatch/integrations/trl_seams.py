"""Where TRL's GRPOTrainer can be listened to: looked for by name on the trainer itself, never by its version.

The names are those of TRL 0.19 to 1.16 and of the trainers made from it. Whatever is missing is named together with
what is lost by it; only a trainer without the first two cannot be watched at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lldwatch.errors import InputError

LOG_PROBS = ("_get_per_token_logps_and_entropies", "_get_per_token_logps")
LOSS = "compute_loss"
GENERATE = "_generate_and_score_completions"
REWARDS = "_calculate_rewards"
SWIFT_REWARDS = "_rewards_per_func"
CLIP = "clip_grad_norm_"


@dataclass(frozen=True, slots=True)
class Seams:
    """What was found on a trainer.

    Attributes:
        log_probs: name of the method that scores responses.
        missing: what was looked for in vain, and what is lost by it.
        liger: the loss is computed by a fused kernel that gives no log-probs.
        vllm: responses are written by vLLM, and the trainer corrects for the difference.
        on_policy: each rollout batch is used for one update, so that the old log-probs are the current ones.
        scales_loss: transformers itself divides the loss by the number of micro-batches.
    """

    log_probs: str
    missing: tuple[str, ...]
    liger: bool
    vllm: bool
    on_policy: bool
    scales_loss: bool


def find_seams(trainer: Any) -> Seams:
    """Look at a trainer.

    Raises:
        InputError: it is no GRPO trainer that can be watched; the message says what was looked for.
    """
    kind = type(trainer).__name__
    found = [name for name in LOG_PROBS if callable(getattr(trainer, name, None))]
    if not found:
        raise InputError(
            f"{kind} has neither {' nor '.join(LOG_PROBS)}: expected a GRPOTrainer of TRL 0.19 or newer, or one made "
            "from it; a loop of your own takes lldwatch.Monitor"
        )
    for name in (LOSS, "add_callback", "accelerator", "args"):
        if not hasattr(trainer, name):
            raise InputError(f"{kind} has no {name}: expected a trainer made from transformers.Trainer")
    if getattr(getattr(trainer, "template", None), "sequence_parallel_size", 1) > 1:
        raise InputError(
            "sequence_parallel_size above 1 (ms-swift): ranks hold parts of the same rows, not watched yet"
        )
    lost = {
        GENERATE: "rewards, groups and probes",
        REWARDS: "the rewards of responses",
    }
    missing = [f"no {name}: {what} are not recorded" for name, what in lost.items() if not hasattr(trainer, name)]
    if not hasattr(trainer.accelerator, CLIP):
        missing.append(f"no accelerator.{CLIP}: the gradient norm is not recorded")
    liger = bool(getattr(trainer, "use_liger_loss", False) or getattr(trainer, "use_liger_kernel", False))
    return Seams(
        log_probs=found[0],
        missing=tuple(missing),
        liger=liger and hasattr(trainer, "compute_liger_loss"),
        vllm=_corrects_vllm(trainer),
        on_policy=_on_policy(trainer),
        scales_loss=_scales_loss(trainer),
    )


def generates_every(trainer: Any) -> int | None:
    """Micro-batches between two rollout batches; None: the trainer does not say."""
    per_generation = getattr(trainer.args, "steps_per_generation", None)
    iterations = getattr(trainer, "num_iterations", getattr(trainer.args, "num_iterations", None))
    return per_generation * iterations if per_generation and iterations else None


def generates_next(trainer: Any) -> bool | None:
    """The next micro-batch begins with a new rollout batch; None: the trainer does not say."""
    every, step = generates_every(trainer), getattr(trainer, "_step", None)
    return None if every is None or not isinstance(step, int) else step % every == 0


def _on_policy(trainer: Any) -> bool:
    """The rule by which TRL (0.20 and newer) leaves the old log-probs out."""
    every = generates_every(trainer)
    aligned = every is not None and trainer.args.gradient_accumulation_steps % every == 0
    return aligned and not _corrects_vllm(trainer)


def _corrects_vllm(trainer: Any) -> bool:
    names = ("use_vllm", "vllm_importance_sampling_correction")
    return all(bool(getattr(trainer, name, False)) for name in names)


def _scales_loss(trainer: Any) -> bool:
    """Transformers asks `loss_is_scaled_for_ga` since 5.19; before it looked whether there is a compute_loss_func."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    return not scaled if scaled is not None else getattr(trainer, "compute_loss_func", None) is None


def settings_of(trainer: Any) -> dict[str, Any]:
    """The trainer's arguments without secrets, for `run.json`."""
    args = trainer.args
    told: dict[str, Any] = dict(args.to_sanitized_dict()) if hasattr(args, "to_sanitized_dict") else {}
    return {name: value for name, value in told.items() if value not in (None, "", "None")}
