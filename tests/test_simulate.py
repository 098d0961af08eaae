import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lldwatch.errors import InputError
from lldwatch.schema import Observation
from lldwatch.search_world.outcome import judge
from lldwatch.simulate import (
    SCALARS,
    SCENARIOS,
    SimulatedRun,
    null,
    scalars_only,
    simulate,
    thinned,
    with_broken,
    with_gaps,
)
from lldwatch.simulated.training import autoregressive, lost_for_good

FAMILIES = (
    "lld_spiral",
    "sharpening",
    "format_loss",
    "mismatch",
    "numerical",
    "gradient_starvation",
    "optimiser_blow_up",
    "off_policy_overuse",
)
FATAL = [*(family for family in FAMILIES if family != "gradient_starvation"), "ideal_likelihood"]
HEALTHY = [name for name in SCENARIOS if name not in FAMILIES and name != "ideal_likelihood"]
PARSER = "parser_broken"  # its reward is lost as well, but not by an illness of the policy


def values(run: SimulatedRun, column: str, start: int = 1, stop: int | None = None) -> np.ndarray:
    """A column over the steps from `start` to before `stop`, without what is missing."""
    stop = stop or run.observations[-1].step + 1
    series = [getattr(row, column) for row in run.observations if start <= row.step < stop]
    return np.array([value for value in series if value is not None])


def collapse_by_definition(run: SimulatedRun) -> int | None:
    rewards = [row.reward - run.floor for row in run.observations if row.reward is not None]
    found = judge(rewards).collapse_step
    return None if found is None else run.observations[found - 1].step


runs = st.builds(simulate, st.sampled_from(list(SCENARIOS)), st.integers(0, 10_000), st.integers(60, 220))


@given(runs)
@settings(max_examples=60, deadline=None)
def test_truth_is_coherent(run: SimulatedRun) -> None:
    steps = [row.step for row in run.observations]
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert (run.family is not None) == (run.name in FAMILIES)
    assert (run.onset is not None) == (run.name in FAMILIES or run.name == "ideal_likelihood")
    assert run.family in (None, run.name)
    if run.onset is not None:
        assert 1 <= run.onset <= steps[-1]
    if run.name == PARSER:
        assert run.collapse is None
        assert collapse_by_definition(run) is not None
    else:
        assert run.collapse == collapse_by_definition(run)
    assert (run.collapse is not None) == (run.name in FATAL)
    if run.collapse is not None:
        assert run.onset is not None
        assert run.onset < run.collapse


@given(st.lists(st.floats(-1.0, 2.0, width=32), min_size=10, max_size=80))
def test_collapse_means_what_the_miniature_means_by_it(rewards: list[float]) -> None:
    assert lost_for_good(np.array(rewards)) == judge(rewards).collapse_step


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_follows_from_its_seed(scenario: str) -> None:
    first, again, other = simulate(scenario, 7, 80), simulate(scenario, 7, 80), simulate(scenario, 8, 80)
    assert repr(first) == repr(again)  # NaN differs from itself, its name does not
    assert repr(first) != repr(other)


@pytest.mark.parametrize("steps", [60, 137])
def test_as_many_steps_as_wanted(steps: int) -> None:
    assert [row.step for row in simulate("healthy", 0, steps).observations] == list(range(1, steps + 1))


def test_sizes_vary_with_the_seed() -> None:
    many = [simulate("lld_spiral", seed, 100) for seed in range(30)]
    assert len({run.onset for run in many}) > 10
    assert {run.floor < 0.0 for run in many} == {True, False}
    mean_rewards = [values(run, "reward").mean() for run in many]
    assert min(mean_rewards) < 0.0
    assert max(mean_rewards) > 1.0
    leads = [run.collapse - run.onset for run in many if run.collapse and run.onset]
    assert max(leads) > 2 * min(leads)


def share_of(scenario: str, holds: Callable[[SimulatedRun, int, int], bool]) -> float:
    """In how many of ten runs something holds of the run, its onset and its collapse (or its end)."""
    ten = [simulate(scenario, seed) for seed in range(10)]
    return float(np.mean([holds(run, run.onset or 1, run.collapse or 200) for run in ten]))


