from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lldwatch.recorder import Recorder
from lldwatch.schema import SCHEMA_VERSION, Observation, RunInfo, arrow_schema
from lldwatch.segments import Known, Segment, list_segments, read_segment, write_part

STEPS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table with one live segment, as kill -9 leaves it."""
    with_live = tmp_path / "live"
    recorder = Recorder(with_live, RunInfo())
    for step in range(1, STEPS + 1):
        recorder.record(Observation(step=step, loss=step / 4, time=1e9 + step))
    recorder.flush()
    shutil.copytree(with_live, tmp_path / "killed")
    recorder.close()
    return tmp_path / "killed" / "steps"


def steps_of(table: pa.Table) -> list[int]:
    numbers: list[int] = table["step"].to_pylist()
    return numbers


SEGMENT = Segment(attempt=0, rank=0, number=0)


def test_segments_sort_in_the_order_of_writing(tmp_path: Path) -> None:
    names = [(0, 10), (0, 2), (1, 0), (11, 3), (1000, 0)]
    for attempt, number in names:
        Segment(attempt, 0, number).part(tmp_path).touch()
    Segment(2, 0, 1).live(tmp_path).touch()
    found, foreign = list_segments(tmp_path)
    assert [(segment.attempt, segment.number) for segment in found] == sorted([*names, (2, 1)])
    assert foreign == []


def test_a_segment_that_stands_there_live_and_sealed_is_listed_once(folder: Path) -> None:
    write_part(read_segment(SEGMENT, folder), SEGMENT.part(folder))
    assert list_segments(folder) == ([SEGMENT], [])


def test_other_files_are_named_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("notes.txt", "r0-a0-0.parquet", "part.parquet", ".DS_Store", ".r00000-a000-00000000.parquet.tmp"):
        (tmp_path / name).touch()
    assert list_segments(tmp_path) == ([], ["notes.txt", "part.parquet", "r0-a0-0.parquet"])


def test_a_folder_that_is_not_there_has_no_segments(tmp_path: Path) -> None:
    assert list_segments(tmp_path / "none") == ([], [])


def test_a_segment_that_is_sealed_during_the_listing_is_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large folder is listed in pieces: the part appears in one already read, the live segment leaves a later one."""
    real = os.listdir

    def interrupted(path: Path) -> list[str]:
        monkeypatch.setattr(os, "listdir", real)
        seen = [name for name in real(path) if not name.endswith(".arrows")]
        write_part(read_segment(SEGMENT, folder), SEGMENT.part(folder))
        SEGMENT.live(folder).unlink()
        return seen

    monkeypatch.setattr(os, "listdir", interrupted)
    assert list_segments(folder)[0] == [SEGMENT]


def test_a_live_segment_cut_off_at_any_byte_gives_its_whole_steps(folder: Path) -> None:
    whole = SEGMENT.live(folder).read_bytes()
    counts = []
    for size in [*range(0, len(whole), 97), len(whole) - 1, len(whole)]:
        SEGMENT.live(folder).write_bytes(whole[:size])
        table = read_segment(SEGMENT, folder)
        assert table.schema.equals(arrow_schema("steps"), check_metadata=True)
        assert steps_of(table) == list(range(1, len(table) + 1))
        assert table["loss"].to_pylist() == [step / 4 for step in range(1, len(table) + 1)]
        counts.append(len(table))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == STEPS


@pytest.mark.parametrize("every", [1, 97, 1009, 5000])
def test_a_live_segment_that_grows_byte_by_byte_gives_each_step_once(folder: Path, every: int) -> None:
    whole, known, steps = SEGMENT.live(folder).read_bytes(), Known(), []
    for size in [*range(0, len(whole), every * 7), len(whole)]:
        SEGMENT.live(folder).write_bytes(whole[:size])
        new = read_segment(SEGMENT, folder, known)
        assert new.schema.equals(arrow_schema("steps"), check_metadata=True)
        assert new["loss"].to_pylist() == [step / 4 for step in steps_of(new)]
        steps += steps_of(new)
        assert known.rows == len(steps)
    assert steps == list(range(1, STEPS + 1))
    assert len(read_segment(SEGMENT, folder, known)) == 0


