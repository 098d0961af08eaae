"""What an import left out, and why: counted, with the first place where it happened; nothing is dropped unsaid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lldwatch.postmortem import printable

_MOST_KEYS = 1000


@dataclass
class Tally:
    """Counts as the import goes.

    Attributes:
        rows: entries that were used.
        dropped: why -> [how often, where first].
        unmapped: their keys that have no counterpart here, in the order of appearance.
        more_unmapped: how many more there were, beyond the first thousand.
        notes: what else is worth knowing, once each.
    """

    rows: int = 0
    dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    unmapped: dict[str, None] = field(default_factory=dict)
    more_unmapped: int = 0
    notes: list[str] = field(default_factory=list)

    def drop(self, why: str, where: str, times: int = 1) -> None:
        """Something was left out: `why` says what it was, in words that repeat, `where` the place ("line 7")."""
        if times:
            why = why if why in self.dropped else one_line(why)
            count, first = self.dropped.get(why) or (0, one_line(where))
            self.dropped[why] = (count + times, first)

    def note(self, words: str) -> None:
        """Something worth knowing."""
        words = one_line(words)
        if words not in self.notes:
            self.notes.append(words)

    def fault(self, error: Exception) -> None:
        """A reader did not foresee something: that is a mistake of lldwatch, and said as such."""
        self.note(f"reading ended early: {type(error).__name__}: {error} (a fault of lldwatch: please report it)")

    def no_counterpart(self, keys: Iterable[str]) -> None:
        """Keys that stand for nothing that lldwatch measures."""
        for key in keys:
            if key not in self.unmapped:
                if len(self.unmapped) < _MOST_KEYS:
                    self.unmapped[key] = None
                else:
                    self.more_unmapped += 1

    @property
    def reasons(self) -> list[str]:
        """One line for each kind of thing that was left out."""
        return [f"{count} x {why} (first: {where})" for why, (count, where) in self.dropped.items()]

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            "rows": self.rows,
            "dropped": [{"why": why, "count": n, "first": where} for why, (n, where) in self.dropped.items()],
            "unmapped": list(self.unmapped),
            "notes": self.notes,
        }


def one_line(words: str) -> str:
    """What the words of a log may hold must neither break a message into lines nor move a terminal's cursor."""
    return printable(" ".join(words.split()))