def moved(run: SimulatedRun, column: str, onset: int, collapse: int) -> float:
    """Median of a column once the reward is lost, as a multiple of the median before the onset."""
    return float(np.median(values(run, column, collapse)) / np.median(values(run, column, 1, max(onset, 2))))


def only_the_reward_moves(run: SimulatedRun) -> bool:
    lost = next(row.step for row in run.observations if row.reward == run.floor)
    around = [(values(run, name, lost - 20, lost), values(run, name, lost, lost + 20)) for name in MEASURED]
    same = all(0.8 < np.median(after) / np.median(before) < 1.25 for before, after in around)
    zero = [values(run, name, lost).any() for name in ("grad_norm", "reward_std", "correct_share")]
    return same and not any(zero)


MEASURED = ("entropy", "log_prob_incorrect", "response_length", "kl", "clip_fraction")
SIGNS: dict[str, tuple[str, Callable[[SimulatedRun, int, int], bool]]] = {
    "spiral, displaced before the collapse": (
        "lld_spiral",
        lambda run, onset, collapse: (
            values(run, "cross_update_change", collapse - 10, collapse).mean()
            < values(run, "cross_update_change", 2, onset).mean() - 0.004
        ),
    ),
    "spiral, likelihood falls": ("lld_spiral", lambda run, *at: moved(run, "log_prob_correct", *at) > 1.2),
    "spiral, entropy rises": ("lld_spiral", lambda run, *at: moved(run, "entropy", *at) > 1.2),
    "spiral, length is flat": ("lld_spiral", lambda run, *at: 0.7 < moved(run, "response_length", *at) < 1.4),
    "spiral, the batch's own are pushed up": (
        "lld_spiral",
        lambda run, *at: moved(run, "post_update_correct", *at) > 1.5,
    ),
    "sharpening, entropy falls": ("sharpening", lambda run, *at: moved(run, "entropy", *at) < 0.2),
    "sharpening, likelihood rises": ("sharpening", lambda run, *at: moved(run, "log_prob_correct", *at) < 0.3),
    "sharpening, groups without advantage": (
        "sharpening",
        lambda run, *at: moved(run, "zero_advantage_share", *at) > 1.4,
    ),
    "format goes before the reward": (
        "format_loss",
        lambda run, onset, collapse: (
            values(run, "format_valid_share", collapse - 6, collapse).mean()
            < 0.8 * values(run, "format_valid_share", 1, onset).mean()
        ),
    ),
    "mismatch, from a healthy divergence to a high one": (
        "mismatch",
        lambda run, onset, collapse: (
            np.median(values(run, "rollout_kl", 1, onset)) < 2e-3
            and np.median(values(run, "rollout_kl", collapse)) > 0.02
        ),
    ),
    "numerical, inf and then NaN for good": (
        "numerical",
        lambda run, onset, collapse: (
            math.isinf(values(run, "grad_norm", onset, onset + 1)[0])
            and bool(np.isnan(values(run, "loss", collapse)).all())
        ),
    ),
    "starved, no gradient to speak of": (
        "gradient_starvation",
        lambda run, onset, _: (
            np.median(values(run, "zero_advantage_share", 170)) > 0.95 and moved(run, "grad_norm", onset, 170) < 0.5
        ),
    ),
    "starved, the reward stays": (
        "gradient_starvation",
        lambda run, onset, _: (
            abs(values(run, "correct_share", onset).mean() - values(run, "correct_share", 180).mean()) < 0.1
        ),
    ),
    "blow-up, the gradient first": (
        "optimiser_blow_up",
        lambda run, onset, collapse: (
            values(run, "grad_norm", onset, collapse).max() > 5 * values(run, "grad_norm", 1, onset).max()
        ),
    ),
    "overuse, many tokens clipped": (
        "off_policy_overuse",
        lambda run, onset, _: np.median(values(run, "clip_fraction", onset, onset + 10)) > 0.03,
    ),
    "overuse, many updates": (
        "off_policy_overuse",
        lambda run, onset, _: values(run, "updates_per_batch", onset).min() >= 16,
    ),
    "ideal likelihood, sure of itself": (
        "ideal_likelihood",
        lambda run, *at: moved(run, "log_prob_correct", *at) < 0.6 and values(run, "entropy", at[1]).mean() < 0.15,
    ),
    "ideal likelihood, anchors fall": (
        "ideal_likelihood",
        lambda run, onset, collapse: (
            values(run, "fixed_anchor_change", collapse).mean()
            < values(run, "fixed_anchor_change", 1, onset).mean() - 0.02
        ),
    ),
    "parser, only the reward and what hangs on it": (PARSER, lambda run, *_: only_the_reward_moves(run)),
    "length grows about five times": (
        "length_growth",
        lambda run, *_: 3.0 < moved(run, "response_length", 10, 190) < 8.0,
    ),
    "mixture, likelihood falls and nothing is displaced": (
        "mixture_shift",
        lambda run, *_: (
            values(run, "log_prob_correct", 180).mean() < values(run, "log_prob_correct", 1, 20).mean() - 0.02
            and abs(values(run, "cross_update_change").mean()) < 0.003
        ),
    ),
    "entropy doubles and the reward rises": (
        "entropy_doubles",
        lambda run, *_: (
            1.3 < moved(run, "entropy", 5, 180) < 3.0
            and values(run, "reward", 180).mean() > values(run, "reward", 1, 20).mean()
        ),
    ),
    "spikes of about a thousand times": (
        "spikes",
        lambda run, *_: values(run, "grad_norm").max() > 100 * np.median(values(run, "grad_norm")),
    ),
    "no gradient on most rows": (
        "zero_advantages",
        lambda run, *_: 0.4 < float(np.mean(values(run, "grad_norm") == 0.0)) < 0.8,
    ),
    "flat stays flat": ("flat", lambda run, *_: abs(moved(run, "correct_share", 100, 100) - 1) < 0.2),
    "healthy learns": (
        "healthy",
        lambda run, *_: values(run, "correct_share", 150).mean() > values(run, "correct_share", 1, 20).mean(),
    ),
    "dips and comes back": (
        "dip_and_recover",
        lambda run, *_: (
            min(np.convolve(values(run, "correct_share"), np.ones(5) / 5, mode="valid"))
            < 0.9 * values(run, "correct_share", 1, 20).mean()
            < values(run, "correct_share", 185).mean()
        ),
    ),
    "changes grow with the learning rate": (
        "learning_rate_warmup",
        lambda run, *_: (
            values(run, "cross_update_change", 1, 20).std() < values(run, "cross_update_change", 120).std()
            and bool((np.diff(values(run, "learning_rate")) >= 0).all())
        ),
    ),
    "the learning rate warms up again": (
        "restart",
        lambda run, *_: bool((np.diff(values(run, "learning_rate")) < 0).any()),
    ),
    "averaged over a few steps": (
        "averaged_logging",
        lambda run, *_: 2 <= run.observations[1].step - run.observations[0].step <= 5,
    ),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_the_mechanism_shows(sign: str) -> None:
    assert share_of(*SIGNS[sign]) >= 0.8


def test_rewards_repeat_while_a_rollout_is_used() -> None:
    run = simulate("repeated_rewards", 1)
    rewards, clipped = values(run, "reward"), values(run, "clip_fraction")
    reuse = int(np.argmax(np.diff(rewards) != 0)) + 1
    assert 2 <= reuse <= 4
    for start in range(0, 200 - reuse + 1, reuse):
        assert len(set(rewards[start : start + reuse])) == 1
        assert clipped[start] == 0.0
        assert (clipped[start + 1 : start + reuse] > 0.0).all()


def test_without_an_advantage_there_is_no_gradient() -> None:
    for scenario in ("lld_spiral", "zero_advantages", PARSER):
        for row in simulate(scenario, 3).observations:
            assert (row.grad_norm == 0.0) == (row.zero_advantage_share == 1.0)


def test_without_a_correct_response_nothing_is_said_of_them() -> None:
    run = simulate(PARSER, 2)
    none = [row for row in run.observations if row.correct_share == 0.0]
    assert len(none) > 20
    assert all(row.log_prob_correct is None and row.gap is None for row in none)
    assert all(row.cross_update_change is None and row.cross_update_responses is None for row in none[1:])


def test_what_was_re_scored_is_of_the_previous_step() -> None:
    run = simulate(PARSER, 2)
    lost = next(index for index, row in enumerate(run.observations) if row.correct_share == 0.0)
    assert run.observations[0].cross_update_change is None
    assert run.observations[lost].cross_update_change is not None
    assert run.observations[lost + 1].cross_update_change is None


def test_a_restart_has_nothing_to_re_score() -> None:
    rows = simulate("restart", 4).observations
    missing = [row for row in rows if row.cross_update_change is None]
    assert len(missing) == 2
    again = missing[1]
    assert missing[0].step == 1
    assert (again.lagged_change_5, again.entropy is None) == (None, False)
    assert again.learning_rate is not None
    assert again.learning_rate < 0.5 * values(simulate("restart", 4), "learning_rate", again.step - 1)[0]


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.95])
def test_null_runs_are_stationary_and_as_autocorrelated_as_said(phi: float) -> None:
    many = [null(seed, 400, phi) for seed in range(20)]
    assert all(run.family is run.onset is run.collapse is None for run in many)
    for column, level in [("entropy", 0.3), ("cross_update_change", 0.0), ("reward", 0.6)]:
        series = np.array([values(run, column) for run in many])
        sd = series.std(axis=0).mean()
        assert series[:, 0].mean() == pytest.approx(level, abs=sd)
        assert series[:, 200:].mean() == pytest.approx(level, abs=sd)
        centred = series - level
        assert (centred[:, 1:] * centred[:, :-1]).mean() / (centred**2).mean() == pytest.approx(phi, abs=0.08)