def test_what_was_read_live_is_not_given_again_once_it_is_sealed(folder: Path) -> None:
    whole, known = read_segment(SEGMENT, folder), Known()
    live = SEGMENT.live(folder).read_bytes()
    SEGMENT.live(folder).write_bytes(live[: len(live) // 2])
    first = steps_of(read_segment(SEGMENT, folder, known))
    assert 0 < len(first) < STEPS
    write_part(whole, SEGMENT.part(folder))
    SEGMENT.live(folder).unlink()
    assert first + steps_of(read_segment(SEGMENT, folder, known)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("garbage", [b"", b"\0" * 4096, b"not arrow at all" * 10, b"\xff" * 64])
def test_a_live_segment_of_garbage_has_no_steps_or_is_refused(folder: Path, garbage: bytes) -> None:
    SEGMENT.live(folder).write_bytes(garbage)
    assert len(read_segment(SEGMENT, folder)) == 0


def test_where_both_stand_the_part_holds(folder: Path) -> None:
    write_part(read_segment(SEGMENT, folder).slice(0, 2), SEGMENT.part(folder))
    assert steps_of(read_segment(SEGMENT, folder)) == [1, 2]


def test_sealing_changes_no_value(folder: Path) -> None:
    live = read_segment(SEGMENT, folder)
    write_part(live, SEGMENT.part(folder))
    SEGMENT.live(folder).unlink()
    assert read_segment(SEGMENT, folder).equals(live)


def test_a_part_explains_itself_in_any_parquet_tool(folder: Path) -> None:
    write_part(read_segment(SEGMENT, folder), SEGMENT.part(folder))
    schema = pq.read_schema(SEGMENT.part(folder))
    assert schema.field("loss").metadata[b"meaning"]
    assert schema.field("kl").metadata[b"unit"] == b"nats/token"
    assert schema.metadata[b"lldwatch.schema_version"] == str(SCHEMA_VERSION).encode()


def test_a_part_that_cannot_be_written_leaves_the_old_one_whole(folder: Path) -> None:
    part = SEGMENT.part(folder)
    write_part(read_segment(SEGMENT, folder), part)
    before = part.read_bytes()
    part.with_name(f".{part.name}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"."):
        write_part(read_segment(SEGMENT, folder), part)
    assert part.read_bytes() == before


def test_a_segment_that_is_neither_there_live_nor_sealed_is_not_found(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_segment(Segment(0, 0, 1), folder)


def write_foreign(path: Path, metadata: dict[str, str] | None, **columns: list[object]) -> None:
    table = pa.table(columns or {"step": [1]})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_parquet_file_of_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    write_foreign(SEGMENT.part(folder), None)
    with pytest.raises(ValueError, match="not written by lldwatch"):
        read_segment(SEGMENT, folder)
    write_foreign(SEGMENT.part(folder), {"lldwatch.table": "responses", "lldwatch.schema_version": "1"})
    with pytest.raises(ValueError, match="not written by lldwatch"):
        read_segment(SEGMENT, folder)


@pytest.mark.parametrize("live", [False, True])
def test_a_newer_schema_is_refused_and_an_older_one_is_filled_up(tmp_path: Path, live: bool) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()

    def write(version: int, **columns: list[object]) -> None:
        metadata = {"lldwatch.table": "steps", "lldwatch.schema_version": str(version)}
        if live:
            table = pa.table(columns).replace_schema_metadata(metadata)
            with pa.OSFile(str(SEGMENT.live(folder)), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        else:
            write_foreign(SEGMENT.part(folder), metadata, **columns)

    write(SCHEMA_VERSION + 1, step=[1])
    with pytest.raises(ValueError, match=f"schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}"):
        read_segment(SEGMENT, folder)
    write(0, step=[1, 2], a_column_of_old=[3, 4])
    table = read_segment(SEGMENT, folder)
    assert table.schema.equals(arrow_schema("steps"))
    assert steps_of(table) == [1, 2]
    assert table["loss"].null_count == 2


def test_whatever_byte_of_a_part_is_damaged_no_other_rows_are_read(folder: Path) -> None:
    """zstd, the encodings and the footer's own format take many of them for something else."""
    part = SEGMENT.part(folder)
    write_part(read_segment(SEGMENT, folder), part)
    whole, refused = part.read_bytes(), 0
    expected = repr(read_segment(SEGMENT, folder).to_pylist())
    for place in [*range(0, len(whole), 23), *range(len(whole) - 8, len(whole))]:
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            read = repr(read_segment(SEGMENT, folder).to_pylist())
        except (ValueError, OSError):
            refused += 1
        else:
            assert read == expected  # of the checksum's own mark, or of the statistics in the header of a page
    assert refused > 0.9 * len(whole) / 23


def test_a_part_of_an_older_version_has_no_checksum_and_is_read(folder: Path) -> None:
    table = read_segment(SEGMENT, folder)
    pq.write_table(table, SEGMENT.part(folder))
    assert read_segment(SEGMENT, folder).equals(table)


def test_a_live_segment_with_words_that_are_none_is_an_error(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", RunInfo())
    recorder.event(1, "note", "a word to be damaged")
    recorder.flush()
    live = SEGMENT.live(tmp_path / "run" / "events")
    damaged = live.read_bytes().replace(b"a word", b"\xb2\xff\xfe\xc0\xc1\x80")
    recorder.close()
    SEGMENT.part(tmp_path / "run" / "events").unlink()
    live.write_bytes(damaged)
    with pytest.raises(ValueError, match="UTF"):
        read_segment(SEGMENT, tmp_path / "run" / "events")
