"""`lldwatch demo`: train the miniature with hooks attached, show it live, and say what became of it.

The dashboard runs in a process of its own, as it would for a user: the training shares neither its thread nor its lock.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from lldwatch import Monitor
from lldwatch.errors import InputError, LldwatchError
from lldwatch.follow import Follower
from lldwatch.intervention import Correct
from lldwatch.report import write_text
from lldwatch.run import Run
from lldwatch.search_world.correction import Correction
from lldwatch.search_world.grpo import SCENARIOS, StepResult, train
from lldwatch.search_world.policy import Policy
from lldwatch.search_world.pretrain import base_policy

_START_SECONDS = 30.0

_HELD = replace(SCENARIOS["collapse"], correction=Correction(reference="old and replay"))
SCENES = {
    "healthy": (SCENARIOS["healthy"], Correct()),
    "collapse": (SCENARIOS["collapse"], Correct()),
    "llds": (_HELD, Correct(mode="on")),
    "auto": (_HELD, Correct(mode="auto", strength=4.0)),
}
"""What can be shown: how it is trained, and how LLDS is used. The last two are `collapse` with a remedy, at strengths
that benchmarks/llds.py has measured: where it comes late it takes more."""


def run_demo(scenario: str, seed: int, steps: int, out: Path | None, port: int | None) -> None:
    """Train one scenario of the miniature and print the verdict.

    Args:
        scenario: key in `SCENES`.
        seed: of prompts and sampling.
        steps: rollout batches.
        out: run directory; without it the next free one below runs/.
        port: of the dashboard on 127.0.0.1; None: no dashboard, and the demo ends by itself.

    Raises:
        LldwatchError: the run directory is taken, or the dashboard cannot be served.
    """
    run_dir = out or _next_free(Path("runs"), f"demo-{scenario}")
    if out is not None and out.exists():
        raise InputError(f"{out} is there already: give --out a new folder")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if port is None else _dashboard(run_dir.parent, port):
        if port is not None:
            print(f"Live dashboard: http://127.0.0.1:{port}/run/{run_dir.name}", flush=True)
        _train(run_dir, scenario, seed, steps)
        follower = Follower(Run(run_dir))
        follower.update()
        write_text(follower, sys.stdout)
        sys.stdout.flush()
        if port is not None:
            with contextlib.suppress(KeyboardInterrupt):
                print(f"\nThe dashboard stays on http://127.0.0.1:{port}/run/{run_dir.name} until Ctrl-C.", flush=True)
                while True:
                    time.sleep(3600)


def _train(run_dir: Path, scenario: str, seed: int, steps: int) -> None:
    policy = _base_policy()
    settings, llds = SCENES[scenario]
    config = {"scenario": scenario, "seed": seed, "updates_per_batch": settings.updates_per_batch}
    with (
        Monitor(run_dir, trainer="search_world", config=config, planned_steps=steps, llds=llds) as monitor,
        tqdm(total=steps, unit="step", desc="healthy", disable=None) as bar,
    ):
        coefficient = 0.0

        def say_coefficient(next_step: int) -> None:
            nonlocal coefficient
            before, coefficient = coefficient, monitor.llds_coefficient
            if coefficient != before:
                bar.write(f"LLDS coefficient {before:.3g} -> {coefficient:.3g} from step {next_step} on")
                sys.stdout.flush()

        def show(result: StepResult) -> None:
            stage = monitor.diagnosis.stage.label
            bar.set_description(stage, refresh=False)
            bar.set_postfix(reward=f"{result.reward:.2f}", refresh=False)
            bar.update()
            if bar.disable and (result.step % 10 == 0 or result.step == steps):  # a pipe or a log file
                print(f"step {result.step} of {steps}  reward {result.reward:.2f}  {stage}", flush=True)
            say_coefficient(result.step + 1)

        say_coefficient(1)
        asked = None if llds.mode == "off" else lambda: monitor.llds_coefficient
        train(policy, settings, seed, steps, monitor, show, probes="full", llds_coefficient=asked)


def _base_policy() -> Policy:
    with tqdm(unit="step", desc="base policy (once)", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            if bar.disable and done == 1:
                print("training the base policy, once: half a minute or more", flush=True)
            bar.total = total
            bar.update(done - bar.n)

        return base_policy(progress=show)


def _next_free(root: Path, name: str) -> Path:
    """The name itself, or with the first free number behind it."""
    candidates = (root / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


@contextlib.contextmanager
def _dashboard(root: Path, port: int) -> Iterator[None]:
    """Serve a folder of runs for as long as the context lasts."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise LldwatchError(f"port {port} is taken: choose another with --port, or --no-dashboard")
    command = [sys.executable, "-m", "lldwatch", "dashboard", str(root), "--port", str(port), "--until-eof"]
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads would stop the dashboard when full
    # its standard input ends with this process, however that ends: no dashboard is left behind
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None:
                said.seek(0)
                words = said.read().strip().splitlines()
                raise LldwatchError(words[-1].removeprefix("lldwatch: ") if words else "the dashboard did not start")
            if time.monotonic() > deadline:
                raise LldwatchError(f"the dashboard does not answer on port {port}: try --port, or --no-dashboard")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
