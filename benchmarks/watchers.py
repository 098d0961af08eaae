"""Who watches a run in benchmarks/detector.py, and what counts as an alarm of each.

Every watcher gets the same rows, one at a time and in their order, in its own default settings, and says at which step
it first warned and at which it first spoke at its highest severity. What cannot be fed (re-scored likelihoods) is not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from lldwatch import CollapseDetector, Observation, Stage
from lldwatch.scoring import Forecast
from lldwatch.simulate import SCALARS

CHECK_EVERY = 25
"""Steps between two diagnoses of rldoctor and of rlprobe's callback, as both of them have it by default."""


@dataclass(frozen=True)
class Said:
    """What a watcher said of a run.

    Attributes:
        warned: first step with a warning.
        called: first step at the highest severity.
        families: (step, family) whenever it named another one.
        forecasts: chances of a collapse that it gave.
    """

    warned: int | None
    called: int | None = None
    families: tuple[tuple[int, str], ...] = ()
    forecasts: tuple[Forecast, ...] = ()

    def family_by(self, step: int) -> str | None:
        """The last one named at or before a step."""
        return next((family for since, family in reversed(self.families) if since <= step), None)


Rows = Sequence[Observation]
Watcher = Callable[[Rows, float], Said]
"""From the rows of a run and the reward of a policy that gets nothing right."""


