"""What a person reads; that it suits a real run is shown by the golden files and the README."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lldwatch import Diagnosis, Family, Monitor, Run, Stage
from lldwatch.diagnosis import Check, Episode
from lldwatch.follow import Follower
from lldwatch.report import headline, verdict, write_text

ILL = (Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE)


def diagnosis_of(stage: Stage, family: Family | None, **more: object) -> Diagnosis:
    reached = {each: 10 * each for each in ILL if each <= stage}
    return Diagnosis(step=50, stage=stage, family=family, onsets=reached, known=reached, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ILL)
@pytest.mark.parametrize("family", [*Family, None])
def test_there_is_one_sentence_or_two_for_each_kind_at_each_stage(stage: Stage, family: Family | None) -> None:
    said = verdict(diagnosis_of(stage, family))
    assert said.endswith(".")
    assert "None" not in said
    assert "_" not in said
    assert f"step {30 if stage is Stage.COLLAPSE else 10}" in said
    if stage is Stage.COLLAPSE and family not in (None, Family.NUMERICAL):
        assert family is not None
        assert family.label in said


@pytest.mark.parametrize("stage", [Stage.STAGNATION, Stage.DECAY])
def test_each_kind_is_told_apart_before_it_has_collapsed(stage: Stage) -> None:
    assert len({verdict(diagnosis_of(stage, family)) for family in [*Family, None]}) == len(Family) + 1


def test_only_a_reward_that_falls_or_is_lost_is_said_to_do_so() -> None:
    lost = Check("reward", "critical", "half of it lost")
    alone = verdict(diagnosis_of(Stage.STAGNATION, None, checks=(lost,)))
    assert alone.startswith("The reward is lost since about step 10")
    assert "look at the reward function" in alone
    assert "below its peak" in verdict(diagnosis_of(Stage.STAGNATION, None))
    for family in Family:
        assert "reward" not in verdict(diagnosis_of(Stage.STAGNATION, family))


def test_the_forecast_is_told_where_a_collapse_is_likelier_than_not() -> None:
    expecting = diagnosis_of(Stage.DECAY, Family.LLD_SPIRAL, collapse_probability=0.8, steps_to_collapse=(3, 12, 40))
    assert "expect a collapse in about 12 steps (3 to 40), and act now" in verdict(expecting)
    assert "expect a collapse, and act now" in verdict(diagnosis_of(Stage.DECAY, Family.LLD_SPIRAL))


def test_a_dip_that_has_healed_is_called_a_dip() -> None:
    dip = Episode(Stage.COLLAPSE, Family.LLD_SPIRAL, onset=20, known=24, until=40)
    said = verdict(Diagnosis(step=90, checks=(Check("reward", "ok", "fine"),), first_warning=24, episodes=(dip,)))
    assert said == (
        "Nothing points to a collapse any more; there was a warning at step 24. A dip has healed: steps 20 to 40."
    )


def test_a_level_that_moved_alone_is_told_of() -> None:
    moved = (Check("grad_norm", "warning", "high"), Check("entropy", "warning", "high"), Check("reward", "ok", "fine"))
    said = verdict(Diagnosis(step=90, checks=moved))
    assert said == "Nothing points to a collapse yet, but grad norm and entropy left what was normal in the warm-up."


@pytest.mark.parametrize(
    ("diagnosis", "end"),
    [
        (diagnosis_of(Stage.DECAY, None, confidence="high", first_warning=22), "First warning: step 22."),
        (diagnosis_of(Stage.DECAY, None, confidence="medium"), "Confidence: medium, no response was re-scored."),
        (diagnosis_of(Stage.DECAY, None), "Confidence: low."),
        (Diagnosis(), "No step has been recorded yet."),
    ],
)
def test_the_last_line_ends_with_what_it_rests_on(diagnosis: Diagnosis, end: str) -> None:
    assert headline(diagnosis).startswith(f"{diagnosis.stage.name}. ")
    assert headline(diagnosis).endswith(end)


def test_every_check_is_printed_the_passed_and_the_skipped_too(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        for _ in range(40):
            monitor.step(reward=0.5, entropy=0.3)
    follower, out = Follower(Run(run_dir)), io.StringIO()
    follower.update()
    write_text(follower, out)
    lines = out.getvalue().splitlines()
    for check in follower.diagnosis.checks:
        mark = {"ok": "  ok", "skipped": "skip"}[check.status]
        assert f"  [{mark}] {check.name}: {check.reason}" in lines
    assert any(line.startswith("  forecast   sustained collapse: ") for line in lines)
    assert lines[-1] == headline(follower.diagnosis)
    assert lines[-2] == ""
