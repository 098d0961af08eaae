from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
from imports import FOREIGN, column, imported, one

from lldwatch.errors import InputError
from lldwatch.importers import event_file, tensorboard
from lldwatch.importers.wire import masked_crc32c


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def part(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))


def version(time: float = 1.79e9) -> bytes:
    return record(b"\x09" + struct.pack("<d", time) + part(3, b"brain.Event:2"))


def event(step: int, *values: bytes, time: float = 1.79e9) -> bytes:
    body = b"\x09" + struct.pack("<d", time + step) + b"\x10" + varint(step % 2**64)
    return record(body + part(5, b"".join(part(1, value) for value in values)))


def simple(tag: str, number: float) -> bytes:
    return part(1, tag.encode()) + b"\x15" + struct.pack("<f", number)


def tensor(tag: str, kind: int, content: bytes) -> bytes:
    return part(1, tag.encode()) + part(8, b"\x08" + varint(kind) + content)


def events(path: Path, *records: bytes, time: float = 1.79e9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(version(time) + b"".join(records))
    return path


NAME = "events.out.tfevents.1790000000.host.1.0"


def test_both_encodings_of_a_scalar(tmp_path: Path) -> None:
    run = one(
        events(
            tmp_path / NAME,
            event(1, simple("train/reward", 0.5), simple("train/kl", math.nan), simple("epoch", 0.1)),
            event(2, tensor("train/reward", 1, part(4, struct.pack("<f", 0.75)))),  # TensorFlow 2: the content
            event(2, tensor("train/kl", 1, part(5, struct.pack("<f", 1.5)))),  # PyTorch: packed
            event(2, tensor("train/entropy", 1, b"\x2d" + struct.pack("<f", 2.5))),  # not packed
            event(2, tensor("train/loss", 2, part(6, struct.pack("<d", -0.25)))),
            event(2, tensor("train/grad_norm", 9, part(10, varint(3)))),
            event(2, tensor("train/clip_ratio", 9, b"\x50\x01")),
        )
    )
    assert (run.format, run.why) == ("tensorboard", "it starts as event files of TensorBoard do")
    assert (column(run, "step"), column(run, "reward")) == ([1, 2], [0.5, 0.75])
    assert math.isnan(column(run, "kl")[0])
    last = {name: column(run, name)[1] for name in ("kl", "entropy", "loss", "grad_norm", "clip_fraction")}
    assert last == {"kl": 1.5, "entropy": 2.5, "loss": -0.25, "grad_norm": 3.0, "clip_fraction": 1.0}
    assert column(run, "time") == [1.79e9 + 1, 1.79e9 + 2]
    assert list(run.tally.unmapped) == ["epoch"]


def test_what_is_no_scalar_is_counted(tmp_path: Path) -> None:
    text, many = part(8, b"words"), part(5, struct.pack("<ff", 1, 2))
    run = one(
        events(
            tmp_path / NAME,
            event(1, simple("reward", 0.5), tensor("notes", 7, text), tensor("kl", 1, many), part(1, b"histogram")),
            event(1, tensor("entropy", 3, part(7, b"\x01\x02\x03")), tensor("loss", 99, b"")),
            event(-5, simple("reward", 0.75)),
            record(part(5, b"\x0b\x0b")),
            record(part(3, b"x" * event_file.LARGEST_RECORD)),
        )
    )
    assert column(run, "reward") == [0.5]
    assert run.measured == {"reward"}
    assert {why: count for why, (count, _) in run.tally.dropped.items()} == {
        "summary that is no scalar (histogram, text, image)": 5,
        "scalar of a step below 0": 1,
        "record that is no event": 1,
        "record of more than 1 MiB (an image, a graph)": 1,
    }


def test_one_step_spread_over_the_file(tmp_path: Path) -> None:
    tags = ("reward", "kl", "entropy")
    run = one(events(tmp_path / NAME, *(event(s, simple(tag, s)) for tag in tags for s in range(1, 6))))
    assert column(run, "step") == [1, 2, 3, 4, 5]
    assert column(run, "entropy") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_files_side_by_side_and_a_training_that_was_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    events(folder / f"{NAME}1", *(event(s, simple("reward", s)) for s in range(1, 11)))
    events(folder / f"{NAME}2", *(event(s, simple("kl", s)) for s in range(1, 11)), time=1.79e9 + 1)
    events(folder / f"{NAME}0", *(event(s, simple("reward", -s)) for s in range(8, 13)), time=1.79e9 + 50)
    run = one(folder)
    assert column(run, "step") == list(range(1, 13))
    assert column(run, "reward") == [1, 2, 3, 4, 5, 6, 7, -8, -9, -10, -11, -12]
    assert column(run, "kl")[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert ["resumed from a checkpoint" in note for note in run.tally.notes] == [True]


def test_another_run_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    events(folder / f"{NAME}1", *(event(s, simple("reward", s)) for s in range(1, 11)))
    events(folder / f"{NAME}2", *(event(s, simple("reward", 1 / s)) for s in range(1, 6)), time=1.79e9 + 1)
    runs, _, _ = imported(folder)
    assert [run.steps for run in runs] == [10, 5]


def test_folders_within_a_folder_are_runs(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b/c")):
        values = [event(s, simple("reward", s * (1 - number / 2))) for s in range(1, 8)]
        events(tmp_path / "logs" / name / NAME, *values)
    (tmp_path / "logs" / "b" / "loop").symlink_to(tmp_path / "logs")
    runs, _, out = imported(tmp_path / "logs")
    assert [run.name for run in runs] == ["a", "b/c"]
    assert sorted(path.name for path in out.iterdir()) == ["a", "b-c"]


def test_a_step_given_twice(tmp_path: Path) -> None:
    run = one(events(tmp_path / NAME, *(event(1, simple("reward", value)) for value in (0.5, 0.5, 0.75))))
    assert column(run, "reward") == [0.75]
    assert run.tally.dropped == {"reward given again for the same step: the last one holds": (1, "step 1")}


@pytest.mark.parametrize(
    ("damage", "why", "left"),
    [
        (lambda data: data[:-3], "record that is cut off, at the end of the file", 4),
        (
            lambda data: data[: 6 - len(event(5, simple("reward", 5)))],
            "record that is cut off, at the end of the file",
            4,
        ),
        (lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "record whose checksum is wrong", 4),
        (lambda data: data + b"junk that is no record", "rest of an event file, which is damaged", 5),
    ],
)
def test_damaged_records(tmp_path: Path, damage: Any, why: str, left: int) -> None:
    path = events(tmp_path / NAME, *(event(s, simple("reward", s)) for s in range(1, 6)))
    path.write_bytes(damage(path.read_bytes()))
    run = one(path)
    assert column(run, "reward") == [1.0, 2.0, 3.0, 4.0, 5.0][:left]
    assert {one: count for one, (count, _) in run.tally.dropped.items()} == {why: 1}


def test_a_long_file_is_given_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "MOST_HELD", 7)
    rows = [event(s, simple(tag, s * 0.5)) for s in range(1, 41) for tag in ("reward", "kl", "entropy")]
    run = one(events(tmp_path / NAME, *rows))
    assert column(run, "step") == list(range(1, 41))
    assert column(run, "entropy") == [s * 0.5 for s in range(1, 41)]
    assert (run.tally.notes, run.tally.dropped) == ([], {})


def test_a_file_without_scalars(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no usable step: 1 x summary that is no scalar"):
        imported(events(tmp_path / NAME, event(1, tensor("notes", 7, part(8, b"words")))))


def test_what_pytorch_writes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    writing = pytest.importorskip("torch.utils.tensorboard", reason="torch is not installed")
    with writing.SummaryWriter(tmp_path / "run") as writer:
        for step in range(1, 21):
            writer.add_scalar("train/reward", step / 8, step)
            writer.add_scalar("actor/entropy", 1 / step, step, new_style=True)
            writer.add_scalar("actor/grad_norm", step / 16, step, new_style=True, double_precision=True)
            writer.add_text("sample", "words", step)
    run = one(tmp_path / "run")
    assert column(run, "step") == list(range(1, 21))
    assert column(run, "reward") == [step / 8 for step in range(1, 21)]
    assert run.tally.dropped == {"summary that is no scalar (histogram, text, image)": (20, "sample/text_summary")}


def test_the_same_as_tensorboards_own_reader(tmp_path: Path) -> None:
    source = next((FOREIGN / "tensorboard").glob("events*"), None)
    if source is None:
        pytest.skip("no sample")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader", reason="no tensorboard")
    theirs = {
        (one.step, value.tag): value.simple_value
        for one in loader.LegacyEventFileLoader(str(source)).Load()
        for value in one.summary.value
        if value.WhichOneof("value") == "simple_value"
    }
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    run = one(path)
    for tag, name in {"reward": "reward", "kl": "kl", "completions/mean_length": "response_length"}.items():
        assert column(run, name) == [theirs[step, f"train/{tag}"] for step in column(run, "step")]
    assert (run.first, run.last, run.steps) == (1, 30, 30)
