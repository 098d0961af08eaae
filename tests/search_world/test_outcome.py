from fractions import Fraction

import pytest

from lldwatch.search_world.outcome import judge


def slow_collapse_step(rewards: list[float]) -> int | None:
    """Says the definition word for word: the first step from which on, to the end, the mean is below half its peak."""
    steps = range(10, len(rewards) + 1)
    mean = {step: sum(Fraction(str(reward)) for reward in rewards[step - 10 : step]) / 10 for step in steps}
    low = {step: 2 * mean[step] < max(mean[earlier] for earlier in range(10, step + 1)) for step in steps}
    return next((step for step in steps if all(low[later] for later in range(step, len(rewards) + 1))), None)


@pytest.mark.parametrize(
    ("rewards", "collapse"),
    [
        ([0.5] * 40 + [0.7] * 40, None),
        ([0.6] * 40 + [0.0] * 40, 46),
        ([0.6] * 40 + [0.0] * 20 + [0.6] * 20, None),
        ([0.6] * 40 + [0.35] * 40, None),
        ([0.0] * 80, None),
        ([0.6] * 40 + [0.0] * 6, 46),
    ],
)
def test_sustained_collapse(rewards: list[float], collapse: int | None) -> None:
    assert judge(rewards).collapse_step == collapse == slow_collapse_step(rewards)


def test_start_peak_and_final() -> None:
    outcome = judge([0.5] * 5 + [0.8] * 20 + [0.6] * 15)
    assert (outcome.start, outcome.peak, outcome.final) == pytest.approx((0.5, 0.8, 0.6))


def test_too_short_a_run() -> None:
    with pytest.raises(ValueError, match="got 9 steps, expected at least 10"):
        judge([0.5] * 9)