def test_autoregressive_has_unit_variance_from_the_first_step() -> None:
    series = np.array([autoregressive(np.random.default_rng(seed), 30, 0.9) for seed in range(2000)])
    assert series.std(axis=0) == pytest.approx(np.ones(30), abs=0.08)


def test_scalars_only() -> None:
    run = scalars_only(simulate("lld_spiral", 0, 60))
    whole = simulate("lld_spiral", 0, 60)
    assert (run.onset, run.collapse) == (whole.onset, whole.collapse)
    for row, before in zip(run.observations, whole.observations, strict=True):
        for column in fields(Observation):
            kept = column.name in SCALARS
            assert getattr(row, column.name) == (getattr(before, column.name) if kept else None)
    likelihood = ("log_prob", "change", "gap", "cross_", "post_", "noise", "anchor", "confidence")
    assert not [name for name in SCALARS if any(part in name for part in likelihood)]


@given(st.integers(0, 50), st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_thinned_rows_are_means(seed: int, every: int) -> None:
    run = simulate("off_policy_overuse", seed, 60)
    rows = thinned(run, every).observations
    assert [row.step for row in rows] == list(range(every, 61, every))
    for index, row in enumerate(rows):
        part = run.observations[index * every : (index + 1) * every]
        for column in ("reward", "cross_update_change", "lagged_change_20"):
            measured = [value for one in part if (value := getattr(one, column)) is not None]
            expected = sum(measured) / len(measured) if measured else None
            assert getattr(row, column) == (None if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-7))
        assert row.updates_per_batch == part[-1].updates_per_batch


