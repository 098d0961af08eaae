"""What of the list is shown, in which order: it stands in the address, so that a link shows the same again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote, urlencode

from lldwatch.diagnosis import Stage
from lldwatch.matching import matching
from lldwatch_dashboard import words
from lldwatch_dashboard.listed import Listed

PAGE_SIZE = 30
"""Two screens; each further row takes the browser 16 ms."""
MOST_CHARACTERS = 500
"""Of a filter: no name is longer than a path may be."""

Key = float | str | None


@dataclass(frozen=True, slots=True)
class View:
    """The filter, the order, and the page.

    Attributes:
        text: names hold it: a regular expression, or plain text.
        sort: key in SORTS.
        reverse: the other way round than a reader of the column expects first.
        page: from 1.
    """

    text: str = ""
    sort: str = "stage"
    reverse: bool = False
    page: int = 1

    @classmethod
    def of(cls, search: str | None) -> View:
        """What a query string says; what it says wrongly is left out."""
        given = {key: values[-1] for key, values in query(search).items()}
        sort = given.get("sort", "")
        known = sort.removeprefix("-") in SORTS
        page = given.get("page", "")
        return cls(
            text=given.get("filter", "")[:MOST_CHARACTERS],
            sort=sort.removeprefix("-") if known else "stage",
            reverse=known and sort.startswith("-"),
            page=max(int(page), 1) if page.isascii() and page.isdigit() and len(page) < 6 else 1,
        )

    @property
    def search(self) -> str:
        """The query string, empty for the view that is shown first."""
        order = f"{'-' if self.reverse else ''}{self.sort}"
        parts = {"filter": self.text, "sort": "" if order == "stage" else order}
        parts["page"] = str(self.page) if self.page > 1 else ""
        return search_of({key: [text] for key, text in parts.items() if text})

    def sorted_by(self, column: str) -> View:
        """After a click on a column's head."""
        return replace(self, sort=column, reverse=self.sort == column and not self.reverse, page=1)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one page.

    Attributes:
        rows: of this page.
        matched: all rows that the filter lets pass, in order.
        page: the one that is shown: the last one if fewer are left than were asked for.
        pages: how many there are.
        expression: the filter is a regular expression.
    """

    rows: Sequence[Listed]
    matched: Sequence[Listed]
    page: int
    pages: int
    expression: bool


def query(search: str | None) -> dict[str, list[str]]:
    """Key -> values of a query string."""
    return parse_qs((search or "").removeprefix("?"), errors="surrogateescape", max_num_fields=None)


def search_of(parts: Mapping[str, Sequence[str]]) -> str:
    """The query string; a file name that is no text survives it."""
    text = urlencode(parts, doseq=True, quote_via=quote, errors="surrogateescape")
    return f"?{text}" if text else ""


def part_of(runs: Sequence[Listed], view: View) -> Part:
    """Filter, sort, and cut out the page."""
    answers, expression = matching([run.summary.name for run in runs], view.text)
    matched = in_order([run for run, wanted in zip(runs, answers, strict=True) if wanted], view)
    pages = max(math.ceil(len(matched) / PAGE_SIZE), 1)
    page = min(view.page, pages)
    return Part(matched[(page - 1) * PAGE_SIZE : page * PAGE_SIZE], matched, page, pages, expression)


def in_order(runs: Sequence[Listed], view: View) -> list[Listed]:
    """Sorted by one column, then by name; what is not known stands last, whichever way round."""
    key = SORTS[view.sort][0]
    downwards = SORTS[view.sort][1] != view.reverse
    by_name = sorted(runs, key=lambda run: run.summary.name)
    known = [run for run in by_name if run.summary.read and key(run) is not None]
    unknown = [run for run in by_name if not (run.summary.read and key(run) is not None)]
    return [*sorted(known, key=key, reverse=downwards), *unknown]  # type: ignore[arg-type]  # None is not among them


def _trouble(run: Listed) -> Key:
    """Dead runs, then the ill ones, then those that cannot be read, then the others; running before finished."""
    summary = run.summary
    stage = 0.5 if summary.error else float(summary.diagnosis.stage)
    risk = 0.0 if summary.diagnosis.stage is Stage.COLLAPSE else summary.diagnosis.collapse_probability or 0.0
    return stage + 0.2 * (summary.info.ended is None and not summary.error) + 0.1 * risk


def _number(get: Callable[[Listed], float | None]) -> Callable[[Listed], Key]:
    """NaN has no place in an order."""

    def key(run: Listed) -> Key:
        value = get(run)
        return None if value is None or math.isnan(value) else value

    return key


SORTS: Mapping[str, tuple[Callable[[Listed], Key], bool]] = {
    "run": (lambda run: run.summary.name, False),
    "stage": (_trouble, True),
    "onset": (_number(lambda run: min(run.summary.diagnosis.onsets.values(), default=None)), False),
    "family": (lambda run: run.summary.diagnosis.family.label if run.summary.diagnosis.family else None, False),
    "risk": (_number(lambda run: run.summary.diagnosis.collapse_probability), True),
    "step": (_number(lambda run: run.summary.last.step if run.summary.last else None), True),
    "age": (_number(lambda run: run.summary.last.time if run.summary.last else None), True),
    "llds": (_number(lambda run: words.llds_rank(run.glance)), True),
    "signal": (_number(lambda run: run.glance.points[-1][1] if run.glance and run.glance.points else None), False),
    "reward": (_number(lambda run: run.summary.last.reward if run.summary.last else None), True),
}
"""Column -> what a run is sorted by, and whether the largest stands first."""
