"""The page of a run in a real browser, on the sample logs."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from lldwatch import Observation, RunInfo
from lldwatch.recorder import Recorder

pytestmark = pytest.mark.browser

Serve = Callable[[Path], str]
SAMPLES = Path(__file__).parents[2] / "sample_logs"
PLOT = "document.querySelector('#run-figure .js-plotly-plot')"
RANGE = f"{PLOT}._fullLayout.xaxis.range"
LONG, SPIKE, BROKEN = 4000, 2110, 2222


def until(page: Page, what: str) -> None:
    """Wait for an expression to be true. The page's own policy forbids `wait_for_function`, which needs `eval`."""
    for _ in range(300):
        if page.evaluate(f"() => Boolean({what})"):
            return
        page.wait_for_timeout(100)
    raise AssertionError(what)


def ready(page: Page, what: str = "true") -> None:
    until(page, f"{PLOT}?.calcdata?.length > 5 && ({what})")


def open_run(page: Page, address: str, name: str, query: str = "") -> None:
    page.goto(f"{address}/run/{name}{query}")
    ready(page)


def points(meta: str, condition: str) -> str:
    """How many points of a trace, as drawn, fulfil a condition on their step x and value y."""
    drawn = f"{PLOT}.calcdata.find(points => points[0].trace.meta === '{meta}')"
    return f"({drawn} ?? []).filter(({{x, y}}) => {condition}).length"


