"""Which of their names stand for which of our fields: the tables of all formats together, and what the user says.

Files of any tool (CSV, JSON lines, Parquet, TensorBoard, W&B) carry the names that the trainer gave; these are looked
up in the tables of all trainers. A prefix that a logger puts in front (`train/`) is not part of the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from lldwatch.errors import InputError
from lldwatch.importers.numbers import whole
from lldwatch.importers.tally import one_line
from lldwatch.inputs import SCALARS

_PREFIXES = ("train/", "train_", "metrics/", "training/", "grpo/", "rollout/", "")
STEPS = (
    "step",
    "global_step",
    "training/global_step",
    "train/global_step",
    "trainer/global_step",
    "grpo_step",
    "training_step",
    "train_step",
    "train/step",
    "rollout/step",
    "Step",
    "Global Step",
    "steps",
    "global_steps",
    "current_step",
    "progress/step",
    "iteration",
    "Iteration",
    "iter",
    "Iter",
    "update",
    "optimizer_step",
    "opt_step",
    "_step",
)
"""What a step is called, the most telling name first; W&B's `_step` counts calls, and so comes last."""

Lookup = Callable[[str], tuple[int, str] | None]
"""Their name -> (preference, ours), the smallest preference holds; None if it stands for nothing."""


def lookup(tables: Iterable[Mapping[str, str]], own: Mapping[str, str] | None = None) -> Lookup:
    """What a name stands for.

    Args:
        tables: `METRICS` of the formats that may apply, the most likely first.
        own: the user's: field -> their name; these hold before all others.
    """
    known = {theirs: ours for ours, theirs in (own or {}).items()}
    taken = set(own or {})
    for table in tables:
        for theirs, ours in table.items():
            if ours not in taken:
                known.setdefault(theirs, ours)
    order = {theirs: place for place, theirs in enumerate(known)}
    found: dict[str, tuple[int, str] | None] = {}

    def of(theirs: str) -> tuple[int, str] | None:
        if theirs not in found:
            if len(found) > 10_000:  # keys that are made up anew in each row must not fill the memory
                found.clear()
            found[theirs] = _look(theirs) or _look(_plain(theirs))
        return found[theirs]

    def _look(theirs: str) -> tuple[int, str] | None:
        if theirs in known:
            return order[theirs], known[theirs]
        for prefix in _PREFIXES:
            bare = theirs.removeprefix(prefix) if theirs.startswith(prefix) else None
            if bare in known:
                return len(order) + order[bare], known[bare]
            if bare in SCALARS and bare not in taken:
                return 2 * len(order), bare
        return None

    return of


def _plain(name: str) -> str:
    """As programs write it: "completions / mean_length" and "Mean Reward" are shown to people."""
    return re.sub(r"\s*/\s*", "/", name.strip()[:200]).replace(" ", "_").lower()


def step_of(values: Mapping[str, Any], step_column: str | None = None) -> int | None:
    """The step of a row by what steps are called; None if it has none.

    Args:
        values: their name -> value.
        step_column: the user's choice; then no other name counts.
    """
    names = STEPS if step_column is None else (step_column,)
    return next((step for name in names if (step := whole(values.get(name))) is not None), None)


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """The user's `--map ours=theirs` as a dict.

    Raises:
        InputError: no "=", or the left side is no field of `Observation`.
    """
    own = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            raise InputError(f"--map {one_line(pair)}: give it as ours=theirs, for instance --map reward=mean_return")
        if ours not in SCALARS:
            close = get_close_matches(ours, SCALARS, 3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(SCALARS)}"
            raise InputError(f"--map {pair}: {ours} is no field of lldwatch: {hint}")
        own[ours] = theirs
    return own
