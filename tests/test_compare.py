"""Where trainings part: on simulated pairs whose truth is known, and on the sample logs."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_html import HOSTILE, ROOT, checked, followed, html_of
from test_svg import WEIRD

from lldwatch import Diagnosis, InputError, Observation, RunInfo
from lldwatch.compare import NO_SETTING, Comparison, Contender, Pair, compare, contender, differing
from lldwatch.parting import LEAST_STEPS, Parting, least, noise, part
from lldwatch.reports.compare_html import MOST, write_html
from lldwatch.reports.compare_report import as_json, letter, sentence, write_json, write_text
from lldwatch.series import Series
from lldwatch.simulate import null
from lldwatch.simulated import collapses, healthy
from lldwatch.simulated.training import Training, autoregressive


def run_of(rows: Sequence[Observation], name: str = "x", **config: Any) -> Contender:
    return Contender(name, RunInfo(config=config), rows, Diagnosis())


def pair_of(first: Sequence[Observation], other: Sequence[Observation]) -> Pair:
    return compare([run_of(first), run_of(other)]).pairs[0]


def series(values: Any) -> Series:
    return Series(np.arange(1, len(values) + 1), np.asarray(values, dtype=np.float64))


def sample(*names: str) -> Comparison:
    return compare([contender(followed(ROOT / "sample_logs" / name)) for name in names])


def measured_twice(seed: int, steps: int) -> Pair:
    """One simulated course with other noise."""
    rows = []
    for draw in (1, 2):
        training = Training(np.random.default_rng(seed), steps)
        training.rng = np.random.default_rng([seed, draw])
        rows.append(training.run("course").observations)
    return pair_of(*rows)


@pytest.mark.parametrize(("phi", "most"), [(0.0, 0), (0.5, 1), (0.8, 3)])
def test_runs_to_which_nothing_happens_rarely_part(phi: float, most: int) -> None:
    pairs = [pair_of(*(null(2 * seed + run, 200, phi).observations for run in (0, 1))) for seed in range(8)]
    assert sum(bool(pair.parted) for pair in pairs) <= most
    compared = sum(len(pair.partings) for pair in pairs)
    assert sum(len(pair.parted) for pair in pairs) <= 0.02 * compared


@pytest.mark.parametrize("steps", [60, 200])
def test_one_course_that_is_measured_twice_rarely_parts(steps: int) -> None:
    pairs = [measured_twice(seed, steps) for seed in range(8)]
    assert sum(bool(pair.parted) for pair in pairs) <= 2
    assert not any(parting.signal == "reward" for pair in pairs for parting in pair.parted)


def test_a_death_spiral_parts_from_the_same_course_near_its_onset() -> None:
    late, certain_before_collapse = [], 0
    for seed in range(10):
        well = healthy.healthy(np.random.default_rng(seed), 200)
        ill = collapses.lld_spiral(np.random.default_rng(seed), 200)
        assert ill.onset is not None
        assert ill.collapse is not None
        found = {parting.signal: parting for parting in pair_of(well.observations, ill.observations).parted}
        headline = found["cross_update_change"]
        assert headline.step is not None
        assert headline.certain is not None
        late.append(headline.step - ill.onset)
        certain_before_collapse += headline.certain < ill.collapse
        assert (headline.other or 0.0) < (headline.first or 0.0)
        assert "reward" in found
    assert abs(median(late)) <= 3
    assert certain_before_collapse >= 9


def test_the_sample_logs_part_right_after_llds_is_switched_on() -> None:
    comparison = sample("collapse", "collapse-with-llds")
    (pair,) = comparison.pairs
    assert pair.steps == 80
    assert pair.equal_until == 14
    assert min(parting.step or 0 for parting in pair.parted) == 15
    steps = {parting.signal: parting.step for parting in pair.parted}
    assert steps["cross_update_change"] == 15
    assert 15 < (steps["reward"] or 0) < 25
    assert pair.only_other == ("llds_coefficient",)
    assert comparison.settings == {"scenario": ("collapse", "auto")}
    assert sentence(comparison, pair).startswith(
        "A and B are the same, number for number, up to step 14, and part from step 15 on, first in "
    )


def test_several_runs_are_each_held_against_the_first() -> None:
    comparison = sample("healthy", "collapse", "collapse-with-llds")
    assert [pair.other for pair in comparison.pairs] == [1, 2]
    parted = [{parting.signal for parting in pair.parted} for pair in comparison.pairs]
    assert "reward" in parted[0]
    assert "reward" not in parted[1]
    assert comparison.settings["updates_per_batch"] == (4, 16, 16)


def test_a_run_beside_itself_is_the_same() -> None:
    comparison = sample("collapse", "collapse")
    (pair,) = comparison.pairs
    assert pair.equal
    assert pair.parted == ()
    assert sentence(comparison, pair) == "A and B are the same, number for number, at all 80 common steps."


def test_a_step_in_one_signal_is_found_where_it_is() -> None:
    rng = np.random.default_rng(0)
    one, two = 1 + 0.1 * rng.normal(size=(2, 120))
    two[60:] += 0.5
    found = part("reward", series(one), series(two))
    assert found.step == pytest.approx(61, abs=1)
    assert found.certain is not None
    assert found.step is not None
    assert 3 <= found.certain - found.step <= 20
    assert found.until is None
    assert found.first == pytest.approx(1.0, abs=0.1)
    assert found.other == pytest.approx(1.5, abs=0.1)
    assert found.noise is not None
    assert 0.1 < found.noise < 0.35  # of the two together; the block that holds the jump is wider
    back = two.copy()
    back[80:] -= 0.5
    healed = part("reward", series(one), series(back))
    assert healed.step == found.step
    assert healed.until is not None
    assert 81 < healed.until < 120


def test_a_difference_too_small_to_matter_does_not_count() -> None:
    rng = np.random.default_rng(0)
    one, two = 1 + 0.001 * rng.normal(size=(2, 120))
    assert part("reward", series(one), series(two + 0.2)).step is None
    assert part("reward", series(one), series(two + 0.4)).step == 1
    assert part("truncated_share", series(0 * one), series(0 * one + 0.04)).step is None
    assert least("grad_norm", one, two) == pytest.approx(math.log(1.25))
    assert least("entropy", one, 3 * two) == pytest.approx(0.75, rel=0.01)


def test_a_gradient_norm_is_compared_as_a_factor_and_without_its_zeros() -> None:
    rng = np.random.default_rng(0)
    one, two = np.exp(0.3 * rng.normal(size=(2, 120)))
    two[::5] = 0.0
    assert part("grad_norm", series(one), series(two)).step is None
    assert part("grad_norm", series(one), series(10 * two)).step == 2


def test_values_that_are_not_finite_in_one_run_part_it() -> None:
    rng = np.random.default_rng(0)
    one, two = 1 + 0.1 * rng.normal(size=(2, 120))
    single, lasting = two.copy(), two.copy()
    single[50] = math.nan
    lasting[50:] = math.nan
    assert part("reward", series(one), series(single)).step is None
    found = part("reward", series(one), series(lasting))
    assert (found.step, found.certain, found.other) == (51, 53, None)
    assert found.why == "not finite in one of the two"
    both = part("reward", series(one * math.nan), series(two * math.nan))
    assert both.step is None
    assert "are finite" in both.why


def test_noise_is_that_around_the_course_and_its_autocorrelation() -> None:
    rng = np.random.default_rng(0)
    spread, phi = noise(0.2 * rng.normal(size=4000) + np.arange(4000))
    assert float(np.median(spread)) == pytest.approx(0.2, rel=0.05)
    assert phi == pytest.approx(0.05, abs=0.05)
    _, phi = noise(autoregressive(rng, 4000, 0.6))
    assert phi == pytest.approx(0.6, abs=0.1)


def test_steps_are_matched_by_number() -> None:
    rows = null(1, 200, 0.0).observations
    every_fifth, later = rows[::5], [Observation(step=row.step + 1000, reward=row.reward) for row in rows]
    pair = pair_of(rows, every_fifth)
    assert (pair.steps, pair.equal, pair.parted) == (40, True, ())
    comparison = compare([run_of(rows), run_of(later)])
    assert sentence(comparison, comparison.pairs[0]).endswith(
        "have no step in common at which both measured the same signal."
    )


def test_too_few_steps_are_said_to_be_too_few() -> None:
    rows = [Observation(step=step, reward=step / 10) for step in range(LEAST_STEPS - 1)]
    comparison = compare([run_of(rows), run_of([Observation(step=row.step, reward=0.5) for row in rows])])
    (parting,) = comparison.pairs[0].partings
    assert parting == Parting("reward", 19, why="19 common steps, at least 20 are needed")
    assert "too few to tell" in sentence(comparison, comparison.pairs[0])


def test_settings_that_differ_are_named_with_dots() -> None:
    first = {"optimizer": {"lr": 1, "betas": [1, 2]}, "same": None, "flag": True, "only": "x"}
    other = {"optimizer": {"lr": 2, "betas": [1, 2]}, "same": None, "flag": 1}
    assert differing([first, other]) == {
        "flag": (True, 1),
        "only": ("x", NO_SETTING),
        "optimizer.lr": (1, 2),
    }
    assert differing([{"x": math.nan}, {"x": math.nan}]) == {}
    assert differing([{}, {}]) == {}


def test_one_run_alone_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="at least two"):
        compare([run_of([])])


@given(st.lists(st.tuples(*[WEIRD | st.none()] * 4), max_size=50), st.integers(1, 3))
@settings(max_examples=30)
def test_any_two_runs_can_be_compared_and_told(rows: list[tuple[float | None, ...]], apart: int) -> None:
    first = [Observation(step=place, reward=row[0], grad_norm=row[1]) for place, row in enumerate(rows)]
    other = [Observation(step=place * apart, reward=row[2], grad_norm=row[3]) for place, row in enumerate(rows)]
    comparison = compare([run_of(first), run_of(other), run_of([])])
    checked(html_of(comparison, write_html))  # type: ignore[arg-type]
    write_text(comparison, io.StringIO())
    for pair in comparison.pairs:
        for parting in pair.parted:
            assert parting.step is not None
            assert parting.certain is not None
            assert parting.step <= parting.certain
            assert parting.until is None or parting.until > parting.certain


def test_a_comparison_in_words_ends_with_what_it_came_to() -> None:
    comparison, out = sample("collapse", "collapse-with-llds"), io.StringIO()
    write_text(comparison, out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "A  collapse: The run has collapsed (LLD death spiral): the reward is lost since about step 32."
    assert lines[-1] == sentence(comparison, comparison.pairs[0])
    assert re.search(r"^  collapse known +step 32 +\N{EN DASH}$", out.getvalue(), re.M)
    assert "  scenario  collapse  auto" in lines
    assert "  A lacks llds_coefficient" in lines
    assert any(line.startswith("  Not compared: fixed_anchor_change (16 common steps") for line in lines)


def test_a_comparison_as_json_has_each_signal_and_each_setting() -> None:
    out = io.StringIO()
    write_json(sample("collapse", "collapse-with-llds"), out)
    told = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert [run["settings"] for run in told["runs"]] == [{"scenario": "collapse"}, {"scenario": "auto"}]
    assert told["runs"][0]["known"]["collapse"] == 32
    (pair,) = told["pairs"]
    assert pair["signals"]["cross_update_change"]["step"] == 15
    assert pair["equal_until"] == 14
    assert pair["only_other"] == ["llds_coefficient"]


def test_a_comparison_as_a_page_stands_alone_and_shows_all_lines() -> None:
    comparison = sample("healthy", "collapse", "collapse-with-llds")
    text = html_of(comparison, write_html)  # type: ignore[arg-type]
    page = checked(text)
    for pair in comparison.pairs:
        assert sentence(comparison, pair) in page.words
    for place, name in enumerate(("healthy", "collapse", "collapse-with-llds")):
        assert f"{letter(place)} {name}" in page.words
        assert f'class="line l{place}"' in text
    assert "A and B part from step 15 on" in page.words
    assert len(text) < 250_000


def test_names_and_settings_are_not_taken_for_markup(tmp_path: Path) -> None:
    runs = [run_of([Observation(step=1, reward=0.5)], HOSTILE, **{HOSTILE: place, "x": "\ud800"}) for place in range(8)]
    comparison = compare(runs)
    page = checked(html_of(comparison, write_html))  # type: ignore[arg-type]
    assert "<script>alert(1)" in page.words
    assert f"The charts show the first {MOST} of 8 runs." in page.words
    out = io.StringIO()
    write_text(comparison, out)
    assert "\x1b" not in out.getvalue()
    out.getvalue().encode("utf-8")
    json.dumps(as_json(comparison))
