"""Does LLDS keep the miniature alive: from the start, and switched on only when lldwatch predicts a collapse?

python benchmarks/llds.py --out runs/llds                 (some hours; goes on where it was stopped)
python benchmarks/llds.py --out runs/llds --only-read     (the tables of what is there)
python benchmarks/llds.py --out runs/llds --only-read --picture arms.png

Each run is recorded by lldwatch in OUT/ARM-baseB-seedS, and what the tables need of it in a JSON file beside that,
which is written last: a run that has none, or one of other settings, is trained again. An `auto` arm knows nothing but
what the monitor knows. Outcomes are judged from the rewards alone, by lldwatch.search_world.outcome.

A claim about replay stands beside its controls: the same responses replayed with a plain negative log-likelihood, and
the healthy run with replay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

import lldwatch
from lldwatch import Monitor, Run
from lldwatch.intervention import Correct
from lldwatch.search_world.correction import Correction
from lldwatch.search_world.grpo import SCENARIOS, Scenario, StepResult, train
from lldwatch.search_world.outcome import FINAL, WINDOW, Outcome, judge
from lldwatch.search_world.pretrain import PretrainSettings, base_policy

HEALTHY, COLLAPSE = SCENARIOS["healthy"], SCENARIOS["collapse"]
SLOWER = replace(COLLAPSE, learning_rate=1e-3)
TOO_FAST = replace(COLLAPSE, learning_rate=2e-3, epochs=2)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Arm:
    """A way to train: its words in the table, the loop's settings, and how LLDS is used."""

    title: str
    llds: Correct
    scenario: Scenario = COLLAPSE

    @property
    def plain(self) -> bool:
        """Nothing is added to GRPO, so that it costs what GRPO costs."""
        scenario = self.scenario
        return scenario.correction == Correction() and scenario.fewer_epochs is None and not self.llds.strength


def _with(scenario: Scenario, **correction: Any) -> Scenario:
    return replace(scenario, correction=Correction(**correction))


def _on(strength: float) -> Correct:
    return Correct(mode="on", strength=strength)


def _auto(strength: float) -> Correct:
    return Correct(mode="auto", strength=strength)


_OFF = Correct(strength=0.0)
_REPLAY = _with(COLLAPSE, reference="replay")
_FIFTH = _with(COLLAPSE, reference="replay", replay_share=0.2)
_BOTH = _with(COLLAPSE, reference="old and replay")
_BOTH_FIFTH = _with(COLLAPSE, reference="old and replay", replay_share=0.2)
_IMITATION = _with(COLLAPSE, reference="replay", replay_likelihood=True)
_BOTH_IMITATION = _with(COLLAPSE, reference="old and replay", replay_likelihood=True)
_HEALTHY_REPLAY = _with(HEALTHY, reference="replay")
_HEALTHY_BOTH = _with(HEALTHY, reference="old and replay")
_SLOWER_FIFTH = _with(SLOWER, reference="old and replay", replay_share=0.2)
_TOO_FAST_REPLAY = _with(TOO_FAST, reference="replay")
_TOO_FAST_BOTH = _with(TOO_FAST, reference="old and replay")

