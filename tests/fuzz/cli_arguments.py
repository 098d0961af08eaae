"""Command lines that nobody would type, and what the command makes of them: a result, or one line and status 2."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from damaged_runs import damage, write_sample

from lldwatch import Monitor, cli

WORDS = (
    *("", "-", "--", "---", "-1", "0", "1", "1e999", "nan", "-inf", "9" * 400, "0x10", "1,2", "=", "a=b", "a=b=c", "*"),
    *("\x00", "a\x00b", "\ud800", "ä€", "\u202e", "\x1b[31m", "a\nb", "%s", "{}", "$HOME", "'", '"', "x" * 5000),
    *("/dev/null", "/dev/full", "/proc/self/mem", "/nonexistent/x", "..", ".", "~", "*.json"),
    *("step", "reward=mean", "loss", "auto", "json", "collapse", "decay", "--help", "--version", "--out", "--json"),
)
NEVER = {"demo", "run", "upload"}
"""What would train, start a program or leave this machine is only called where it must refuse."""


@contextlib.contextmanager
def folder_of_runs(folder: Path) -> Iterator[Path]:
    """A working directory deep enough that `..` stays inside, with two ended runs, a damaged one, and logs."""
    here = folder / "a" / "b" / "c"
    here.mkdir(parents=True)
    with Monitor(here / "good") as monitor:
        for step in range(1, 60):
            monitor.step(reward=1 / step, entropy=0.5)
    write_sample(here / "killed")
    shutil.copytree(here / "good", here / "damaged")
    for seed in range(3):
        damage(here / "damaged", random.Random(seed))
    (here / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": "x"}\n')
    (here / "log.txt").write_bytes(b"step:1 - reward:nan\n\xff\n" * 3)
    before, environment = Path.cwd(), {**os.environ, "LLDWATCH_CACHE": str(folder / "cache")}
    environment.pop("LLDWATCH_WEBHOOK", None)
    os.chdir(here)
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            yield here
    finally:
        os.chdir(before)


def arguments(choose: random.Random) -> list[str]:
    """A command with some of its options, and values that fit them, or not."""
    commands: dict[str, argparse.ArgumentParser] = cli._parser()._subparsers._group_actions[0].choices  # type: ignore
    name = choose.choice([*commands, *WORDS]) if choose.random() < 0.1 else choose.choice(list(commands))
    line = [name]
    if name not in commands:
        return [*line, *choose.choices(WORDS, k=choose.randrange(3))]
    for action in commands[name]._actions:
        wanted = not action.option_strings or choose.random() < 0.25
        if wanted and action.dest != "help" and choose.random() < 0.95:
            line += [choose.choice(action.option_strings)] if action.option_strings else []
            line += [_value(action, choose) for _ in range(_count(action, choose))]
    if choose.random() < 0.2:
        line.insert(choose.randrange(1, len(line) + 1), choose.choice(WORDS))
    if name in NEVER:
        line.append("--no-such-option")
    return [word for word in line if word != "ray"]


def _count(action: argparse.Action, choose: random.Random) -> int:
    if action.nargs == 0:
        return 0
    return choose.randint(1, 3) if action.nargs in ("+", "*", "...") else 1


def _value(action: argparse.Action, choose: random.Random) -> str:
    runs = ("good", "good", "killed", "damaged", "log.jsonl", "log.txt", ".")
    if action.choices and choose.random() < 0.8:
        return str(choose.choice([*action.choices]))
    if not action.option_strings and choose.random() < 0.8:
        return choose.choice(runs)
    return choose.choice((*WORDS, "new", *runs))


def one_command(here: Path, choose: random.Random) -> object:
    """Run one; a finding is another status, more than one line, or an exception.

    Returns:
        Its status.

    Raises:
        AssertionError: it is a finding.
        Exception: so is any other.
    """
    line = arguments(choose)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", errors="replace")
    stdin = io.TextIOWrapper(io.BytesIO(choose.choice((b"", b"step:1 - x:1\n", b"\xff" * 50))))
    served = mock.patch("lldwatch_dashboard.serve", side_effect=KeyboardInterrupt)
    watched = mock.patch("lldwatch.commands.watch.time.sleep", side_effect=KeyboardInterrupt)
    streams = mock.patch("sys.stdin", stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], streams[2], served, watched:
        try:
            status: object = cli.main(line)
        except SystemExit as error:
            status = error.code
        except Exception as error:
            raise AssertionError(f"{line!r:.300} raises {type(error).__name__}: {error}") from error
    err.flush()
    told = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert status in (0, 2, 3, 130), f"{line!r:.300} ends with {status}"
    assert "Traceback" not in told, f"{line!r:.300} says {told[-500:]}"
    if status == 2:
        lines = told.splitlines()
        assert lines, f"{line!r:.300} says nothing"
        assert all(words.startswith("lldwatch: ") for words in lines), f"{line!r:.300} says {told[:300]}"
    for path in ("new", "good/control.json"):
        _clear(here / path)
    return status


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
