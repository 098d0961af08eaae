"""The README says what is so: its blocks are made again and compared. LLDWATCH_UPDATE=1 writes them anew."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from alert_server import hook
from made_up import spiral

from lldwatch import SIGNALS, Run, diagnose
from lldwatch.importers.job import import_logs
from lldwatch.importers.known import names
from lldwatch.probe_plan import FREE_KINDS, PRESETS
from lldwatch.probes import LikelihoodProbe
from lldwatch.schema import KINDS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def block(marker: str) -> str:
    """What follows the HTML comment, up to the next blank line or the end of a fenced block."""
    text = README.read_text()
    match = re.search(rf"<!-- {re.escape(marker)} -->\n(```\w*\n.*?\n?```|(?:\|[^\n]*\n)*)", text, re.S)
    assert match, f"the README has no block <!-- {marker} -->"
    return match.group(1)


def update(marker: str, content: str) -> None:
    if os.environ.get("LLDWATCH_UPDATE"):
        README.write_text(
            README.read_text().replace(f"<!-- {marker} -->\n{block(marker)}", f"<!-- {marker} -->\n{content}")
        )


def test_the_output_shown_is_the_real_one() -> None:
    marker = next(re.finditer(r"<!-- (output: lldwatch (.*)) -->", README.read_text()))
    command = [sys.executable, "-m", "lldwatch", *shlex.split(marker.group(2))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    content = f"```text\n$ lldwatch {marker.group(2)}\n{done.stdout}```"
    update(marker.group(1), content)
    assert block(marker.group(1)) == content


def test_the_table_of_signals_is_the_code_s() -> None:
    rows = ["| signal | unit | meaning | healthy |", "|---|---|---|---|"]
    rows += [f"| `{s.name}` | {s.unit or '-'} | {s.meaning} | {s.healthy} |" for s in SIGNALS.values()]
    content = "\n".join(rows) + "\n"
    update("table: signals", content)
    assert block("table: signals") == content


def test_the_table_of_probes_is_the_code_s() -> None:
    rows = [f"| kind | what is compared | {' | '.join(PRESETS)} |", "|---" * (2 + len(PRESETS)) + "|"]
    for kind, meaning in KINDS.items():
        prices = ("free" if kind in FREE_KINDS else f"{plan.price()[kind]:g}" for plan in PRESETS.values())
        rows.append(f"| `{kind}` | {meaning} | {' | '.join(prices)} |")
    totals = (f"{sum(plan.price().values()):.4g}" for plan in PRESETS.values())
    content = "\n".join([*rows, f"| | responses a step | {' | '.join(totals)} |"]) + "\n"
    update("table: probes", content)
    assert block("table: probes") == content


def rows_of_formats() -> list[tuple[str, str]]:
    """Format and sample of each row of the table."""
    return re.findall(r"^\| `([\w-]+)` \| .* \| `([^`]+)` \| .* \|$", block("table: formats"), re.M)


def test_the_table_of_formats_has_each_one() -> None:
    assert sorted(fmt for fmt, _ in rows_of_formats()) == sorted(names())


@pytest.mark.parametrize(("fmt", "sample"), rows_of_formats())
def test_the_sample_of_each_format_is_recognised_and_read(fmt: str, sample: str, tmp_path: Path) -> None:
    runs, _ = import_logs(ROOT / "sample_logs" / "foreign" / sample, tmp_path / "out")
    assert {run.format for run in runs} == {fmt}
    assert runs[0].steps > 0


def batches(count: int) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        tokens = torch.randint(0, 11, (8, 6), generator=generator)
        rewards = (tokens[:, 0] > 4).float()
        yield {
            "tokens": tokens,
            "old_log_probs": torch.full((8, 6), -2.4),
            "response_mask": torch.ones(8, 6, dtype=torch.bool),
            "rewards": rewards,
            "advantages": rewards - rewards.mean(),
        }


def test_the_example_score_gives_each_log_prob_the_place_of_its_token() -> None:
    table = torch.randn(11, 11, generator=torch.Generator().manual_seed(0))

    def model(tokens: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=table[tokens])

    names = {"torch": torch, "model": model, "LikelihoodProbe": LikelihoodProbe}
    code = block("example: score").removeprefix("```python\n").removesuffix("```")
    exec(compile(code, str(README), "exec"), names)  # the README's own lines are the test
    (batch,) = batches(1)
    log_probs, entropy = names["score"]({**batch, "attention_mask": batch["response_mask"]})  # type: ignore[operator]
    exact = torch.log_softmax(table.double(), -1)
    for row, tokens in enumerate(batch["tokens"].tolist()):
        for place in range(1, len(tokens)):
            assert log_probs[row, place] == pytest.approx(float(exact[tokens[place - 1], tokens[place]]), abs=1e-5)
    assert (log_probs[:, 0] == 0).all()
    assert (entropy[:, 1:] > 0).all()
    about = {"response_mask": batch["response_mask"], "correct": batch["rewards"] > 0}
    probes = names["probe"].after_update({**batch, "attention_mask": batch["response_mask"]}, **about)
    assert probes.error is None


NOT_HANDED_OVER = {
    "bystanders": "needs post_update_zero_advantage: no responses without advantage were re-scored "
    "(lldwatch.probes.LikelihoodProbe)",
    "kl": "needs kl",
    "clip_fraction": "needs clip_fraction",
    "reuse": "needs clip_fraction",
    "rollout_mismatch": "needs rollout_kl",
    "format": "needs format_valid_share",
    "truncation": "needs truncated_share",
}
"""Check -> what it says where the loop has only what the example has."""


def test_the_example_loop_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 11)

        def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = batch["tokens"]
            scores = torch.log_softmax(self.embedding(tokens.roll(1, -1)), -1)
            return scores.gather(-1, tokens[..., None])[..., 0], -(scores.exp() * scores).sum(-1)

    policy = Policy()
    names = {
        "policy": policy,
        "loader": list(batches(20)),
        "optimizer": torch.optim.Adam(policy.parameters()),
        "grpo_loss": lambda log_probs, batch: -(log_probs * batch["advantages"][:, None]).mean(),
    }
    code = block("example: loop").removeprefix("```python\n").removesuffix("```")
    exec(compile(code, str(README), "exec"), names)  # the README's own lines are the test
    run = Run(tmp_path / "runs" / "search")
    assert [observation.step for observation in run.observations()] == list(range(1, 21))
    assert run.observations()[-1].cross_update_change is not None
    assert run.observations()[-1].post_update_correct is not None
    assert run.observations()[-1].lagged_change_10 is not None
    assert run.observations()[-2].lagged_change_10 is None  # measured each fifth step
    assert run.responses().num_rows == 20 * 8
    skipped = {
        check.name: check.reason for check in diagnose(run.observations())[-1].checks if check.status == "skipped"
    }
    assert skipped == NOT_HANDED_OVER


def test_the_example_of_alerts_tells_and_stops_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "notify.sh"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$LLDWATCH_ALERT_STAGE" >> told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    noise, saved = random.Random(3), list[bool]()
    names = {
        "loader": range(1, 121),
        "train": lambda step: spiral(step, noise),
        "save_checkpoint": lambda: saved.append(True),
    }
    code = block("example: alerts").removeprefix("```python\n").removesuffix("```")
    with hook() as server:
        monkeypatch.setenv("LLDWATCH_WEBHOOK", server.url)
        exec(compile(code, str(README), "exec"), names)  # the README's own lines are the test
        assert [request["text"].split()[1] for request in server.requests] == ["STAGNATION", "DECAY", "COLLAPSE"]
    assert (tmp_path / "told").read_text().split() == ["stagnation", "decay", "collapse"]
    assert re.findall(r"^search: (\w+) at step", capsys.readouterr().out, re.M) == ["STAGNATION", "DECAY", "COLLAPSE"]
    assert saved == [True]
    assert len(Run("runs/search").observations()) == 94


@pytest.mark.filterwarnings("ignore")  # of TRL and transformers, which warn of each other
def test_the_example_for_trl_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "integrations"))
    monkeypatch.chdir(tmp_path)
    import tiny_trl

    code = block("example: trl").removeprefix("```python\n").removesuffix("```")
    exec(compile(code, str(README), "exec"), {"trainer": tiny_trl.trainer(tmp_path, max_steps=2)})
    assert [step.step for step in Run("runs/search").observations()] == [1, 2]