GROUPS: dict[str, dict[str, Arm]] = {
    "16 updates on each rollout batch, unless said otherwise": {
        "vanilla": Arm("vanilla GRPO", _OFF),
        "healthy": Arm("healthy: 4 updates", _OFF, HEALTHY),
        "kl-0.1": Arm("KL penalty 0.1", _OFF, _with(COLLAPSE, kl=0.1)),
        "batch-0.2": Arm("batch LLDS 0.2 from the start (the paper's)", _on(0.2)),
        "batch-1": Arm("batch LLDS 1 from the start", _on(1.0)),
        "batch-4": Arm("batch LLDS 4 from the start", _on(4.0)),
        "replay-1": Arm("replay LLDS 1 from the start", _on(1.0), _REPLAY),
        "both-1": Arm("batch and replay LLDS 1 from the start", _on(1.0), _BOTH),
        "auto-batch-4": Arm("**auto**, batch LLDS 4", _auto(4.0)),
        "auto-replay-1": Arm("**auto**, replay LLDS 1", _auto(1.0), _REPLAY),
        "auto-replay-1-fifth": Arm("**auto**, replay LLDS 1, a fifth as many responses", _auto(1.0), _FIFTH),
        "auto-both-4": Arm("**auto**, batch and replay LLDS 4", _auto(4.0), _BOTH),
        "auto-both-4-fifth": Arm("**auto**, the same, a fifth as many replayed", _auto(4.0), _BOTH_FIFTH),
        "auto-fewer-updates": Arm("**auto**, 4 updates while asked", _auto(0.0), replace(COLLAPSE, fewer_epochs=1)),
    },
    "Controls": {
        "auto-imitation-1": Arm(
            "control: **auto**, plain log-likelihood 1 of the same replayed responses", _auto(1.0), _IMITATION
        ),
        "auto-both-imitation-4": Arm(
            "**auto**, batch LLDS 4 and plain log-likelihood 4 of the replayed", _auto(4.0), _BOTH_IMITATION
        ),
        "healthy-replay-1": Arm("healthy with replay LLDS 1 from the start", _on(1.0), _HEALTHY_REPLAY),
        "healthy-auto-both-4": Arm("healthy, **auto**, batch and replay LLDS 4", _auto(4.0), _HEALTHY_BOTH),
    },
    "Learning rate 1e-3 instead of 1.5e-3": {
        "slower-vanilla": Arm("vanilla GRPO", _OFF, SLOWER),
        "slower-batch-1": Arm("batch LLDS 1 from the start", _on(1.0), SLOWER),
        "slower-auto-both-4-fifth": Arm("**auto**, batch and a fifth of replay LLDS 4", _auto(4.0), _SLOWER_FIFTH),
    },
    "Learning rate too high: 2e-3, 8 updates": {
        "fast-vanilla": Arm("vanilla GRPO", _OFF, TOO_FAST),
        "fast-batch-1": Arm("batch LLDS 1 from the start", _on(1.0), TOO_FAST),
        "fast-replay-1": Arm("replay LLDS 1 from the start", _on(1.0), _TOO_FAST_REPLAY),
        "fast-auto-both-4": Arm("**auto**, batch and replay LLDS 4", _auto(4.0), _TOO_FAST_BOTH),
    },
    "Other gates than an action's, LLDS 1 from the start": {
        "batch-1-response": Arm("batch, response gate", _on(1.0), _with(COLLAPSE, gate="response")),
        "batch-1-token": Arm("batch, token gate", _on(1.0), _with(COLLAPSE, gate="token")),
        "replay-1-response": Arm("replay, response", _on(1.0), _with(COLLAPSE, reference="replay", gate="response")),
        "replay-1-token": Arm("replay, token", _on(1.0), _with(COLLAPSE, reference="replay", gate="token")),
    },
}
ARMS = {name: arm for group in GROUPS.values() for name, arm in group.items()}

PICTURE = {  # arm: (words, colour)
    "healthy": ("4 updates per batch", "#7f8c8d"),
    "vanilla": ("16 updates per batch", "#c0392b"),
    "batch-1": ("16, batch LLDS from the start", "#e08e0b"),
    "auto-both-4": ("16, LLDS when lldwatch predicts the collapse", "#1f77b4"),
}


@dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes:
        steps: what the loop saw.
        coefficients: of LLDS, step by step.
        engaged: first step in which a remedy that waits for the prediction was applied; None: none was.
        first_warning: of the detector.
        code: names the sources of lldwatch that it was trained with.
        cpu_seconds: of the training's thread, probes and all.
        outcome: judged from the rewards.
    """

    steps: list[StepResult]
    coefficients: list[float]
    engaged: int | None
    first_warning: int | None
    code: str
    cpu_seconds: float
    outcome: Outcome

    @property
    def entropy(self) -> float:
        """Of the last steps, nats per token."""
        return fmean(step.entropy for step in self.steps[-FINAL:])


def record_of(arm: str, base_seed: int, seed: int, out: Path) -> Path:
    """The file with what the tables need of a run; its recording is the folder without the ending."""
    return out / f"{arm}-base{base_seed}-seed{seed}.json"


def key_of(arm: str, base_seed: int, seed: int, steps: int) -> dict[str, Any]:
    """What a record must be of to be used again."""
    settings = asdict(ARMS[arm])
    del settings["title"]
    key: dict[str, Any] = json.loads(json.dumps({**settings, "base_seed": base_seed, "seed": seed, "steps": steps}))
    return key


def code() -> str:
    """Names the sources that this process trains with: an `auto` arm depends on the detector."""
    root = Path(lldwatch.__file__).parent
    text = b"".join(file.read_bytes() for file in sorted(root.rglob("*.py")))
    return hashlib.sha256(text).hexdigest()[:12]


CODE = code()


def train_one(arm: str, base_seed: int, seed: int, steps: int, out: Path) -> None:
    """Trains and records one run."""
    settings, record = ARMS[arm], record_of(arm, base_seed, seed, out)
    run_dir = record.with_name(record.name.removesuffix(".json"))  # not with_suffix: there is a dot in 0.2
    shutil.rmtree(run_dir, ignore_errors=True)  # it was interrupted
    key = key_of(arm, base_seed, seed, steps)
    policy = base_policy(PretrainSettings(seed=base_seed))
    began = time.thread_time()
    with Monitor(run_dir, trainer="search_world", config=key, planned_steps=steps, llds=settings.llds) as monitor:
        asked = None if settings.llds.mode == "off" else lambda: monitor.llds_coefficient
        results = train(policy, settings.scenario, seed, steps, monitor, probes="full", llds_coefficient=asked)
    seconds = time.thread_time() - began
    found = {"key": key, "code": CODE, "cpu_seconds": seconds, "first_warning": monitor.diagnosis.first_warning}
    found["coefficients"] = [step.llds_coefficient or 0.0 for step in Run(run_dir).observations()]
    found["steps"] = [asdict(result) for result in results]
    partial = record.with_name(f"{record.name}.tmp")
    partial.write_text(json.dumps(found) + "\n")
    partial.rename(record)


def read(arm: str, base_seed: int, seed: int, steps: int, out: Path) -> Done | None:
    """A run that is there, complete and of these settings; None: it is not."""
    record = record_of(arm, base_seed, seed, out)
    if not record.is_file():
        return None
    found = json.loads(record.read_text())
    if not _agree(found["key"], key_of(arm, base_seed, seed, steps)):
        print(f"{record.name} is of other settings", file=sys.stderr)
        return None
    results = [StepResult(**step) for step in found["steps"]]
    full = ARMS[arm].scenario.updates_per_batch
    applied = [
        result.step
        for result, coefficient in zip(results, found["coefficients"], strict=True)
        if coefficient or result.updates < full
    ]
    return Done(
        steps=results,
        coefficients=found["coefficients"],
        engaged=applied[0] if applied and ARMS[arm].llds.mode == "auto" else None,
        first_warning=found["first_warning"],
        code=found.get("code", "unknown"),
        cpu_seconds=found["cpu_seconds"],
        outcome=judge([result.reward for result in results]),
    )


def _agree(recorded: Any, wanted: Any) -> bool:
    """Whether all that was recorded of the settings still holds; one that came later changes nothing by itself."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        return all(name in wanted and _agree(value, wanted[name]) for name, value in recorded.items())
    return bool(recorded == wanted)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds; the same values give the same interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def seconds_a_step(arm: Arm, steps: int = 8, warmup: int = 2) -> float:
    """Median CPU time of an unwatched step while the remedy is on, seconds: the first steps have nothing to replay."""
    scenario = replace(arm.scenario, epochs=arm.scenario.fewer_epochs or arm.scenario.epochs)
    strength, times, policy = arm.llds.strength, [time.thread_time()], base_policy(PretrainSettings())

    def note(_: StepResult) -> None:
        times.append(time.thread_time())

    train(policy, scenario, 0, steps, on_step=note, llds_coefficient=lambda: strength)
    return float(np.median(np.diff(times)[warmup:]))


