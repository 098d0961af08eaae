"""A page that was open all the time shows the same as one that is opened now."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from simulated_run import made_up_step
from waiting import until

from lldwatch import Monitor, Observation, RunInfo
from lldwatch.recorder import Recorder

pytestmark = pytest.mark.browser

Serve = Callable[[Path], str]
PLOT = "document.querySelector('#{page}-figure .js-plotly-plot')"
AS_TEXT = """([plot, parts]) => {
    const others = /^(range|autorange|uirevision)$/;  // what is the reader's
    const size = /^(height|autosize)$/;  // what plotly fits into the page
    const without = (part, names) =>
        Object.fromEntries(Object.entries(part).filter(([key]) => !names.test(key)).sort());
    const layout = Object.entries(without(plot.layout, size));
    return JSON.stringify([
        plot.data.map(({opacity, ...trace}) => trace),
        layout.map(([name, part]) => [name, /axis/.test(name) ? without(part, others) : part]),
        parts.map(part => document.getElementById(part).innerHTML),
    ], (key, value) => ArrayBuffer.isView(value)
        ? [value.constructor.name, ...Array.from(value, number => Number.isNaN(number) ? "NaN" : number)]
        : value && value.constructor === Object ? without(value, /^$/) : value)
}"""


def as_text(page: Page, which: str, parts: list[str]) -> Any:
    plot = page.evaluate_handle(PLOT.format(page=which))
    return page.evaluate(AS_TEXT, [plot, parts])


def last_step(which: str) -> str:
    return f"Math.max(0, ...({PLOT.format(page=which)}?.data ?? []).map(trace => trace.x?.[trace.x.length - 1] ?? 0))"


@pytest.mark.parametrize(
    ("which", "path", "parts"),
    [
        ("run", "/run/live", ["findings", "about", "run-titles", "run-absent", "run-key", "run-ways"]),
        ("compare", "/compare?run=live&run=other", ["compare-runs", "compare-words", "compare-notes"]),
    ],
)
def test_news_add_up_to_the_whole(
    which: str, path: str, parts: list[str], serve: Serve, page: Page, tmp_path: Path
) -> None:
    noise = random.Random(1)
    with Monitor(tmp_path / "other") as other:
        for step in range(1, 40):
            other.step(step, **made_up_step(step, noise, ill_from=10))
    recorder = Recorder(tmp_path / "live", RunInfo(), queue_steps=2000, steps_per_part=2000)
    for step in range(1, 1996):
        recorder.record(Observation(step=step, **made_up_step(step, noise, ill_from=1990)))
    recorder.close()
    with Monitor(tmp_path / "live", resume=True) as monitor:
        address = serve(tmp_path) + path
        page.goto(address)
        until(page, f"{last_step(which)} === 1995")
        for step in (1996, 1997, 1999, 2000, 2001, 2002, 2040, 2041):  # 2,000 is where lines begin to be thinned
            broken = {"entropy": math.nan} if step == 2001 else {}
            monitor.step(step, **made_up_step(step, noise, ill_from=1990) | broken)
            monitor._recorder.flush()
            until(page, f"{last_step(which)} === {step}")
    page.wait_for_timeout(2500)
    there = as_text(page, which, parts)
    page.goto(address)
    until(page, f"{last_step(which)} === 2041")
    page.wait_for_timeout(2500)
    assert there == as_text(page, which, parts)


def test_a_page_may_be_left_while_news_are_under_way(serve: Serve, page: Page, tmp_path: Path) -> None:
    noise = random.Random(1)
    address = serve(tmp_path)
    with Monitor(tmp_path / "live") as monitor:
        for step in range(1, 60):
            monitor.step(step, **made_up_step(step, noise, ill_from=30))
            monitor._recorder.flush()
            if step == 5:
                page.goto(address)
            if step > 5 and step % 6 == 0:
                page.evaluate("name => document.querySelector(`a[href='${name}']`)?.click()", "/run/live")
            if step > 5 and step % 6 in (2, 3):
                page.wait_for_timeout(noise.randrange(50, 1200))
                page.evaluate("document.querySelector('a.brand').click()")
    page.goto(f"{address}/run/live")  # the fixture looks whether the console had errors before
    until(page, f"{last_step('run')} === 59")
    assert page.evaluate(last_step("run")) == 59
