from __future__ import annotations

import math
import random

import pytest
from made_up import ILL_FROM, Change, healthy, rows_of, scaled, shifted, together
from watched import signs_of, watched

from lldwatch import Observation, Stage
from lldwatch.checks import Settings
from lldwatch.forecast import features
from lldwatch.signs import JOINT, Signs

PROBED = ("cross_update_change", "post_update_zero_advantage")
LESS_LIKELY = scaled("log_prob_correct", 3.0)
LONGER = scaled("response_length", 5.0)
DISPLACED = shifted("cross_update_change", -0.06)
DISPERSED = scaled("entropy", 4.0)
SHARPENED = scaled("entropy", 0.5)
UNREWARDED = scaled("reward", 0.02)


def nothing(columns: dict[str, float], ago: int) -> dict[str, float]:
    return {}


def after(change: Change, *, without: tuple[str, ...] = (), seed: int = 0) -> Signs:
    """The signs of a healthy run that has changed in the ten steps from 40 on."""
    return signs_of(rows_of(change, without=without, seed=seed))


def bad(signs: Signs) -> set[str]:
    return {level.name for level in signs.bad}


def test_a_healthy_run_has_no_signs() -> None:
    for seed in range(3):
        signs = after(nothing, seed=seed)
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
    assert bad(after(LESS_LIKELY, without=PROBED)) == {"likelihood_of_correct"}
    assert "likelihood_of_correct" not in bad(after(together(LESS_LIKELY, LONGER), without=PROBED))


def test_a_mixture_that_shifts_explains_it_where_no_single_response_lost_any() -> None:
    """Only where that was measured."""
    assert bad(after(LESS_LIKELY)) == set()
    assert bad(after(LESS_LIKELY, without=("cross_update_change",))) == {"likelihood_of_correct"}
    assert "likelihood_of_correct" in bad(after(together(LESS_LIKELY, DISPLACED)))


def test_other_signals_are_explained_by_neither() -> None:
    assert "entropy" in bad(after(together(DISPERSED, LONGER)))


def restart(columns: dict[str, float], ago: int) -> dict[str, float]:
    """The learning rate is warmed up once more, and the policy is another one from then on."""
    if ago < 0:
        return {"learning_rate": 1e-6}
    return together(DISPERSED, LONGER)(columns, 10) | {"learning_rate": 1e-6 * min((ago + 1) / 10, 1.0)}


def test_a_restart_is_seen_at_its_learning_rate_and_what_is_normal_is_learnt_anew() -> None:
    signs = after(restart)
    assert signs.restarted == ILL_FROM
    assert not signs.bad
    assert all(level.ready for level in signs.levels.values())
    unseen = after(restart, without=("learning_rate",))
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
    signs = after(UNREWARDED)
    assert signs.reward.falling
    assert not signs.reward_lost
    assert not signs.decaying


@pytest.mark.parametrize("change", [DISPERSED, DISPLACED, SHARPENED], ids=["dispersed", "displaced", "sharpened"])
def test_a_reward_that_is_lost_with_another_signal_is_lost(change: Change) -> None:
    assert after(together(UNREWARDED, change)).reward_lost


def test_a_reward_that_is_lost_where_nothing_else_is_logged_is_lost() -> None:
    others = tuple(name for name in healthy(1, random.Random(0)) if name != "reward")
    assert after(UNREWARDED, without=others).reward_lost


def test_what_goes_with_a_reward_that_a_parser_lost_is_no_second_sign() -> None:
    """Equal rewards: no advantage, no gradient. In half of the simulated runs noise of others is taken for one."""
    assert sum(watched("parser_broken", seed).worst is Stage.COLLAPSE for seed in range(10)) <= 5
    assert all(watched("parser_broken", seed).diagnosis.family is None for seed in range(10))


def test_a_displacement_while_the_policy_grows_certain_is_benign() -> None:
    """It found other correct answers; earlier ones become less likely."""
    certain = after(together(DISPLACED, SHARPENED))
    assert certain.growing_certain
    assert certain.displacements[0].speaks
    assert certain.displaced == []
    assert certain.displaced_since is None
    assert not certain.displacement_borne_out
    assert features(certain).displacement == 0.0
    other = after(DISPLACED)
    assert not other.growing_certain
    assert [check.name for check in other.displaced] == ["likelihood_displacement"]
    assert features(other).displacement > 1.0


def test_a_displacement_is_borne_out_by_a_second_sign() -> None:
    assert not after(DISPLACED).displacement_borne_out
    for second in (DISPERSED, LESS_LIKELY):
        signs = after(together(DISPLACED, second))
        assert signs.displacement_borne_out
        assert signs.displaced_since is not None
        assert ILL_FROM <= signs.displaced_since <= ILL_FROM + 8


def test_nothing_bears_it_out_before_it_is_known_whether_the_policy_grows_certain() -> None:
    signs = after(together(DISPLACED, UNREWARDED), without=("entropy", "log_prob_correct"))
    assert signs.displacements[0].speaks
    assert not signs.certainty_known
    assert not signs.displacement_borne_out


def test_bystanders_that_are_displaced_bear_it_out_by_themselves() -> None:
    assert after(shifted("post_update_zero_advantage", -0.1)).displacement_borne_out


def test_a_falling_reward_and_another_signal_decay_together() -> None:
    signs = after(together(scaled("entropy", 3.0), scaled("reward", 0.7)), without=PROBED)
    assert signs.decaying
    assert not signs.reward_lost


def test_a_falling_reward_and_another_signal_that_are_just_beyond_their_limits_do_not() -> None:
    """Noise passes one limit at the stated rate, and two often together."""
    signs = after(together(scaled("entropy", 1.33), scaled("reward", 0.81)))
    assert signs.reward.falling
    assert bad(signs) == {"entropy"}
    assert 2.0 < signs.reward.fall + signs.bad[0].excess < JOINT
    assert not signs.decaying


FAR = scaled("entropy", 6.0)
GRADIENTS = scaled("grad_norm", 55.0)


def test_two_signals_far_off_decay_though_the_reward_is_held_but_not_while_it_gains() -> None:
    held = after(together(FAR, GRADIENTS))
    assert bad(held) == {"entropy", "grad_norm"}
    assert held.decaying
    assert features(held).second == 2.0
    gains = after(together(FAR, GRADIENTS, shifted("reward", 0.4)))
    assert not gains.decaying
    assert features(gains).second == 0.0
    assert not after(FAR).decaying, "one signal alone"


def test_length_and_uncertainty_are_one_sign() -> None:
    assert not after(together(DISPERSED, LONGER), without=PROBED).decaying


@pytest.mark.parametrize("change", [DISPERSED, DISPLACED, UNREWARDED], ids=["dispersed", "displaced", "unrewarded"])
def test_what_looks_ill_is_learnt_no_more(change: Change) -> None:
    assert not after(change).healthy


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
