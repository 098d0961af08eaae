import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lldwatch.errors import InputError
from lldwatch.scoring import Bin, Forecast, Judged, reliability, resolved, score

SPIRAL = ("lld_spiral",)
SIX = [
    Judged(steps=100, families=SPIRAL, onset=31, collapse=71, alarm=41, said="lld_spiral"),
    Judged(steps=100, families=SPIRAL, onset=31, collapse=71, alarm=81, said="mismatch"),  # ten steps too late
    Judged(steps=100, families=SPIRAL, onset=31, collapse=71, alarm=11, said="lld_spiral"),  # before anything happened
    Judged(steps=100, families=("gradient_starvation",), onset=51),  # not found
    Judged(steps=200),
    Judged(steps=200, alarm=150, said="sharpening"),
]


def test_six_runs_by_hand() -> None:
    scored = score(SIX)
    assert scored.runs == 6
    assert (scored.delay.value, scored.delay.runs) == (30.0, 2)  # 10 and 50
    assert (scored.lead.value, scored.lead.runs) == (10.0, 2)  # 30 and -10
    assert (scored.in_time.value, scored.in_time.runs) == (pytest.approx(1 / 3), 3)
    assert (scored.missed.value, scored.missed.runs) == (0.5, 4)
    assert (scored.healthy_alarmed.value, scored.healthy_alarmed.runs) == (0.5, 2)
    assert (scored.family_right.value, scored.family_right.runs) == (0.5, 2)
    # at risk: 30 + 30 + 11 (then alarmed) + 50 + 200 + 150 (then alarmed) steps, with two false alarms
    assert scored.false_alarms.value == pytest.approx(1000 * 2 / 471)
    assert math.isnan(scored.brier.value)


def test_unknown_onset() -> None:
    recorded = Judged(
        steps=80, families=("lld_spiral", "off_policy_overuse"), collapse=30, alarm=12, said="off_policy_overuse"
    )
    scored = score([recorded])
    assert recorded.detected
    assert recorded.steps_at_risk == 0
    assert (scored.lead.value, scored.in_time.value, scored.family_right.value) == (18.0, 1.0, 1.0)
    assert math.isnan(scored.delay.value)
    assert math.isnan(scored.false_alarms.value)


def test_alarm_at_the_onset_and_at_the_collapse() -> None:
    at_once = Judged(steps=50, families=SPIRAL, onset=10, collapse=20, alarm=10)
    too_late = Judged(steps=50, families=SPIRAL, onset=10, collapse=20, alarm=20)
    assert (score([at_once]).delay.value, score([at_once]).in_time.value) == (0.0, 1.0)
    assert (score([too_late]).lead.value, score([too_late]).in_time.value) == (0.0, 0.0)
    assert not at_once.false_alarm
    assert Judged(steps=50, families=SPIRAL, onset=10, collapse=20, alarm=9).false_alarm


def test_forecasts_that_can_be_judged() -> None:
    told = [
        Forecast(step=10, probability=0.1, until=30),  # no collapse by 30
        Forecast(step=20, probability=0.4, until=50),  # it comes exactly at 50
        Forecast(step=49, probability=0.9, until=69),  # it comes
        Forecast(step=50, probability=1.0, until=70),  # it is there already
    ]
    assert resolved(Judged(steps=100, collapse=50, forecasts=told)) == [(0.1, False), (0.4, True), (0.9, True)]
    # nobody knows what would have happened after the end of a run that had not collapsed
    assert resolved(Judged(steps=69, forecasts=told)) == [(0.1, False), (0.4, False), (0.9, False)]
    assert resolved(Judged(steps=49, forecasts=told)) == [(0.1, False)]
    # a collapse before the end settles a forecast that reaches beyond it
    assert resolved(Judged(steps=60, collapse=55, forecasts=[Forecast(step=45, probability=0.5, until=90)])) == [
        (0.5, True)
    ]


def test_brier_score_and_reliability_by_hand() -> None:
    told = [
        Forecast(step=step, probability=chance, until=step + 5) for step, chance in [(1, 0.0), (2, 0.25), (9, 0.95)]
    ]
    runs = [
        Judged(steps=20, collapse=12, forecasts=[*told, Forecast(step=8, probability=1.0, until=13)]),
        Judged(steps=20, forecasts=[Forecast(step=3, probability=0.2, until=9)]),
        Judged(steps=20),
    ]
    scored = score(runs)
    errors = [0.0, 0.25**2, 0.05**2, 0.0, 0.2**2]
    assert scored.brier.value == pytest.approx(sum(errors) / 5)
    assert scored.brier.runs == 2
    assert reliability(runs, bins=4) == [
        Bin(0.0, 0.25, pytest.approx(0.1), 0.0, 2),
        Bin(0.25, 0.5, pytest.approx(0.25), 0.0, 1),
        Bin(0.75, 1.0, pytest.approx(0.975), 1.0, 2),
    ]
    assert reliability([Judged(steps=3)]) == []


