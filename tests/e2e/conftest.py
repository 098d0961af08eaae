"""A real browser and a real server for the tests of the dashboard."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("dash")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from lldwatch_dashboard import make_server

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = next(
        (path for path in ("/usr/bin/chromium", shutil.which("chromium")) if path and Path(path).exists()), None
    )
    if chromium is None:
        no_browser = "no Chromium on this machine: install /usr/bin/chromium to test the dashboard in a browser"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(no_browser)
        pytest.skip(no_browser)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of runs that were read, away from the user's own."""
    monkeypatch.setenv("LLDWATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder in a thread, as beside a training; gives the address."""
    servers = []

    def start(root: Path) -> str:
        server = make_server(root, port=0)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must neither leave the machine nor complain in its console."""
    # playwright waits with eval, which the dashboard forbids; test_safety.py looks at it as a browser does
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)  # a shared machine is slow at times
    addresses: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    away = [url for url in addresses if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert not away, "requests left the machine"
    assert not complaints, "the browser's console has errors"
