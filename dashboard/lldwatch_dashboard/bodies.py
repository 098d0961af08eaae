"""Whether what a browser posts is something that a page of ours would post.

Dash takes the shape of a body for granted, and fails somewhere inside when it is another: such a failure looks like one
of ours in the log. What the values are is left to the callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Request


def is_callback(asked: Request, known: Mapping[str, Any]) -> bool:
    """Whether the body asks for a callback that is there, with the properties that it takes.

    Args:
        asked: the request.
        known: the app's callbacks by what they put out.
    """
    try:
        body = asked.get_json(silent=True)
    except RecursionError:  # a few thousand brackets do it
        return False
    if not isinstance(body, dict) or not isinstance(body.get("output"), str) or body["output"] not in known:
        return False
    callback, changed = known[body["output"]], body.get("changedPropIds", [])
    return (
        "callback" in callback  # the others run in the browser alone
        and all(_are(body.get(part, []), callback[part]) for part in ("inputs", "state"))
        and _are_outputs(body.get("outputs"), body["output"])
        and isinstance(changed, list)
        and all(isinstance(each, str) for each in changed)
    )


def _are(given: Any, declared: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the properties that the callback takes, one by one."""
    return (
        isinstance(given, list)
        and len(given) == len(declared)
        and all(
            _are_of_many(each) if _is_pattern(wanted["id"]) else _is_property(each, wanted["id"], wanted["property"])
            for each, wanted in zip(given, declared, strict=True)
        )
    )


def _are_outputs(given: Any, declared: str) -> bool:
    """Whether these are the properties in `a.b`, or in `..a.b...c.d..`; one that others write too ends with `@HASH`."""
    several = declared.startswith("..")
    if not isinstance(given, list if several else dict):
        return _is_pattern(declared) and isinstance(given, list)
    if _is_pattern(declared):
        return True
    names = declared[2:-2].split("...") if several else [declared]
    places = [name.rsplit(".", 1) for name in names]
    return len(places) == len(given if several else [given]) and all(
        _is_property(each, id_, property_.split("@")[0])
        for each, (id_, property_) in zip(given if several else [given], places, strict=True)
    )


def _is_property(thing: Any, id_: str, property_: str) -> bool:
    if not isinstance(thing, dict) or thing.get("id") != id_ or not isinstance(thing.get("property"), str):
        return False
    return bool(thing["property"].split("@")[0] == property_)


def _are_of_many(things: Any) -> bool:
    """Whether these are properties of elements, of however many."""
    return isinstance(things, list) and all(isinstance(each, dict) and {"id", "property"} <= {*each} for each in things)


def _is_pattern(name: str) -> bool:
    """Of many elements; dash itself compares them."""
    return "{" in name
