"""SIGNALS: what lldwatch can read off a run, as one table.

The glossary (`lldwatch signals`), the dashboard's panels and the contract tests loop over it. A new signal is one more
row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from lldwatch.schema import Observation

PAPER = "arXiv:2512.04220"


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that can be read off an observation.

    Attributes:
        name: key in SIGNALS, in the evidence and in JSON.
        title: for a plot.
        unit: of the value.
        requires: columns of `Observation` it is made of; without one of them there is no value.
        meaning: what a reader of the plot should know.
        healthy: what it does in a healthy run, and what a bad value means.
        reference: where it comes from.
        compute: the value from an observation that has all required columns, or the values from arrays of them.
    """

    name: str
    title: str
    unit: str
    requires: tuple[str, ...]
    meaning: str
    healthy: str
    reference: str
    compute: Callable[[Observation], float]


def _plain(column: str, title: str, unit: str, meaning: str, healthy: str, reference: str) -> Signal:
    return Signal(column, title, unit, (column,), meaning, healthy, reference, attrgetter(column))


def _cross_update_per_update(observation: Observation) -> float:
    assert observation.cross_update_change is not None
    assert observation.updates is not None
    per_update: float = observation.cross_update_change / np.maximum(observation.updates, 1)
    return per_update


_ROWS = (
    _plain(
        "cross_update_change",
        "Likelihood change of earlier correct responses",
        "nats/token/step",
        "The previous step's correct responses, re-scored before and after this step's updates: what the policy "
        "forgets while it learns. The headline.",
        "Around 0. Steadily below 0: correct responses are displaced, before the reward shows it.",
        f"{PAPER}, Sec. 3; lag of one batch: own measurement",
    ),
    Signal(
        "cross_update_per_update",
        "Likelihood change of earlier correct responses, per update",
        "nats/token/update",
        ("cross_update_change", "updates"),
        "The same divided by the optimizer updates of the step: tells many small losses from few large ones.",
        "Around 0. If it is small while the change per step is large, fewer updates per batch help.",
        "own measurement",
        _cross_update_per_update,
    ),
    _plain(
        "cross_update_first_action",
        "Likelihood change of earlier correct responses, first action",
        "nats/token/step",
        "The headline for the first action alone, the text before the first tool call.",
        "Around 0. Wrong answers share correct first actions, so these may fall more than later ones.",
        f"{PAPER}, Fig. 5",
    ),
    _plain(
        "post_update_correct",
        "Likelihood change of the batch, correct responses",
        "nats/token/step",
        "Correct responses of this step's own batch (advantage not 0), re-scored before and after its updates.",
        "Above 0: the update pushes them up, also while the run dies. Below 0: displaced although rewarded.",
        f"{PAPER}, Sec. 3",
    ),
    _plain(
        "post_update_incorrect",
        "Likelihood change of the batch, incorrect responses",
        "nats/token/step",
        "The same for incorrect responses.",
        "Below 0, and not by much: far below means that the batch is reused too often.",
        "arXiv:2505.18830",
    ),
    _plain(
        "post_update_zero_advantage",
        "Likelihood change of the batch, responses without advantage",
        "nats/token/step",
        "The same for responses with advantage 0, which the update does not train on.",
        "Around 0; plain GRPO gives them no gradient, so whatever moves them is the other responses.",
        PAPER,
    ),
    _plain(
        "post_update_gap",
        "Change of the gap within a prompt",
        "nats/token/step",
        "How much further correct and incorrect responses to one prompt are apart after the step's updates.",
        "Above 0: the update tells them apart. Around 0 or below: both move together.",
        "arXiv:2505.18830",
    ),
    _plain(
        "lagged_change_10",
        "Likelihood change over 10 steps",
        "nats/token",
        "Correct responses of 10 steps ago, now against right after their own updates; also for 5 and 20 steps.",
        "Around 0 or slowly falling. Small losses add up here, so the signal grows with the lag.",
        "own measurement",
    ),
    _plain(
        "fixed_anchor_change",
        "Likelihood change of fixed anchors",
        "nats/token",
        "The same correct responses of the first steps (or a set of yours), now against when they were taken.",
        "May fall slowly as the policy finds other answers. A change in the mix of prompts does not move it.",
        "own measurement",
    ),
    _plain(
        "log_prob_correct",
        "Log-likelihood of correct responses",
        "nats/token",
        "Mean token log-prob of this step's correct responses under the policy that wrote them.",
        "Rises or stays. Falls slowly, then sharply, in the death spiral. High likelihood alone is not health.",
        f"{PAPER}, Fig. 2",
    ),
    _plain(
        "log_prob_incorrect",
        "Log-likelihood of incorrect responses",
        "nats/token",
        "The same for incorrect responses.",
        "Below that of correct responses; the gap closes when the policy loses its certainty.",
        f"{PAPER}, Sec. 3; arXiv:2505.18830",
    ),
    _plain(
        "log_prob_first_action",
        "Log-likelihood of first actions, correct responses",
        "nats/token",
        "`log_prob_correct` for the first action alone.",
        "Above that of later actions; falls below it in the spiral.",
        f"{PAPER}, Fig. 5",
    ),
    _plain(
        "log_prob_later_actions",
        "Log-likelihood of later actions, correct responses",
        "nats/token",
        "`log_prob_correct` for what is written after tool feedback.",
        "Below that of first actions, since tool feedback is text that the policy would not write.",
        f"{PAPER}, Fig. 5",
    ),
    _plain(
        "gap",
        "Gap within a prompt",
        "nats/token",
        "Log-prob of correct minus incorrect responses to the same prompt, mean over prompts with both.",
        "Above 0 and growing. Closing: the policy holds wrong answers for as likely as right ones.",
        "arXiv:2505.18830",
    ),
    _plain(
        "low_confidence_share",
        "Tokens written with low confidence",
        "share",
        "Policy tokens less likely than 0.1; the table `positions` tells where in an action they are.",
        "Small and falling. Rises with the entropy in the spiral, first behind tool feedback.",
        PAPER,
    ),
    _plain(
        "change_positive",
        "In-batch change, advantage > 0",
        "nats/token",
        "How the updates moved what they trained on; 0 if a batch is used once. Has the wrong sign in the spiral.",
        "At or above 0, healthy or not.",
        "own measurement",
    ),
    _plain(
        "change_negative",
        "In-batch change, advantage < 0",
        "nats/token",
        "How far the updates pushed incorrect responses down.",
        "Slightly below 0. Large from the start: the batch is reused too often.",
        "arXiv:2505.18830",
    ),
    _plain(
        "first_action_change",
        "In-batch change of the first action",
        "nats",
        "The first action (text before the first tool call) of responses with advantage > 0, summed over its tokens.",
        "At or above 0; wrong answers share correct first actions, so it falls first.",
        f"{PAPER}, Fig. 5",
    ),
    _plain(
        "entropy",
        "Entropy",
        "nats/token",
        "Mean entropy of the policy at the response tokens.",
        "Falls slowly. A rise, then a surge, belongs to the spiral; a fall to 0 is sharpening, another illness.",
        f"{PAPER}, Fig. 4",
    ),
    _plain(
        "grad_norm",
        "Gradient norm before clipping",
        "",
        "Mean over the step's updates.",
        "Stable. May explode late, or be exactly 0 after a collapse, since equal rewards give no gradient.",
        f"{PAPER}, Fig. 4",
    ),
    _plain(
        "reward",
        "Reward",
        "",
        "Mean reward of the step's responses.",
        "Rises. Falls last: when it does, the policy is mostly gone.",
        f"{PAPER}, Fig. 2",
    ),
    _plain(
        "zero_advantage_share",
        "Responses without advantage",
        "share",
        "Responses whose whole group got the same reward: plain GRPO takes no gradient from them.",
        "Below 1. At 1 nothing is learnt.",
        "arXiv:2402.03300 (GRPO)",
    ),
    _plain(
        "llds_coefficient",
        "LLDS coefficient",
        "",
        "What the likelihood-preserving term was multiplied with; 0 while it was switched off.",
        "0, or the strength it was given. Switched on by itself: a collapse was predicted.",
        f"{PAPER}, Sec. 5.5",
    ),
    _plain(
        "clip_fraction",
        "Clip fraction",
        "share",
        "Tokens whose probability ratio left the clip range.",
        "Small. Measures how often a batch is reused; no sign of illness by itself.",
        "arXiv:1707.06347 (PPO)",
    ),
    _plain(
        "kl",
        "KL from the reference policy",
        "nats/token",
        "As the trainer estimates it.",
        "Grows slowly.",
        "arXiv:2402.03300 (GRPO)",
    ),
    _plain(
        "rollout_kl",
        "KL between rollout engine and trainer",
        "nats/token",
        "How far the policy that wrote the responses is from the one that is trained, on the same weights.",
        "0.0005 to 0.001. Above 0.02 the two disagree: the illness is the mismatch.",
        "https://fengyao.notion.site/off-policy-rl (TIS); see also arXiv:2510.26788",
    ),
    _plain(
        "response_length",
        "Response length",
        "tokens",
        "Mean number of policy tokens.",
        "Task dependent; flat in the death spiral.",
        f"{PAPER}, Fig. 4",
    ),
    _plain(
        "format_valid_share",
        "Valid format",
        "share",
        "Responses whose format could be parsed.",
        "Near 1. When it falls first, the illness is loss of format.",
        "own measurement",
    ),
    _plain(
        "truncated_share",
        "Responses cut off",
        "share",
        "Responses that reached the length limit.",
        "Small. Rises when the policy no longer ends its responses.",
        "own measurement",
    ),
    _plain(
        "loss",
        "Loss",
        "",
        "Training loss, mean over the step's updates.",
        "Says little in GRPO; NaN or inf means the arithmetic broke.",
        "arXiv:2402.03300 (GRPO)",
    ),
)

SIGNALS: Mapping[str, Signal] = {signal.name: signal for signal in _ROWS}


def value(signal: Signal, observation: Observation) -> float | None:
    """One signal of one observation; None where a required column is missing. NaN stays NaN: it was measured."""
    if any(getattr(observation, column) is None for column in signal.requires):
        return None
    return signal.compute(observation)
