"""The responses of a region, as rows of a table: those that fell most, and how many there are in all.

Every row of the steps is looked at as long as they are not too many; of more, those steps alone that the counts say
hold some, and the table says where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lldwatch.parts import Part
from lldwatch_dashboard import changes as numbers
from lldwatch_dashboard.changes import PANELS, Array, Changes, Kind
from lldwatch_dashboard.heat import place_of
from lldwatch_dashboard.response_address import ANY, BROKEN, Region
from lldwatch_dashboard.response_book import Book, overlapping, rows_in

MOST_ROWS = 1000

_PROBE = ("uid", "group", "advantage", "tokens", "lag", "fallen_tokens", "largest_token_change")
_SEEN = ("reward", "actions", "old_log_prob", "entropy", "min_log_prob", "low_confidence_tokens")
_OWN = ("uid", "group", "advantage", "tokens", "update", "clipped_tokens", *_SEEN)

HEADS: Mapping[str, tuple[str, str]] = {
    "change": ("Change", "log-prob after minus before, nats per token"),
    "step": ("Step", "step after whose updates the change was measured"),
    "uid": ("Response", "identity of the response within the run"),
    "group": ("Prompt", "identity of the prompt, which its other responses share"),
    "kept": ("Tokens kept", "its tokens were kept one by one: choose the row to see them"),
    "correct": ("Correct", "the response is correct"),
    "reward": ("Reward", "reward of the response"),
    "advantage": ("Advantage", "advantage in the response's own step; near 0 it has no gradient of its own"),
    "tokens": ("Tokens", "policy tokens"),
    "actions": ("Actions", "runs of policy tokens between tool feedback"),
    "old_log_prob": ("Old log-prob", "under the policy that wrote it, sum over its tokens, nats"),
    "entropy": ("Entropy", "mean over its tokens, nats"),
    "min_log_prob": ("Min log-prob", "its least likely token, nats"),
    "low_confidence_tokens": ("Unsure tokens", "tokens less likely than 0.1, unless the loop says other"),
    "fallen_tokens": ("Fallen tokens", "tokens whose log-prob fell"),
    "largest_token_change": ("Largest token change", "of a single token, without its sign, nats"),
    "lag": ("Lag", "steps between the response's own step and this one"),
    "update": ("Update", "the step's last update that saw it"),
    "clipped_tokens": ("Clipped tokens", "tokens whose ratio was outside the clip range"),
}
"""Column -> its head, and what it means."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A region's responses.

    Attributes:
        rows: column -> value, the lowest change first; None where it was not recorded.
        found: responses in the steps that were looked at.
        until: last step that was looked at; None: all of the region.
        joined: reward and others could be looked up in the responses' own steps.
    """

    rows: list[dict[str, Any]]
    found: int
    until: int | None = None
    joined: bool = True


def listing(book: Book, kind: Kind, region: Region, *, most: int = MOST_ROWS, raw_rows: int) -> Listing:
    """The responses of a region.

    Args:
        book: of the run.
        kind: of change.
        region: where to look.
        most: rows that are given.
        raw_rows: rows of a table that are looked at.
    """
    parts = overlapping(book.parts(kind), (region.low, region.high))
    if rows_in(parts, (region.low, region.high)) > raw_rows:
        parts = _worth_reading(book, kind, parts, region)
    chosen, until = _within(parts, raw_rows)
    columns = _OWN if kind.table == "responses" else _PROBE
    best, found = _lowest(
        numbers.read(book.run, kind, chosen, (region.low, region.high), columns), region, most, columns
    )
    rows = [_row(best, index) for index in range(len(best))]
    joined = kind.table == "responses" or _join(book, rows, raw_rows)
    _mark_kept(book, rows, raw_rows)
    return Listing(rows, found, until, joined)


def inside(found: Changes, region: Region) -> Array:
    """Which of the responses lie in the region; (responses,) bool."""
    steps = (found.step >= region.low) & (found.step <= region.high)
    finite = np.isfinite(found.change)
    if region.panel == BROKEN:
        return np.asarray(steps & ~finite)
    height = steps & (found.change >= region.bottom) & (found.change <= region.top)
    if region.panel == ANY:
        return np.asarray(height)
    return np.asarray(height & finite & (found.panel == PANELS.index(region.panel)))


def order(change: Array) -> Array:
    """Indices, the lowest change first; what is NaN is worse than any number, and stands before all."""
    return np.argsort(np.where(np.isnan(change), -np.inf, change), kind="stable")


def _worth_reading(book: Book, kind: Kind, parts: Sequence[Part], region: Region) -> list[Part]:
    """The parts of those steps that the counts say hold some."""
    counts, left = book.counts(kind, book.parts(kind))
    if left:
        return list(parts)
    panel = PANELS.index(region.panel) if region.panel in PANELS else None
    stretches = counts.stretches((place_of(region.bottom), place_of(region.top)), panel, broken=region.panel == BROKEN)
    return [part for part in parts if any(part.low <= high and low <= part.high for low, high in stretches)]


def _within(parts: Sequence[Part], raw_rows: int) -> tuple[list[Part], int | None]:
    """As many of the first parts as may be read, and the last step up to which that is all of them."""
    in_order = sorted(parts, key=lambda part: (part.low, part.high))
    rows = 0
    for index, part in enumerate(in_order):
        rows += part.rows
        if rows > raw_rows and index:
            return in_order[:index], part.low - 1
    return in_order, None


def _lowest(pieces: Iterator[Changes], region: Region, most: int, columns: Sequence[str]) -> tuple[Changes, int]:
    best, found = numbers.joined([], columns), 0
    for piece in pieces:
        here = piece.at(inside(piece, region))
        found += len(here)
        if len(here):
            both = numbers.joined([best, here], columns) if len(best) else here
            best = both.at(order(both.change)[:most])
    return best, found


def _row(found: Changes, index: int) -> dict[str, Any]:
    unknown = found.panel[index] == PANELS.index("unknown")
    row: dict[str, Any] = {
        "step": int(found.step[index]),
        "change": cell(found.change[index]),
        "correct": None if unknown else ("yes" if found.correct[index] else "no"),
    }
    return row | {name: cell(values[index]) for name, values in found.more.items()} | _identity(found.more, index)


def _identity(columns: Mapping[str, Array], index: int) -> dict[str, str | None]:
    """As words: JavaScript has no whole numbers above 2^53."""
    values = {name: columns[name][index] for name in ("uid", "group")}
    return {name: None if value is np.ma.masked else str(value) for name, value in values.items()}


def cell(value: Any) -> Any:
    """As JSON holds it: four digits, None where it was not recorded, NaN and infinite ones in words."""
    if value is np.ma.masked or value is None:
        return None
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float):
        return float(f"{number:.4g}") if math.isfinite(number) else str(number)
    return number


def _join(book: Book, rows: Sequence[dict[str, Any]], raw_rows: int) -> bool:
    """Look up what the responses' own steps say of them."""
    known = [row for row in rows if row["uid"] is not None and row["lag"] is not None]
    wanted = {(row["step"] - row["lag"], int(row["uid"])): row for row in known}
    if not wanted:
        return bool(known) == bool(rows)
    own = sorted({step for step, _ in wanted})
    parts = [part for part in book.run.parts("responses") if _holds(part, own)]
    if sum(part.rows for part in parts) > raw_rows:
        return False
    uids = list({uid for _, uid in wanted})
    by_response: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in known:
        by_response.setdefault((row["step"] - row["lag"], int(row["uid"])), []).append(row)
    scan = book.run.scan(
        "responses", ["step", "uid", *_SEEN], steps=(own[0], own[-1]), where={"uid": uids}, parts=parts
    )
    for batch in scan:
        for index, key in enumerate(zip(batch["step"].tolist(), batch["uid"].tolist(), strict=True)):
            for row in by_response.get(key, ()):
                row.update({name: cell(batch[name][index]) for name in _SEEN})
    return True


