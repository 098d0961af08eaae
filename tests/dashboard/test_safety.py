from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dash import Dash
from flask.testing import FlaskClient
from test_app import WriteRun, look_at_run, open_page, prop

from lldwatch import InputError
from lldwatch.cli import main
from lldwatch_dashboard import app as app_module
from lldwatch_dashboard import create_app, make_server, safety
from lldwatch_dashboard.safety import Guard, is_loopback, link

TOKEN = "a token of the tests, long enough"
UPDATE = "/_dash-update-component"
SECRET = "a secret of the neighbour"


@pytest.fixture
def app(root: Path) -> Dash:
    return create_app(root)


@pytest.fixture
def client(app: Dash) -> FlaskClient:
    return app.server.test_client()


@pytest.fixture
def locked(root: Path) -> FlaskClient:
    return create_app(root, Guard("0.0.0.0", TOKEN, ("proxy.example",))).server.test_client()


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.2", False),
        ("localhost.example", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "machine.example"])
def test_no_server_for_other_machines_without_a_token(host: str, root: Path) -> None:
    with pytest.raises(InputError, match="give a token"):
        make_server(root, port=0, host=host)


@pytest.mark.parametrize("token", ["", "short"])
def test_a_token_that_protects_nothing(token: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="too short"):
        make_server(root, port=0, host="0.0.0.0", token=token)
    monkeypatch.setenv(safety.TOKEN_VARIABLE, token)
    with pytest.raises(InputError, match="LLDWATCH_TOKEN"):
        app_module.serve(root, port=0)


