"""What is built and uploaded: it is whole, and works where nothing but the base dependencies is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
COLLAPSE = HERE / "sample_logs" / "collapse"
BASE = ("numpy", "numpy.libs", "pyarrow")


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLDWATCH"))}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=clean)


def _tracked(*folders: str) -> set[str]:
    listed = _run("git", "ls-files", *folders, cwd=HERE)
    if listed.returncode:
        pytest.skip("this is no git checkout: what belongs to the package is not known")
    return {name.removeprefix("dashboard/") for name in listed.stdout.split()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made of it."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    archive = source / "tree.tar"
    made = _run("git", "archive", "--output", archive, "HEAD", cwd=HERE)
    if made.returncode:
        pytest.skip("this is no git checkout: building in place would leave files here")
    with tarfile.open(archive) as tree:
        tree.extractall(source, filter="data")
    done = _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return dist


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, numpy and pyarrow, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    (wheel,) = built.glob("*.whl")
    pip = ("-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check")
    done = _run(sys.executable, *pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    found = importlib.util.find_spec("numpy")
    assert found is not None
    assert found.origin is not None
    for name in BASE:
        origin = Path(found.origin).parents[1] / name
        if origin.exists():
            (packages / name).symlink_to(origin)
    return folder / "bin"


def test_the_wheel_and_the_sdist_hold_every_file_of_the_package(built: Path) -> None:
    wanted = _tracked("lldwatch", "dashboard/lldwatch_dashboard")
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in wanted if not name.endswith(".md")} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    ours = tuple(f"lldwatch-{_version()}.dist-info/{part}" for part in ("", "licenses/"))
    assert {name for name in inside - wanted if not name.startswith(ours)} == set()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2].removeprefix("dashboard/") for name in archive.getnames()}
    assert wanted | {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_with_the_base_dependencies_alone_a_run_is_diagnosed_and_reported(bare: Path, tmp_path: Path) -> None:
    names = ("torch", "pandas", "dash", "plotly", "tqdm")
    absent = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    assert _run(bare / "python", "-c", absent, cwd=tmp_path).stdout == "[]\n"
    here = _run(sys.executable, "-m", "lldwatch", "diagnose", COLLAPSE, cwd=HERE)
    there = _run(bare / "lldwatch", "diagnose", COLLAPSE, cwd=tmp_path)
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)
    assert "collapse" in there.stdout
    done = _run(bare / "lldwatch", "report", COLLAPSE, "--out", "report.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report.html").read_text().startswith("<!")


def test_with_the_base_dependencies_alone_a_loop_is_recorded(bare: Path, tmp_path: Path) -> None:
    script = (
        "from lldwatch import Monitor, Run\n"
        "with Monitor('run') as monitor:\n"
        "    for reward in (0.1, 0.2): monitor.step(reward=reward, grad_norm=1.0)\n"
        "print(len(Run('run').observations()))"
    )
    done = _run(bare / "python", "-W", "error", "-c", script, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize(("command", "extra"), [("dashboard .", "dashboard"), ("demo", "demo")])
def test_a_command_that_needs_more_says_what_to_install(bare: Path, tmp_path: Path, command: str, extra: str) -> None:
    done = _run(bare / "lldwatch", *command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert f"install lldwatch with its extra [{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


def _version() -> str:
    import lldwatch

    return lldwatch.__version__
