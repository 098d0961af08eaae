"""GRPO in a loop of one's own with Hugging Face Accelerate, on one process or many, watched by lldwatch.

python -m lldwatch.examples.accelerate_loop runs/example
accelerate launch --num_processes 2 -m lldwatch.examples.accelerate_loop runs/example

The policy writes eight letters after a prompt letter; right are those that repeat it. What lldwatch asks of the loop is
marked with numbers.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lldwatch import Monitor  # 1
from lldwatch.hooks import per_response
from lldwatch.llds import llds_loss
from lldwatch.probes import LikelihoodProbe
from lldwatch.ranks import Ranks

LETTERS, LENGTH, PROMPTS, GROUP, EPOCHS, STEPS = 12, 8, 4, 8, 4, 30


class Policy(nn.Module):
    """Log-probs and entropies of each letter, given the prompt and the letter before it."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.last = nn.Embedding(LETTERS, 32), nn.Embedding(LETTERS + 1, 32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, LETTERS))

    def next_letter(self, prompts: Tensor, last: Tensor) -> Tensor:
        """Logits of what comes next."""
        logits: Tensor = self.head(self.prompt(prompts) + self.last(last))
        return logits

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the batch's own letters, (responses, letters), nats."""
        letters, begin = batch["letters"], torch.full_like(batch["letters"][:, :1], LETTERS)
        prompts = batch["prompts"][:, None].expand_as(letters)
        nats = self.next_letter(prompts, torch.cat([begin, letters[:, :-1]], 1)).log_softmax(-1)
        return nats.gather(-1, letters[..., None])[..., 0], -(nats.exp() * nats).sum(-1)


@torch.no_grad()
def rollout(policy: Policy, first_group: int) -> dict[str, Tensor]:
    """Responses to some prompts, with their rewards and advantages."""
    prompts = torch.randint(LETTERS, (PROMPTS,)).repeat_interleave(GROUP)
    letters = torch.full((len(prompts), 1), LETTERS)
    for _ in range(LENGTH):
        chances = policy.next_letter(prompts, letters[:, -1]).softmax(-1)
        letters = torch.cat([letters, chances.multinomial(1)], 1)
    letters = letters[:, 1:]
    rewards = ((letters == prompts[:, None]).float().mean(1) > 0.25).float()
    of_group = rewards.view(PROMPTS, GROUP)
    advantages = ((of_group - of_group.mean(1, keepdim=True)) / (of_group.std(1, keepdim=True) + 1e-4)).flatten()
    group = first_group + torch.arange(PROMPTS).repeat_interleave(GROUP)
    return {"prompts": prompts, "letters": letters, "rewards": rewards, "advantages": advantages, "group": group}


def main(run_dir: str) -> None:
    """Train."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(accelerator.process_index)
    policy, optimizer = accelerator.prepare(made := Policy(), torch.optim.AdamW(made.parameters(), lr=3e-3))
    score = accelerator.unwrap_model(policy)
    many = accelerator.num_processes > 1
    probe = LikelihoodProbe(score)  # 2
    with Monitor(run_dir, llds="auto", ranks=Ranks() if many else None) as monitor:  # 3
        for step in range(STEPS):
            batch = rollout(score, PROMPTS * (STEPS * accelerator.process_index + step))
            old_log_probs = score(batch)[0].detach()
            mask = torch.ones_like(batch["letters"])
            about: dict[str, Any] = {"response_mask": mask, "correct": batch["rewards"] > 0}
            about |= {"advantages": batch["advantages"], "group": batch["group"]}
            probe.before_update(batch, **about)  # 4
            uid = torch.from_numpy(monitor.new_uids(len(mask)))
            for _ in range(EPOCHS):
                log_probs, entropy = policy(batch)
                ratio, advantages = (log_probs - old_log_probs).exp(), batch["advantages"][:, None]
                loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                term = llds_loss(log_probs, old_log_probs, batch["advantages"], mask)
                monitor.llds(term)  # 5
                optimizer.zero_grad()
                accelerator.backward(loss + monitor.llds_coefficient * term.loss)
                rows = per_response(  # 6
                    log_probs,
                    old_log_probs,
                    mask,
                    advantages=batch["advantages"],
                    rewards=batch["rewards"],
                    group=batch["group"],
                    entropy=entropy,
                    uid=uid,
                )
                monitor.observe(rows)
                grad_norm = accelerator.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
                monitor.update(loss=loss, grad_norm=grad_norm)  # 7
            monitor.probe(probe.after_update(batch, **about))  # 8
            diagnosis = monitor.step()  # 9
            accelerator.log(monitor.metrics(), step=step)  # to W&B, TensorBoard, ..., if the Accelerator has a logger
    accelerator.print(f"{diagnosis.stage.label} at step {diagnosis.step}; more: lldwatch diagnose {run_dir}")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
