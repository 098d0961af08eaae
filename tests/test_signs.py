from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from made_up import healthy
from watched import watched

from lldwatch import Observation, Stage
from lldwatch.checks import Settings
from lldwatch.signs import Signs

ILL_FROM = 40
Change = Callable[[dict[str, float], float], dict[str, Any]]
"""Columns as they are, and how far the change has come, 0 to 1 -> columns that are other ones."""


def signs_of(change: Change, steps: int = 80, *, without: tuple[str, ...] = (), seed: int = 0) -> Signs:
    """A healthy run that something happens to in the ten steps from 40 on."""
    signs, noise = Signs(Settings()), random.Random(seed)
    for step in range(1, steps + 1):
        columns: dict[str, Any] = healthy(step, noise)
        columns["reward"] = 0.5 + noise.gauss(0, 0.02)
        columns |= change(columns, min(max((step - ILL_FROM) / 10, 0.0), 1.0))
        signs.update(Observation(step=step, **{name: v for name, v in columns.items() if name not in without}))
    return signs


def bad(signs: Signs) -> set[str]:
    return {level.name for level in signs.bad}


def nothing(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {}


def less_likely(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"log_prob_correct": columns["log_prob_correct"] * (1 + 2 * done)}


def longer(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"response_length": columns["response_length"] * (1 + 4 * done)}


def displaced(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"cross_update_change": columns["cross_update_change"] - 0.06 * done}


def dispersed(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"entropy": columns["entropy"] * (1 + 3 * done)}


def sharpened(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"entropy": columns["entropy"] * (1 - 0.5 * done)}


def unrewarded(columns: dict[str, float], done: float) -> dict[str, Any]:
    return {"reward": columns["reward"] * (1 - 0.98 * done)}


def all_of(*changes: Change) -> Change:
    def change(columns: dict[str, float], done: float) -> dict[str, Any]:
        return {name: value for one in changes for name, value in one(columns, done).items()}

    return change


def test_a_healthy_run_has_no_signs() -> None:
    for seed in range(3):
        signs = signs_of(nothing, seed=seed)
        assert signs.quiet
        assert signs.healthy
        assert signs.judges
        assert not signs.bad
        assert not signs.displaced
        assert signs.displaced_since is None
        assert not any((signs.decaying, signs.reward_lost, signs.displacement_borne_out))


def test_each_check_is_asked_once_and_shown_by_its_name() -> None:
    signs = Signs(Settings())
    names = [check.name for check in signs.all]
    assert len(set(names)) == len(names)
    assert {*signs.levels.values(), *signs.displacements, signs.reward} < set(signs.all)


def test_responses_that_grow_longer_explain_that_they_are_less_likely() -> None:
    measured = ("cross_update_change", "post_update_zero_advantage")
    assert bad(signs_of(less_likely, without=measured)) == {"likelihood_of_correct"}
    explained = bad(signs_of(all_of(less_likely, longer), without=measured))
    assert "likelihood_of_correct" not in explained


def test_a_mixture_that_shifts_explains_it_where_no_single_response_lost_any() -> None:
    """Only where that was measured."""
    assert bad(signs_of(less_likely)) == set()
    assert bad(signs_of(less_likely, without=("cross_update_change",))) == {"likelihood_of_correct"}
    assert "likelihood_of_correct" in bad(signs_of(all_of(less_likely, displaced)))


def test_other_signals_are_explained_by_neither() -> None:
    assert "entropy" in bad(signs_of(all_of(dispersed, longer)))


def restart(columns: dict[str, float], done: float) -> dict[str, Any]:
    """The learning rate is warmed up once more, and the policy is another one from then on."""
    again = all_of(dispersed, longer)(columns, 1.0 if done else 0.0)
    return {**again, "learning_rate": 1e-6 * done if done else 1e-6}


def test_a_restart_is_seen_at_its_learning_rate_and_what_is_normal_is_learnt_anew() -> None:
    signs = signs_of(restart)
    assert signs.restarted == ILL_FROM + 1
    assert not signs.bad
    assert all(level.ready for level in signs.levels.values())
    unseen = signs_of(restart, without=("learning_rate",))
    assert unseen.restarted is None
    assert "entropy" in bad(unseen)


@pytest.mark.parametrize(
    "rates",
    [
        [1e-6 * (1 - step / 100) for step in range(1, 100)],  # linear decay
        [1e-6 * (0.5 + 0.5 * math.cos(step / 100 * math.pi)) for step in range(1, 100)],
        [1e-6 * min(step / 50, 1) for step in range(1, 100)],
        [1e-6] * 99,
        [1e-6, math.nan, 1e-6, math.inf, 1e-6] * 20,
    ],
    ids=["linear", "cosine", "warm-up", "constant", "broken"],
)
def test_no_usual_schedule_is_a_restart(rates: list[float]) -> None:
    signs = Signs(Settings())
    for step, rate in enumerate(rates, 1):
        signs.update(Observation(step=step, learning_rate=rate, entropy=0.3))
    assert signs.restarted is None


def test_a_reward_that_is_lost_alone_is_the_reward_function_s() -> None:
    signs = signs_of(unrewarded)
    assert signs.reward.falling
    assert not signs.reward_lost
    assert not signs.decaying


@pytest.mark.parametrize("change", [dispersed, displaced, sharpened])
def test_a_reward_that_is_lost_with_another_signal_is_lost(change: Change) -> None:
    assert signs_of(all_of(unrewarded, change)).reward_lost


def test_a_reward_that_is_lost_where_nothing_else_is_logged_is_lost() -> None:
    others = tuple(name for name in healthy(1, random.Random(0)) if name != "reward")
    assert signs_of(unrewarded, without=others).reward_lost


def test_what_goes_with_a_reward_that_a_parser_lost_is_no_second_sign() -> None:
    """Equal rewards: no advantage, no gradient, nothing learnt. Shown on the simulated parser."""
    called = [watched("parser_broken", seed).worst is Stage.COLLAPSE for seed in range(10)]
    assert sum(called) <= 5
    assert all(watched("parser_broken", seed).diagnosis.family is None for seed in range(10))


def test_a_displacement_while_the_policy_grows_certain_is_benign() -> None:
    """It found other correct answers; earlier ones become less likely."""
    certain = signs_of(all_of(displaced, sharpened))
    assert certain.growing_certain
    assert certain.displacements[0].speaks
    assert certain.displaced == []
    assert certain.displaced_since is None
    assert not certain.displacement_borne_out
    other = signs_of(displaced)
    assert not other.growing_certain
    assert [check.name for check in other.displaced] == ["likelihood_displacement"]


def test_a_displacement_is_borne_out_by_a_second_sign() -> None:
    assert not signs_of(displaced).displacement_borne_out
    for second in (dispersed, less_likely):
        signs = signs_of(all_of(displaced, second))
        assert signs.displacement_borne_out
        assert signs.displaced_since is not None
        assert ILL_FROM <= signs.displaced_since <= ILL_FROM + 8


def test_nothing_bears_it_out_before_it_is_known_whether_the_policy_grows_certain() -> None:
    unknown = ("entropy", "log_prob_correct")
    signs = signs_of(all_of(displaced, unrewarded), without=unknown)
    assert signs.displacements[0].speaks
    assert not signs.certainty_known
    assert not signs.displacement_borne_out


def test_bystanders_that_are_displaced_bear_it_out_by_themselves() -> None:
    def bystanders(columns: dict[str, float], done: float) -> dict[str, Any]:
        return {"post_update_zero_advantage": columns["post_update_zero_advantage"] - 0.1 * done}

    assert signs_of(bystanders).displacement_borne_out


def test_a_falling_reward_and_another_signal_decay_together() -> None:
    half = signs_of(
        all_of(dispersed, lambda columns, done: {"reward": columns["reward"] * (1 - 0.3 * done)}),
        without=("cross_update_change", "post_update_zero_advantage"),
    )
    assert half.decaying
    assert not half.reward_lost


def test_two_signals_far_off_decay_though_the_reward_is_held_but_not_while_it_gains() -> None:
    def gradients(columns: dict[str, float], done: float) -> dict[str, Any]:
        return {"grad_norm": columns["grad_norm"] * math.exp(4 * done)}

    def gains(columns: dict[str, float], done: float) -> dict[str, Any]:
        return {"reward": columns["reward"] + 0.4 * done}

    def far(columns: dict[str, float], done: float) -> dict[str, Any]:
        return {"entropy": columns["entropy"] * (1 + 5 * done)}

    held = signs_of(all_of(far, gradients))
    assert bad(held) == {"entropy", "grad_norm"}
    assert held.decaying
    assert not signs_of(all_of(far, gradients, gains)).decaying
    assert not signs_of(far).decaying, "one signal alone"


def test_length_and_uncertainty_are_one_sign() -> None:
    assert not signs_of(all_of(dispersed, longer), without=("cross_update_change",)).decaying


def test_what_looks_ill_is_learnt_no_more() -> None:
    assert not signs_of(displaced).healthy
    assert not signs_of(dispersed).healthy
    assert not signs_of(unrewarded).healthy


def test_nothing_can_be_judged_by_the_gradient_s_zeros_or_by_nothing() -> None:
    signs = Signs(Settings())
    for step in range(1, 40):
        signs.update(Observation(step=step, loss=0.1))
    assert not signs.judges


@pytest.mark.parametrize(
    ("columns", "lost"),
    [({"response_length": 1.0}, True), ({"entropy": 0.001}, True), ({"response_length": 40.0, "entropy": 0.3}, False)],
)
def test_a_policy_of_a_token_or_two_is_none_however_noisy_its_reward_was(columns: dict[str, float], lost: bool) -> None:
    """Then the reward only has to stay for long at the lowest that it ever had."""
    signs = Signs(Settings())
    for step in range(1, 45):
        reward = 1.0 if step < 15 and step % 2 else -0.5
        signs.update(Observation(step=step, reward=reward, **columns))
    assert signs.reward.stuck
    assert not signs.reward.speaks
    assert signs.reward_lost == lost


@pytest.mark.parametrize(("entropy", "lost"), [(6.0, True), (3.5, False)])
def test_a_policy_that_writes_no_language_any_more_has_lost_its_reward_when_half_of_it_is_gone(
    entropy: float, lost: bool
) -> None:
    signs = Signs(Settings())
    for step in range(1, 30):
        well = step < 15
        signs.update(Observation(step=step, reward=float(well and step % 2), entropy=0.5 if well else entropy))
    assert signs.reward.halved
    assert not signs.reward.speaks
    assert signs.reward_lost == lost
