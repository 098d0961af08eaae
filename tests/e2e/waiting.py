"""Wait in the browser: playwright's own `wait_for_function` evaluates text in the page, which our pages forbid."""

from __future__ import annotations

import time

from playwright.sync_api import Page


def until(page: Page, expression: str, seconds: float = 60.0) -> None:
    """Wait until an expression of JavaScript holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {expression}"
        page.wait_for_timeout(100)