def price(arm: Arm, out: Path) -> float:
    """CPU time of a step while the remedy is on, relative to the same loop without it; measured once and kept."""
    if arm.plain:
        return 1.0
    kept = out / "costs.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    plain = Arm("", _OFF, replace(arm.scenario, correction=Correction(), fewer_epochs=None))
    key = json.dumps([asdict(arm.scenario), bool(arm.llds.strength)], sort_keys=True)
    if key not in known:
        rounds = [(seconds_a_step(arm), seconds_a_step(plain)) for _ in range(3)]
        known[key] = min(ours for ours, _ in rounds) / min(theirs for _, theirs in rounds)
        kept.write_text(json.dumps(known, indent=1) + "\n")
    return float(known[key])


def extra(runs: Sequence[Done], arm: Arm) -> float:
    """Responses scored for the remedy alone, over the whole run, for each that an update was made on."""
    mini_batch = arm.scenario.prompts * arm.scenario.responses // arm.scenario.mini_batches
    trained_on = sum(step.updates for run in runs for step in run.steps) * mini_batch
    return sum(step.extra_passes for run in runs for step in run.steps) / trained_on


TITLES = (
    "arm",
    "runs",
    "final reward (95 % interval)",
    "sustained collapse",
    "engaged (median step)",
    "entropy at the end",
    "extra passes",
    "CPU time of a step while on",
)


def row(arm: Arm, runs: Sequence[Done], out: Path) -> list[str]:
    """One line of the table."""
    finals = [run.outcome.final for run in runs]
    low, high = interval(finals)
    dead = [run.outcome.collapse_step for run in runs if run.outcome.collapse_step is not None]
    engaged = [run.engaged for run in runs if run.engaged is not None]
    when = "from the start" if arm.llds.mode == "on" else "-"
    if arm.llds.mode == "auto":
        when = f"{len(engaged)}/{len(runs)}" + (f" (step {median(engaged):g})" if engaged else "")
    return [
        arm.title,
        str(len(runs)),
        f"{fmean(finals):.2f} ({low:.2f} to {high:.2f})",
        f"{len(dead)}/{len(runs)}" + (f" (median step {median(dead):g})" if dead else ""),
        when,
        f"{fmean(run.entropy for run in runs):.2f}",
        f"{extra(runs, arm):.0%}",
        f"x {price(arm, out):.2f}",
    ]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(done: dict[str, list[Done]], out: Path) -> str:
    """One Markdown table a group; arms without a run are left out."""
    parts = []
    for title, group in GROUPS.items():
        rows = [row(arm, done[name], out) for name, arm in group.items() if done.get(name)]
        if rows:
            parts.append(f"**{title}**\n\n{markdown([TITLES, ['---'] * len(TITLES), *rows])}")
    return "\n\n".join(parts)