@pytest.fixture
def said(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What is printed at the start of a server at a host."""

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    def start(host: str) -> str:
        app_module.serve(root, port=0, host=host)
        return capsys.readouterr().out

    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", interrupted)
    return start


def test_a_generated_token_is_printed_as_a_link(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(safety.TOKEN_VARIABLE, raising=False)
    first, second = said("0.0.0.0"), said("0.0.0.0")
    found = re.search(rf"at http://{re.escape(socket.gethostname())}:\d+/\?token=([\w-]{{40,}})\n", first)
    assert found is not None
    assert found[1] not in second
    assert "?token" not in said("127.0.0.1")


def test_the_environments_token_is_not_printed(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(safety.TOKEN_VARIABLE, TOKEN)
    for host in ("0.0.0.0", "127.0.0.1"):
        text = said(host)
        assert "LLDWATCH_TOKEN" in text
        assert TOKEN not in text
        assert quote(TOKEN) not in text


def test_a_link_to_an_ipv6_address() -> None:
    assert link("::1", 80, "a&b") == "http://[::1]:80/?token=a%26b"


ADDRESSES = [
    "/",
    "/run/a",
    "/_dash-layout",
    "/_dash-dependencies",
    "/assets/style.css",
    "/nothing",
    "/?token=",
    "/?x=1",
]


@pytest.mark.parametrize(
    "address", [*ADDRESSES, f"/?token={quote(TOKEN[:-1])}", "/?token=%C3%BC%00", "/?token=a&token=b"]
)
def test_without_the_token_nothing_is_told(address: str, locked: FlaskClient) -> None:
    for answer in (locked.get(address), locked.post(UPDATE, json={}), locked.put("/"), locked.options("/")):
        assert answer.status_code == 403
        assert answer.data == safety.REFUSED.encode()
        assert "Set-Cookie" not in answer.headers


def test_the_token_becomes_a_cookie_and_leaves_the_address(locked: FlaskClient) -> None:
    answer = locked.get("/run/a%20b", query_string={"token": TOKEN, "kind": "x y"})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/run/a%20b?kind=x+y"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert quote(TOKEN) not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    assert locked.get("/").status_code == 200
    assert locked.get("/_dash-layout").status_code == 200
    assert locked.get("/?token=wrong").status_code == 403


def test_a_cookie_opens_only_the_dashboard_that_gave_it(root: Path, locked: FlaskClient) -> None:
    cookie = locked.get("/", query_string={"token": TOKEN}).headers["Set-Cookie"].split(";")[0]
    other = create_app(root, Guard("0.0.0.0", TOKEN + " of another")).server.test_client()
    assert other.get("/", headers={"Cookie": cookie}).status_code == 403
    assert other.get("/", headers={"Cookie": cookie.split("=")[0] + "=\xfc"}).status_code == 403


def test_the_way_in_leads_to_no_other_machine(locked: FlaskClient) -> None:
    for path in ("//evil.example/", "///evil.example", "/\\evil.example"):
        answer = locked.get(path, query_string={"token": TOKEN}, base_url="http://localhost/")
        assert not re.match(r"//|/\\|\w+:", answer.headers.get("Location", "/"))


def test_a_link_in_another_site_works_too(locked: FlaskClient) -> None:
    answer = locked.get("/?token=" + quote(TOKEN), headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["Refresh"]) == (200, "0; url=/")
    assert locked.get("/").status_code == 200


@pytest.mark.parametrize(
    ("bound", "allowed", "asked", "passes"),
    [
        ("127.0.0.1", (), "localhost:8050", True),
        ("127.0.0.1", (), "127.0.0.1:8050", True),
        ("127.0.0.1", (), "[::1]:8050", True),
        ("127.0.0.1", (), "LOCALHOST", True),
        ("127.0.0.1", (), "localhost.", True),
        ("127.0.0.1", (), "evil.example", False),
        ("127.0.0.1", (), "evil.example:8050", False),
        ("127.0.0.1", (), "localhost.evil.example", False),
        ("127.0.0.1", (), "localhost@evil.example", False),
        ("127.0.0.1", (), "192.168.1.2", False),
        ("127.0.0.1", (), "", False),
        ("127.0.0.1", (), "[::1", False),
        ("127.0.0.1", (), "proxy.example", False),
        ("127.0.0.1", ("Proxy.example",), "proxy.example", True),
        ("192.168.1.2", (), "192.168.1.2:8050", True),
        ("0.0.0.0", (), "192.168.1.2", True),
        ("0.0.0.0", (), "evil.example", False),
        ("0.0.0.0", (), socket.gethostname(), True),
        ("127.0.0.1", (), socket.gethostname(), socket.gethostname() == "localhost"),
    ],
)
def test_names_that_were_pointed_here(
    bound: str, allowed: tuple[str, ...], asked: str, passes: bool, root: Path
) -> None:
    client = create_app(root, Guard(bound, None, allowed)).server.test_client()
    answer = client.get("/_dash-layout", headers={"Host": asked})
    assert answer.status_code == (200 if passes else 403)
    assert passes or answer.data == safety.FOREIGN.encode()


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8050"}, True),
        ({"Origin": "http://localhost:9999"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Origin": "https://proxy.example"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ],
)
def test_pages_of_other_sites_cannot_post(headers: dict[str, str], passes: bool, root: Path) -> None:
    client = create_app(root, Guard(allowed=("proxy.example",))).server.test_client()
    answer = client.post(UPDATE, json=OPEN_LIST, headers={"Host": "localhost:8050", **headers})
    assert answer.status_code == (200 if passes else 403)


def test_every_answer_says_what_a_browser_may_do(client: FlaskClient, locked: FlaskClient) -> None:
    answers = [
        client.get("/"),
        client.get("/assets/style.css"),
        client.get("/assets/none"),
        client.post(UPDATE),
        locked.get("/"),
    ]
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert "unsafe" not in policy["script-src"]
        assert "http" not in str(policy)
        assert policy["frame-ancestors"] == "'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        answer.close()


def test_the_pages_own_scripts_are_allowed_by_their_hashes(client: FlaskClient) -> None:
    answer = client.get("/")
    page = re.sub(r"<!--.*?-->", "", answer.data.decode(), flags=re.DOTALL)
    scripts = re.findall(r"<script(?![^>]*(?:src=|json))[^>]*>(.*?)</script>", page, re.DOTALL)
    assert scripts
    assert answer.headers["Content-Security-Policy"].count("'sha256-") >= len(scripts)


def test_long_bodies_are_not_read(client: FlaskClient) -> None:
    answer = client.post(UPDATE, data=b"x" * (safety.LARGEST_BODY + 1), content_type="application/json")
    assert answer.status_code in (400, 413)
    assert len(answer.data) < 200


def test_an_error_of_the_server_is_one_line(
    app: Dash, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(app.server.view_functions, "/_dash-layout", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/_dash-layout")
    assert (answer.status_code, answer.data) == (500, b"500 The dashboard failed; its log says more.\n")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "address", ["/assets/nothing.js", "/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/..%2fapp.py"]
)
def test_what_is_not_there_is_one_line(address: str, client: FlaskClient) -> None:
    answer = client.get(address)
    assert "create_app" not in answer.data.decode()
    assert answer.status_code == 404 or b"_dash-config" in answer.data


def test_a_bundle_of_another_plotly_is_left_aside(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "plotly-cartesian.min.js"
    monkeypatch.setattr(app_module, "BUNDLE", bundle)
    monkeypatch.setattr(app_module, "get_plotlyjs_version", lambda: "9.8.7")
    address, ours = (
        "/_dash-component-suites/plotly/package_data/plotly.min.js",
        b"/**\n* plotly.js (cartesian) v9.8.7\n*/",
    )

    def served() -> bytes:
        app = create_app(root)
        assert bundle.name.encode() not in app.server.test_client().get("/").data, "no page loads it unasked"
        with app.server.test_client().get(address) as answer:
            return answer.data

    assert ours not in served()
    bundle.write_bytes(ours)
    assert served() == ours
    bundle.write_bytes(ours.replace(b"9.8.7", b"9.8.70"))
    assert ours not in served()


def test_the_command_passes_on_who_may_ask(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("lldwatch_dashboard.serve", lambda root, **rest: asked.update(rest))
    assert main(["dashboard", str(root)]) == 0
    assert asked == {"port": 8050, "host": "127.0.0.1", "allow_hosts": []}
    names = ["--allow-host", "a.example", "--allow-host", "b.example"]
    assert main(["dashboard", str(root), "--host", "0.0.0.0", *names]) == 0
    assert asked == {"port": 8050, "host": "0.0.0.0", "allow_hosts": ["a.example", "b.example"]}


# --- names and bodies that want out -----------------------------------------------------------------------------------

OPEN_LIST: dict[str, Any] = {
    "output": "page.children",
    "outputs": prop("page", "children"),
    "inputs": [prop("visit", "data", {"pathname": "/"})],
    "changedPropIds": ["visit.data"],
}
NAMES = [
    "..",
    "../neighbour",
    "..%2fneighbour",
    "%2e%2e/neighbour",
    "%2e%2e%2fneighbour",
    "%252e%252e%252fneighbour",
    "a/../../neighbour",
    "./../neighbour",
    "..\\neighbour",
    "link",
    "link/inner",
    "a\x00",
    "../neighbour\x00",
    "\ud800",
    "a" * 100_000,
    "/" * 5000,
    "~",
    "file:///etc/passwd",
    "s3://bucket/neighbour",
]


@pytest.fixture
def neighbour(root: Path, write_run: WriteRun, change_info: Any) -> Path:
    """A run beside the root, links to it inside the root, and one run that may be shown."""
    write_run("a", range(1, 4))
    path = write_run("../neighbour", range(1, 4))
    change_info(path, trainer=SECRET)
    (root / "link").symlink_to(path)
    write_run("../outer/inner", range(1, 4))
    change_info(root.parent / "outer" / "inner", trainer=SECRET)
    (root / "deep").symlink_to(root.parent / "outer")
    return path


@pytest.fixture
def opened(neighbour: Path) -> Iterator[list[str]]:
    """Files outside the root that were opened through Python."""
    outside, found, listening = (str(neighbour), str(neighbour.parent / "outer")), [], [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(outside):
            found.append(str(arguments[0]))

    sys.addaudithook(hear)
    yield found
    listening.clear()  # a hook cannot be taken out again


@pytest.mark.parametrize("page", ["run", "responses", "compare"])
@pytest.mark.parametrize("name", [*NAMES, "/etc/passwd", "deep/inner"])
def test_an_address_never_leads_out(page: str, name: str, client: FlaskClient, opened: list[str]) -> None:
    for path in (f"/{page}/{name}", f"/{page}/{quote(name, errors='surrogatepass')}"):
        text = open_page(client, path)
        assert SECRET not in text
        assert "run-figure" not in text
        assert "responses-figure" not in text
    assert not opened


def test_links_that_lead_out_are_not_listed(client: FlaskClient, opened: list[str]) -> None:
    assert SECRET not in client.post(UPDATE, json=OPEN_LIST).data.decode()
    assert not opened


def _callbacks(client: FlaskClient) -> list[dict[str, Any]]:
    every = json.loads(client.get("/_dash-dependencies").data)
    return [each for each in every if each["clientside_function"] is None]


def _asked(callback: dict[str, Any], value: Any) -> dict[str, Any]:
    """A body that asks for a callback, with the same value in every place."""
    ids = callback["output"].strip(".").split("...")
    outputs = [prop(*each.split("@")[0].rsplit(".", 1)) for each in ids]
    return {
        "output": callback["output"],
        "outputs": outputs if callback["output"].startswith("..") else outputs[0],
        "inputs": [prop(each["id"], each["property"], value) for each in callback["inputs"]],
        "state": [prop(each["id"], each["property"], value) for each in callback["state"]],
        "changedPropIds": [f"{callback['inputs'][0]['id']}.{callback['inputs'][0]['property']}"],
    }


VALUES = [
    None,
    0,
    -1,
    1e308,
    True,
    "",
    "x" * 200_000,
    "\ud800\x00",
    [],
    [None],
    [[[[]]]],
    {},
    {"points": [{"x": "a", "y": None}]},
    {"tick": [], "dark": {}},
    "?runs=" + "&runs=".join(quote(name[:200], errors="replace") for name in NAMES),
    "?run=../neighbour&runs=../neighbour,link&kind=../neighbour&response=../neighbour",
    *(name for name in NAMES if len(name) < 100),
]


def _harmless(answer: Any) -> None:
    text = answer.data.decode()
    assert "Traceback" not in text
    assert 'File "' not in text
    assert SECRET not in text
    assert answer.status_code in (200, 204, 400), text[:300]
    if answer.status_code >= 400:
        assert text.count("\n") <= 1


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40].encode("ascii", "replace").decode())
def test_no_callback_tells_more_than_it_should(
    value: Any, client: FlaskClient, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="lldwatch.dashboard")
    for callback in _callbacks(client):
        body = json.dumps(_asked(callback, value))
        _harmless(client.post(UPDATE, data=body, content_type="application/json"))
    assert not opened


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b"{",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        *(
            json.dumps({key: value for key, value in OPEN_LIST.items() if key != lacking}).encode()
            for lacking in OPEN_LIST
            if lacking != "changedPropIds"  # without it nothing is missing
        ),
        *(
            json.dumps({**OPEN_LIST, key: odd}).encode()
            for key in OPEN_LIST
            for odd in (1, "x", [1], {"a": 1}, [[]], None)
        ),
        json.dumps({**OPEN_LIST, "output": "unknown.children"}).encode(),
        json.dumps({**OPEN_LIST, "output": "run-pulse.data"}).encode(),
        json.dumps({**OPEN_LIST, "inputs": [{"id": "visit"}]}).encode(),
        json.dumps({**OPEN_LIST, "inputs": [prop("visit", "data", {"pathname": "/"})] * 50}).encode(),
        json.dumps({**OPEN_LIST, "outputs": [prop("page", "children")] * 50}).encode(),
    ],
    ids=lambda body: body[:60].decode("ascii", "replace"),
)
def test_a_malformed_body_is_refused_in_one_line(
    body: bytes, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="lldwatch.dashboard")
    for kind in ("application/json", "text/plain"):
        answer = client.post(UPDATE, data=body, content_type=kind)
        _harmless(answer)
        assert answer.status_code == 400, kind


def test_what_a_stranger_names_is_not_followed(client: FlaskClient, opened: list[str]) -> None:
    for name in ("../neighbour", "link", "deep/inner", "/etc"):
        answer, _ = look_at_run(client, name)
        _harmless(answer)
    assert not opened


@pytest.mark.parametrize("value", [{}, [{}], [{"id": "a"}], ["x"], None, 7, [[]]])
def test_elements_of_which_there_are_many_are_looked_at_too(value: Any, client: FlaskClient) -> None:
    callback = next(each for each in _callbacks(client) if any("{" in given["id"] for given in each["inputs"]))
    asked = _asked(callback, None)
    asked["inputs"] = [value for _ in asked["inputs"]]
    answer = client.post(UPDATE, json=asked)
    assert answer.status_code == 400
    assert answer.data.count(b"\n") <= 1