steps = st.none() | st.integers(1, 100)
chances = st.lists(st.tuples(st.integers(1, 99), st.floats(0.0, 1.0), st.integers(1, 30)), max_size=5)


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    onset, collapse, alarm = draw(steps), draw(steps), draw(steps)
    if onset is not None and collapse is not None:
        onset, collapse = min(onset, collapse), max(onset, collapse)
    return Judged(
        steps=100,
        families=draw(st.sampled_from([(), SPIRAL, ("sharpening", "mismatch")])),
        onset=onset,
        collapse=collapse,
        alarm=alarm,
        said=draw(st.sampled_from([None, "lld_spiral", "mismatch"])) if alarm else None,
        forecasts=[Forecast(step=at, probability=chance, until=at + ahead) for at, chance, ahead in draw(chances)],
    )


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    total = sum(below for _, below in pairs)
    return sum(above for above, _ in pairs) / total if total else math.nan


def middle(values: Sequence[float]) -> float:
    return median(values) if values else math.nan


def brier(runs: Sequence[Judged]) -> float:
    errors = [(chance - came) ** 2 for run in runs for chance, came in resolved(run)]
    return sum(errors) / len(errors) if errors else math.nan


def too_early(run: Judged) -> bool:
    healthy = run.onset is None and run.collapse is None and not run.families
    return run.alarm is not None and (healthy or (run.onset is not None and run.alarm < run.onset))


def is_ill(run: Judged) -> bool:
    return bool(run.families) or run.onset is not None or run.collapse is not None


def found(run: Judged) -> bool:
    return is_ill(run) and run.alarm is not None and not too_early(run)


def walked(run: Judged) -> int:
    """Counts, step by step, how long an alarm would be false."""
    count = 0
    for step in range(1, run.steps + 1):
        if is_ill(run) and (run.onset is None or step >= run.onset):
            break
        count += 1
        if step == run.alarm:
            break
    return count


SLOW: dict[str, Callable[[Sequence[Judged]], float]] = {
    "delay": lambda runs: middle([run.alarm - run.onset for run in runs if found(run) and run.onset is not None]),
    "lead": lambda runs: middle([run.collapse - run.alarm for run in runs if found(run) and run.collapse is not None]),
    "in_time": lambda runs: ratio(
        [(found(run) and run.alarm < run.collapse, 1) for run in runs if run.collapse is not None]
    ),
    "missed": lambda runs: ratio([(not found(run), 1) for run in runs if is_ill(run)]),
    "false_alarms": lambda runs: 1000 * ratio([(too_early(run), walked(run)) for run in runs]),
    "healthy_alarmed": lambda runs: ratio([(run.alarm is not None, 1) for run in runs if not is_ill(run)]),
    "family_right": lambda runs: ratio([(run.said in run.families, 1) for run in runs if found(run) and run.families]),
    "brier": brier,
}


@given(st.lists(judged(), min_size=1, max_size=8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_estimates_and_intervals_are_those_of_a_slow_twin(runs: list[Judged], seed: int) -> None:
    scored = score(runs, resamples=40, level=0.8, seed=seed)
    drawn = np.random.default_rng(seed).integers(len(runs), size=(40, len(runs)))
    for name, slow in SLOW.items():
        estimate, value = getattr(scored, name), slow(runs)
        assert estimate.value == pytest.approx(value, nan_ok=True)
        if math.isnan(value):
            assert math.isnan(estimate.low)
            continue
        again = [slow([runs[index] for index in row]) for row in drawn]
        measured = [each for each in again if not math.isnan(each)]
        if measured:
            assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(measured, [10, 90])))


@given(st.lists(judged(), max_size=8), st.integers(1, 12))
@settings(deadline=None)
def test_each_forecast_is_in_one_bin(runs: list[Judged], bins: int) -> None:
    pairs = [pair for run in runs for pair in resolved(run)]
    table = reliability(runs, bins)
    assert sum(part.count for part in table) == len(pairs)
    assert sum(part.count * part.forecast for part in table) == pytest.approx(sum(chance for chance, _ in pairs))
    assert sum(part.count * part.observed for part in table) == pytest.approx(sum(came for _, came in pairs))
    for part in table:
        assert part.low <= part.forecast + 1e-12
        assert part.forecast <= part.high + 1e-12


def test_the_interval_narrows_with_more_runs() -> None:
    few, many = score(SIX).missed, score(SIX * 20).missed
    assert few.value == many.value
    assert few.high - few.low > 2 * (many.high - many.low) > 0.0


def test_same_seed_same_intervals() -> None:
    first, again, other = (score(SIX, resamples=30, seed=seed).false_alarms for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="no runs"):
        score([])
    with pytest.raises(InputError, match="collapse=4 comes before onset=5"):
        Judged(steps=10, onset=5, collapse=4)
    for chance in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="from 0 to 1"):
            Forecast(step=1, probability=chance, until=2)
    with pytest.raises(InputError, match="after 5"):
        Forecast(step=5, probability=0.5, until=5)
