"""Can everybody use the pages? axe-core looks for what is known to shut people out.

It is fetched from npm once, into build/; without npm, or without a network, the tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import simulated_run
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

VERSION = "4.14.1"
HERE = Path(__file__).parents[2] / "build" / f"axe-core-{VERSION}"
LOOK = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .filter(each => ["serious", "critical"].includes(each.impact))
    .map(each => `${each.id} (${each.impact}): ${each.help}: `
        + each.nodes.slice(0, 5).map(node => node.target.join(" ")).join(" | "))"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The script that looks."""
    script = HERE / "package" / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core comes from npm, which is not installed")
        HERE.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", "--pack-destination", str(HERE), f"axe-core@{VERSION}"]
        try:
            subprocess.run(command, cwd=HERE, check=True, timeout=120, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("npm could not fetch axe-core")
        shutil.unpack_archive(HERE / f"axe-core-{VERSION}.tgz", HERE, filter="data")
    return script.read_text(encoding="utf-8")


@pytest.fixture
def address(serve: Callable[[Path], str], tmp_path: Path) -> str:
    """A dashboard with a run that collapses, a healthy one, and one with responses."""
    samples = Path(__file__).parents[2] / "sample_logs"
    for name in ("collapse", "healthy"):
        shutil.copytree(samples / name, tmp_path / "runs" / name)
    simulated_run.write(tmp_path / "runs" / "short", steps=40, delay=0)
    return serve(tmp_path / "runs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/", "#run-list a"),
        ("/run/collapse", "#run-figure .main-svg"),
        ("/responses/collapse", "#responses-figure .main-svg"),
        ("/compare?run=collapse&run=healthy", "#compare-figure .main-svg"),
        ("/run/nothing", "h1"),
    ],
)
def test_no_serious_violation(path: str, there: str, scheme: str, address: str, page: Page, axe: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.goto(address + path)
    expect(page.locator(there).first).to_be_attached()
    page.wait_for_timeout(1500)
    page.evaluate(axe)
    violations = page.evaluate(LOOK)
    assert not violations, "\n".join(violations)
