from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from imports import FOREIGN, column, imported, one
from test_tensorboard import part, varint

from lldwatch.errors import InputError
from lldwatch.importers import wandb_file
from lldwatch.importers.result import Imported
from lldwatch.run import Run

HEAD = b":W&B\xe1\xbe\x00"
BLOCK = 32 * 1024


def framed(records: list[bytes]) -> bytes:
    """Records as W&B lays them into blocks."""
    data = bytearray(HEAD)
    for record in records:
        first = True
        while first or record:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            piece, record = record[: left - 7], record[left - 7 :]
            kind = 1 if first and not record else 2 if first else 3 if record else 4
            crc = zlib.crc32(bytes([kind]) + piece)
            data += struct.pack("<IHB", crc, len(piece), kind) + piece
            first = False
    return bytes(data)


def history(step: int, row: dict[str, object]) -> bytes:
    items = b"".join(part(1, part(1, k.encode()) + part(16, json.dumps(v).encode())) for k, v in row.items())
    return part(2, items + part(2, b"\x08" + varint(step)))


def run_of(name: str, config: dict[str, object]) -> bytes:
    updates = b"".join(part(1, part(1, k.encode()) + part(16, json.dumps(v).encode())) for k, v in config.items())
    return part(17, part(8, name.encode()) + part(4, updates))


def wandb_file_of(path: Path, *records: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(framed(list(records)))
    return path


def rows(count: int = 5) -> list[bytes]:
    return [
        history(s, {"train/reward": s / 4, "train/global_step": s, "_timestamp": 1.79e9 + s})
        for s in range(1, count + 1)
    ]


def planned(run: Imported) -> tuple[int | None, dict[str, object]]:
    assert run.path is not None
    info = Run(run.path).info
    return info.planned_steps, info.config


def test_history_config_and_name(tmp_path: Path) -> None:
    config = {"max_steps": 500, "beta": 0.04, "model": {"layers": 2}, "_wandb": {"x": 1}}
    path = wandb_file_of(tmp_path / "run-abc.wandb", run_of("hearty-leaf-10", config), *rows())
    run = one(path)
    assert (run.format, run.name, run.why) == ("wandb-offline", "hearty-leaf-10", "it starts as W&B's own files do")
    assert (column(run, "step"), column(run, "reward")) == ([1, 2, 3, 4, 5], [0.25, 0.5, 0.75, 1.0, 1.25])
    assert column(run, "time")[0] == 1.79e9 + 1
    steps, kept = planned(run)
    assert (steps, kept["beta"], kept["model"]) == (500, 0.04, {"layers": 2})
    assert "_wandb" not in kept
    assert kept["format"] == "wandb-offline"


def test_values_of_all_kinds(tmp_path: Path) -> None:
    def item(key: str, value: bytes) -> bytes:
        return part(1, part(1, key.encode()) + value)

    nested = part(1, part(2, b"train") + part(2, b"entropy") + part(16, b"0.75"))
    row = (
        item("reward", part(16, b"NaN"))
        + item("kl", b"\x31" + struct.pack("<d", 0.5))
        + item("grad_norm", b"\x28" + varint(6))  # 3, in the encoding that keeps small negative numbers small
        + item("loss", part(16, b'"-Infinity"'))
        + item("clip_ratio", b"\x20\x01")
        + item("sample", part(16, b'{"_type": "table-file", "size": 3}'))
        + item("note", part(7, b"words"))
        + nested
    )
    run = one(wandb_file_of(tmp_path / "run-abc.wandb", part(2, row + part(2, b"\x08\x07"))))
    assert column(run, "step") == [7]
    assert math.isnan(column(run, "reward")[0])
    found = {name: column(run, name)[0] for name in ("kl", "grad_norm", "loss", "clip_fraction", "entropy")}
    assert found == {"kl": 0.5, "grad_norm": 3.0, "loss": -math.inf, "clip_fraction": 1.0, "entropy": 0.75}
    assert list(run.tally.unmapped) == ["sample/size"]


def test_records_longer_than_a_block_and_other_records(tmp_path: Path) -> None:
    output = part(4, part(3, b"x" * 100_000))
    run = one(wandb_file_of(tmp_path / "run-abc.wandb", output, *rows(2), output, *rows(2000)[2:]))
    assert (run.steps, run.last, run.tally.dropped) == (2000, 2000, {})
    assert column(run, "reward") == [s / 4 for s in range(1, 2001)]


def test_the_column_of_the_step_is_the_users_choice(tmp_path: Path) -> None:
    path = wandb_file_of(tmp_path / "run-abc.wandb", *(history(s * 10, {"reward": 1, "step": s}) for s in (1, 2)))
    assert column(one(path), "step") == [1, 2]
    assert column(one(path, step_column="_step"), "step") == [10, 20]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = wandb_file_of(tmp_path / "run-abc.wandb", *rows())
    path.write_bytes(path.read_bytes()[:-9])
    run = one(path)
    assert column(run, "step") == [1, 2, 3, 4]
    assert list(run.tally.dropped) == ["part of the file that is cut off"]


def test_a_block_that_is_damaged_costs_only_itself(tmp_path: Path) -> None:
    path = wandb_file_of(tmp_path / "run-abc.wandb", *rows(2000))
    data = bytearray(path.read_bytes())
    data[BLOCK + 100] ^= 0xFF
    path.write_bytes(bytes(data))
    run = one(path)
    assert list(run.tally.dropped)[:1] == ["block that is damaged"]
    steps = column(run, "step")
    assert steps[0] == 1
    assert steps[-1] == 2000
    assert 1000 < len(steps) < 2000


def test_records_that_cannot_be_read_or_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_file, "LARGEST_RECORD", 50_000)
    bad = part(2, part(1, part(1, b"reward") + part(16, b"{")))
    deep = part(2, part(1, part(1, b"reward") + part(16, b"[" * 20_000)))
    path = wandb_file_of(tmp_path / "run-abc.wandb", bad, deep, part(4, b"x" * 90_000), b"\xff\xff", *rows())
    run = one(path)
    assert column(run, "step") == [1, 2, 3, 4, 5]
    assert {why: count for why, (count, _) in run.tally.dropped.items()} == {
        "record that cannot be read": 3,
        "record of more than 0 MiB": 1,
    }


