"""What all pages share: the shell around them, their addresses, and small parts."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from dash import dcc, html

from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Summary

Component = Any  # dash ships no types
TICK_MS = 1000


def shell() -> Component:
    """What all pages share."""
    return html.Div(
        [
            dcc.Location(id="url"),
            html.Header(dcc.Link("lldwatch", href="/", className="brand"), className="top"),
            html.Div(id="notice", role="alert"),
            html.Main(id="page"),
        ]
    )


def href(name: str, page: str = "run") -> str:
    """The address of a page about a run: `/run/NAME`."""
    return f"/{page}/" if name == "." else f"/{page}/{quote(name, errors='surrogateescape')}"


def address(pathname: str) -> tuple[str, str]:
    """The page that an address means ("" is the overview), and the run, whose name is not yet known to be harmless."""
    _, page, *name = pathname.split("/", 2)
    return page, unquote("".join(name), errors="surrogateescape").rstrip("/") or "."


def clock(page: str) -> list[Component]:
    """Ticks that stop while nobody looks, and what was shown last."""
    return [
        dcc.Interval(id=f"{page}-tick", interval=TICK_MS),
        dcc.Store(id=f"{page}-pulse"),
        dcc.Store(id=f"{page}-shown"),
    ]


def attributes(**names: str) -> dict[str, Any]:
    """HTML attributes with a hyphen, which Python's keywords cannot have."""
    return {name.replace("_", "-"): text for name, text in names.items()}


def badge(summary: Summary) -> Component:
    """The stage as icon, word and colour."""
    text, kind, meaning = words.stage(summary)
    return html.Span(text, className=f"badge {kind}", title=meaning)


def no_such_page(what: str) -> Component:
    """Nothing is there, and the way back."""
    return html.Div([html.H1("No such run"), html.P(what), dcc.Link("All runs", href="/")], className="empty")


def mark(content: Any) -> str:
    """The same for what looks the same."""
    return str(hash(repr(content)))
