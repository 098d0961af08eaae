"""verl's names, and those of its forks (Search-R1, RAGEN, TinyZero, verl-agent, LLDS): what they stand for.

Shared by the console and the file logger, which write the same names.
"""

from __future__ import annotations

from typing import Any

from lldwatch.importers.numbers import number_in
from lldwatch.importers.tally import Tally

METRICS = {
    "critic/score/mean": "reward",
    "critic/rewards/mean": "reward",  # after the KL penalty, if that is in the reward
    "actor/loss": "loss",
    "actor/pg_loss": "loss",  # without the KL and entropy terms; 0.6 divides it by the micro-batches, 0.7 adds it up
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",  # of the policy during the updates; positive, and without the coefficient
    "actor/reward_kl_penalty": "kl",
    "critic/kl": "kl",
    "actor/kl_loss": "kl",  # before its coefficient; scaled as pg_loss is, hence the last choice
    "rollout_corr/k3_kl": "rollout_kl",
    "rollout_corr/kl": "rollout_kl",
    "mismatch/mismatch_k3_kl": "rollout_kl",
    "mismatch/mismatch_kl": "rollout_kl",
    "actor/pg_clipfrac": "clip_fraction",
    "response_length/mean": "response_length",
    "response_length/clip_ratio": "truncated_share",
    "env/number_of_actions/mean": "actions",
    "episode/success_rate": "correct_share",
    "actor/loss_noreduce_coef": "llds_coefficient",
}
"""Their name -> ours. Not mapped, though it looks as if it could be:

* `actor/ppo_kl`: the mean fall of all log-probs since the rollout, rewarded or not; no field of ours is that.
* `training/rollout_probs_diff_*`, `rollout_corr/log_ppl_*`: differences of probabilities and of perplexities, no KL.
* `actor/pos_avg_old_log_prob` (LLDS): its positives include advantage 0, it is divided by the tokens of all responses,
  and of the last micro-batch alone.
* `env/ratio_of_valid_action`, `num_turns/*`: shares of actions, and messages of both sides; not responses or actions.
* `critic/advantages/mean`, `critic/grad_norm`, `critic/lr`: zero by construction; those of the value model.
"""


def as_meant(values: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """The row with what its names alone do not tell; changed in place.

    Args:
        values: their name -> value, as it stands in the log.
        tally: hears what the numbers mean where that differs.
    """
    rate = number_in(values, "actor/lr(1e-4)")  # verl 0.1 has its unit in the name
    if rate is not None:
        values["actor/lr"] = rate * 1e-4
        del values["actor/lr(1e-4)"]
    _without_unmeasured_kl(values, tally)
    _policy_tokens(values, tally)
    coefficient, term = number_in(values, "actor/loss_noreduce_coef"), number_in(values, "actor/loss_noreduce")
    masked = number_in(values, "actor/is_answer_mask")  # then the answer has a weight of its own
    if coefficient and term is not None and not masked:
        values["llds_loss"] = term / coefficient
        del values["actor/loss_noreduce"]
    return values


def _without_unmeasured_kl(values: dict[str, Any], tally: Tally) -> None:
    """A KL of 0 stands in the log also where no reference policy was asked."""
    no_penalty = number_in(values, "critic/kl_coeff") == 0 and number_in(values, "critic/kl") == 0
    no_loss = "actor/kl_coef" not in values and number_in(values, "actor/kl_loss") == 0
    for name, unmeasured in (("critic/kl", no_penalty), ("actor/kl_loss", no_loss)):
        if unmeasured:
            del values[name]
            tally.note(f"{name} is 0 without a coefficient: no KL divergence was measured")


def _policy_tokens(values: dict[str, Any], tally: Tally) -> None:
    """`response_length` counts what tools said as well; Search-R1 logs the share of the policy's own tokens."""
    length, own = number_in(values, "response_length/mean"), number_in(values, "state_tokens/coverage")
    if length is not None and own is not None:
        values["response_length/mean"] = length * own
        return
    turns, actions = number_in(values, "num_turns/mean"), number_in(values, "env/number_of_actions/mean")
    if length is not None and ((turns or 0) > 2 or (actions or 0) > 1):
        tally.note("response_length/mean counts the tokens of tool feedback as well as the policy's own")
