from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import healthy
from strategies import histories
from watched import watched

from lldwatch import CollapseDetector, Observation, Stage
from lldwatch import forecast as module
from lldwatch.checks import Settings
from lldwatch.forecast import ALARM, WEIGHTS, Features, Forecast, features, forecast, horizon_of
from lldwatch.signs import Signs

MOST = Features(displacement=2.0, second=2.0, fall=4.0, broken=1.0)
NONE = Features(*[0.0] * len(Features._fields))
shares = st.floats(0.0, 1.0)


def judging() -> Signs:
    """Signs of a run that can be judged."""
    signs = Signs(Settings())
    signs.update(Observation(step=1, cross_update_change=0.0))
    return signs


def forecast_of(seen: Features, steps_so_far: int = 100) -> Forecast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "features", lambda signs: seen)
        return forecast(judging(), steps_so_far)


def probability_of(seen: Features) -> float:
    said = forecast_of(seen).probability
    assert said is not None
    return said


@given(st.tuples(*[shares] * len(MOST)), st.integers(1, 10**6))
def test_a_forecast_is_a_probability_its_horizon_and_an_ordered_interval(share: tuple[float, ...], steps: int) -> None:
    said = forecast_of(Features(*(s * most for s, most in zip(share, MOST, strict=True))), steps)
    assert said.probability is not None
    assert 0.0 < said.probability < 1.0 + 1e-12
    assert said.horizon == horizon_of(steps)
    assert (said.steps is not None) == said.alarms == (said.probability >= ALARM)
    if said.steps is not None:
        low, middle, high = said.steps
        assert 1 <= low <= middle <= high
        assert middle <= said.horizon, "more likely than not within the horizon"


@pytest.mark.parametrize(("steps", "horizon"), [(1, 20), (80, 20), (83, 20), (84, 21), (1000, 250)])
def test_it_looks_a_quarter_of_the_steps_so_far_ahead_and_at_least_20(steps: int, horizon: int) -> None:
    assert horizon_of(steps) == horizon


def test_there_is_a_weight_for_each_feature() -> None:
    assert len(WEIGHTS) == 1 + len(Features._fields)


@pytest.mark.parametrize("name", Features._fields)
@given(st.tuples(*[shares] * len(MOST)), shares)
def test_the_more_is_seen_the_likelier_is_a_collapse(name: str, share: tuple[float, ...], more: float) -> None:
    seen = Features(*(s * most for s, most in zip(share, MOST, strict=True)))
    higher = seen._replace(**{name: max(getattr(seen, name), more * getattr(MOST, name))})
    assert probability_of(higher) >= probability_of(seen)


@pytest.mark.parametrize("name", Features._fields)
def test_each_sign_raises_it_by_itself(name: str) -> None:
    assert probability_of(NONE._replace(**{name: getattr(MOST, name)})) > 1.5 * probability_of(NONE)


@pytest.mark.parametrize("name", ["displacement", "second", "fall"])
def test_no_sign_alone_is_a_warning(name: str) -> None:
    assert not forecast_of(NONE._replace(**{name: getattr(MOST, name)})).alarms


def test_a_run_without_a_sign_is_hardly_ever_lost_and_one_with_all_is() -> None:
    assert probability_of(NONE) < 0.1
    assert probability_of(MOST) > 0.99


def test_where_nothing_can_be_judged_there_is_no_forecast() -> None:
    assert forecast(Signs(Settings()), 5) == Forecast()
    assert not Forecast().alarms
    detector = CollapseDetector()
    for step in range(1, 60):
        verdict = detector.fold(Observation(step=step, loss=0.1))
        assert verdict.collapse_probability is None
    assert detector.diagnosis.horizon is None


def test_without_a_sign_nothing_is_seen() -> None:
    signs, noise = Signs(Settings()), random.Random(0)
    for step in range(1, 60):
        signs.update(Observation(step=step, **healthy(step, noise)))
        seen = features(signs)
        assert seen.second == seen.broken == 0.0
        assert seen.displacement < 1.0
        assert seen.fall < 1.0


@given(histories(max_size=25))
@settings(max_examples=25)
def test_whatever_is_seen_has_its_range(history: list[Observation]) -> None:
    signs = Signs(Settings(warmup=3, window=2, reward_window=2, confirm=1, release=2))
    for observation in history:
        signs.update(observation)
        for value, most in zip(features(signs), MOST, strict=True):
            assert 0.0 <= value <= most


def test_the_horizon_counts_from_the_first_step_that_was_seen() -> None:
    detector = CollapseDetector()
    for step in range(1001, 1201):
        detector.fold(Observation(step=step, reward=0.5))
    assert detector.diagnosis.horizon == 50


@pytest.mark.parametrize("scenario", ["lld_spiral", "mismatch", "format_loss", "optimiser_blow_up"])
def test_the_forecast_rises_before_a_collapse_and_not_before_the_illness(scenario: str) -> None:
    early, late = [], []
    for seed in range(5):
        seen = watched(scenario, seed)
        assert seen.run.onset is not None
        assert seen.run.collapse is not None
        said = {verdict.step: verdict.collapse_probability or 0.0 for verdict in seen.verdicts}
        early.append(max(said[step] for step in range(1, seen.run.onset)))
        late.append(max(said[step] for step in range(seen.run.onset, seen.run.collapse)))
    assert sum(probability < ALARM for probability in early) == 5
    assert sum(probability >= ALARM for probability in late) >= 4


def test_the_diagnosis_tells_the_forecast_of_its_last_step() -> None:
    diagnosis = watched("mismatch", 0).diagnosis
    assert diagnosis.stage is Stage.COLLAPSE
    assert diagnosis.collapse_probability == watched("mismatch", 0).verdicts[-1].collapse_probability
    assert diagnosis.horizon == 50
    assert diagnosis.steps_to_collapse is not None
