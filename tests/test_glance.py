from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lldwatch import Monitor, diagnose
from lldwatch.glance import POINTS, Glance, Reader
from lldwatch.intervention import Correct
from lldwatch.run import Run
from lldwatch.simulate import simulate


def write(run_dir: Path, steps: range, *, resume: bool = False, **columns: float) -> None:
    with Monitor(run_dir, planned_steps=100, resume=resume) as monitor:
        for step in steps:
            monitor.step(step, **({"reward": 0.5} | columns))


def test_it_says_what_the_detector_says_of_the_whole_run(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        for row in simulate("lld_spiral", 0, 120).observations:
            columns = {name: value for name, value in row.as_dict().items() if name != "time" and value is not None}
            monitor.step(**columns)
    found = Reader().glance(str(run_dir))
    whole = diagnose(Run(run_dir).observations())[-1]
    assert found.stage == whole.stage.label
    assert found.family == (whole.family.value if whole.family else None)
    assert found.onset == min(whole.onsets.values())
    assert found.first_warning == whole.first_warning
    assert found.collapse_probability == whole.collapse_probability
    assert found.signal == "cross_update_change"
    assert len(found.points) <= POINTS
    assert (found.points[0][0], found.points[-1][0]) == (2, 120)
    assert found.ending == "the training closed the run"


def test_a_growing_run_is_read_on_and_says_the_same_as_one_read_anew(run_dir: Path) -> None:
    reader = Reader()
    with Monitor(run_dir) as monitor:
        for step in range(1, 41):
            monitor.step(step, reward=0.5 + 0.001 * step)
            if step % 10 == 0:
                monitor._recorder.flush()
                assert reader.glance(str(run_dir)).step == step
                assert reader.glance(str(run_dir)).ended is None
    assert reader.glance(str(run_dir)) == Reader().glance(str(run_dir))


def test_a_resumed_run_forgets_what_was_made_again(run_dir: Path) -> None:
    reader = Reader()
    write(run_dir, range(1, 9), entropy=1.0)
    info = run_dir / "run.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"ended": None}))
    assert reader.glance(str(run_dir)).step == 8
    write(run_dir, range(5, 7), resume=True, reward=0.9)
    found = reader.glance(str(run_dir))
    assert (found.step, found.reward) == (6, pytest.approx(0.9))
    assert [step for step, _ in found.points] == [1, 2, 3, 4, 5, 6]


def test_another_run_in_its_place_is_read_anew(run_dir: Path) -> None:
    reader = Reader()
    monitor = Monitor(run_dir)
    monitor.step(7, reward=0.1)
    monitor._recorder.flush()
    assert reader.glance(str(run_dir)).step == 7
    monitor.close()
    shutil.rmtree(run_dir)
    write(run_dir, range(1, 3))
    assert reader.glance(str(run_dir)).step == 2


@pytest.mark.parametrize(
    ("llds", "steps", "mode", "coefficient", "would_have", "dry"),
    [
        ("off", 3, "off", None, 0, False),
        ("on", 3, "on", 1.0, 0, False),
        (Correct(mode="on", strength=0.2), 3, "on", pytest.approx(0.2), 0, False),
        ("auto", 3, "auto", 0.0, 0, False),
        (Correct(mode="on", dry_run=True), 3, "on", 0.0, 1, True),
    ],
)
def test_how_llds_is_used(  # type: ignore[no-untyped-def]
    llds, steps: int, mode: str, coefficient, would_have: int, dry: bool, run_dir: Path
) -> None:
    with Monitor(run_dir, llds=llds) as monitor:
        for step in range(1, steps + 1):
            monitor.step(step, reward=0.5)
    found = Reader().glance(str(run_dir))
    assert (found.llds, found.llds_coefficient, found.would_have, found.dry_run) == (mode, coefficient, would_have, dry)


def test_without_the_headline_the_reward_is_the_line_and_nan_stays(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        for step in range(1, 301):
            monitor.step(step, reward=math.nan if step == 157 else 0.5)
    found = Reader().glance(str(run_dir))
    assert found.signal == "reward"
    assert [step for step, value in found.points if math.isnan(value)] == [157]
    assert {value for _, value in found.points if not math.isnan(value)} == {0.5}


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6])
def test_few_steps(steps: int, run_dir: Path) -> None:
    write(run_dir, range(1, steps + 1))
    found = Reader().glance(str(run_dir))
    assert found.error is None
    assert found.step == (steps or None)
    assert found.stage == ("healthy" if steps else None)
    assert [value for _, value in found.points] == pytest.approx([0.5] * steps)


def test_what_cannot_be_read_is_an_answer(tmp_path: Path) -> None:
    assert "does not exist" in str(Reader().glance(str(tmp_path / "nowhere")).error)
    write(tmp_path / "damaged", range(1, 3))
    next((tmp_path / "damaged" / "steps").glob("*.parquet")).write_bytes(b"not a table")
    found = Reader().glance(str(tmp_path / "damaged"))
    assert found.error is None
    assert "cannot be read" in found.problems[0]


def test_it_survives_json_even_with_nan(run_dir: Path) -> None:
    write(run_dir, range(1, 4), cross_update_change=math.nan)
    found = Reader().glance(str(run_dir))
    again = Glance.from_dict(json.loads(json.dumps(found.as_dict())))
    assert repr(again) == repr(found)
    with pytest.raises(TypeError):
        Glance.from_dict(found.as_dict() | {"of_another_version": 1})


def test_a_process_answers_line_by_line_and_ends_with_its_pipe(run_dir: Path) -> None:
    write(run_dir, range(1, 4))
    asked = f"{json.dumps(str(run_dir))}\n{json.dumps('/nowhere')}\n"
    ended = subprocess.run(
        [sys.executable, "-m", "lldwatch.glance"], input=asked, capture_output=True, text=True, check=True, timeout=120
    )
    first, second = (Glance.from_dict(json.loads(line)) for line in ended.stdout.splitlines())
    assert first == Reader().glance(str(run_dir))
    assert "does not exist" in str(second.error)
    assert ended.stderr == ""
