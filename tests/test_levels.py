from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lldwatch.checks import Settings
from lldwatch.levels import LEVELS, GradNorm, Level, LevelOf
from lldwatch.schema import Observation
from lldwatch.signals import SIGNALS

USUAL = {
    "likelihood_of_correct": (-0.2, 0.01),
    "entropy": (0.3, 0.01),
    "grad_norm": (1.0, 0.1),
    "response_length": (200.0, 8.0),
    "kl": (0.02, 0.002),
    "clip_fraction": (0.01, 0.002),
    "rollout_mismatch": (7e-4, 1e-4),
    "format": (0.95, 0.01),
    "truncation": (0.02, 0.005),
    "equal_rewards": (0.3, 0.03),
}
"""Check -> level and standard deviation in a healthy training."""
ABOVE = {
    "likelihood_of_correct": -0.05,
    "entropy": 1.2,
    "grad_norm": 12.0,
    "response_length": 800.0,
    "kl": 1.0,
    "clip_fraction": 0.3,
    "rollout_mismatch": 0.1,
    "format": 1.0,
    "truncation": 0.6,
    "equal_rewards": 0.9,
}
BELOW = {
    "likelihood_of_correct": -0.9,
    "entropy": 0.05,
    "grad_norm": 0.05,
    "response_length": 40.0,
    "kl": 1e-4,
    "clip_fraction": 1e-4,
    "rollout_mismatch": 1e-5,
    "format": 0.4,
    "truncation": 0.0,
    "equal_rewards": 0.0,
}
NAMES = [of.name for of in LEVELS]
each = pytest.mark.parametrize("name", NAMES)
WARM_UP = 2 * Settings().warmup
"""Steps after which the normal of a run is frozen."""


def level_of(name: str, **settings: Any) -> Level:
    of = next(of for of in LEVELS if of.name == name)
    return (GradNorm if of.signal == "grad_norm" else Level)(of, Settings(**settings))


def feed(level: Level, values: Iterable[float | None], first: int = 1, **columns: Any) -> Level:
    for step, value in enumerate(values, first):
        level.update(Observation(step=step, **{level.of.signal: value, **columns}))
    return level


def usual(name: str, count: int, seed: int = 0) -> list[float]:
    center, spread = USUAL[name]
    noise = random.Random(f"{name} {seed}")
    return [center + noise.gauss(0, spread) for _ in range(count)]


def around(value: float, count: int) -> list[float]:
    """Not quite equal values."""
    return [value * (1 + 0.01 * (step % 3 - 1)) for step in range(count)]


def test_each_level_is_about_a_signal_and_every_row_is_tested_here() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {of.signal for of in LEVELS} <= set(SIGNALS)
    assert set(USUAL) == set(ABOVE) == set(BELOW) == set(NAMES)


@each
def test_it_speaks_soon_after_it_left_its_warm_up_on_a_bad_side(name: str) -> None:
    bad = level_of(name).of.bad
    for side, values in ((+1, ABOVE), (-1, BELOW)):
        level = feed(level_of(name), [*usual(name, WARM_UP), *around(values[name], 12)])
        assert level.speaks == (bad in (side, 0)), (side, level.result())
        if level.speaks:
            assert level.since is not None
            assert WARM_UP < level.since <= WARM_UP + 5
            assert level.excess >= 1.0
        else:
            assert level.excess == 0.0
            assert level.result()[0].status == "ok"
            assert level.result()[1] is None


@pytest.mark.parametrize(
    ("name", "values", "aside"),
    [
        ("likelihood_of_correct", ABOVE, ", above it"),
        *((name, BELOW, ", below it") for name in ("entropy", "grad_norm", "kl", "rollout_mismatch", "equal_rewards")),
    ],
)
def test_what_lies_on_its_good_side_is_said_all_the_same(name: str, values: dict[str, float], aside: str) -> None:
    check, evidence = feed(level_of(name), [*usual(name, WARM_UP), *around(values[name], 12)]).result()
    assert (check.status, evidence) == ("ok", None)
    assert check.reason.endswith(aside)


@each
def test_it_is_silent_on_noise(name: str) -> None:
    for seed in range(5):
        level = level_of(name)
        for step, value in enumerate(usual(name, 300, seed), 1):
            level.update(Observation(step=step, **{level.of.signal: value}))
            assert not level.speaks


@each
@pytest.mark.parametrize("factor", [1000.0, 0.001])
@pytest.mark.parametrize("at", [5, 30])
def test_a_single_spike_says_nothing_and_hides_nothing(name: str, factor: float, at: int) -> None:
    """Neither in the warm-up nor after it."""
    values = usual(name, 40)
    values[at] *= factor
    level = level_of(name)
    for step, value in enumerate(values, 1):
        level.update(Observation(step=step, **{level.of.signal: value}))
        assert not level.speaks
    bad = BELOW if level.of.bad < 0 else ABOVE
    assert feed(level, around(bad[name], 12), first=41).speaks