def test_gaps() -> None:
    run = simulate("healthy", 0)
    holed = with_gaps(run, np.random.default_rng(1), 0.2)
    assert 130 < len(holed.observations) < 190
    missing = np.mean([row.reward is None for row in holed.observations])
    assert 0.1 < missing < 0.3
    before = {row.step: row for row in run.observations}
    assert all(row.entropy in (None, before[row.step].entropy) for row in holed.observations)
    assert with_gaps(run, np.random.default_rng(1), 0.0).observations == run.observations
    assert repr(with_gaps(run, np.random.default_rng(1), 0.2)) == repr(holed)


def test_broken_rows_heal() -> None:
    run = simulate("healthy", 0)
    rows = with_broken(run, np.random.default_rng(2), 0.05).observations
    bad = [row.loss is not None and not math.isfinite(row.loss) for row in rows]
    assert sum(bad) == 10
    for row, before, broken in zip(rows, run.observations, bad, strict=True):
        assert (row == before) is not broken
        assert row.reward == before.reward
        assert broken is not (row.grad_norm is not None and math.isfinite(row.grad_norm))
    short = with_broken(simulate("healthy", 0, 60), np.random.default_rng(2), 0.0)
    assert sum(not math.isfinite(row.loss) for row in short.observations if row.loss is not None) == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="scenario='death'"):
        simulate("death", 0)
    with pytest.raises(InputError, match="steps=59"):
        simulate("healthy", 0, 59)
