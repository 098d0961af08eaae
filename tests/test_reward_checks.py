from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lldwatch.checks import Settings
from lldwatch.reward_checks import Reward
from lldwatch.schema import Observation
from lldwatch.simulated.training import autoregressive

WARM_UP = 20


def feed(reward: Reward, values: Iterable[float | None], first: int = 1) -> Reward:
    for step, value in enumerate(values, first):
        reward.update(Observation(step=step, reward=value))
    return reward


def after(values: Iterable[float | None], **settings: Any) -> Reward:
    return feed(Reward(Settings(**settings)), values)


def near(value: float, count: int, spread: float = 0.01, seed: int = 0) -> list[float]:
    noise = random.Random(f"{value} {seed}")
    return [value + noise.gauss(0, spread) for _ in range(count)]


LOSES = [*near(0.6, 40), *near(0.1, 25)]
"""A reward that loses five sixths of what there was."""


def test_a_reward_that_is_lost_falls_first_and_is_lost_then() -> None:
    reward, fell, lost = Reward(Settings()), None, None
    for step, value in enumerate(LOSES, 1):
        feed(reward, [value], first=step)
        fell = fell or (step if reward.falling else None)
        lost = lost or (step if reward.speaks else None)
    assert fell is not None
    assert lost is not None
    assert 40 < fell < lost <= 60
    assert reward.since_fall is not None
    assert reward.since is not None
    assert 40 < reward.since_fall <= reward.since < lost
    assert reward.peak == pytest.approx(0.6, abs=0.02)
    assert reward.mean == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("low", "falling", "lost"), [(0.6, False, False), (0.55, False, False), (0.4, True, False), (0.2, True, True)]
)
def test_how_much_of_it_must_be_gone(low: float, falling: bool, lost: bool) -> None:
    reward = after([*near(0.6, 40), *near(low, 25)])
    assert (reward.falling, reward.speaks, reward.half_gone) == (falling, lost, lost)


def test_the_noisier_it_was_the_surer_a_loss_must_be() -> None:
    """Half of it gone by more than noise counts where other signs say the same; alone it takes more."""
    reward = after([*near(0.6, 40, 0.2), *near(0.2, 25, 0.2)])
    assert reward.falling
    assert reward.half_gone
    assert not reward.speaks


def test_lower_than_where_it_began_is_lost_though_less_than_half_is_gone() -> None:
    reward = after([*near(0.5, WARM_UP), *near(0.55, 40), *near(0.3, 25)])
    assert reward.peak - reward.mean < Reward.LOST * reward.peak
    assert reward.speaks


@given(st.sampled_from([0.001, 0.1, 7.0, 1e4]), st.integers(0, 20))
@settings(max_examples=25)
def test_the_scale_of_the_reward_does_not_matter(scale: float, seed: int) -> None:
    """Rewards are sums of what a user likes to add up."""
    values = [*near(0.6, 40, seed=seed), *near(0.25, 25, seed=seed)]
    one, other = after(values), after([scale * value for value in values])
    assert one.speaks
    assert (other.since, other.since_fall, other.halved) == (one.since, one.since_fall, one.halved)
    assert other.fall == pytest.approx(one.fall, rel=1e-3)


def test_where_rewards_are_negative_there_is_to_lose_what_was_gained() -> None:
    learnt = [*near(-0.8, WARM_UP), *[-0.8 + 1.3 * min(step / 30, 1.0) for step in range(60)]]
    assert not after(learnt).falling
    for value in (0.35, 0.2, 0.0):
        assert not after([*learnt, *near(value, 25)]).speaks
    assert after([*learnt, *near(-0.7, 25)]).speaks


def test_where_it_was_never_above_zero_it_must_be_doubled() -> None:
    assert not after([*near(-0.5, 40), *near(-0.55, 25)]).falling
    reward = after([*near(-0.5, 40), *near(-0.65, 25)])
    assert reward.falling
    assert not reward.speaks
    assert after([*near(-0.5, 40), *near(-0.8, 25)]).speaks


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0, 1e-30, 1e30])
def test_a_flat_reward_says_nothing(value: float) -> None:
    reward = after([value] * 200)
    assert not reward.falling
    assert not reward.speaks
    assert not reward.stuck, "it never began higher"
    assert not reward.halved
    assert not reward.gaining
    assert reward.fall == 0.0
    check, evidence = reward.result()
    assert (check.status, evidence) == ("ok", None)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_noise_alone_is_hardly_ever_lost(phi: float) -> None:
    """Falling is passed at the stated rate; lost, on which a verdict hangs, is much rarer."""
    lost = fell = 0
    for seed in range(40):
        series = autoregressive(np.random.default_rng(seed), 300, phi)
        reward = Reward(Settings())
        ever_fell = ever_lost = False
        for step, value in enumerate(series, 1):
            feed(reward, [0.6 + 0.05 * float(value)], first=step)
            ever_fell, ever_lost = ever_fell or reward.falling, ever_lost or reward.speaks
        fell, lost = fell + ever_fell, lost + ever_lost
    assert lost == 0
    assert fell / 40 <= 1.5 * (1 - math.exp(-Settings().false_alarms_per_1000_steps * 300 / 1000))


