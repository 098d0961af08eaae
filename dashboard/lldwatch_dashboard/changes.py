"""How much each response's likelihood changed: the numbers of the responses page, read part by part.

A change is in nats per policy token, new minus old. What was measured as NaN or infinite stays; a response without
policy tokens, or without both log-probs, has no change and is counted apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lldwatch.parts import Part
from lldwatch.rollup import ADVANTAGE_TOLERANCE
from lldwatch.run import Run
from lldwatch.schema import KINDS as MEANING

Array = npt.NDArray[Any]

PANELS = ("correct", "incorrect", "advantage 0", "unknown")
"""What is drawn apart; `unknown`: whether the response is correct was not recorded."""
CORRECT, INCORRECT, ZERO, UNKNOWN = range(len(PANELS))


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to compare the same tokens under two states of the policy.

    Attributes:
        name: as in `lldwatch.schema.KINDS`.
        label: on the page.
        table: where its rows stand.
        before: column of the earlier log-prob.
        after: column of the later one.
        signs: fields of Observation of which one is there if such rows were recorded.
    """

    name: str
    label: str
    table: str
    before: str
    after: str
    signs: tuple[str, ...]

    @property
    def where(self) -> dict[str, str]:
        """What tells its rows from the others of the table."""
        return {"kind": self.name} if self.table == "probes" else {}

    @property
    def meaning(self) -> str:
        """What is compared, in words."""
        if self.name == "in_batch":
            return "the step's own batch, from when it was written until the step's last update saw it"
        return MEANING[self.name]


def _probe(name: str, label: str, *signs: str) -> Kind:
    return Kind(name, label, "probes", "log_prob_before", "log_prob_after", signs)


_POST = ("post_update_correct", "post_update_incorrect", "post_update_zero_advantage")
_LAGGED = ("lagged_change_5", "lagged_change_10", "lagged_change_20")
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            _probe("cross_update", "cross-update", "cross_update_change"),
            _probe("post_update", "post-update", *_POST),
            _probe("lagged", "lagged", *_LAGGED),
            _probe("fixed", "fixed anchors", "fixed_anchor_change"),
            Kind("in_batch", "in batch", "responses", "old_log_prob", "log_prob", ("change_positive", "responses")),
        )
    }
)
"""The headline first."""


def recorded(present: Collection[str]) -> list[Kind]:
    """The kinds that a run has rows of, as far as its steps say.

    Args:
        present: fields of Observation that are not None in some step.
    """
    return [kind for kind in KINDS.values() if any(sign in present for sign in kind.signs)]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Responses with their change; arrays of shape (responses,).

    Attributes:
        step: when the later log-prob was measured.
        change: nats per token; NaN and infinite ones among them.
        panel: index in PANELS.
        correct: the response is correct; False where that is unknown.
        more: further columns of the table.
        unmeasured: rows that have no change.
    """

    step: npt.NDArray[np.int64]
    change: npt.NDArray[np.float64]
    panel: npt.NDArray[np.int8]
    correct: npt.NDArray[np.bool_]
    more: Mapping[str, Array] = field(default_factory=dict)
    unmeasured: int = 0

    def __len__(self) -> int:
        return len(self.step)

    def at(self, rows: Array) -> Changes:
        """Only these rows, by index or mask."""
        more = {name: values[rows] for name, values in self.more.items()}
        return Changes(self.step[rows], self.change[rows], self.panel[rows], self.correct[rows], more, self.unmeasured)


def joined(pieces: Sequence[Changes], columns: Sequence[str] = ()) -> Changes:
    """Several after each other.

    Args:
        pieces: any number of them, also none.
        columns: the further columns that all of them have.
    """
    if not pieces:
        none = np.zeros(0)
        more: dict[str, Array] = dict.fromkeys(columns, none)
        return Changes(none.astype(np.int64), none, none.astype(np.int8), none.astype(np.bool_), more)
    return Changes(
        np.concatenate([piece.step for piece in pieces]),
        np.concatenate([piece.change for piece in pieces]),
        np.concatenate([piece.panel for piece in pieces]),
        np.concatenate([piece.correct for piece in pieces]),
        {name: _end_to_end([piece.more[name] for piece in pieces]) for name in columns},
        sum(piece.unmeasured for piece in pieces),
    )


def read(
    run: Run, kind: Kind, parts: Sequence[Part], steps: tuple[int, int], columns: Sequence[str] = ()
) -> Iterator[Changes]:
    """The changes of some steps, part by part.

    Args:
        run: where to read.
        kind: what to compare.
        parts: of the kind's table.
        steps: the first and the last one.
        columns: further ones that are wanted.
    """
    own = ["uid", "update"] if kind.table == "responses" else []
    names = list(dict.fromkeys(["step", "tokens", kind.before, kind.after, "correct", "advantage", *own, *columns]))
    for part in parts:
        batches = list(run.scan(kind.table, names, steps=steps, where=kind.where, parts=[part]))
        if batches:
            rows = {name: _end_to_end([batch[name] for batch in batches]) for name in names}
            if own:
                last = last_sight(rows["step"], rows["uid"], rows["update"])
                rows = rows if last is None else {name: values[last] for name, values in rows.items()}
            yield changes_of(rows, kind, columns)


def changes_of(rows: Mapping[str, Array], kind: Kind, columns: Sequence[str] = ()) -> Changes:
    """What the rows of a table say.

    Args:
        rows: column name -> values; masked where they are missing.
        kind: whose columns they are.
        columns: those that are to be kept beside the change.
    """
    tokens, before, after = rows["tokens"], rows[kind.before], rows[kind.after]
    missing = _missing(tokens) | _missing(before) | _missing(after) | (_plain(tokens) <= 0)
    with np.errstate(all="ignore"):  # inf - inf is NaN, and is shown as such
        change = (_plain(after).astype(np.float64) - _plain(before)) / _plain(tokens)
    correct, advantage = rows["correct"], rows["advantage"]
    panel = np.where(_missing(correct), UNKNOWN, np.where(_plain(correct), CORRECT, INCORRECT)).astype(np.int8)
    panel[~_missing(advantage) & (np.abs(_plain(advantage)) < ADVANTAGE_TOLERANCE)] = ZERO
    found = Changes(
        _plain(rows["step"]),
        change,
        panel,
        _plain(correct).astype(np.bool_) & ~_missing(correct),
        {name: rows[name] for name in columns},
        int(missing.sum()),
    )
    return found.at(~missing) if found.unmeasured else found


def last_sight(step: Array, uid: Array, update: Array) -> Array | None:
    """Rows of the last update that saw each response of a step; None if no response was seen twice.

    Args:
        step: (rows,) of one part: the rows of a step stand in one part of their rank.
        uid: (rows,); rows without one are responses of their own.
        update: (rows,).
    """
    if _missing(uid).any() or _missing(update).any() or not len(update) or update.min() == update.max():
        return None
    order = np.lexsort((_plain(update), _plain(uid), _plain(step)))
    again = (np.diff(_plain(step)[order]) == 0) & (np.diff(_plain(uid)[order]) == 0)
    return np.sort(order[np.append(~again, True)])


def _end_to_end(arrays: Sequence[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    if not any(np.ma.isMaskedArray(array) for array in arrays):
        return np.concatenate(arrays)
    return np.asanyarray(np.ma.concatenate(arrays))  # type: ignore[no-untyped-call]  # numpy's is untyped


def _missing(values: Array) -> Array:
    return np.ma.getmaskarray(values)


def _plain(values: Array) -> Array:
    return np.ma.getdata(values)
