"""Whatever a log holds, importing it ends well: with runs and a note, or with an error that says what to do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from fuzz_target import ALL, FAULT, Seed, feed, memory_folder, put, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mutations import KINDS, changed

from lldwatch.errors import LldwatchError
from lldwatch.importers.format import Format, RowsFormat
from lldwatch.importers.job import Options, import_logs
from lldwatch.run import Run, list_runs

EXAMPLES = 60
THROUGH_THE_COMMAND = 6
"""One in so many examples goes all the way through `import_logs`, which writes a run and takes much longer."""

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)  # to explain a failure takes minutes

share = st.floats(0, 1)
changes = st.lists(st.tuples(st.integers(0, KINDS - 1), share, share, st.integers(0, 10_000)), min_size=1, max_size=6)


def others() -> list[bytes]:
    return [seed.data for group in seeds().values() for seed in group]


def seeds_of(fmt: Format | RowsFormat) -> list[Seed]:
    """Its own; of a format without a sample those of the others, which it must survive as well."""
    return seeds().get(fmt.name) or [seed for group in seeds().values() for seed in group]


@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_an_undamaged_log_gives_steps(fmt: Format | RowsFormat) -> None:
    for seed in seeds().get(fmt.name, []):
        with memory_folder() as folder:
            assert feed(fmt, put(folder, seed)) > 0, seed.name


@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
@settings(max_examples=EXAMPLES, phases=PHASES)
@given(drawn=st.data())
def test_a_damaged_log_never_breaks_a_reader(fmt: Format | RowsFormat, drawn: st.DataObject) -> None:
    seed = drawn.draw(st.sampled_from(seeds_of(fmt)))
    data = changed(seed.data, drawn.draw(changes), others())
    with memory_folder() as folder:
        path = put(folder, Seed(seed.name, data))
        try:
            if drawn.draw(st.integers(1, THROUGH_THE_COMMAND)) == 1:
                through_the_command(fmt, path, folder / "imported")
            else:
                feed(fmt, path)
        except LldwatchError as error:
            check_words(error)


def check_words(error: LldwatchError) -> None:
    """One line, and no fault behind it."""
    assert len(str(error).splitlines()) == 1
    assert FAULT not in str(error)


def through_the_command(fmt: Format | RowsFormat, path: Path, out: Path) -> None:
    """All the way: the run can be read again, and its account be given."""
    before = sys.getrecursionlimit()
    try:
        runs, tally = import_logs(path, out, Options(format=fmt.name if isinstance(fmt, Format) else "auto"))
    finally:
        assert sys.getrecursionlimit() == before
    for run in runs:
        assert not [note for note in (*run.tally.notes, *tally.notes) if FAULT in note]
        json.dumps(run.as_dict())
        assert run.path is not None
        assert run.steps >= len(list(Run(run.path).observations())) > 0
        assert not Run(run.path).problems
    assert len(list_runs(out)) == len(runs)
    shutil.rmtree(out)


@settings(max_examples=30, phases=PHASES)
@given(drawn=st.data())
def test_a_folder_of_damaged_logs_is_looked_through(drawn: st.DataObject) -> None:
    with memory_folder() as folder:
        everything = st.sampled_from([seed for group in seeds().values() for seed in group])
        for seed in drawn.draw(st.lists(everything, min_size=1, max_size=4)):
            put(folder / "logs", Seed(seed.name, changed(seed.data, drawn.draw(changes), others())))
        try:
            runs, tally = import_logs(folder / "logs", folder / "imported")
        except LldwatchError as error:
            check_words(error)
            return
        assert not [note for run in runs for note in (*run.tally.notes, *tally.notes) if FAULT in note]


def test_all_formats_are_there() -> None:
    names = [fmt.name for fmt in ALL]
    assert len(names) == len(set(names))
    assert set(seeds()) <= set(names)
