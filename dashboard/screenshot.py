"""Take the README's pictures: the dashboard on the sample runs, in headless Chromium.

python dashboard/screenshot.py
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from lldwatch_dashboard import make_server

ROOT = Path(__file__).parent.parent
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


PICTURES = {
    "screenshot.png": ("/run/collapse", "#run-figure .main-svg", 1060),
    "compare.png": ("/compare?run=collapse&run=collapse-with-llds&run=healthy", "#compare-figure .main-svg", 980),
}
"""File -> page, what must be drawn on it, height in pixels."""


def main() -> None:
    """Serve sample_logs/ on a free port and write the pictures beside this file."""
    server = make_server(ROOT / "sample_logs", port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET.split())
        for name, (address, drawn, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": 1280, "height": height})
            page.goto(f"http://127.0.0.1:{server.port}{address}")
            page.wait_for_selector(drawn)
            page.wait_for_timeout(3000)
            page.screenshot(path=ROOT / "dashboard" / name)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
