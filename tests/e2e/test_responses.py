"""The responses page in a real browser, on the collapsing sample run: from a brush to the tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from lldwatch.recorder import Recorder
from lldwatch.schema import Observation, Probes, RunInfo, Tokens

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).parents[2] / "sample_logs"
PLOT = "document.querySelector('#responses-figure .js-plotly-plot')"
DRAWN = f"{PLOT}?.calcdata?.some(trace => trace.length > 9)"
RINGED = f"{PLOT}?.data?.some(trace => trace.meta === 'chosen')"
HOSTILE = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\u202eevil"


def _drawn(page: Page) -> None:
    """Wait until the figure stands, and no longer moves: a drag over one that is being resized is lost."""
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(1500)


def test_from_a_brush_to_the_tokens_and_back_again(serve: Callable[[Path], str], page: Page) -> None:
    address = serve(SAMPLES)
    page.goto(f"{address}/run/collapse")
    page.get_by_role("link", name="Every response, token by token").click()
    _drawn(page)
    expect(page.locator("#responses-summary")).to_contain_text("863 correct, 105 with advantage 0")
    _drag(page, (0.35, 0.75), (0.5, 0.99))
    expect(page.locator("#responses-found")).to_contain_text("responses (correct, steps 29 to 40")
    row = _row_with(page, "1990")
    expect(row).to_contain_text("yes")
    row.click()
    tokens = page.locator("#responses-detail .token")
    expect(tokens.first).to_be_visible()
    expect(page.locator("#responses-detail .token.fell.far").first).to_be_visible()
    assert "change \N{MINUS SIGN}" in (page.locator("#responses-detail .token.fell").first.get_attribute("title") or "")
    expect(page.locator("#responses-detail .feedback").first).to_contain_text("<information>")
    page.get_by_role("radio", name="log-prob").check()
    expect(page.get_by_role("heading", name="Before", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="After", exact=True)).to_be_visible()

    link = page.url
    assert all(part in link for part in ("region=correct_29_40", "response=1990_35", "colour=log-prob"))
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_function(RINGED)
    expect(page.locator("#responses-found")).to_contain_text("responses (correct, steps 29 to 40")
    expect(page.get_by_role("radio", name="log-prob")).to_be_checked()
    expect(page.get_by_role("heading", name="Before", exact=True)).to_be_visible()
    page.get_by_role("link", name="The run").click()
    expect(page.locator("#stage-badge")).to_contain_text("collapse")


def test_a_zoom_another_kind_and_the_browsers_way_back(serve: Callable[[Path], str], page: Page) -> None:
    page.goto(f"{serve(SAMPLES)}/responses/collapse")
    _drawn(page)
    whole = page.get_by_role("button", name="Whole run")
    expect(whole).to_be_disabled()
    page.get_by_role("radio", name="post-update").check()
    expect(page.locator("#responses-summary")).to_contain_text("380 incorrect")
    page.get_by_role("radio", name="zooms").check()
    page.wait_for_function(f"{PLOT}._fullLayout.dragmode === 'zoom'")
    _drag(page, (0.25, 0.2), (0.5, 0.8))
    expect(page.locator("#responses-summary")).to_contain_text("Steps 21 to 40")
    assert page.evaluate(f"{PLOT}._fullLayout.xaxis.range") == [20.5, 40.5]
    page.go_back()
    expect(page.locator("#responses-summary")).to_contain_text("Steps 1 to 80")
    page.go_forward()
    expect(page.locator("#responses-summary")).to_contain_text("Steps 21 to 40")
    whole.click()
    expect(page.locator("#responses-summary")).to_contain_text("Steps 1 to 80")


def test_a_region_is_typed_and_a_row_is_chosen_with_the_keyboard(serve: Callable[[Path], str], page: Page) -> None:
    page.goto(f"{serve(SAMPLES)}/responses/collapse")
    _drawn(page)
    page.get_by_text("Choose responses by numbers").focus()
    page.keyboard.press("Enter")
    page.get_by_label("First step").fill("30")
    page.get_by_label("Last step").fill("40")
    page.get_by_label("Highest change").fill("-0.1")
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="List these responses")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#responses-found")).to_contain_text("20 responses")
    page.locator("#responses-grid .ag-cell").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#responses-detail")).to_contain_text("Response 1859")


def test_it_fits_on_a_telephone(serve: Callable[[Path], str], page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    search = "?kind=cross_update&region=correct_30_40_-1_-0.1&response=1990_35&colour=log-prob"
    page.goto(f"{serve(SAMPLES)}/responses/collapse{search}")
    _drawn(page)
    expect(page.locator("#responses-detail .token").first).to_be_visible()
    expect(page.locator("#responses-grid .ag-row").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(f"{PLOT}.getBoundingClientRect().right") <= 360


def test_what_a_model_wrote_never_runs(serve: Callable[[Path], str], page: Page, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", RunInfo())
    rows = Probes(
        kind=np.array(["cross_update"]),
        uid=[1],
        correct=[True],
        lag=[1],
        tokens=[2],
        log_prob_before=[-1.0],
        log_prob_after=[-2.0],
    )
    tokens = Tokens(
        kind=np.full(2, "cross_update"),
        uid=[1, 1],
        position=[0, 1],
        action=[0, -1],
        text=np.array([HOSTILE, HOSTILE]),
        log_prob_before=[-1.0, 0.0],
        log_prob_after=[-2.0, 0.0],
    )
    recorder.record(Observation(step=1, cross_update_change=-0.5), [rows, tokens])
    recorder.close()
    page.goto(f"{serve(tmp_path)}/responses/run?response=1_1")
    written = page.locator("#responses-detail .token")
    expect(written.first).to_contain_text("<script>window.hit=1</script>")
    expect(written.first).to_contain_text("U+202E")
    expect(written).to_have_count(2)
    assert page.evaluate("window.hit") is None
    assert page.locator("#responses-detail img, #responses-detail script").count() == 0


def _drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a box over shares of the first panel, as a user does."""
    box = page.locator("#responses-figure .nsewdrag").first.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move((places[0][0] + places[1][0]) / 2, (places[0][1] + places[1][1]) / 2, steps=5)
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def _row_with(page: Page, uid: str) -> Locator:
    return page.locator("#responses-grid .ag-center-cols-container .ag-row").filter(has_text=uid).first
