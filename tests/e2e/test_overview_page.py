"""The list of runs in a real browser."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import simulated_run
from playwright.sync_api import Page, expect

from lldwatch import Monitor
from lldwatch.schema import SCHEMA_VERSION

pytestmark = pytest.mark.browser

Serve = Callable[[Path], str]
ROWS = "#run-list tbody tr"


def write(run_dir: Path, steps: int, reward: float) -> None:
    with Monitor(run_dir) as monitor:
        for step in range(1, steps + 1):
            monitor.step(step, reward=reward)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One that collapses, two healthy ones, one that cannot be read, and a name that is no friend."""
    root = tmp_path / "runs"
    simulated_run.write(root / "qwen" / "collapses", steps=90, delay=0)
    write(root / "qwen" / "healthy", 30, 0.7)
    write(root / "llama", 20, 0.9)
    write(root / "<img src=x onerror=alert(1)>", 4, 0.2)
    write(root / "corrupt", 3, 0.1)
    info = root / "corrupt" / "run.json"
    info.write_text(info.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    return root


def names(page: Page) -> list[str]:
    return page.locator(f"{ROWS} .run-name > a").all_text_contents()


def open_list(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#list-facts")).to_contain_text("1 collapse", timeout=60_000)
    expect(page.locator("#run-list")).not_to_contain_text("being read")


def test_rows_sparkline_and_the_corrupt_run(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root))
    expect(page.locator(ROWS)).to_have_count(5)
    assert names(page)[0] == "qwen/collapses"
    assert "<img src=x onerror=alert(1)>" in names(page)
    expect(page.locator("#list-facts")).to_contain_text("1 unreadable")
    expect(page.locator("#run-list")).to_contain_text("update lldwatch")
    first = page.locator(ROWS).first
    expect(first).to_contain_text("likelihood change")
    picture = first.locator("img")
    assert picture.evaluate("img => img.complete && img.naturalWidth") == 96
    assert "last" in (picture.get_attribute("alt") or "")
    expect(page.locator(ROWS).filter(has_text="llama")).to_contain_text("reward")


def test_sort_with_the_keyboard_and_the_address_holds_it(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root))
    head = page.get_by_role("columnheader", name="Reward")
    expect(head).to_have_attribute("aria-sort", "none")
    page.locator("#sort-reward").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Reward")).to_have_attribute("aria-sort", "ascending")
    expect(page.locator(ROWS).first).to_contain_text("llama")
    expect(page.locator("#sort-reward")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Reward")).to_have_attribute("aria-sort", "descending")
    assert parse_qs(urlsplit(page.url).query) == {"sort": ["-reward"]}
    before = names(page)
    page.reload()
    expect(page.get_by_role("columnheader", name="Reward")).to_have_attribute("aria-sort", "descending")
    assert names(page) == before
    page.go_back()
    expect(page.get_by_role("columnheader", name="Reward")).to_have_attribute("aria-sort", "ascending")
    page.locator(".brand").click()
    expect(page.get_by_role("columnheader", name="Stage")).to_have_attribute("aria-sort", "ascending")


def test_filter_by_expression_and_by_what_is_none(root: Path, serve: Serve, page: Page) -> None:
    address = serve(root)
    open_list(page, address)
    box = page.get_by_label("Filter the runs by name")
    box.fill("^qwen/.*s$")
    expect(page.locator(ROWS)).to_have_count(1)
    expect(page.locator("#list-note")).to_have_text("1 of 5 runs match.")
    expect(box).to_be_focused()
    assert parse_qs(urlsplit(page.url).query) == {"filter": ["^qwen/.*s$"]}
    box.fill("alert(")
    expect(page.locator("#list-note")).to_contain_text("plain text")
    expect(page.locator(ROWS)).to_have_count(1)
    box.fill("zzz")
    page.get_by_role("link", name="Show all runs").click()
    expect(page.locator(ROWS)).to_have_count(5)
    expect(box).to_have_value("")
    page.goto(f"{address}/?filter=llama&sort=step")
    expect(page.locator(ROWS)).to_have_count(1)
    expect(box).to_have_value("llama")


def test_ticked_runs_go_to_the_comparison_and_come_back(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root))
    page.get_by_label("Compare qwen/collapses").check()
    expect(page.locator("#list-compare")).to_contain_text("tick another")
    page.get_by_label("Filter the runs by name").fill("healthy")
    expect(page.locator(ROWS)).to_have_count(1)
    page.get_by_label("Compare qwen/healthy").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    expect(page.locator("#compare-table tbody tr")).to_have_count(2)
    assert parse_qs(urlsplit(page.url).query)["run"] == ["qwen/collapses", "qwen/healthy"]
    page.get_by_role("link", name="Choose other runs").click()
    expect(page.get_by_label("Compare qwen/collapses")).to_be_checked()
    expect(page.get_by_role("link", name="Compare 2 runs")).to_be_visible()


