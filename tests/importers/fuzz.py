"""The slow lane of the fuzzing: many damaged logs of each format, in this process and in memory.

python tests/importers/fuzz.py [--per-format 10000] [--engine mutations|atheris] [--only NAME ...] [--seed 0]

`atheris` (of PyPI) chooses by coverage what to try next, and needs an interpreter that has it beside numpy and pyarrow.
Each crash is kept as a file in --keep, by a name that says which error it was; one of each error and place is.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

if "--inside" in sys.argv:  # coverage is counted in modules that are imported from here on
    import atheris  # type: ignore[import-not-found]

    watched = atheris.instrument_imports(include=["lldwatch.importers"], enable_loader_override=False)
else:
    watched = nullcontext()
with watched:
    from fuzz_target import ALL, FaultError, Seed, feed, memory_folder, put, seeds
    from mutations import changed, some_changes

    from lldwatch.errors import LldwatchError
    from lldwatch.importers.format import Format, RowsFormat

SLOW_S = 5.0
"""A small log that takes longer than that is a finding as well."""


class Trial:
    """Damaged logs of one format."""

    def __init__(self, fmt: Format | RowsFormat, folder: Path, keep: Path) -> None:
        self.fmt, self.keep = fmt, keep
        self.inputs = self.refused = 0
        self.crashes: dict[str, int] = {}
        self.slowest = 0.0
        self._folder = folder

    def run(self, seed: Seed, data: bytes) -> None:
        """One log."""
        path = put(self._folder, Seed(seed.name, data))
        self.inputs += 1
        began = time.perf_counter()
        try:
            feed(self.fmt, path)
        except LldwatchError:
            self.refused += 1
        except Exception as error:
            self._crash(error, data)
        took = time.perf_counter() - began
        self.slowest = max(self.slowest, took)
        if took > SLOW_S:
            self._keep(f"slow-{int(took)}s", data)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)

    def _crash(self, error: Exception, data: bytes) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}"
        words = f"{Path(place.filename).stem}:{place.lineno} {what}"[:160]
        if words not in self.crashes:
            self._keep(f"crash-{len(self.crashes)}", data)
        self.crashes[words] = self.crashes.get(words, 0) + 1

    def _keep(self, what: str, data: bytes) -> None:
        self.keep.mkdir(parents=True, exist_ok=True)
        (self.keep / f"{self.fmt.name}-{what}").write_bytes(data)


def mutations(trial: Trial, count: int, seed: int) -> None:
    """Seeded, so that a crash can be had again."""
    generator = random.Random(f"{seed} {trial.fmt.name}")
    everything = [one for group in seeds().values() for one in group]
    own = seeds().get(trial.fmt.name) or everything
    others = [one.data for one in everything]
    for _ in range(count):
        chosen = generator.choice(own)
        trial.run(chosen, changed(chosen.data, some_changes(generator), others))


def guided(trial: Trial, count: int, seed: int) -> None:
    """By coverage; does not return, since libFuzzer ends its process. The first byte chooses the seed's name."""
    own = seeds().get(trial.fmt.name) or [Seed("log.txt", b"step:1 - x:1\n")]
    corpus = trial.keep / f"corpus-{trial.fmt.name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(own):
        (corpus / f"seed-{number}").write_bytes(bytes([number]) + one.data)
    began = time.perf_counter()

    def one_input(data: bytes) -> None:
        trial.run(own[data[0] % len(own)] if data else own[0], data[1:])
        if trial.inputs == count:
            print_row(trial, time.perf_counter() - began)
            trial.clear()  # nothing is cleared behind a process that libFuzzer ends

    limits = [f"-runs={count}", f"-seed={seed + 1}", "-max_len=16384", "-verbosity=0", "-print_final_stats=0"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], one_input)
    atheris.Fuzz()


def in_a_child(name: str, options: argparse.Namespace) -> bool:
    """libFuzzer ends with an error where something crashed, which one it is stands in the row."""
    numbers = ["--per-format", str(options.per_format), "--seed", str(options.seed), "--keep", str(options.keep)]
    command = [sys.executable, __file__, "--engine", "atheris", "--inside", "--only", name, *numbers]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode or not done.stdout:
        print(f"{name}: the child ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode == 0 and "\n    " not in done.stdout and bool(done.stdout)


def print_row(trial: Trial, seconds: float) -> None:
    """A row of the table, and its crashes."""
    rate = trial.inputs / max(seconds, 1e-9)
    row = f"{trial.fmt.name:<20} {trial.inputs:>9,} {trial.refused:>9,} {seconds:>8.1f} {rate:>9,.0f}"
    print(f"{row} {trial.slowest:>9.2f} {sum(trial.crashes.values()):>8,}", flush=True)
    for words, times in trial.crashes.items():
        print(f"    {times} x {words}", flush=True)


def one_format(fmt: Format | RowsFormat, options: argparse.Namespace) -> bool:
    """Whether nothing crashed."""
    if options.engine == "atheris" and not options.inside:
        return in_a_child(fmt.name, options)
    engine: Callable[[Trial, int, int], None] = guided if options.inside else mutations
    with memory_folder() as folder:
        trial = Trial(fmt, folder, options.keep)
        began = time.perf_counter()
        engine(trial, options.per_format, options.seed)
        print_row(trial, time.perf_counter() - began)
    return not trial.crashes


def main() -> int:
    """Zero if nothing crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-format", type=int, default=10_000)
    parser.add_argument("--engine", choices=("mutations", "atheris"), default="mutations")
    parser.add_argument("--only", nargs="*", help="names of formats")
    parser.add_argument("--seed", type=int, default=0)
    keep = Path(tempfile.gettempdir()) / "lldwatch-fuzz"
    parser.add_argument("--keep", type=Path, default=keep, help="for what crashed")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    faulthandler.enable()
    if not options.inside:
        titles = ("inputs", "refused", "seconds", "inputs/s", "slowest s", "crashes")
        columns = zip(titles, (9, 9, 8, 9, 9, 8), strict=True)
        print(f"{'format':<20} " + " ".join(f"{title:>{width}}" for title, width in columns), flush=True)
    chosen = [fmt for fmt in ALL if not options.only or fmt.name in options.only]
    crashed = [fmt.name for fmt in chosen if not one_format(fmt, options)]
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
