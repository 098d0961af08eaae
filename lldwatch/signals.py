"""SIGNALS: what lldwatch can read off a run, as one table.

The glossary (`lldwatch signals`), the dashboard's panels and the contract tests loop over it. A new signal is one more
row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

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
        compute: the value from an observation that has all required columns.
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
    return observation.cross_update_change / max(observation.updates or 1, 1)


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
