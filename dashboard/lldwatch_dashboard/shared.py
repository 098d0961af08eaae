"""What all pages share: the shell around them, their addresses, and small parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from lldwatch_dashboard import words
from lldwatch_dashboard.feed import Summary

Component = Any  # dash ships no types
TICK_MS = 1000


@dataclass(frozen=True, slots=True)
class Visit:
    """A page that is opened, as assets/visit.js tells of it.

    Attributes:
        search: its query string.
        dark: for a dark page.
        narrow: for a small screen.
    """

    search: str = ""
    dark: bool = False
    narrow: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Visit:
        """What the browser has said; a pulse says it too."""
        return cls(str(told.get("search") or ""), bool(told.get("dark")), bool(told.get("narrow")))


def shell() -> Component:
    """What all pages share."""
    return html.Div(
        [
            dcc.Location(id="url"),
            dcc.Store(id="visit"),
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


def clock(page: str, first: dict[str, Any] | None = None, shown: Any = None) -> list[Component]:
    """Ticks that stop while nobody looks, what is new, and what was shown last.

    Args:
        page: the first part of the ids.
        first: news that come with the page, see `Drawn.news`.
        shown: what it shows from the beginning, if it is not filled by news.
    """
    return [
        dcc.Interval(id=f"{page}-tick", interval=TICK_MS),
        dcc.Store(id=f"{page}-pulse"),
        dcc.Store(id=f"{page}-first", data=first),
        dcc.Store(id=f"{page}-news"),
        dcc.Store(id=f"{page}-shown", data=first["after"] if first else shown),
    ]


def chart_config(without: list[str]) -> Any:
    """How a chart behaves: a double click, also a slow one, shows all there is, whatever was shown first.

    Args:
        without: buttons of its bar that it does not need, as plotly calls them.
    """
    bar = {"displaylogo": False, "modeBarButtonsToRemove": without}
    return {"responsive": True, "doubleClick": "autosize", "doubleClickDelay": 500, **bar}


def attributes(**names: str) -> dict[str, Any]:
    """HTML attributes with a hyphen, which Python's keywords cannot have."""
    return {name.replace("_", "-"): text for name, text in names.items()}


def bind(app: Dash, control: str, page: str, function: str, *, initially: bool = False) -> None:
    """Let a control and the address of a page say the same.

    Args:
        app: to register it with.
        control: id; its `value` is bound.
        page: the first part of the ids.
        function: of assets/address.js.
        initially: the control does not know the address when the page opens; others change that too.
    """
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
        ClientsideFunction("lldwatch_address", function),
        Output(control, "value"),
        Output(f"{page}-url", "search", allow_duplicate=initially),
        Input(control, "value"),
        Input(f"{page}-url", "search"),
        prevent_initial_call="initial_duplicate" if initially else True,
    )


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
