"""A few cases of each target of `make fuzz`; the importers have theirs in `tests/importers/test_fuzz.py`."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest
from any_rows import round_trip, runs
from cli_arguments import folder_of_runs, one_command
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

LANE = Path(__file__).with_name("fuzz_lane.py")


@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
@given(steps=runs(), steps_per_part=st.integers(1, 4), killed=st.booleans())
def test_rows_of_any_table_come_back_as_they_were(
    steps: list[tuple[object, list[object]]], steps_per_part: int, killed: bool
) -> None:
    round_trip(steps, steps_per_part, killed)  # type: ignore[arg-type]


def test_damaged_runs_end_in_an_error_of_ours_or_in_what_is_left() -> None:
    """In a process of its own: pyarrow may end it over a damaged file."""
    command = [sys.executable, str(LANE), "--only", "runs", "--to", "15", "--seed", "7", "--minutes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 cases" in done.stdout


def test_the_lane_names_what_it_finds_and_a_process_that_dies(tmp_path: Path) -> None:
    script = tmp_path / "lane.py"
    lines = LANE.read_text().splitlines()
    target = "TARGETS = {'bad': lambda folder: contextlib.nullcontext(bad)}"
    bad = "bad = lambda choose: os.abort() if choose.random() < 0.2 else 1 / 0"
    at = next(number for number, line in enumerate(lines) if line.startswith("TARGETS ="))
    script.write_text("\n".join([*lines[:at], bad, target, *lines[at + 1 :]]))
    command = [sys.executable, str(script), "--to", "12", "--minutes", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "12 cases     12 findings" in done.stdout
    assert "ZeroDivisionError" in done.stdout
    assert "ends with -6" in done.stdout


def test_a_command_line_ends_in_a_result_or_in_one_line(tmp_path: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        with folder_of_runs(tmp_path) as here:
            ended = {one_command(here, random.Random(number)) for number in range(25)}
    finally:
        logging.disable(logging.NOTSET)
    assert {0, 2} <= ended, "some run, and some are refused"


def test_what_is_posted_to_the_dashboard_is_answered_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dash")
    from dashboard_bodies import posting

    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "cache"))
    logging.disable(logging.CRITICAL)
    try:
        with posting(tmp_path) as post:
            for number in range(150):
                post(random.Random(number))
    finally:
        logging.disable(logging.NOTSET)
