"""Everything that was recorded of one response: its numbers, action by action, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lldwatch_dashboard.changes import KINDS, Array, Kind
from lldwatch_dashboard.response_book import Book

PROBE = (
    *("group", "correct", "advantage", "lag", "tokens", "log_prob_before", "log_prob_after"),
    *("fallen_tokens", "largest_token_change", "first_action_tokens", "first_action_before", "first_action_after"),
    *("answer_tokens", "answer_before", "answer_after"),
)
SEEN = (
    *("update", "group", "correct", "reward", "advantage", "tokens", "actions", "old_log_prob", "log_prob", "entropy"),
    *("min_log_prob", "low_confidence_tokens", "clipped_tokens"),
)
ACTION = ("action", "tokens", "log_prob_before", "log_prob_after")
TOKEN = ("position", "action", "token", "text", "log_prob_before", "log_prob_after", "entropy")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of a response, in their order.

    Attributes:
        kind: how they were scored again,
        step: and when.
        rows: one a token: the columns of `lldwatch.schema.Tokens`; None where it was not recorded.
    """

    kind: Kind
    step: int
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One response.

    Attributes:
        uid: its identity.
        step: of the change that is looked at.
        kind: of that change.
        probe: its row in `probes`; None for the change in its batch.
        seen: its rows in `responses`, one an update, of its own step.
        actions: its rows in `actions`, in their order; None if there are none.
        tokens: its tokens; None if it is not in the sample.
        sampled: the run has tokens of other responses.
    """

    uid: int
    step: int
    kind: Kind
    probe: Row | None = None
    seen: Sequence[Row] = ()
    actions: Sequence[Row] = ()
    tokens: Tokens | None = None
    sampled: bool = False
    own_step: int = field(default=0)

    @property
    def found(self) -> bool:
        """There is such a response."""
        return self.probe is not None or bool(self.seen)


def detail(book: Book, kind: Kind, uid: int, step: int) -> Detail:
    """Look up a response.

    Args:
        book: of the run.
        kind: of the change that is looked at.
        uid: identity of the response.
        step: of the change.
    """
    probe = None
    if kind.table == "probes":
        found = _rows(book, "probes", PROBE, step, {"uid": uid, **kind.where})
        probe = found[0] if found else None
    own = step - int((probe or {}).get("lag") or 0)
    seen = sorted(_rows(book, "responses", SEEN, own, {"uid": uid}), key=lambda row: row["update"] or 0)
    actions = _rescored(book, "actions", ACTION, kind, uid, own, step)
    tokens = _rescored(book, "tokens", TOKEN, kind, uid, own, step)
    return Detail(
        uid=uid,
        step=step,
        kind=kind,
        probe=probe,
        seen=seen,
        actions=sorted(actions[2], key=lambda row: row["action"] or 0) if actions else (),
        tokens=Tokens(kind=tokens[0], step=tokens[1], rows=_in_order(tokens[2])) if tokens else None,
        sampled=bool(book.run.parts("tokens")),
        own_step=own,
    )


def _in_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["position"] or 0)


def _rescored(
    book: Book, table: str, columns: Sequence[str], kind: Kind, uid: int, own: int, step: int
) -> tuple[Kind, int, list[Row]] | None:
    """Rows of the change that is looked at; else of another one that the same response was scored again for."""
    others = [KINDS[name] for name in ("cross_update", "post_update")]
    for wanted, when in [(kind, step), *((other, at) for at in (own + 1, own) for other in others)]:
        if wanted.table == "probes":
            rows = _rows(book, table, columns, when, {"uid": uid, **wanted.where})
            if rows:
                return wanted, when, rows
    return None


def _rows(book: Book, table: str, columns: Sequence[str], step: int, where: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for batch in book.run.scan(table, columns, steps=(step, step), where=where):
        values = {name: _plain(column) for name, column in batch.items()}
        rows += [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return rows


def _plain(column: Array) -> list[Any]:
    """Python values, None where there is none."""
    plain: list[Any] = np.ma.asarray(column).tolist() if column.dtype != object else list(column)
    return plain


def change_of(row: Mapping[str, Any]) -> float | None:
    """Log-prob after minus before; None if one of them was not recorded."""
    before, after = row.get("log_prob_before"), row.get("log_prob_after")
    return None if before is None or after is None else float(after) - float(before)


def per_token(nats: float | None, tokens: int | None) -> float | None:
    """Nats per token; None if unknown."""
    return None if nats is None or not tokens else nats / tokens


def number(value: float | None, digits: int = 3) -> str:
    """So many digits, with a real minus sign; NaN and infinite in words, a dash for what was not recorded."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\N{MINUS SIGN}")
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