@each
def test_what_is_missing_or_not_finite_says_nothing(name: str) -> None:
    values = [*usual(name, WARM_UP), *around((BELOW if level_of(name).of.bad < 0 else ABOVE)[name], 12)]
    level = feed(level_of(name), values)
    check, evidence = level.result()
    assert evidence is not None
    feed(level, [None, math.nan, math.inf, -math.inf] * 10, first=len(values) + 1)
    assert level.result() == (check, evidence)
    assert math.isfinite(level.last)


@each
def test_before_it_can_judge_it_says_what_it_lacks(name: str) -> None:
    level = level_of(name, warmup=8)
    signal = level.of.signal
    assert level.result()[0].reason == f"needs {signal}"
    for missing in range(7, 0, -1):
        level.update(Observation(step=8 - missing, **{signal: USUAL[name][0]}))
        check, evidence = level.result()
        assert (check.status, evidence) == ("skipped", None)
        assert check.reason == f"warm-up: steps with {signal} still needed: {missing}"
        assert not level.ready
    level.update(Observation(step=8, **{signal: USUAL[name][0]}))
    assert level.ready
    assert level.result()[0].status == "ok"


@each
def test_the_finding_is_told_in_the_signal_s_own_unit(name: str) -> None:
    level = level_of(name)
    bad = (BELOW if level.of.bad < 0 else ABOVE)[name]
    check, evidence = feed(level, [*usual(name, WARM_UP), *around(bad, 12)]).result()
    assert evidence is not None
    assert check.status == "warning"
    center, spread = USUAL[name]
    assert evidence.signal == level.of.signal
    assert evidence.value == pytest.approx(bad, rel=0.02)
    assert evidence.baseline == pytest.approx(center, abs=2 * spread)
    assert evidence.limit is not None
    assert min(bad, center) < evidence.limit < max(bad, center)
    assert evidence.limit >= level.of.floor
    assert evidence.since == level.since
    for number in (evidence.value, evidence.baseline, evidence.limit):
        assert f"{number:.4g}" in check.reason
    assert check.reason.startswith(SIGNALS[level.of.signal].title)
    assert check.reason.endswith(f"since step {level.since}")


@pytest.mark.parametrize("name", [of.name for of in LEVELS if of.floor == -math.inf])
@pytest.mark.parametrize(("share", "speaks"), [(0.9, False), (1.1, True)])
def test_what_is_no_noise_must_still_matter(name: str, share: float, speaks: bool) -> None:
    """Equal values have no spread: then the practical bar alone decides."""
    of, center = level_of(name).of, USUAL[name][0]
    absolute = name in ("format", "truncation", "equal_rewards")
    moved = center + of.bad * share * of.least if absolute else center * math.exp(share * of.least)
    assert feed(level_of(name), [*[center] * WARM_UP, *[moved] * 12]).speaks == speaks


@pytest.mark.parametrize("name", [of.name for of in LEVELS if of.floor > 0])
def test_below_its_floor_no_rise_is_bad(name: str) -> None:
    of = level_of(name).of
    tiny = around(of.floor / 1000, WARM_UP)
    assert not feed(level_of(name), [*tiny, *around(0.9 * of.floor, 12)]).speaks
    level = feed(level_of(name), [*tiny, *around(1.2 * of.floor, 12)])
    assert level.speaks
    evidence = level.result()[1]
    assert evidence is not None
    assert evidence.limit == of.floor


@pytest.mark.parametrize("name", [of.name for of in LEVELS if of.grows_with_rate])
def test_what_grows_with_the_learning_rate_is_not_learnt_while_that_warms_up(name: str) -> None:
    """With the rates it is known to be none of its own; without them the same series looks like a rise."""
    warming = [1e-6 * min(step, 40) / 40 for step in range(1, 81)]

    def after(rates: list[float | None]) -> Level:
        level = level_of(name)
        for step, rate in enumerate(rates, 1):
            value = (USUAL[name][0] if step < 40 else ABOVE[name]) * (1 + step % 3 / 100)
            level.update(Observation(step=step, learning_rate=rate, **{level.of.signal: value}))
        return level

    assert after([*warming]).ready
    assert not after([*warming]).speaks
    assert after([None] * 80).speaks
    assert after([1e-6] * 80).speaks


@pytest.mark.parametrize("name", [of.name for of in LEVELS if not of.grows_with_rate])
def test_the_others_are_learnt_while_the_learning_rate_warms_up(name: str) -> None:
    level = level_of(name)
    for step, value in enumerate(usual(name, WARM_UP), 1):
        level.update(Observation(step=step, learning_rate=1e-6 * step, **{level.of.signal: value}))
    assert level.ready


