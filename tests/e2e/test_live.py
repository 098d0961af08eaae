"""The dashboard in a real browser, beside a training that is being written by another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import simulated_run
from playwright.sync_api import Page, expect

from lldwatch.schema import SCHEMA_VERSION

pytestmark = pytest.mark.browser

PLOT = "document.querySelector('#run-figure .js-plotly-plot')"


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A training of its own process, at runs/search/first."""
    run_dir = tmp_path / "runs" / "search" / "first"
    command = [sys.executable, simulated_run.__file__, str(run_dir), "--steps", "100", "--delay", "0.2"]
    process = subprocess.Popen(command)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(10)


def test_steps_arrive_while_the_zoom_stays(
    training: subprocess.Popen[bytes], serve: Callable[[Path], str], page: Page, tmp_path: Path
) -> None:
    page.goto(serve(tmp_path / "runs"))
    page.get_by_role("link", name="search/first").click()
    page.wait_for_function(f"{PLOT} && {PLOT}.calcdata && last_step() >= 12".replace("last_step()", _LAST_STEP))
    _zoom(page)
    zoomed, before = _x_range(page), _last_step(page)
    assert zoomed[0] > 1
    assert zoomed[1] < before

    page.wait_for_function(f"{PLOT}.layout.shapes.some(shape => shape.name === 'decay')")
    assert training.poll() is None, "the band came while the run was being written"
    expect(page.locator("#stage-badge")).to_contain_text("decay")
    expect(page.locator("#advice li").first).to_be_visible()
    expect(page).to_have_title("▲ decay · lldwatch")
    page.wait_for_function(f"{_LAST_STEP} >= {before + 5}")
    assert _x_range(page) == zoomed

    page.wait_for_function(f"{PLOT}.layout.shapes.some(shape => shape.name === 'collapse')")
    assert training.poll() is None
    assert _x_range(page) == zoomed
    expect(page.locator("#verdict")).to_contain_text("collapsed")

    _double_click_resets(page)
    page.mouse.move(0, 0)
    expect(page.locator("#facts")).to_contain_text("finished", timeout=60_000)
    expect(page.locator("#facts")).to_contain_text("step 100 of 100")
    _screenshots(page, "live")
    _hover(page)
    box = page.locator("#run-figure .hoverlayer .legend")
    for word in ("step ", "decay", "earlier correct", "correct", "incorrect", "entropy", "grad norm", "reward"):
        expect(box).to_contain_text(word)
    _screenshots(page, "hover", sizes=((1280, 900),), schemes=("dark",))


def test_unchanged_figure_is_not_sent_again(serve: Callable[[Path], str], page: Page, tmp_path: Path) -> None:
    simulated_run.write(tmp_path / "run", steps=30, delay=0)
    page.goto(serve(tmp_path) + "/run/run")
    expect(page.locator("#evidence")).to_be_visible()
    page.wait_for_function(f"{PLOT} && {PLOT}.calcdata && {PLOT}.calcdata.length > 3")
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", "0"))))
    page.wait_for_timeout(2500)
    assert len(sizes) >= 4, "it goes on asking"
    assert max(sizes) < 3000


def test_the_list_of_runs(serve: Callable[[Path], str], page: Page, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    page.goto(serve(root))
    expect(page.locator("#run-list")).to_contain_text("lldwatch demo")
    _screenshots(page, "empty")

    simulated_run.write(root / "qwen-3b" / "collapses", steps=90, delay=0)
    simulated_run.write(root / "qwen-3b" / "killed early", steps=67, delay=0, close=False)
    simulated_run.write(root / "healthy", steps=60, delay=0, ill_from=1000)
    simulated_run.write(root / "damaged", steps=40, delay=0)
    (root / "damaged" / "steps" / "r00000-a000-00000000.parquet").write_bytes(b"not a table")
    simulated_run.write(root / "newer", steps=3, delay=0)
    info = root / "newer" / "run.json"
    info.write_text(info.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))

    first = page.locator("#run-list tbody tr").first
    expect(first).to_contain_text("qwen-3b/collapses", timeout=60_000)  # all runs are read by then
    expect(first).to_contain_text("collapse")
    expect(page.locator("#run-list")).to_contain_text("update lldwatch")
    expect(page.locator("#run-list")).to_contain_text("files damaged")
    expect(page.locator("#run-list tbody tr")).to_have_count(5)
    expect(page.locator("#run-list")).not_to_contain_text("being read")  # then no row changes its place any more
    page.wait_for_timeout(1500)
    for _ in range(20):  # through the filter and the heads of the columns
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "qwen-3b/collapses":
            break
    page.wait_for_timeout(2500)
    assert page.evaluate("document.activeElement.textContent") == "qwen-3b/collapses", "an update takes no focus"
    _screenshots(page, "list")
    assert page.evaluate("document.getElementById('list-body').scrollWidth") <= 1280 - 2 * 24, "nothing is cut off"
    page.keyboard.press("Enter")
    expect(page.locator("#stage-badge")).to_contain_text("collapse")


@pytest.mark.parametrize("address", ["/run/..%2Fsecret", "/run/%2Fetc", "/run/nothing", "/elsewhere"])
def test_nothing_outside_of_the_root_is_shown(
    address: str, serve: Callable[[Path], str], page: Page, tmp_path: Path
) -> None:
    simulated_run.write(tmp_path / "secret", steps=3, delay=0)
    (tmp_path / "runs").mkdir()
    page.goto(serve(tmp_path / "runs") + address)
    expect(page.get_by_role("heading", name="No such run")).to_be_visible()


_LAST_STEP = f"Math.max(...{PLOT}.calcdata.flatMap(points => points.map(point => point.x ?? 0)))"


def _last_step(page: Page) -> int:
    return int(page.evaluate(_LAST_STEP))


def _x_range(page: Page) -> list[float]:
    return list(page.evaluate(f"{PLOT}._fullLayout.xaxis.range"))


def _zoom(page: Page) -> None:
    """Draw a horizontal stretch with the mouse, as a user does."""
    box = page.locator("#run-figure .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y, steps=5)
    page.mouse.move(box["x"] + 0.7 * box["width"], y, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{PLOT}._fullLayout.xaxis.autorange === false")


def _double_click_resets(page: Page) -> None:
    box = page.locator("#run-figure .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(f"{PLOT}._fullLayout.xaxis.autorange !== false")


def _hover(page: Page) -> None:
    """Rest the mouse on the headline until the box is there."""
    page.wait_for_function(f"{PLOT}.querySelector('.nsewdrag').getBoundingClientRect().width > 500")  # wide again
    for attempt in range(20):
        box = page.locator("#run-figure .nsewdrag").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.5 * box["width"] + attempt % 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(250)
        if page.locator("#run-figure .hoverlayer .legend").count():
            return


def _screenshots(
    page: Page,
    name: str,
    sizes: Sequence[tuple[int, int]] = ((1280, 900), (400, 800)),
    schemes: Sequence[Literal["light", "dark"]] = ("light", "dark"),
) -> None:
    """For a human eye: wide and narrow, light and dark."""
    folder = os.environ.get("LLDWATCH_SCREENSHOTS")
    if not folder:
        return
    for width, height in sizes:
        for scheme in schemes:
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(2500)
            page.screenshot(path=Path(folder) / f"{name}-{width}-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
