"""The token, the headers and the smaller plotly.js, in a real browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import simulated_run
from playwright.sync_api import Browser, Page, expect

from lldwatch_dashboard import app as app_module
from lldwatch_dashboard import make_server

pytestmark = pytest.mark.browser

TOKEN = "a token of the tests, long enough"
DRAWN = "document.querySelector('#run-figure .js-plotly-plot')?.calcdata?.length > 3"
RUNS_FOREIGN = """() => { const script = document.createElement("script"); script.textContent = "window.foreign = 1";
    document.body.append(script); return window.foreign === 1; }"""


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """The address of a dashboard that asks for a token."""
    simulated_run.write(tmp_path / "runs" / "first", steps=30, delay=0)
    server = make_server(tmp_path / "runs", port=0, token=TOKEN)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def strict(browser: Browser) -> Iterator[Page]:
    """A page on which the dashboard's policy holds, and whose console must stay empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    yield page
    context.close()
    assert not complaints, "the browser's console has errors"


def until(page: Page, what: str, seconds: float = 30) -> None:
    """Wait as playwright's own `wait_for_function` does, without eval in the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(what):
        assert time.monotonic() < end, what
        page.wait_for_timeout(100)


def test_the_link_opens_everything_and_nothing_else_does(locked: str, strict: Page, browser: Browser) -> None:
    strict.goto(f"{locked}/run/first?token={TOKEN}")
    until(strict, DRAWN)
    assert "token" not in strict.url
    assert strict.evaluate("document.cookie") == "", "scripts do not see it"
    strict.reload()
    until(strict, DRAWN)

    stranger = browser.new_context().new_page()
    answer = stranger.goto(f"{locked}/run/first")
    assert answer is not None
    assert answer.status == 403
    expect(stranger.locator("body")).to_contain_text("Refused")
    stranger.context.close()


@pytest.mark.parametrize(
    ("path", "drawn"),
    [
        ("/", "document.querySelectorAll('#run-list a').length > 1"),
        ("/run/collapse", DRAWN),
        ("/responses/collapse", "document.querySelector('#responses-figure .main-svg') !== null"),
        ("/responses/collapse?region=correct_1_500_-9_9", "document.querySelectorAll('.ag-row').length > 0"),
        ("/compare?run=collapse&run=healthy", "document.querySelector('#compare-figure .main-svg') !== null"),
    ],
)
def test_every_page_works_under_its_own_policy(
    path: str, drawn: str, serve: Callable[[Path], str], strict: Page
) -> None:
    strict.goto(serve(Path(__file__).parents[2] / "sample_logs") + path)
    until(strict, drawn)
    strict.wait_for_timeout(1500)
    assert strict.evaluate(drawn), "it is gone again"  # the fixture looks at what the policy refused


def test_a_script_that_is_not_ours_does_not_run(serve: Callable[[Path], str], browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(serve(tmp_path))
    assert not page.evaluate(RUNS_FOREIGN)
    context.close()


def test_a_page_of_another_site_reads_nothing(locked: str, page: Page, tmp_path: Path) -> None:
    page.goto(f"{locked}/?token={TOKEN}")
    expect(page.locator("#run-list")).to_contain_text("first")
    elsewhere = make_server(tmp_path, port=0)  # the same machine, another port: as near as another site can be
    thread = threading.Thread(target=elsewhere.serve_forever, daemon=True)
    thread.start()
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{elsewhere.port}/assets/style.css")
    post = """address => fetch(address, {method: "POST", mode: "no-cors", credentials: "include", body: "{}"})
        .then(answer => answer.type, error => "blocked")"""
    assert other.evaluate(post, f"{locked}/_dash-update-component") == "blocked", "not even sent, by our own policy"
    elsewhere.shutdown()
    thread.join(10)
    elsewhere.server_close()


@pytest.mark.skipif(not app_module.BUNDLE.exists(), reason="the smaller plotly.js is not there: make assets")
def test_the_smaller_bundle_is_the_only_one(serve: Callable[[Path], str], page: Page, tmp_path: Path) -> None:
    simulated_run.write(tmp_path / "run", steps=30, delay=0)
    loaded: list[int] = []
    page.on("response", lambda answer: loaded.append(len(answer.body())) if "plotly" in answer.url else None)
    address = serve(tmp_path)
    page.goto(address)
    expect(page.locator("#run-list a")).to_contain_text(["run"])
    page.wait_for_timeout(1000)
    assert not loaded, "the list draws no figure"
    page.goto(f"{address}/run/run")
    page.wait_for_function(DRAWN)
    assert loaded == [app_module.BUNDLE.stat().st_size]


def test_without_it_the_stock_bundle_draws(
    serve: Callable[[Path], str], page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "get_plotlyjs_version", lambda: "0.0.0")  # the bundle is of another version
    simulated_run.write(tmp_path / "run", steps=30, delay=0)
    loaded: list[int] = []
    page.on("response", lambda answer: loaded.append(len(answer.body())) if "plotly" in answer.url else None)
    page.goto(serve(tmp_path) + "/run/run")
    page.wait_for_function(DRAWN)
    assert [size for size in loaded if size > 2_000_000]
