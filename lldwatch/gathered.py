"""What a loop says in the course of one step, and what becomes of it: the fields of the step's `Observation`.

On many ranks each gathers its own; rank 0 puts them together as if one process had seen all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import numpy as np

from lldwatch.columns import RowTable
from lldwatch.rollup import summarise
from lldwatch.schema import Observation, Probes, Responses

_OVER = {item.name: item.metadata["over"] for item in fields(Observation)}


@dataclass(slots=True)
class Gathered:
    """One step of one rank.

    Attributes:
        rows: of all tables, in the order they came.
        update_scalars: field of `Observation` -> one number an update.
        scalars: field of `Observation` -> what the step itself was given.
        updates: optimizer updates marked so far.
        seconds: wall time inside probes; None: not timed.
    """

    rows: list[RowTable] = field(default_factory=list)
    update_scalars: dict[str, list[float]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    seconds: float | None = None

    def add(self, rows: RowTable) -> None:
        """Take rows in, and those that were measured together with them."""
        self.rows += [table for table in (rows, *rows.companions) if len(table)]
        if rows.seconds is not None:
            self.seconds = (self.seconds or 0.0) + rows.seconds

    def forget(self, *kinds: str) -> None:
        """Leave out the rows of some kinds of probes, and what was measured with them."""
        kept: list[RowTable] = []
        for rows in self.rows:
            kind = rows.columns().get("kind")
            stays = None if kind is None else ~np.isin(kind, kinds)
            if stays is None or stays.all():
                kept.append(rows)
            elif stays.any():
                columns = rows.columns().items()
                kept.append(type(rows)(**{name: None if v is None else v[stays] for name, v in columns}))
        self.rows = kept

    def of(self, table: type[Any]) -> list[Any]:
        """The rows of one table."""
        return [rows for rows in self.rows if isinstance(rows, table)]

    def to_send(self) -> Gathered:
        """What rank 0 needs of it: the rows that are rolled up."""
        rows = [*self.of(Responses), *self.of(Probes)]
        return Gathered(rows, self.update_scalars, self.scalars, self.updates, self.seconds)


def fields_of(ranks: Sequence[Gathered]) -> dict[str, Any]:
    """The fields of the step's `Observation`: what the rows say, then the updates, then the step itself.

    Args:
        ranks: what each rank gathered; rank 0 first.
    """
    first = ranks[0]
    seconds = [rank.seconds for rank in ranks if rank.seconds is not None]
    responses, probes = (list(chain.from_iterable(rank.of(table) for rank in ranks)) for table in (Responses, Probes))
    responses.sort(key=lambda rows: 0 if rows.update is None else int(rows.update[0]))  # as one process sees them
    with np.errstate(all="ignore"):  # inf - inf
        values = {
            name: [rank.update_scalars.get(name, []) for rank in ranks] for name in _names(ranks, "update_scalars")
        }
        means = {name: _of_updates(name, of_ranks) for name, of_ranks in values.items() if any(of_ranks)}
        given = {
            name: _over_ranks(name, [rank.scalars[name] for rank in ranks if name in rank.scalars])
            for name in _names(ranks, "scalars")
        }
    updates_norms = next((rank.update_scalars["grad_norm"] for rank in ranks if "grad_norm" in rank.update_scalars), [])
    norms = updates_norms or [given[name] for name in ("grad_norm",) if name in given]
    if norms:
        means["grad_norm_max"] = float(np.max(norms))  # one rank's, since all have the same; NaN stays NaN
        means["zero_gradient_updates"] = sum(norm == 0.0 for norm in norms)
    return {
        **summarise(responses, probes),
        **({"probe_seconds": max(seconds)} if seconds else {}),
        "updates": max(first.updates, 1),
        **means,
        **given,
    }


def _names(ranks: Sequence[Gathered], which: str) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(getattr(rank, which) for rank in ranks)))


def _of_updates(name: str, ranks: Sequence[Sequence[float]]) -> float:
    """One number for the updates of a step, as its column says."""
    if _OVER[name] == "one":
        return next(values[-1] for values in ranks if values)
    together = list(chain.from_iterable(ranks))
    return float(np.max(together) if _OVER[name] == "max" else np.mean(together))


def _over_ranks(name: str, values: Sequence[float]) -> float:
    """One number for the ranks, as its column says; a count is rank 0's, one rank's number stays as it is."""
    if _OVER[name] == "one" or name in ("updates", "responses") or len(values) == 1:
        return values[0]
    return float(np.max(values) if _OVER[name] == "max" else np.mean(values))


def repeated(responses: Sequence[Responses]) -> str | None:
    """What is wrong with identities that stand twice in one update; None when each stands once."""
    known = [(rows.uid, rows.update) for rows in responses if rows.uid is not None and rows.update is not None]
    if not known:
        return None
    uid, update = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*known, strict=True))
    if len(np.unique(uid)) == len(uid):
        return None
    pairs, counts = np.unique(np.stack([uid, update]), axis=1, return_counts=True)
    if counts.max() == 1:
        return None
    twice, when = pairs[:, counts > 1][:, 0]
    return (
        f"uid {twice} stands {counts.max()} times in update {when}: expected one of its own for each response, on all "
        "ranks (a prompt is told by group); leave uid out to have it given, and call Monitor.update after each "
        "optimizer update"
    )
