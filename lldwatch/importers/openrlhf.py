"""OpenRLHF's console log: `Global step 12: {'policy_loss': ..., 'reward': ...}`, a dict of Python each step.

The order of the names changes from line to line. While the policy is frozen (`--critic.freezing_steps`) a row holds the
rollout alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.numbers import number_in, printed_rows
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {
    "rollout/reward_mean": "reward",
    "reward": "reward",
    "rollout/reward_std": "reward_std",
    "policy_loss": "loss",  # without the KL and entropy terms
    "actor_grad_norm": "grad_norm",  # of the step's last update
    "actor_lr": "learning_rate",
    "entropy_loss": "entropy",  # positive, before its coefficient; logged if there is a coefficient
    "kl": "kl",
    "vllm_kl": "rollout_kl",
    "ppo_clip_ratio": "clip_fraction",
    "rollout/response_length_mean": "response_length",  # from the first to the last policy token, feedback included
    "response_length": "response_length",
    "rollout/truncated_rate": "truncated_share",
    "truncated": "truncated_share",
    "response_clip_ratio": "truncated_share",
    "rollout/num_samples": "responses",
}
"""Not mapped: `group_reward_std` (within a prompt, not over the responses), `return` (after KL penalty and baseline),
`logprobs_diff` (to the reference policy, whose KL is `kl`), `ppo_kl` (mean fall of all log-probs), `total_length`."""

_SIGN = "Global step "
_START = re.compile(r"\bGlobal step (\d{1,15}): \{")


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    for where, start, values in printed_rows(source, tally, _SIGN, _START):
        if number_in(values, "kl") == 0 and not number_in(values, "logprobs_diff"):
            del values["kl"]
            tally.note("kl is 0 where OpenRLHF has no reference policy: no KL divergence was measured")
        yield Entry(int(start[1]), values, where)


FORMAT = Format(
    name="openrlhf",
    title="console log of OpenRLHF",
    trainer="OpenRLHF",
    metrics=METRICS,
    line=re.compile(r"\bGlobal step \d{1,15}: \{'"),
    sign=_SIGN,
    read=_read,
    whole_steps=True,
)
