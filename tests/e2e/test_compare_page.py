"""Runs side by side in a real browser."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import simulated_run
from playwright.sync_api import Page, expect
from waiting import until

from lldwatch import Monitor

pytestmark = pytest.mark.browser

Serve = Callable[[Path], str]
PLOT = "document.querySelector('#compare-figure .js-plotly-plot')"
TRACES = f"{PLOT}?.data?.map(trace => trace.meta) ?? []"
QUERY = "run=ill%20%3Cb%3E&run=healthy"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    simulated_run.write(root / "ill <b>", steps=90, delay=0)
    simulated_run.write(root / "healthy", steps=60, delay=0, ill_from=1000)
    return root


def open_comparison(page: Page, address: str, query: str = QUERY) -> None:
    page.goto(f"{address}/compare?{query}")
    until(page, f"({TRACES}).includes('B:reward:mean')")


def test_table_words_and_panels(root: Path, serve: Serve, page: Page) -> None:
    open_comparison(page, serve(root))
    rows = page.locator("#compare-table tbody tr")
    expect(rows.nth(0)).to_contain_text("ill <b>")
    expect(rows.nth(0)).to_contain_text("collapse")
    expect(rows.nth(1)).to_contain_text("healthy")
    expect(page.locator("#compare-words")).to_contain_text("A and B")
    expect(page.locator("#compare-notes")).to_contain_text("KL from the reference policy")
    metas = page.evaluate(TRACES)
    assert {"A:cross_update_change:mean", "A:grad_norm:marks", "B:cross_update_change:parts", "A:reward:onset"} <= set(
        metas
    )
    page.get_by_text("Where each signal parts").click()
    expect(page.locator("#compare-details table").first).to_be_visible()


def test_align_and_smoothing_stand_in_the_address(root: Path, serve: Serve, page: Page) -> None:
    open_comparison(page, serve(root))
    page.get_by_role("link", name="onset", exact=True).click()
    expect(page.locator("#compare-notes")).to_contain_text("B has no onset")
    until(page, f"{PLOT}.layout.shapes.length > 0")
    expect(page.locator("#align-onset")).to_be_focused()
    page.get_by_role("link", name="every step").click()
    until(page, f"!({TRACES}).includes('A:reward:raw')")
    assert "align=onset" in page.url
    assert "smooth=1" in page.url
    page.reload()
    until(page, f"({TRACES}).includes('A:reward:mean')")
    assert page.evaluate(f"{PLOT}.layout.shapes.length") > 0
    assert not page.evaluate(f"({TRACES}).includes('A:reward:raw')")
    page.get_by_role("link", name="share of the run").click()
    until(page, f"{PLOT}.data[0].x.at(-1) === 1")


def test_signals_are_chosen_and_the_link_restores_the_view(root: Path, serve: Serve, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_comparison(page, serve(root), f"{QUERY}&align=share&signal=loss&signal=reward")
    assert {meta.split(":")[1] for meta in page.evaluate(TRACES)} == {"loss", "reward"}
    expect(page.locator("#compare-signals")).to_contain_text("Loss")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#compare-said")).to_have_text("The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    page.goto("about:blank")
    page.goto(link)
    until(page, f"({TRACES}).includes('B:loss:mean')")
    assert page.evaluate(f"{PLOT}.layout.xaxis.tickformat") == ".0%"


def test_without_a_clipboard_the_link_is_shown(root: Path, serve: Serve, page: Page) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    open_comparison(page, serve(root))
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#compare-said")).to_have_text(page.url)


def test_a_run_is_highlighted_left_out_and_made_the_first(root: Path, serve: Serve, page: Page) -> None:
    open_comparison(page, serve(root))
    page.locator("#lane-B").click()
    faded = f"{PLOT}.data.filter(trace => trace.opacity === 0.1).every(trace => trace.meta.startsWith('A:'))"
    until(page, f"{PLOT}.data.some(trace => trace.opacity === 0.1) && {faded}")
    expect(page.locator("#lane-B")).to_have_attribute("aria-pressed", "true")
    page.locator("#lane-B").click()
    expect(page.locator("#lane-B")).to_have_attribute("aria-pressed", "false")
    page.get_by_role("link", name="make A").click()
    expect(page.locator("#compare-table tbody tr").first).to_contain_text("healthy")
    page.get_by_title("Leave out healthy").click()
    expect(page.locator("#compare-table tbody tr")).to_have_count(1)
    until(page, f"!({TRACES}).some(meta => meta.startsWith('B:'))")


def test_the_zoom_is_shared_and_stays_while_a_run_grows(root: Path, serve: Serve, page: Page) -> None:
    with Monitor(root / "live") as monitor:
        for step in range(1, 31):
            monitor.step(step, reward=0.5, entropy=1.0)
        monitor._recorder.flush()
        open_comparison(page, serve(root), "run=healthy&run=live")
        page.evaluate(f"Plotly.relayout({PLOT}, {{'xaxis.range': [5, 15]}})")
        until(page, f"{PLOT}._fullLayout.xaxis2.range[0] === 5")
        for step in range(31, 36):
            monitor.step(step, reward=0.5, entropy=1.0)
        monitor._recorder.flush()
        until(page, f"{PLOT}.data.find(trace => trace.meta === 'B:reward:mean').x.length === 35")
        assert page.evaluate(f"{PLOT}._fullLayout.xaxis.range") == [5, 15]


def test_a_run_deleted_while_the_page_is_open_is_said(root: Path, serve: Serve, page: Page) -> None:
    open_comparison(page, serve(root))
    shutil.rmtree(root / "healthy")
    expect(page.locator("#compare-table")).to_contain_text("not any more")
    until(page, f"!({TRACES}).some(meta => meta.startsWith('B:'))")


@pytest.mark.parametrize("query", ["", "run=..%2Fsecret", "run=%2Fetc&run=nothing"])
def test_nothing_to_compare(query: str, root: Path, serve: Serve, page: Page) -> None:
    simulated_run.write(root.parent / "secret", steps=3, delay=0)
    page.goto(f"{serve(root)}/compare?{query}")
    said = "No run is chosen" if not query else "there is no such run"
    expect(page.locator("#compare-runs")).to_contain_text(said)


def test_csv(root: Path, serve: Serve, page: Page) -> None:
    open_comparison(page, serve(root), f"{QUERY}&signal=reward")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert {(row["run"], row["signal"]) for row in rows} == {("ill <b>", "reward"), ("healthy", "reward")}
    assert len(rows) == 150


def test_dark_and_narrow(root: Path, serve: Serve, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    open_comparison(page, serve(root))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is cut off"
    assert page.evaluate(f"{PLOT}.layout.font.color") == "#e6e8eb"
    assert (
        page.evaluate(
            f"new Set(Object.keys({PLOT}.layout).filter(key => key.startsWith('xaxis')).map("
            f"key => {PLOT}.layout[key].domain[1])).size"
        )
        == 1
    ), "one column"