def _mark_kept(book: Book, rows: Sequence[dict[str, Any]], raw_rows: int) -> None:
    """Say of which responses there are tokens; of none, if that would take too long."""
    known = [row for row in rows if row["uid"] is not None]
    if not known:
        return
    steps = min(row["step"] for row in known), max(row["step"] for row in known) + 1  # cross-update is a step later
    parts = overlapping(book.run.parts("tokens"), steps)
    if rows_in(parts, steps) > raw_rows:
        return
    kept: set[int] = set()
    for batch in book.run.scan(
        "tokens", ["uid"], steps=steps, where={"uid": [int(row["uid"]) for row in known]}, parts=parts
    ):
        kept.update(batch["uid"].tolist())
    for row in known:
        row["kept"] = "yes" if int(row["uid"]) in kept else "no"


def _holds(part: Part, steps: Sequence[int]) -> bool:
    """Whether a part holds one of the steps, which are in order."""
    index = int(np.searchsorted(steps, part.low))
    return index < len(steps) and steps[index] <= part.high


def column_definitions(kind: Kind) -> list[dict[str, Any]]:
    """The columns of the grid: those that the kind has."""
    own = kind.table == "responses"
    lacking = ("fallen_tokens", "largest_token_change", "lag") if own else ("update", "clipped_tokens")
    words = ("uid", "group", "kept", "correct")
    definitions = []
    for name, (head, meaning) in HEADS.items():
        if name in lacking:
            continue
        definition: dict[str, Any] = {"field": name, "headerName": head, "headerTooltip": meaning}
        definition["width"] = 80 + 6 * max(len(head), 6)
        definition["filter"] = "agTextColumnFilter" if name in words else "agNumberColumnFilter"
        if name == "change":
            definition |= {"sort": "asc", "cellClass": "strong"}
        definitions.append(definition)
    return definitions
