from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import pytest

from lldwatch.errors import InputError
from lldwatch.importers import source as source_module
from lldwatch.importers.source import LONGEST_LINE, Source
from lldwatch.importers.tally import Tally


def lines_of(data: bytes, tmp_path: Path, tally: Tally | None = None) -> list[tuple[int, str]]:
    path = tmp_path / "log.txt"
    path.write_bytes(data)
    return [(line.number, line.text) for line in Source(path).lines(tally or Tally())]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\n", [(1, "a"), (2, "b")]),
        (b"a\n\nb", [(1, "a"), (3, "b")]),
        (b"a\r\nb\r\n", [(1, "a"), (2, "b")]),
        (b" 1/9\r 2/9\r{'loss': 1}\nb\n", [(1, " 1/9"), (1, " 2/9"), (1, "{'loss': 1}"), (2, "b")]),
        (b"\x1b[36m(pid=7)\x1b[0m step:1\n", [(1, "(pid=7) step:1")]),
        (b"\x1b]8;;http://x\x07link\x1b]8;;\x07 a\n", [(1, "link a")]),
        (b"\xff\xfe" + "a\nü\n".encode("utf-16-le"), [(1, "a"), (2, "ü")]),
        (b"\xfe\xff" + "a\nü\n".encode("utf-16-be"), [(1, "a"), (2, "ü")]),
        (b"\xef\xbb\xbfa\n", [(1, "a")]),
        (b"caf\xe9 latin\n", [(1, "caf\N{REPLACEMENT CHARACTER} latin")]),
    ],
)
def test_lines_come_clean_and_numbered(data: bytes, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    assert lines_of(data, tmp_path) == expected


def test_a_line_that_is_too_long_is_counted_and_the_others_stay(tmp_path: Path) -> None:
    tally = Tally()
    long = b"x" * (3 * LONGEST_LINE)
    assert lines_of(b"a\n" + long + b"\nb\n" + long, tmp_path, tally) == [(1, "a"), (3, "b")]
    assert tally.reasons == [f"2 x line longer than {LONGEST_LINE:,} characters (first: line 2)"]


def test_a_character_on_the_border_of_two_chunks_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CHUNK_BYTES", 3)
    monkeypatch.setattr(source_module, "_HEAD_BYTES", 2)
    assert lines_of("aüüü\nbüc\n".encode(), tmp_path) == [(1, "aüüü"), (2, "büc")]


def test_gzip_is_read_and_one_that_breaks_off_gives_what_stands_before(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(100_000)).encode()
    whole, cut = tmp_path / "whole.log.gz", tmp_path / "cut.log.gz"
    whole.write_bytes(gzip.compress(text))
    cut.write_bytes(gzip.compress(text)[:-1000])
    assert len(list(Source(whole).lines(Tally()))) == 100_000
    tally = Tally()
    assert 1000 < len(list(Source(cut).lines(tally))) < 100_000
    assert "cut.log.gz breaks off" in tally.notes[0]


def test_a_file_that_is_no_gzip_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gz").write_bytes(b"plain")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=r"no\.gz cannot be read \(Not a gzipped file"):
        Source(tmp_path / "no.gz")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        Source(tmp_path)
    with pytest.raises(InputError, match="empty is empty: there is nothing to import"):
        Source(tmp_path / "empty")


def test_a_line_that_was_given_back_comes_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\nb\nc\n")
    source = Source(path)  # closed by itself at its end
    lines = source.lines(Tally())
    next(lines)
    source.unread(next(lines))
    assert [line.text for line in source.lines(Tally())] == ["b", "c"]


def test_a_document_larger_than_can_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "LARGEST_DOCUMENT", 100)
    path = tmp_path / "big.json"
    path.write_bytes(b"[" * 1000)
    with pytest.raises(InputError, match="too large to be held"):
        Source(path).document(Tally())


def test_standard_input_has_no_size_and_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb")))
    source = Source(None)
    assert (source.name, source.size, source.opening) == ("standard input", None, "a\nb")
    assert [line.text for line in source.lines(Tally())] == ["a", "b"]
