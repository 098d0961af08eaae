from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import Dash
from flask.testing import FlaskClient

from lldwatch import LldwatchError
from lldwatch_dashboard import app as app_module
from lldwatch_dashboard import callbacks, create_app, make_server, serve, shared
from lldwatch_dashboard.feed import Feed
from lldwatch_dashboard.pages.run import PLACES

WriteRun = Callable[..., Path]


@pytest.fixture
def app(root: Path) -> Dash:
    return create_app(root)


@pytest.fixture
def client(app: Dash) -> FlaskClient:
    return app.server.test_client()


def call(client: FlaskClient, outputs: Any, inputs: list[Any], state: list[Any] | None = None) -> Any:
    """One callback, as the browser asks for it."""
    body = {
        "output": _output_id(client, outputs),
        "outputs": outputs,
        "inputs": inputs,
        "state": state or [],
        "changedPropIds": [f"{inputs[0]['id']}.{inputs[0]['property']}"],
    }
    answer = client.post("/_dash-update-component", json=body)
    return answer, (json.loads(answer.data) if answer.data else None)


def _output_id(client: FlaskClient, outputs: Any) -> str:
    known = [each["output"] for each in json.loads(client.get("/_dash-dependencies").data)]
    first = (outputs if isinstance(outputs, list) else [outputs])[0]
    return next(output for output in known if f"{first['id']}.{first['property']}" in output)


def prop(id_: str, name: str, value: Any = None) -> dict[str, Any]:
    return {"id": id_, "property": name, "value": value}


def open_page(client: FlaskClient, pathname: str) -> str:
    visit = {"pathname": pathname, "search": "", "dark": False, "narrow": False}
    answer, _ = call(client, prop("page", "children"), [prop("visit", "data", visit)])
    assert answer.status_code == 200
    return answer.data.decode()


def look_at_run(
    client: FlaskClient, name: str, shown: Any = None, *, search: str = "", zoom: Any = None, pulse: Any = None
) -> Any:
    """The answer to a tick, and the news in it; None if there is none."""
    state = [prop("run-name", "data", name), prop("run-shown", "data", shown)]
    state.append(prop("run-zoom", "data", zoom))
    inputs = [prop("run-pulse", "data", {"tick": 1, "dark": False} | (pulse or {})), prop("run-url", "search", search)]
    answer, body = call(client, prop("run-news", "data"), inputs, state)
    return answer, body and body["response"].get("run-news", {}).get("data")