def lldwatch(rows: Rows, floor: float) -> Said:
    """Its first warning, and the first step at which it calls the run collapsed."""
    detector, called = CollapseDetector(), None
    families: list[tuple[int, str]] = []
    forecasts = []
    for row in rows:
        diagnosis = detector.fold(row)
        if called is None and diagnosis.stage is Stage.COLLAPSE:
            called = row.step
        family = diagnosis.family
        if family is not None and (not families or families[-1][1] != family.value):
            families.append((row.step, family.value))
        if diagnosis.collapse_probability is not None:
            until = row.step + max(20, row.step // 4)
            forecasts.append(Forecast(step=row.step, probability=diagnosis.collapse_probability, until=until))
    return Said(detector.diagnosis.first_warning, called, tuple(families), tuple(forecasts))


def lldwatch_headline(rows: Rows, floor: float) -> Said:
    """The same where only the correct responses of the step before are re-scored (the preset economy)."""
    return lldwatch([replace(row, post_update_zero_advantage=None) for row in rows], floor)


def lldwatch_scalars(rows: Rows, floor: float) -> Said:
    """The same, of what a trainer logs by itself."""
    return lldwatch([Observation(**{name: getattr(row, name) for name in SCALARS}) for row in rows], floor)


def reward_alarm(rows: Rows, floor: float) -> Said:
    """The rule of benchmarks/miniature.py: the mean of 10 rewards is a quarter below its running peak.

    It is told what the reward of a policy is that gets nothing right, or it could not speak of a quarter.
    """
    rewards, peak = [], 0.0
    for row in rows:
        if row.reward is not None:
            rewards.append(row.reward - floor)
        if len(rewards) >= 10:
            mean = fmean(rewards[-10:])
            peak = max(peak, mean)
            if mean < 0.75 * peak:
                return Said(row.step)
    return Said(None)


def _rise(column: str, factor: float) -> Watcher:
    """Three rows in a row above `factor` times the median of the first 20."""

    def watch(rows: Rows, floor: float) -> Said:
        values = [(row.step, value) for row in rows if (value := getattr(row, column)) is not None]
        usual = [value for _, value in values[:20] if math.isfinite(value)]
        limit, above = factor * median(usual) if usual else math.inf, 0
        for step, value in values[20:]:
            above = above + 1 if value > limit else 0
            if above == 3:
                return Said(step)
        return Said(None)

    return watch


def _trl(row: Observation) -> dict[str, float]:
    """The row under the names that TRL's GRPOTrainer logs, which all three packages read."""
    names = {
        "loss": row.loss,
        "grad_norm": row.grad_norm,
        "learning_rate": row.learning_rate,
        "reward": row.reward,
        "reward_std": row.reward_std,
        "frac_reward_zero_std": row.zero_advantage_share,
        "completions/mean_length": row.response_length,
        "completions/clipped_ratio": row.truncated_share,
        "entropy": row.entropy,
        "kl": row.kl,
        "clip_ratio/region_mean": row.clip_fraction,
    }
    return {name: value for name, value in names.items() if value is not None}


def checkpoints(rows: Rows, from_row: int) -> Iterator[int]:
    """How many rows there are at each diagnosis: every CHECK_EVERY from a least number on, and when the run is over."""
    yield from (count for count in range(1, len(rows)) if count >= from_row and count % CHECK_EVERY == 0)
    yield len(rows)


def rldoctor(rows: Rows, floor: float) -> Said:
    """Findings of severity WARNING or above that `LiveMonitor.log` returns, and `check` at the end; CRITICAL calls."""
    from rl_doctor import Severity
    from rl_doctor.live import LiveMonitor

    monitor = LiveMonitor(config={"algorithm": "grpo"}, on_finding=lambda finding: None)
    warned = called = None
    for index, row in enumerate(rows):
        findings = monitor.log(_trl(row), step=row.step)
        if index == len(rows) - 1:
            findings = [*findings, *monitor.check()]
        for finding in findings:  # LiveMonitor's own default is alert_at=Severity.WARNING
            warned = warned if warned is not None else row.step
            if called is None and finding.severity >= Severity.CRITICAL:
                called = row.step
    return Said(warned, called)


def rlprobe(rows: Rows, floor: float) -> Said:
    """Findings "warn" or "critical" of its engine, as often as its TRL callback asks; what `HaltPolicy()` halts, calls.

    Its own TRL callback drops NaN; the fields `nan_count` and `inf_count` of its recorder are filled instead.
    """
    from rlprobe.doctor.engine import diagnose_view
    from rlprobe.doctor.live import HaltPolicy
    from rlprobe.doctor.runview import RunView
    from rlprobe.schemas import RunManifest, StepRecord

    manifest = RunManifest(run_id="run", created_at="2026-01-01T00:00:00+00:00", algorithm="grpo")
    records = [StepRecord(**_probe_fields(row)) for row in rows]
    warned = called = None
    for count in checkpoints(rows, 30):
        findings = diagnose_view(RunView(manifest, records[:count]))
        step = rows[count - 1].step
        if warned is None and any(finding.severity in ("warn", "critical") for finding in findings):
            warned = step
        if called is None and HaltPolicy().should_halt(findings) is not None:
            called = step
    return Said(warned, called)


def _probe_fields(row: Observation) -> dict[str, Any]:
    measured = [value for value in (row.loss, row.grad_norm) if value is not None]
    fields: dict[str, Any] = {
        "step": row.step,
        "nan_count": sum(math.isnan(value) for value in measured),
        "inf_count": sum(math.isinf(value) for value in measured),
    }
    values = {
        "reward_mean": row.reward,
        "reward_std": row.reward_std,
        "zero_variance_group_frac": row.zero_advantage_share,
        "kl_mean": row.kl,
        "entropy_mean": row.entropy,
        "clip_fraction": row.clip_fraction,
        "loss": row.loss,
        "lr": row.learning_rate,
        "grad_norm": row.grad_norm,
        "completion_len_mean": row.response_length,
        "truncation_rate": row.truncated_share,
    }
    return fields | {name: value for name, value in values.items() if value is not None and not math.isnan(value)}


def rlwatch(rows: Rows, floor: float) -> Said:
    """Alerts that `log_step` of a monitor attached by hand returns; those of severity "critical" call."""
    import rlwatch as package

    warned = called = None
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # it draws a panel each
        monitor = package.attach(framework="manual", storage={"log_dir": folder})
        for row in rows:
            alerts = monitor.log_step(
                row.step,
                entropy=row.entropy,
                kl_divergence=row.kl,
                reward_mean=row.reward,
                reward_std=row.reward_std,
                loss=row.loss,
                learning_rate=row.learning_rate,
                clip_fraction=row.clip_fraction,
                grad_norm=row.grad_norm,
            )
            for alert in alerts:
                warned = warned if warned is not None else row.step
                if called is None and alert.severity == "critical":
                    called = row.step
        monitor.stop()
    return Said(warned, called)


PEERS: dict[str, tuple[str, Watcher]] = {
    "rldoctor": ("rl_doctor", rldoctor),
    "rlprobe": ("rlprobe", rlprobe),
    "rlwatch": ("rlwatch", rlwatch),
}
"""Name on PyPI -> import name and watcher; benchmarks/peers.txt has the versions."""

NAIVE: dict[str, Watcher] = {
    "reward 25 % below its peak": reward_alarm,
    "entropy > 2x": _rise("entropy", 2.0),
    "gradient norm > 20x": _rise("grad_norm", 20.0),
    "length > 1.6x": _rise("response_length", 1.6),
}
"""Rules of one line; they only warn."""

OWN: dict[str, Watcher] = {
    "lldwatch": lldwatch,
    "lldwatch, headline alone": lldwatch_headline,
    "lldwatch, scalars only": lldwatch_scalars,
    **NAIVE,
}
"""Those that need nothing installed."""


def installed_peers() -> dict[str, Watcher]:
    """Those that can be imported."""
    return {name: watcher for name, (module, watcher) in PEERS.items() if importlib.util.find_spec(module)}
