"""What a hostile page may post to the dashboard's callbacks, through a real Flask client."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from damaged_runs import damage, write_sample
from mutations import NASTY, changed, some_changes
from test_safety import NAMES, SECRET, UPDATE, VALUES, _asked, _callbacks

from lldwatch import Monitor
from lldwatch_dashboard import create_app

FAILED = "500 The dashboard failed; its log says more.\n"
Post = Callable[[random.Random], None]


@contextlib.contextmanager
def posting(folder: Path) -> Iterator[Post]:
    """A dashboard on some runs, a damaged one among them; beside its root a run that it must never show."""
    root = folder / "root"
    for name in ("a", "b", "../neighbour"):
        with Monitor(root / name, trainer=SECRET if "neighbour" in name else "test") as monitor:
            for step in range(1, 40):
                monitor.step(reward=1 / step, entropy=0.5)
    (root / "link").symlink_to(folder / "neighbour")
    write_sample(root / "rows")
    write_sample(root / "damaged")
    damage(root / "damaged", random.Random(3))
    client = create_app(root).server.test_client()
    callbacks, opened, listening = _callbacks(client), list[str](), [True]
    outside = str(folder / "neighbour")

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(outside):
            opened.append(str(arguments[0]))

    sys.addaudithook(hear)

    def post(choose: random.Random) -> None:
        body = json.dumps(_body(choose.choice(callbacks), choose)).encode()
        if choose.random() < 0.3:
            body = changed(body, some_changes(choose), [b'{"points": [{"curveNumber": 0, "customdata": ["rows", 3]}]}'])
        answer = client.post(UPDATE, data=body, content_type="application/json")
        text = answer.data.decode()
        assert answer.status_code < 500 or text == FAILED, f"{answer.status_code} for {body[:300]!r}: {text[:300]}"
        for word in ("Traceback", 'File "', SECRET):
            assert word not in text, f"{word} for {body[:300]!r}: {text[:300]}"
        assert not opened, f"{opened[0]} opened for {body[:300]!r}"

    try:
        yield post
    finally:
        listening.clear()  # a hook cannot be taken out again


def _body(callback: dict[str, Any], choose: random.Random) -> dict[str, Any]:
    body = _asked(callback, None)
    for each in (*body["inputs"], *body["state"]):
        each["value"] = _fitting(f"{each['id']}.{each['property']}", choose)
    trigger = choose.choice(body["inputs"])
    body["changedPropIds"] = [f"{trigger['id']}.{trigger['property']}"]
    if choose.random() < 0.2:
        key = choose.choice(list(body))
        body[key] = choose.choice((None, [], {}, "x", body["inputs"], _thing(choose, 3)))
    return body


def _fitting(what: str, choose: random.Random) -> Any:
    """Something like what stands there in a browser, or anything at all."""
    name = choose.choice(("a", "b", "rows", "damaged", *NAMES[:12]))
    kinds: dict[str, Any] = {
        "pathname": choose.choice(("/", f"/run/{name}", f"/responses/{name}", "/compare", "/x")),
        "search": f"?runs={name}&run={name}&kind={name}&step=1e9&low=-1&high=nan&response={name}",
        "href": f"http://localhost/run/{name}?x=%ff",
        "relayoutData": {"xaxis.range[0]": _thing(choose, 0), "xaxis.range[1]": _thing(choose, 0), "autosize": True},
        "clickData": {"points": [{"x": _thing(choose, 0), "customdata": _thing(choose, 2), "curveNumber": 0}]},
        "n_clicks": _thing(choose, 0),
        "value": _thing(choose, 1),
        "data": choose.choice(
            (name, {"tick": 1, "dark": True}, {"tick": _thing(choose, 1)}, [name], _thing(choose, 3))
        ),
    }
    fits = kinds.get(what.rpartition(".")[2])
    return _thing(choose, 3) if fits is None or choose.random() < 0.3 else fits


def _thing(choose: random.Random, depth: int) -> Any:
    """A JSON value."""
    if depth and choose.random() < 0.5:
        keys = ("points", "x", "y", "tick", "dark", "name", "step", "range", "", "__proto__")
        if choose.random() < 0.5:
            return {choose.choice(keys): _thing(choose, depth - 1) for _ in range(choose.randrange(4))}
        return [_thing(choose, depth - 1) for _ in range(choose.randrange(4))]
    word = choose.choice(NASTY)[:200].decode("utf-8", "surrogateescape")
    return choose.choice((*VALUES[:6], 3, 2.5, -(2**63), 2**70, "a", "rows", "1", word, float("inf"), float("nan")))
