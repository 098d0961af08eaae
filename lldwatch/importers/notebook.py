"""Tables of metrics in a notebook (`.ipynb`) or a saved page (`.html`), as transformers shows them while it trains.

Each table is a run of its own. Where a notebook holds no such table, lines that print a dict are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from lldwatch.importers.format import Entry, Format
from lldwatch.importers.metric_rows import counts, entry_of, knows, oldest_first, telling, tidy
from lldwatch.importers.names import STEPS
from lldwatch.importers.numbers import pairs
from lldwatch.importers.source import Source
from lldwatch.importers.tally import Tally

METRICS = {"Training Loss": "loss"}

LARGEST_TABLE = 32 * 1024**2
"""Characters."""

_TABLE = re.compile(r"<table\b", re.IGNORECASE)
_TABLE_END = re.compile(r"</table\s*>", re.IGNORECASE)
_PAGE = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,500}?-->\s*)*(?:<!doctype html|<html|<table|<div)", re.IGNORECASE
)
_HEAD = re.compile(r"<th[^>]*>\s*(?:Step|step)\s*</th>")
_DICT = re.compile(r"\{'[^{}]+\}")
_MOST_COLUMNS = 2000

Table = list[list[str]]


def _is_notebook(opening: str) -> bool:
    return opening.lstrip().startswith("{") and re.search(r'"(?:cells|nbformat|cell_type)"\s*:', opening) is not None


def _recognise(source: Source) -> str | None:
    """A table may stand far down, so its name decides on a page whose head shows none."""
    if not source.is_text:
        return None
    if _is_notebook(source.opening):
        return "it has the cells of a notebook"
    if _PAGE.match(source.opening) and _HEAD.search(source.opening):
        return "it is a page with a table of steps"
    if _PAGE.match(source.opening) and re.search(r"jupyter|nbconvert|notebook|colab|kaggle", source.opening, re.I):
        return "it is the page of a notebook"
    return None


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    document = source.document(tally)
    texts: list[str] = []
    if _is_notebook(document[:100_000]):
        pages, texts = _outputs(document, tally)
    else:
        pages = [document]
    number = 0
    for table in (table for page in pages for table in _tables(page, tally)):
        if not _is_of_training(table):
            tally.drop("table without a metric of a training", f"table headed {', '.join(table[0][:4])}"[:80])
            continue
        number += 1
        entries = _entries(table, number, source.step_column, tally)
        yield from oldest_first(entries, tally, source.step_column)
    if not number:
        yield from _printed(texts, source.step_column, tally)


def _outputs(document: str, tally: Tally) -> tuple[list[str], list[str]]:
    """HTML and text that the cells of a notebook gave."""
    try:
        cells = json.loads(document).get("cells", [])
    except (ValueError, RecursionError, AttributeError) as error:
        tally.note(f"the notebook breaks off, or is no JSON ({error}): what can be found of its tables is read")
        return [_unescaped(document)], []
    pages, texts = [], []
    for output in (output for cell in _dicts(cells) for output in _dicts(cell.get("outputs"))):
        data = output.get("data")
        if isinstance(data, dict) and "text/html" in data:
            pages.append(_joined(data["text/html"]))
        elif "text" in output:
            texts.append(_joined(output["text"]))
    return pages, texts


def _unescaped(text: str) -> str:
    """The HTML within the strings of a JSON that cannot be read."""
    text = re.sub(r'\\n",\s*"', "\n", text)
    return re.sub(r"\\([\"/])", r"\1", text.replace("\\n", "\n").replace("\\u003c", "<").replace("\\u003e", ">"))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _joined(value: Any) -> str:
    return "".join(one for one in value if isinstance(one, str)) if isinstance(value, list) else str(value)


class _Cells(HTMLParser):
    """The cells of one table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Table = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr" or (tag in ("td", "th") and not self.rows):
            self.rows.append([])
        if tag in ("tr", "td", "th"):
            self._inside = tag != "tr" and len(self.rows[-1]) < _MOST_COLUMNS
            if self._inside:
                self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th", "tr")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _tables(page: str, tally: Tally) -> Iterator[Table]:
    """Each table as rows of cells; what lies between tables is never parsed."""
    place = 0
    while start := _TABLE.search(page, place):
        end = _TABLE_END.search(page, start.end())
        place = end.end() if end else len(page)
        if place - start.start() > LARGEST_TABLE:
            tally.drop(f"table of more than {LARGEST_TABLE // 1024**2} MiB", f"character {start.start()}")
            continue
        cells = _Cells()
        cells.feed(page[start.start() : place])
        rows = [[cell.strip() for cell in row] for row in cells.rows if row]
        if len(rows) > 1:
            yield rows


def _is_of_training(table: Table) -> bool:
    names = [tidy(cell) for cell in table[0]]
    return any(name in STEPS for name in names) and (any(map(knows, names)) or sum(map(_is_ours, names)) > 1)


def _is_ours(name: str) -> bool:
    return name in METRICS or counts(name)


def _entries(table: Table, number: int, step_column: str | None, tally: Tally) -> Iterator[Entry]:
    names = [tidy(cell) for cell in table[0]]
    for index, row in enumerate(table[1:], 1):
        where = f"table {number}, row {index}"
        if len(row) != len(names):
            tally.drop("row with more or fewer cells than the head", where)
            continue
        entry = entry_of(dict(zip(names, row, strict=True)), step_column, where, tally)
        if entry is not None:
            yield entry._replace(run="" if number == 1 else f"table {number}")


def _printed(texts: list[str], step_column: str | None, tally: Tally) -> Iterator[Entry]:
    """Lines such as {'loss': 0.1, 'reward': 0.5}."""
    for text in texts:
        for number, found in enumerate(_DICT.finditer(text), 1):
            values = pairs(found[0])
            if telling(values):
                entry = entry_of(values, step_column, f"printed dict {number}", tally)
                if entry is not None:
                    yield entry


FORMAT = Format(
    name="notebook",
    title="notebook (.ipynb) or saved page (.html) with the table that transformers shows",
    metrics=METRICS,
    recognise=_recognise,
    read=_read,
)