def test_a_file_without_history(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no usable step"):
        imported(wandb_file_of(tmp_path / "run-abc.wandb", run_of("a", {})))


LOOP = """
import wandb
run = wandb.init(mode="offline", project="tiny", config={"beta": 0.04, "max_steps": 12}, dir=".")
run.name = "hearty-leaf-10"
for step in range(1, 13):
    run.log({"train/reward": step / 8, "train/global_step": step, "actor": {"entropy": 1 / step}, "note": "words"})
run.finish()
"""


def test_what_wandb_writes(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", LOOP]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **quiet}, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"wandb does not run here: {done.stderr[-300:]}")
    run = one(next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")))
    assert column(run, "step") == list(range(1, 13))
    assert column(run, "reward") == [step / 8 for step in range(1, 13)]
    assert column(run, "entropy") == pytest.approx([1 / step for step in range(1, 13)])
    steps, config = planned(run)
    assert (steps, config["beta"], run.name) == (12, 0.04, "hearty-leaf-10")


def test_the_sample(tmp_path: Path) -> None:
    source = next((FOREIGN / "wandb").glob("offline-run-*/run-*.wandb"), None)
    if source is None:
        pytest.skip("no sample")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    run = one(path)
    assert (run.name, run.steps, run.first, run.last) == ("hearty-leaf-10", 20, 1, 20)
    assert {"reward", "entropy", "grad_norm", "zero_advantage_share", "response_length"} <= run.measured