def test_a_reward_that_rises_all_the_time_gains_and_a_flat_one_does_not() -> None:
    rising = after([*near(0.3, WARM_UP), *[0.3 + 0.005 * step for step in range(60)]])
    assert rising.gaining
    feed(rising, near(0.2, 20), first=100)
    assert not rising.gaining
    assert not after(near(0.3, 80)).gaining


def test_it_is_stuck_at_the_lowest_that_it_ever_had() -> None:
    reward = after([*near(0.3, 30), 0.0])
    for step in range(32, 52):
        assert not reward.stuck
        feed(reward, [0.0], first=step)
    assert reward.stuck
    feed(reward, [0.01], first=52)
    assert not reward.stuck


def test_a_highest_value_that_repeats_is_not_stuck() -> None:
    assert not after([*near(0.3, 30), *[1.0] * 60]).stuck


def test_halved_knows_no_noise() -> None:
    """Half of the mean of the best five is gone, however scattered they were."""
    wild = [1.0, 0.0, 1.0, 0.0, 1.0] * 6
    assert not after(wild).halved
    reward = after([*wild, 0.0, 0.0, 0.0])
    assert reward.halved
    assert not reward.speaks
    negative = after([*near(-0.2, 30), *near(-1.0, 5)])
    assert negative.halved


def learning(count: int) -> list[float]:
    """So steep from the start that the warm-up, taken for noise, would explain any loss."""
    return [0.3 + 0.4 * (1 - math.exp(-step / 20)) for step in range(count)]


def test_a_reward_of_which_nothing_is_left_is_seen_whatever_its_warm_up_was() -> None:
    assert after([*learning(60), *near(0.02, 10, 0.005)]).emptied
    assert not after([*learning(60), *near(0.02, 9, 0.005)]).emptied, "the last reward of those that were well is there"
    assert not after([*learning(60), *near(0.15, 20)]).emptied
    around_zero = [0.02 * (-1) ** step for step in range(10)]
    assert after([*learning(60), *around_zero]).emptied, "noise may take a mean reward below 0"
    assert not after([*learning(60), *near(-0.3, 20)]).emptied, "then nothing is not 0"
    assert not after([*near(0.02, 60, 0.001)]).emptied
    assert not after([*[1.0, 0.0, 1.0, 0.0, 1.0] * 6, *[0.0] * 12]).emptied, "there were such rewards when it was well"


def test_a_step_without_a_reward_says_nothing() -> None:
    """The reward of a batch that is used again is not given again."""
    gaps: list[float | None] = []
    for value in LOSES:
        gaps += [value, None, math.nan, math.inf]
    with_gaps, without = after(gaps), after(LOSES)
    assert with_gaps.since is not None
    assert without.since is not None
    assert with_gaps.since == 4 * (without.since - 1) + 1
    assert with_gaps.result()[0].reason.partition(", half")[0] == without.result()[0].reason.partition(", half")[0]


def test_rewards_that_repeat_are_not_lost() -> None:
    """Logged for each of four updates of a batch."""
    values = [value for value in near(0.5, 50, 0.05) for _ in range(4)]
    reward = Reward(Settings())
    for step, value in enumerate(values, 1):
        assert not feed(reward, [value], first=step).speaks


def test_before_it_can_judge_it_says_what_it_lacks() -> None:
    assert after([]).result()[0].reason == "needs reward"
    assert after([0.5] * 3).result()[0].reason == "needs 10 steps with reward"
    assert {after([0.5] * count).result()[0].status for count in (0, 3, 9)} == {"skipped"}
    assert math.isnan(after([0.5] * 9).mean)
    assert after([0.5] * 10).result()[0].status == "ok"


def test_a_fall_and_a_loss_are_told_with_mean_peak_and_limit() -> None:
    falling, fell = after([*near(0.6, 40), *near(0.4, 25)]).result()
    lost, gone = after(LOSES).result()
    assert (falling.status, lost.status) == ("warning", "critical")
    for evidence, value, limit in ((fell, 0.4, 0.51), (gone, 0.1, 0.3)):
        assert evidence is not None
        assert evidence.signal == "reward"
        assert evidence.value == pytest.approx(value, abs=0.02)
        assert evidence.baseline == pytest.approx(0.6, abs=0.02)
        assert evidence.limit == pytest.approx(limit, abs=0.03)
    assert "falling since step " in falling.reason
    assert "half of it lost since step " in lost.reason


def test_a_dip_that_has_healed_is_told_of() -> None:
    reward = after([*LOSES, *near(0.6, 40)])
    check, evidence = reward.result()
    assert (check.status, evidence) == ("ok", None)
    assert "was beyond it at steps 4" in check.reason
