"""What is new on a page since it was last drawn, and no more than that.

The server keeps what it has drawn lately. A page says what it shows; the difference is laid into it by assets/news.js,
so that a zoom and a highlighted line stay, and a new step costs some bytes for each line. A page that shows what is not
kept any more is sent everything.

A change is a tree of the keys that lead to it. What stands at its leaves is a list: `[]` the key is gone, `[value]` it
has this value, `[first, tail]` the list or array is as it was up to `first`, and goes on with `tail`. Arrays of numbers
are sent once each, and named by their place.

Rejected: dash's `Patch` (it sends whole lines, and complains in the browser when the page has been left meanwhile);
`extendData` (lines that are thinned change before their end, and panels come and go).
"""

from __future__ import annotations

import base64
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from dash import ClientsideFunction, Dash, Input, Output, State
from dash.development.base_component import Component

Content = dict[str, Any]
"""`element.property` -> its value: components, or JSON's types; in figures also arrays of numbers."""
Marks = list[Any]
"""Tells one content of a page from another, in JSON's types."""

FEW = 16
"""So many numbers are written out; of more the bytes are sent."""


class Drawn:
    """What was drawn lately, of any page. Safe to use from many threads: what many look at is drawn once.

    Args:
        most: contents that are kept; the one not used for longest is let go.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Content] = OrderedDict()

    def news(self, shown: Marks | None, after: Marks, draw: Callable[[], Content], *, anew: bool = False) -> Content:
        """What makes one content of a page of another.

        Args:
            shown: marks of what the page shows; None: nothing yet.
            after: marks of what it is to show.
            draw: makes that.
            anew: everything is sent, and the ranges of the axes are as drawn. They stay the reader's otherwise.
        """
        with self._lock:
            old = None if shown is None or anew else self._find(json.dumps(shown))
            now = self._find(json.dumps(after))
            if now is None:
                now = self._kept[json.dumps(after)] = {
                    place: value if place.endswith(".figure") else plain(value) for place, value in draw().items()
                }
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        told: Content = {"before": shown, "after": after}
        if old is None:
            return told | {"keep_view": not anew} | packed("content", now)
        return told | packed("change", difference(old, now) or {})

    def _find(self, key: str) -> Content | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)


def show(app: Dash, page: str, places: list[str]) -> None:
    """Let the page's stores `PAGE-first` and `PAGE-news` fill its places, and `PAGE-shown` say what they show.

    Args:
        app: to register it with.
        page: the first part of the names.
        places: keys of its content.
    """
    names = [tuple(place.split(".")) for place in [*places, f"{page}-shown.data", f"{page}-first.data"]]
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash's is untyped
        ClientsideFunction("lldwatch_news", "show"),
        *[Output(element, what) for element, what in names],
        Input(f"{page}-news", "data"),
        *[State(element, what) for element, what in names],
    )


def plain(value: Any) -> Any:
    """Dash's components and tuples in JSON's types; arrays stay."""
    if isinstance(value, str | int | float | None | np.ndarray):
        return value
    if isinstance(value, Component):
        return _plain_component(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value]


def _plain_component(component: Component) -> Any:
    """Translated once, however often it is shown; its own to_plotly_json asks for each of a hundred properties."""
    known = vars(component).get("_plain")
    if known is None:
        names = component._prop_names
        kept = {name: plain(each) for name, each in vars(component).items() if name in names or "-" in name}
        known = {"props": kept, "type": component._type, "namespace": component._namespace}
        vars(component)["_plain"] = known
    return known


def difference(before: Any, after: Any) -> Any:
    """The change that makes one of the other; None if they are equal."""
    kind = type(after)
    if before is after:
        return None
    if kind is not type(before):
        return [after]
    if kind is np.ndarray:
        return _of_arrays(before, after) if before.dtype == after.dtype else [after]
    if _equal(before, after):
        return None
    if kind is dict:
        return _of_dicts(before, after)
    return _of_lists(before, after) if kind is list else [after]


def _equal(before: Any, after: Any) -> bool:
    """Most of a page is, and Python finds that out much sooner than a look at each part."""
    try:
        return bool(before == after)
    except (ValueError, DeprecationWarning):  # arrays are not compared so; numpy 1 warns of empty ones
        return False


def _of_dicts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = {key: [] for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            found[key] = [value]
        elif before[key] is not value and (change := difference(before[key], value)) is not None:
            found[key] = change
    return found or None


def _of_lists(before: list[Any], after: list[Any]) -> Any:
    nested = any(isinstance(each, dict | list | np.ndarray) for each in after)
    if nested and len(before) == len(after):
        changes = [difference(old, new) for old, new in zip(before, after, strict=True)]
        return {str(place): change for place, change in enumerate(changes) if change is not None} or None
    pairs = zip(before, after, strict=False)
    differ = (place for place, (old, new) in enumerate(pairs) if difference(old, new) is not None)
    grown = not nested and _equal(after[: len(before)], before)
    same = len(before) if grown else next(differ, min(len(before), len(after)))
    return None if same == len(before) == len(after) else [same, after[same:]]


def _of_arrays(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Any:
    shared = min(len(before), len(after))
    old, new = before[:shared], after[:shared]
    same = shared if old.tobytes() == new.tobytes() else _same(old, new)
    if same == len(before) == len(after):
        return None
    tail = after[same:]
    return [same, _written(tail) if len(tail) <= FEW else tail]


def _same(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> int:
    """So many numbers are the same from the first on."""
    differ = ~((old == new) | ((old != old) & (new != new)))  # NaN is like NaN
    return int(differ.argmax()) if differ.any() else len(old)


def packed(name: str, value: Any) -> Content:
    """A value under a name, as it is sent: the arrays in it stand beside it, each once."""
    arrays: dict[bytes, int] = {}
    found: list[dict[str, str]] = []

    def pack(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pack(each) for key, each in value.items()}
        if isinstance(value, list):
            return [pack(each) for each in value]
        if not isinstance(value, np.ndarray):
            return value
        content = value.tobytes()
        key = value.dtype.str.encode() + content
        if key not in arrays:
            arrays[key] = len(found)
            found.append({"dtype": value.dtype.str[1:], "bdata": base64.b64encode(content).decode()})
        return {"$array": arrays[key]}

    return {name: pack(value), "arrays": found}


def _written(few: npt.NDArray[Any]) -> list[Any]:
    """Numbers in as many digits as they have; None is NaN."""
    digits = 9 if few.dtype == np.float32 else 17
    told = [float(f"{number:.{digits}g}") if number == number else None for number in few.tolist()]
    return few.tolist() if few.dtype.kind == "i" else told