@each
def test_after_a_restart_it_learns_anew_and_forgets_what_it_said(name: str) -> None:
    level = level_of(name)
    bad = (BELOW if level.of.bad < 0 else ABOVE)[name]
    feed(level, [*usual(name, WARM_UP), *around(bad, 12)])
    assert level.speaks
    level.forget()
    assert not level.ready
    assert not level.speaks
    assert (level.rise, level.fall, level.before) == (0.0, 0.0, 0.0)
    feed(level, around(bad, 2 * WARM_UP), first=100)
    assert level.ready
    assert not level.speaks, "the level it has now is the usual one"


@each
def test_ill_values_are_not_learnt(name: str) -> None:
    learnt = Settings().warmup
    level = feed(level_of(name), usual(name, learnt))
    bad = (BELOW if level.of.bad < 0 else ABOVE)[name]
    for step, value in enumerate(around(bad, 40), learnt + 1):
        level.update(Observation(step=step, **{level.of.signal: value}), learn=False)
    assert level.speaks


@each
def test_a_finding_that_has_healed_is_told_of(name: str) -> None:
    level = level_of(name)
    bad = (BELOW if level.of.bad < 0 else ABOVE)[name]
    feed(level, [*usual(name, WARM_UP), *around(bad, 12), *usual(name, 30, seed=1)])
    assert not level.speaks
    told = re.search(r", was beyond it at steps (\d+) to", level.result()[0].reason)
    assert told is not None
    assert WARM_UP < int(told[1]) <= WARM_UP + 5


@each
@given(st.lists(st.floats(width=32), max_size=30), st.booleans())
@settings(max_examples=30)
def test_whatever_was_recorded_it_can_be_told(name: str, values: list[float], quick: bool) -> None:
    level = level_of(name, **({"warmup": 2, "window": 1, "confirm": 1} if quick else {}))
    for step, value in enumerate(values):
        check, evidence = feed(level, [value], first=step).result()
        assert check.reason
        assert (check.status == "warning") == (evidence is not None)
        assert level.excess >= 0.0


@pytest.mark.parametrize("name", [of.name for of in LEVELS if of.signal not in ("grad_norm", "format_valid_share")])
def test_what_is_always_zero_is_told_as_zero(name: str) -> None:
    """No KL without a reference policy, nothing clipped on-policy, no choice left."""
    check, evidence = feed(level_of(name), [0.0] * 30).result()
    assert (check.status, evidence) == ("ok", None)
    assert f"{SIGNALS[level_of(name).of.signal].title} 0, in the warm-up 0 (limit " in check.reason


def test_a_warm_up_of_all_magnitudes_has_a_limit_that_no_number_passes() -> None:
    level = feed(level_of("entropy", warmup=2, window=1, confirm=1), [0.0, 0.0, 0.0, 0.1])
    assert "(limit inf)" in level.result()[0].reason


def test_moved_means_since_before_the_reward_fell() -> None:
    level = feed(level_of("entropy"), [*usual("entropy", WARM_UP), *around(1.2, 8)])
    assert level.has_moved
    level.before = level.change
    assert not level.has_moved
    feed(level, around(0.3, 8), first=40)
    assert level.has_moved, "back to where it was is a move as well"


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_a_logarithm_does_not_care_for_the_unit(level: float, factor: float) -> None:
    of = LevelOf("entropy", "entropy", +1, math.log(1.25))
    one, other = Level(of, Settings()), Level(of, Settings())
    values = [*around(level, WARM_UP), *around(3 * level, 6)]
    feed(one, values)
    feed(other, [value * factor for value in values])
    assert one.speaks
    assert other.since == one.since
    assert other.rise == pytest.approx(one.rise, rel=1e-4)


def test_zeros_of_the_gradient_norm_are_no_fall_and_say_why() -> None:
    level = feed(level_of("grad_norm"), usual("grad_norm", WARM_UP))
    before = level.result()[0].reason
    for share, why in (
        (1.0, "all advantages are 0"),
        (0.4, "although advantages are not 0"),
        (None, "advantages would tell"),
    ):
        feed(level, [0.0] * 20, first=40, zero_advantage_share=share)
        check, evidence = level.result()
        assert (check.status, evidence) == ("ok", None)
        assert check.reason.startswith(f"{before}; exactly 0 now: ")
        assert why in check.reason
    assert level.last != 0.0
    feed(level, [1.0], first=60)
    assert "exactly 0" not in level.result()[0].reason


def test_a_gradient_norm_that_was_never_anything_but_zero_is_not_missing() -> None:
    check, evidence = feed(level_of("grad_norm"), [0.0] * 30).result()
    assert (check.status, evidence) == ("ok", None)
    assert check.reason.startswith("Gradient norm; exactly 0 now: ")
