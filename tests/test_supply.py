"""What lldwatch stands on: lower bounds that are tested, licences that are listed, no network that nobody asked for."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
FOR_USERS = [name for name in PROJECT["optional-dependencies"] if name != "dev"]

SPY = """
import json, sys
def look(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        with open({log!r}, "a") as log:
            log.write(json.dumps([event, repr(args[1:] if event.startswith("socket.c") else args)]) + "\\n")
sys.addaudithook(look)
"""

TRAINING = """
from lldwatch import Monitor
with Monitor("run") as monitor:
    for step in range(30):
        monitor.step(reward=0.5, grad_norm=1.0, entropy=0.4)
"""


def _required() -> list[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in FOR_USERS)]
    return sorted({line for lines in lists for line in lines if not line.startswith("lldwatch")})


@pytest.mark.parametrize("line", _required())
def test_every_dependency_has_a_lower_bound_and_its_licence_in_the_readme(line: str) -> None:
    name = re.split(r"[<>=~!\[ ]", line)[0]
    assert ">=" in line, f"{line}: without a lower bound nobody knows what works"
    row = re.search(rf"^\| `{re.escape(name)}` \| (.+?) \|", README, re.MULTILINE)
    assert row, f"{name} is not in the README's table of dependencies"
    try:
        about = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    words = " ".join(
        [about.get("License-Expression") or "", about.get("License") or "", *about.get_all("Classifier", [])]
    )
    spelled = {"Apache-2.0": "Apache", "BSD-3-Clause": "BSD", "MPL-2.0": "MPL"}.get(row[1], row[1])
    assert spelled in words, f"{name}: {words[:300]}"


def test_nothing_but_this_machine_is_connected_to(tmp_path: Path) -> None:
    log = tmp_path / "connections"
    (tmp_path / "sitecustomize.py").write_text(SPY.format(log=str(log)))
    home = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'dashboard'}", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "lldwatch"]
    sample, foreign = str(ROOT / "sample_logs" / "collapse"), str(ROOT / "sample_logs" / "foreign" / "trl")
    calls = [
        [sys.executable, "-c", "import socket; socket.getaddrinfo('localhost', 1)"],  # that the spy sees something
        [sys.executable, "-c", TRAINING],
        [*command, "diagnose", foreign],
        [*command, "report", sample, "--out", "report.html"],
        [*command, "compare", "run", sample],
        [*command, "scan", str(ROOT / "sample_logs"), "--no-cache"],
        [*command, "watch", "run"],
    ]
    for call in calls:
        done = subprocess.run(call, cwd=tmp_path, env=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = [*command, "dashboard", str(ROOT / "sample_logs"), "--port", str(port)]
    with subprocess.Popen(served, cwd=tmp_path, env=home, stdout=subprocess.PIPE, text=True) as server:
        address = next(found[0] for line in server.stdout or () if (found := re.search(r"http://\S+", line)))
        assert b"lldwatch" in urlopen(address).read()
        server.terminate()
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    assert seen.pop(0)[0] == "socket.getaddrinfo"
    assert [line for line in seen if "127.0.0.1" not in line[1] and "'/" not in line[1]] == []