def picture(done: dict[str, list[Done]], file: Path) -> None:
    """Draws the reward of four arms, mean over seeds with its bootstrap interval, in headless Chromium."""
    import plotly.graph_objects as go
    from playwright.sync_api import sync_playwright

    figure = go.Figure()
    for name, (title, colour) in PICTURE.items():
        rewards = np.array([[step.reward for step in run.steps] for run in done[name]])
        means = np.apply_along_axis(np.convolve, 1, rewards, np.full(WINDOW, 1 / WINDOW), mode="valid")
        steps = np.arange(WINDOW, rewards.shape[1] + 1)
        low, high = np.transpose([interval(column.tolist()) for column in means.T])
        band = {"x": [*steps, *steps[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "fillcolor": colour}
        figure.add_scatter(**band, opacity=0.15, line_width=0, hoverinfo="skip", showlegend=False, mode="lines")
        figure.add_scatter(x=steps, y=means.mean(0), name=title, line={"color": colour, "width": 3}, mode="lines")
        engaged = [run.engaged for run in done[name] if run.engaged is not None]
        if engaged:
            words = {"annotation_text": "LLDS switched on (median)", "annotation_position": "bottom right"}
            figure.add_vline(median(engaged), line={"color": colour, "dash": "dot"}, **words)
    figure.update_layout(
        template="plotly_white",
        width=960,
        height=480,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        font={"family": "sans-serif", "size": 14},
        xaxis_title="rollout batch",
        yaxis={"title": f"mean reward of {WINDOW} steps", "range": [0, 1]},
        legend={"x": 0.01, "y": 0.99, "bgcolor": "rgba(255,255,255,0.8)"},
    )
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=quiet)
        page = browser.new_page(viewport={"width": 960, "height": 480})
        page.set_content(figure.to_html(config={"staticPlot": True}))
        page.wait_for_selector(".main-svg")
        page.wait_for_timeout(500)
        page.locator(".js-plotly-plot").screenshot(path=file)
        browser.close()


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parse(argv)
    bases = arguments.base_seeds * (len(arguments.seeds) if len(arguments.base_seeds) == 1 else 1)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[Done]] = {}
    for arm in arguments.arms:
        for base_seed, seed in zip(bases, arguments.seeds, strict=True):
            of = (arm, base_seed, seed, arguments.steps, out)
            run = read(*of)
            if run is None and not arguments.only_read:
                train_one(*of)
                run = read(*of)
                assert run is not None
                print(_line(arm, base_seed, seed, run), file=sys.stderr, flush=True)
            if run is not None:
                done.setdefault(arm, []).append(run)
    print(tables(done, out))
    sources = sorted({run.code for runs in done.values() for run in runs})
    if len(sources) > 1:
        print(f"\nThe runs are of different sources of lldwatch: {', '.join(sources)}", file=sys.stderr)
    if arguments.picture:
        picture(done, arguments.picture)


def _line(arm: str, base_seed: int, seed: int, run: Done) -> str:
    outcome = run.outcome
    died = f"collapsed at {outcome.collapse_step}" if outcome.collapse_step else "lives"
    return (
        f"{arm} base {base_seed} seed {seed}: final {outcome.final:.2f}, {died}, warned {run.first_warning}, "
        f"engaged {run.engaged}, entropy {run.entropy:.2f}, {run.cpu_seconds:.0f} s of CPU"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)), help="one run of each arm per seed")
    parser.add_argument(
        "--base-seeds",
        nargs="+",
        type=int,
        help="base policies: one for all, or one a seed (default: 0 for seeds 0 to 4, then 1, 2, ...)",
    )
    parser.add_argument("--steps", type=int, default=80, help="rollout batches of a run")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are recorded, or stand already")
    parser.add_argument("--only-read", action="store_true", help="train nothing")
    parser.add_argument("--picture", type=_image, metavar="FILE", help=f"also draw {', '.join(PICTURE)}")
    arguments = parser.parse_args(argv)
    if arguments.base_seeds is None:
        arguments.base_seeds = [max(0, seed - 4) for seed in arguments.seeds]
    if len(arguments.base_seeds) not in (1, len(arguments.seeds)):
        parser.error(
            f"got {len(arguments.base_seeds)} base seeds for {len(arguments.seeds)} seeds: give one, or one a seed"
        )
    if arguments.steps < WINDOW:
        parser.error(f"got --steps {arguments.steps}: a run is judged on at least {WINDOW}")
    return arguments


def _image(text: str) -> Path:
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .png")
    return Path(text)


if __name__ == "__main__":
    main()