def drag(page: Page, begin: float, end: float) -> None:
    """Draw a horizontal stretch of the first panel, from one share of its width to another."""
    box = page.locator("#run-figure .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (begin + end) / 2 * box["width"], y, steps=5)
    page.mouse.move(box["x"] + end * box["width"], y, steps=5)
    page.mouse.up()


def whole_again(page: Page, shown: str) -> None:
    """Double click, as a user does who sees that nothing happened: a busy browser may take it for two single clicks."""
    box = page.locator("#run-figure .nsewdrag").first.bounding_box()
    assert box is not None
    for _ in range(10):
        page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(30):
            page.wait_for_timeout(100)
            if page.evaluate(f"() => Boolean({shown})"):
                return
    raise AssertionError(shown)


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    """4,000 steps with noise, one spike and one NaN."""
    noise = random.Random(1)
    recorder = Recorder(tmp_path / "runs" / "long", RunInfo(), queue_steps=LONG, steps_per_part=LONG)
    for step in range(1, LONG + 1):
        reward = 9.0 if step == SPIKE else math.nan if step == BROKEN else 0.5 + noise.gauss(0, 0.01)
        recorder.record(Observation(step=step, reward=reward, entropy=0.3 + noise.gauss(0, 0.01)))
    recorder.close()
    return tmp_path / "runs"


def test_zoom_is_drawn_anew_from_every_step(long_run: Path, serve: Serve, page: Page) -> None:
    open_run(page, serve(long_run), "long")
    spike = points("reward:raw", f"x === {SPIKE} && y === 9")
    ready(page, f"{spike} === 1")
    inside = points("reward:raw", "x > 2020 && x < 2380")
    assert page.evaluate(inside) < 250, "thinned"
    drag(page, 0.5, 0.6)
    until(page, f"{inside} > 350")
    assert page.evaluate(spike) == 1
    assert page.evaluate(points("reward:marks", f"x === {BROKEN}")) == 1
    assert "steps=" in page.url
    low, high = page.evaluate(RANGE)
    assert 1950 < low < 2020
    assert 2380 < high < 2450
    page.reload()
    ready(page, f"Math.abs({RANGE}[0] - {low}) < 1 && {inside} > 350")
    whole_again(page, f"{RANGE}[1] > 3900")
    until(page, f"{RANGE}[1] > 3900 && {inside} < 250")
    assert "steps=" not in page.url


def test_a_link_restores_the_view(serve: Serve, page: Page) -> None:
    address = serve(SAMPLES)
    open_run(page, address, "healthy", "?x=updates&mean=20&y=usual&steps=20~60")
    ready(page, f"{PLOT}.layout.xaxis.title.text === 'updates'")
    expect(page.locator("#run-key")).to_contain_text("mean of 20 steps")
    expect(page.locator("#run-smooth")).to_have_value("20")
    assert page.evaluate(RANGE) == [80, 240], "4 updates a step"
    page.locator("#x-time").click()
    ready(page, f"{PLOT}._fullLayout.xaxis.type === 'date'")
    expect(page.locator("#x-time")).to_be_visible()
    for part in ("x=time", "mean=20", "steps=20"):
        assert part in page.url
    page.locator("#mean-1").click()
    ready(page, f"!{PLOT}.data.some(trace => trace.meta === 'reward:mean')")
    page.locator("#run-smooth").fill("33")
    expect(page.locator("#run-key")).to_contain_text("mean of 33 steps")
    page.locator("#steps-all").click()
    until(page, f"{PLOT}._fullLayout.xaxis.autorange !== false")
    page.locator("#y-all").click()
    expect(page.locator("#run-ways")).to_contain_text("33 steps")
    assert "mean=33" in page.url
    page.locator("#run-share").click()
    expect(page.locator("#run-said")).not_to_be_empty()


def test_a_dead_run_opens_at_its_death(serve: Serve, page: Page) -> None:
    open_run(page, serve(SAMPLES), "collapse")
    until(page, f"{RANGE}[1] < 50")
    expect(page.locator("#course")).to_contain_text("was known: a live user saw it")
    expect(page.locator("#run-absent")).to_have_text("Not recorded: KL from the reference policy. LLDS was not in use.")
    dotted = f"{PLOT}.layout.shapes.filter(shape => shape.line?.dash === 'dot').map(shape => shape.x0)"
    assert page.evaluate(dotted) == [11, 32]
    page.locator("#steps-all").click()
    until(page, f"{RANGE}[1] > 80")
    page.locator("#steps-death").click()
    until(page, f"{RANGE}[1] < 50")
    page.locator("#checks summary").first.click()
    expect(page.locator("#checks dl").first).to_contain_text("Remedy")


def test_events_stand_above_the_panels(serve: Serve, page: Page) -> None:
    open_run(page, serve(SAMPLES), "collapse-with-llds")
    labels = f"{PLOT}.layout.annotations.filter(note => note.name === 'event').map(note => note.text)"
    ready(page, f"({labels}).length > 3")
    assert {"LLDS on", "LLDS off", "first warning"} <= set(page.evaluate(labels))
    expect(page.locator("#forecast")).to_contain_text("Collapse within 20 steps")


def test_downloads(serve: Serve, page: Page, tmp_path: Path) -> None:
    open_run(page, serve(SAMPLES), "collapse", "?steps=10~20")
    expect(page.locator("#run-absent")).not_to_be_empty()
    files = {}
    for kind in ("html", "csv", "parquet", "png"):
        with page.expect_download() as started:
            page.locator(f"#run-{kind}").click()
        assert started.value.suggested_filename == f"collapse.{kind}"
        files[kind] = tmp_path / f"collapse.{kind}"
        started.value.save_as(files[kind])
    assert "What to do" in files["html"].read_text()
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [int(row["step"]) for row in rows] == list(range(10, 21))
    assert "kl" not in rows[0]
    table = pq.read_table(files["parquet"])
    assert table["step"].to_pylist() == list(range(10, 21))
    assert table.schema.field("entropy").metadata[b"unit"] == b"nats/token"
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_an_unchanged_run_sends_nothing(serve: Serve, page: Page) -> None:
    open_run(page, serve(SAMPLES), "collapse", "?x=time&y=usual")
    page.wait_for_timeout(2000)
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", "0"))))
    page.wait_for_timeout(2500)
    assert len(sizes) >= 4
    assert max(sizes) < 3000


@pytest.mark.parametrize("name", ["collapse", "collapse-with-llds"])
def test_on_a_telephone_nothing_is_wider_than_the_screen(name: str, serve: Serve, page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    page.emulate_media(color_scheme="dark")
    open_run(page, serve(SAMPLES), name)
    expect(page.locator("#run-absent")).not_to_be_empty()
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(f"{PLOT}.layout.font.color") == "#e6e8eb"
    for button in page.locator(".run-page .tools button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
