from __future__ import annotations

import pytest

from lldwatch import Diagnosis, Family, Observation, RunInfo, Stage
from lldwatch.diagnosis import Check, Evidence
from lldwatch_dashboard import rows, why, words
from lldwatch_dashboard.feed import Summary
from lldwatch_dashboard.listed import Listed

OK, SKIPPED = Check("reward", "ok", "fine"), Check("entropy", "skipped", "needs entropy")


def summary(diagnosis: Diagnosis | None = None, **more: object) -> Summary:
    return Summary(name="a", diagnosis=diagnosis or Diagnosis(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (Diagnosis(), "No step has been recorded yet"),
        (Diagnosis(step=1, checks=(SKIPPED,)), "Too early to say"),
        (Diagnosis(step=9, checks=(OK, SKIPPED)), "only 1 of 2 checks could be made"),
        (Diagnosis(step=9, checks=(OK,)), "Nothing points to a collapse."),
        (Diagnosis(step=9, checks=(OK,), first_warning=4), "there was a warning at step 4"),
        (Diagnosis(step=9, stage=Stage.STAGNATION, onsets={Stage.STAGNATION: 5}), "Since about step 5"),
        (Diagnosis(step=9, stage=Stage.DECAY, onsets={Stage.DECAY: 7, Stage.STAGNATION: 5}), "Since about step 5"),
        (Diagnosis(step=9, stage=Stage.COLLAPSE, onsets={Stage.COLLAPSE: 8}), "The reward is lost since about step 8"),
        (
            Diagnosis(step=9, stage=Stage.COLLAPSE, onsets={Stage.COLLAPSE: 8}, family=Family.NUMERICAL),
            "The arithmetic broke at about step 8",
        ),
        (
            Diagnosis(step=9, stage=Stage.COLLAPSE, onsets={Stage.COLLAPSE: 8}, family=Family.LLD_SPIRAL),
            "The run has collapsed (LLD death spiral)",
        ),
    ],
)
def test_the_verdict_is_one_sentence_for_each_state(diagnosis: Diagnosis, said: str) -> None:
    assert said in words.verdict(summary(diagnosis))


def test_a_run_that_cannot_be_read_says_so_everywhere() -> None:
    broken = summary(error="it is newer")
    assert "it is newer" in words.verdict(broken)
    assert words.stage(broken)[0] == "? unreadable"
    assert rows.facts(Listed(broken, None), now=0, dark=False)["reason"] == ("it is newer",)


@pytest.mark.parametrize(
    ("silent", "pace", "state"),
    [(5, 1.0, "live"), (59, 1.0, "live"), (61, 1.0, "stalled"), (900, 120.0, "live"), (1300, 120.0, "stalled")],
)
def test_a_training_is_stalled_after_ten_times_its_usual_step(silent: float, pace: float, state: str) -> None:
    last = Observation(step=3, time=1000.0)
    assert words.liveness(summary(last=last, pace=pace), now=1000.0 + silent)[0] == state


def test_finished_unknown_and_future() -> None:
    ended = summary(info=RunInfo(ended="2026-01-01"), ending="the training ended with ValueError: no")
    assert words.liveness(ended, now=0) == ("finished", "the training ended with ValueError: no")
    assert words.liveness(summary(), now=0)[0] == "waiting"
    assert words.liveness(summary(last=Observation(step=1)), now=0)[0] == "unknown"
    assert words.liveness(summary(last=Observation(step=1, time=50.0)), now=0) == ("live", "last step 0 s ago")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (120, "2 min"), (7200, "2 h"), (9e5, "10 days")]
)
def test_age(seconds: float, said: str) -> None:
    assert words.age(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "\u2013"), (-0.03391, "\u22120.0339"), (123456, "123456"), (0.0, "0")]
)
def test_number(value: float | None, said: str) -> None:
    assert words.number(value) == said


def test_each_stage_and_status_has_an_icon_of_its_own() -> None:
    assert len({stage.sign for stage in Stage}) == len(Stage)
    assert len(set(words.STATUS_ICON.values())) == len(words.STATUS_ICON)
    assert len({stage.meaning for stage in Stage}) == len(Stage)
    assert len({family.label for family in Family}) == len(Family)


def test_the_column_shows_every_check_and_all_evidence() -> None:
    evidence = Evidence("loss", float("nan"), None, None, 8, "IEEE 754")
    diagnosis = Diagnosis(step=9, checks=(OK, SKIPPED), evidence=(evidence,), advice=("go back",))
    shown = repr(why.findings(diagnosis))
    for part in ("Reward", "fine", "skipped", "needs entropy", "IEEE 754", "nan", "Go back"):
        assert part in shown


def test_an_unknown_signal_in_the_evidence_is_shown_by_its_name() -> None:
    evidence = Evidence("grad_norm_max", 1.0, None, None, 8, "own")
    assert "grad norm max" in repr(why.findings(Diagnosis(step=9, evidence=(evidence,))))


def test_problems_and_configuration_are_shown() -> None:
    run = summary(info=RunInfo(config={"learning_rate": 1e-6}), problems=("steps/x.parquet cannot be read",))
    shown = repr(why.about(run))
    assert "learning_rate" in shown
    assert "steps/x.parquet cannot be read" in shown
