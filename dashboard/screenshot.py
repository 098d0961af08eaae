"""Take the README's picture: the dashboard on the collapsing sample run, in headless Chromium.

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


def main() -> None:
    """Serve sample_logs/ on a free port and write dashboard/screenshot.png."""
    server = make_server(ROOT / "sample_logs", port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET.split())
        page = browser.new_page(viewport={"width": 1280, "height": 1060})
        page.goto(f"http://127.0.0.1:{server.port}/run/collapse")
        page.wait_for_selector("#run-figure .main-svg")
        page.wait_for_timeout(1500)
        page.screenshot(path=ROOT / "dashboard" / "screenshot.png")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
