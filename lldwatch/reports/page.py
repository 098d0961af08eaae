"""A page that stands alone: no script, no font, no request, whatever is written into it.

Everything that comes from a run goes through `text`; a policy in the page's head forbids scripts and requests anyway.
Rejected: a template engine (a dependency, for a dozen elements).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from lldwatch.postmortem import printable
from lldwatch.reports.page_style import STYLE

LONGEST = 400
"""Characters of one value of a run; more are cut off, and that is said."""
ROWS = 300
"""Rows of one table; of more the first and the last are shown, and how many were left out."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def text(value: object, longest: int = LONGEST) -> str:
    """Anything as text that HTML cannot mistake for something else, cut if it is very long."""
    whole = str(value)
    cut = whole if len(whole) <= longest else f"{whole[:longest]}\N{HORIZONTAL ELLIPSIS} ({len(whole):,} characters)"
    return html.escape(printable(cut, lines=True))


def marked_up(words: str) -> str:
    """Our own words, with `names` set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(words, 2000))


def page(title: str, body: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: plain text.
        body: elements.
    """
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    )
    content = "\n".join(part for part in body if part)
    return f"{head}<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"


def section(title: str, *parts: str, id_: str = "") -> str:
    """A titled part of the page; nothing if all its parts are empty."""
    content = "\n".join(part for part in parts if part)
    name = f' id="{id_}"' if id_ else ""
    return f"<section{name}>\n<h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(words, 2000)}</p>' if kind else f"<p>{text(words, 2000)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; nothing if it has no rows.

    Args:
        head: plain text.
        rows: one cell for each column of the head.
        kind: a class of the style sheet.
    """
    if not rows:
        return ""
    shown = [_row(row, head) for row in rows]
    if len(rows) > ROWS:
        words = f"\N{HORIZONTAL ELLIPSIS} {len(rows) - ROWS:,} more, not shown"
        left_out = f'<tr><td colspan="{len(head)}">{words}</td></tr>'
        shown = [*shown[: ROWS // 2], left_out, *shown[-(ROWS // 2) :]]
    titles = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "\n".join(shown)
    return f'<table class="{kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def _row(cells: Sequence[str], head: Sequence[str]) -> str:
    # on a narrow page each cell stands in a line of its own, with the title of its column
    columns = zip(cells, head, strict=True)
    row = "".join(f'<td data-title="{text(name)}">{cell}</td>' for cell, name in columns)
    return f"<tr>{row}</tr>"


def list_of(items: Sequence[str], *, ordered: bool = False) -> str:
    """A list of plain texts; nothing if it is empty. Very long lists are cut, and that is said."""
    if not items:
        return ""
    tag = "ol" if ordered else "ul"
    shown = [*items[:ROWS], *([f"\N{HORIZONTAL ELLIPSIS} {len(items) - ROWS:,} more"] if len(items) > ROWS else [])]
    return f"<{tag}>{''.join(f'<li>{text(item, 2000)}</li>' for item in shown)}</{tag}>"