@pytest.mark.parametrize(
    "pathname",
    [
        "/run/..",
        "/run/../secret",
        "/run/..%2Fsecret",
        "/run/a/..%2f..%2fsecret",
        "/run/%2Fetc",
        "/run//etc",
        "/run/link",
        "/run/nothing",
        "/run/a%00b",
        "/run/" + "x" * 5000,
        "/other",
        "/a/run/a",
        "/run",
    ],
)
def test_addresses_that_lead_nowhere(pathname: str, client: FlaskClient, root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    write_run("../secret", range(1, 3))
    (root / "link").symlink_to(root.parent / "secret")
    assert "No such run" in open_page(client, pathname)


@pytest.mark.parametrize("name", ["a", "deep/er", "with space", "hash#tag", "100%", "frage?", "ümlaut", "run/run"])
def test_a_run_has_an_address_whatever_its_name(name: str, client: FlaskClient, write_run: WriteRun) -> None:
    write_run(name, range(1, 3))
    assert shared.address(shared.href(name)) == ("run", name)
    assert "run-figure" in open_page(client, shared.href(name))


def test_the_root_itself_has_an_address(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    client = create_app(root / "a").server.test_client()
    assert "run-figure" in open_page(client, shared.href("."))


def test_an_unchanged_run_is_not_sent_again(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    _, first = look_at_run(client, "a")
    assert set(first["content"]) == set(PLACES)
    answer, _ = look_at_run(client, "a", first["after"])
    assert (answer.status_code, answer.data) == (204, b"")
    write_run("a", range(3, 5), resume=True)
    _, second = look_at_run(client, "a", first["after"])
    assert second["before"] == first["after"]
    assert set(second["change"]) < set(PLACES)


def test_a_page_that_shows_what_nobody_knows_any_more_gets_everything(
    client: FlaskClient, root: Path, write_run: WriteRun
) -> None:
    write_run("a", range(1, 3))
    _, first = look_at_run(client, "a")
    write_run("a", range(3, 5), resume=True)
    _, news = look_at_run(create_app(root).server.test_client(), "a", first["after"])
    assert set(news["content"]) == set(PLACES)
    assert news["keep_view"] is True
    assert news["after"] != first["after"]


def test_an_update_leaves_the_ranges_of_the_axes_to_the_user(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 30), cross_update_change=-0.02, cross_update_error=0.001, log_prob_correct=-0.2)
    _, news = look_at_run(client, "a")
    layout = news["content"]["run-figure.figure"]["layout"]
    assert {"xaxis", "yaxis", "shapes"} <= set(layout)
    assert not any({"range", "autorange"} & set(layout[name]) for name in layout if "axis" in name)
    assert "moves" not in news


def ranges(news: Any) -> list[Any]:
    return news["moves"]["run-figure.figure"]["layout"]["xaxis"].get("range", []) if "moves" in news else []


def test_a_link_moves_the_axis_and_the_users_own_zoom_does_not(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 30))
    _, linked = look_at_run(client, "a", search="?steps=10~20")
    assert ranges(linked) == [[10, 20]]
    zoom = {"xaxis.range[0]": 10, "xaxis.range[1]": 20}
    _, whole = look_at_run(client, "a")
    _, zoomed = look_at_run(client, "a", whole["after"], search="?steps=10~20", zoom=zoom)
    assert "moves" not in zoomed
    write_run("a", range(30, 32), resume=True)
    _, live = look_at_run(client, "a", zoomed["after"], search="?steps=10~20", zoom=zoom)
    assert "moves" not in live
    _, back = look_at_run(client, "a", live["after"], search="", zoom=zoom)
    assert back["moves"]["run-figure.figure"]["layout"]["xaxis"]["autorange"] == [True]


def test_a_run_deleted_under_the_eyes_is_said(client: FlaskClient, root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    look_at_run(client, "a")
    shutil.rmtree(root / "a")
    answer, _ = look_at_run(client, "a")
    assert answer.status_code == 204
    names = ("stage-badge.children", "stage-badge.className", "stage-badge.title", "verdict.children", "facts.children")
    outputs = [prop(*name.split(".")) for name in names]
    keys = ("badge", "kind", "meaning", "verdict", "facts")
    _, header = call(client, _grouped(keys, outputs), [prop("run-pulse", "data", {})], [prop("run-name", "data", "a")])
    assert "gone now" in header["response"]["verdict"]["children"]


def _grouped(keys: tuple[str, ...], outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return outputs


def test_an_error_of_ours_is_one_line_in_the_browser(
    client: FlaskClient, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_run("a", range(1, 3))
    monkeypatch.setattr(Feed, "snapshot", lambda self, name: 1 / 0)
    answer, _ = look_at_run(client, "a")
    assert answer.status_code == 200
    assert "ZeroDivisionError" in json.loads(answer.data)["sideUpdate"]["notice"]["children"]
    assert "Traceback" not in answer.data.decode()
    assert "division by zero" in caplog.text


def test_everything_is_served_from_here(client: FlaskClient) -> None:
    page = client.get("/").data.decode()
    assert "https://" not in page
    assert "http://" not in page
    assert "/assets/style.css" in page
    assert client.get("/run/anything").status_code == 200, "a reload of a run's page works"


@pytest.fixture
def server(root: Path) -> Iterator[Any]:
    server = make_server(root, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_it_serves_from_a_thread_and_says_nothing(server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_an_error_of_one_line(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LldwatchError, match=rf"port {port} of 127\.0\.0\.1 .*choose another") as caught:
            serve(root, port=port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_is_none(root: Path, port: int) -> None:
    with pytest.raises(LldwatchError, match="choose another"):
        make_server(root, port=port)


def test_serve_says_where_and_ends_with_ctrl_c(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", interrupted)
    app_module.serve(root, port=0)
    assert "at http://127.0.0.1:" in capsys.readouterr().out


def stores(client: FlaskClient, pathname: str) -> dict[str, Any]:
    """What the stores of a page hold when it opens."""
    found: dict[str, Any] = {}

    def look(part: Any) -> None:
        if isinstance(part, dict):
            if part.get("type") == "Store":
                found[part["props"]["id"]] = part["props"].get("data")
            part = list(part.values())
        for each in part if isinstance(part, list) else []:
            look(each)

    look(json.loads(open_page(client, pathname)))
    return found


def test_a_page_comes_with_what_it_shows(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3), entropy=1.0)
    kept = stores(client, "/run/a")
    assert set(kept["run-first"]["content"]) == set(PLACES)
    assert kept["run-shown"] == kept["run-first"]["after"]
    assert kept["run-news"] is None
    answer, _ = look_at_run(client, "a", kept["run-shown"])
    assert answer.status_code == 204, "it is not brought again"
    write_run("a", range(3, 5), resume=True, entropy=1.0)
    _, news = look_at_run(client, "a", kept["run-shown"])
    assert "change" in news


def test_the_page_of_a_run_that_takes_long_to_read_opens_without_it(
    client: FlaskClient, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", range(1, 3))
    go_on, snapshot = threading.Event(), Feed.snapshot
    monkeypatch.setattr(callbacks, "PATIENCE_S", 0.05)
    monkeypatch.setattr(Feed, "snapshot", lambda self, name: go_on.wait(30) and snapshot(self, name))
    kept = stores(client, "/run/a")
    assert kept["run-first"] is kept["run-shown"] is None
    go_on.set()
    assert stores(client, "/run/a")["run-first"] is not None
    _, news = look_at_run(client, "a")
    assert set(news["content"]) == set(PLACES)


def test_whoever_asks_for_the_page_of_a_run_has_it_read(
    app: Dash, root: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a b", range(1, 3))
    read: list[str] = []
    monkeypatch.setattr(Feed, "read_ahead", lambda self, name, then: read.append(name))
    client = app.server.test_client()
    for path in ("/run/a%20b", "/run/a%20b?steps=1~2", "/", "/assets/run.js", "/responses/a", "/compare", "/run"):
        client.get(path).close()
    client.get("/run/secret", headers={"Host": "evil.example"})
    client.post("/run/a")
    assert read[:2] == ["a b", "a b"]
    assert set(read[2:]) <= {"."}


def test_a_run_that_is_not_there_is_not_read_ahead(root: Path, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    read: list[int] = []
    feed = Feed(root)
    for name in ("a", "nothing", "..", "a\0b"):
        feed.read_ahead(name, lambda snapshot: read.append(len(snapshot.observations))).join(30)
    assert read == [2]


def test_no_page_waits_for_what_it_does_not_need(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "REGENERATOR", tmp_path / "regenerator.js")
    page = create_app(root).server.test_client().get("/").data.decode()
    assert "dash_renderer" in page
    assert "polyfill" in page, "dash's scripts call it"
    assert "/dash_ag_grid/" not in page
    assert "/dash_table/" not in page
    app_module.REGENERATOR.touch()
    client = create_app(root).server.test_client()
    page = client.get("/run/a").data.decode()
    assert "dash_renderer" in page
    assert "polyfill" not in page
    with client.get("/assets/visit.js") as answer:
        visit = answer.data.decode()
    for script in ("dash_ag_grid/dash_ag_grid.min.js", "plotly/package_data/plotly.min.js", "dash/dcc/async-graph.js"):
        assert script in visit, "fetched by its name where it is needed"
        with client.get(f"/_dash-component-suites/{script}") as answer:
            assert answer.status_code == 200


def test_the_glossary_comes_when_it_is_opened(client: FlaskClient, write_run: WriteRun) -> None:
    write_run("a", range(1, 3))
    assert "Lazy likelihood" not in open_page(client, "/run/a")
    _, terms = call(client, prop("run-terms", "children"), [prop("run-glossary", "n_clicks", 1)])
    assert "what the policy forgets while it learns" in json.dumps(terms)
