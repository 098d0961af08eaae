"""What is no log, or a damaged one, whatever it is called: an error of one line that says what to do, and soon."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from imports import imported

from lldwatch.errors import InputError
from lldwatch.importers.job import Options, import_logs

NOISE = random.Random(0).randbytes(100_000)
PAGE = b"<!DOCTYPE html><html><head><title>403</title></head><body>Forbidden</body></html>"
JUNK = {
    "nothing": b"",
    "blanks": b"\n \n\t\n" * 100,
    "page": PAGE,
    "noise": NOISE,
    "noise-without-zeros": NOISE.replace(b"\0", b"\1"),
    "zeros": bytes(100_000),
    "deep-lists": b"[" * 100_000,
    "deep-objects": b'{"a":' * 100_000,
    "deep-row": b'[{"step":1,"reward":' + b"[" * 100_000,
    "long-line": b"x" * 10_000_000,
    "long-number": b'{"step": 1, "reward": ' + b"9" * 100_000 + b"}",
    "lone-quote": b'"' + b"a,b\n" * 50_000,
    "quotes": b'"' * 100_000,
    "commas": b"," * 100_000,
    "null": b"null",
    "empty-list": b"[]",
    "empty-object": b"{}",
    "magic-of-parquet": b"PAR1" + NOISE[:1000] + b"PAR1",
    "magic-of-events": bytes.fromhex("1800000000000000a37f4b22") + b"brain.Event:2" + NOISE[:1000],
    "magic-of-wandb": b":W&B\xe1\xbe\x00" + NOISE[:1000],
    "notebook": b'{"cells": [{"outputs": 3}, null, {"outputs": [null, {"data": []}]}], "nbformat": 4}',
}
NAMES = [
    "log.json",
    "log.jsonl",
    "log.csv",
    "log.parquet",
    "log.html",
    "log.ipynb",
    "log.wandb",
    "events.out.tfevents.1.a",
]
EXPLICIT = ["json", "csv", "parquet", "wandb-csv", "tensorboard", "wandb-offline", "notebook"]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_refused_in_one_line(tmp_path: Path, junk: str) -> None:
    began = time.perf_counter()
    for name in (NAMES[len(junk) % len(NAMES)], NAMES[(len(junk) + 3) % len(NAMES)]):
        (tmp_path / name).write_bytes(JUNK[junk])
        with pytest.raises(InputError) as caught:
            imported(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "fault of lldwatch" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize("fmt", EXPLICIT)
@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_refused_under_any_name_of_a_format(tmp_path: Path, junk: str, fmt: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(JUNK[junk])
    with pytest.raises(InputError) as caught:
        imported(path, format=fmt)
    assert "fault of lldwatch" not in str(caught.value)


def test_a_folder_of_junk_names_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "deep").mkdir(parents=True)
    for junk, data in JUNK.items():
        (folder / "deep" / f"{junk}.log").write_bytes(data)
    (folder / "deep" / "back").symlink_to(folder)
    with pytest.raises(InputError):
        imported(folder)


def test_good_logs_are_found_among_junk(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "deep").mkdir(parents=True)
    for junk, data in JUNK.items():
        (folder / "deep" / f"{junk}.log").write_bytes(data)
    (folder / "deep" / "back").symlink_to(folder)
    (folder / "good.csv").write_text("step,reward,kl\n" + "".join(f"{s},{s / 8},0.5\n" for s in range(1, 9)))
    (folder / "good.jsonl").write_text("".join(f'{{"step": {s}, "reward": {1 - s / 8}}}\n' for s in range(1, 9)))
    runs, tally, _ = imported(folder)
    assert sorted((run.format, run.steps) for run in runs) == [("csv", 8), ("json", 8)]
    assert not any("fault of lldwatch" in note for note in tally.notes)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    numbers = random.Random(0)
    whole = gzip.compress(
        b"".join(b'{"step": %d, "reward": %d}\n' % (s, numbers.getrandbits(30)) for s in range(10_000))
    )
    path.write_bytes(whole[: len(whole) // 2])
    runs, _, _ = imported(path)
    assert 1000 < runs[0].steps < 10_000
    assert any("breaks off" in note for note in runs[0].tally.notes)


@pytest.mark.parametrize("fmt", EXPLICIT)
def test_any_format_from_a_stream_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str) -> None:
    for data in (NOISE, JUNK["magic-of-wandb"], b"step,reward,kl\n", b'{"step": 1, "rew'):
        stream = io.BufferedReader(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        with pytest.raises(InputError) as caught:
            import_logs("-", tmp_path / "out", Options(format=fmt, progress=False))
        assert "fault of lldwatch" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,reward\n1,2\n")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be opened"):
        imported(path)