def test_a_run_deleted_while_the_page_is_open_goes_and_the_others_stay(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root))
    shutil.rmtree(root / "llama")
    expect(page.locator(ROWS)).to_have_count(4)
    expect(page.locator("#run-list")).not_to_contain_text("llama")


def test_a_live_run_moves_alone_and_takes_neither_focus_nor_place(root: Path, serve: Serve, page: Page) -> None:
    with Monitor(root / "live", planned_steps=500) as monitor:
        for step in range(1, 6):
            monitor.step(step, reward=0.5)
        monitor._recorder.flush()
        open_list(page, serve(root))
        row = page.locator(ROWS).filter(has_text="of 500")
        expect(row).to_contain_text("5 of 500", timeout=60_000)
        page.locator(f"{ROWS} .run-name > a").nth(2).focus()
        focused, before = page.evaluate("document.activeElement.textContent"), names(page)
        page.evaluate("document.querySelector('#run-list tbody tr').dataset.same = 'yes'")
        for step in range(6, 12):
            monitor.step(step, reward=0.5)
        monitor._recorder.flush()
        expect(page.locator("#run-list")).to_contain_text("11 of 500")
        assert page.evaluate("document.activeElement.textContent") == focused
        assert names(page) == before
        assert page.evaluate("document.querySelector('#run-list tbody tr').dataset.same") == "yes"


def test_a_thousand_runs_have_pages(tmp_path: Path, serve: Serve, page: Page) -> None:
    root = tmp_path / "many"
    write(root / "run-0000", 3, 0.5)
    for number in range(1, 130):
        shutil.copytree(root / "run-0000", root / f"run-{number:04}")
    page.goto(f"{serve(root)}/?sort=run")
    expect(page.locator(ROWS)).to_have_count(30)
    page.locator("#page-next").click()
    expect(page.locator(ROWS).first).to_contain_text("run-0030")
    expect(page.locator("#list-pager")).to_contain_text("page 2 of 5")
    expect(page.locator("#list-facts")).not_to_contain_text(" of 130 read", timeout=60_000)


def test_csv(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root))
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [row["run"] for row in rows] == names(page)
    assert rows[0]["stage"] == "collapse"


def test_dark_and_narrow(root: Path, serve: Serve, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    open_list(page, serve(root))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is cut off"
    assert "%2356B4E9" in (page.locator(f"{ROWS} img").first.get_attribute("src") or "")
    page.locator("#sort-run").click()
    expect(page.get_by_role("columnheader", name="Run")).to_have_attribute("aria-sort", "ascending")
    page.emulate_media(color_scheme="light")
    expect(page.locator(f"{ROWS} img").first).to_have_attribute("src", re.compile("%230072B2"))


def test_what_is_typed_is_never_taken_back(root: Path, serve: Serve, page: Page) -> None:
    open_list(page, serve(root) + "/?sort=-reward")
    box = page.get_by_label("Filter the runs by name")
    box.press_sequentially("qwen/coll", delay=280)  # slower than the box waits for more, so that each letter is told
    expect(page.locator(ROWS)).to_have_count(1)
    expect(box).to_have_value("qwen/coll")
    assert parse_qs(urlsplit(page.url).query) == {"sort": ["-reward"], "filter": ["qwen/coll"]}
    page.go_back()
    expect(box).to_have_value("qwen/col")
    expect(box).to_have_value(parse_qs(urlsplit(page.url).query)["filter"][0])
