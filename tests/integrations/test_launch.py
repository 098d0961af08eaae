"""`lldwatch run`: trainings that nobody touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lldwatch import InputError, Monitor, Run, RunExistsError
from lldwatch.integrations.launch import STARTUP, environment_for, launch

TRL_SCRIPT = """
import sys
import torch
import tiny_trl
torch.set_num_threads(1)
trained = tiny_trl.trainer(sys.argv[1], max_steps=3)
trained.train()
print("weights", tiny_trl.weights(trained).double().sum().item())
print("arguments", sys.argv[2:], flush=True)
sys.exit(7)
"""


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), environment.pop("PYTHONPATH", "")])
    given = {name: value for name, value in os.environ.items() if not name.startswith("LLDWATCH_RUN")}
    given |= {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder, env=given)


def lldwatch(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "lldwatch", "run", *arguments, folder=folder, **environment)


def test_an_untouched_trl_training_is_watched_and_ends_as_it_would_have(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    script = tmp_path / "train.py"
    script.write_text(TRL_SCRIPT)
    plain = run(sys.executable, str(script), str(tmp_path / "out"), "--flag", folder=tmp_path)
    watched = lldwatch("--run", "watched", "--", sys.executable, str(script), "out", "--flag", folder=tmp_path)
    assert watched.returncode == plain.returncode == 7
    last = [line for line in watched.stdout.splitlines() if line.startswith(("weights", "arguments"))]
    assert last == [line for line in plain.stdout.splitlines() if line.startswith(("weights", "arguments"))]
    assert "waiting for a GRPO trainer" in watched.stderr
    assert "attached: log-probs from _get_per_token_logps_and_entropies" in watched.stderr
    recorded = Run(tmp_path / "watched")
    assert [step.step for step in recorded.observations()] == [1, 2, 3]
    assert recorded.ended
    again = lldwatch("--run", "watched", "--", sys.executable, str(script), "out", folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "holds a run already: give --resume" in again.stderr


BROKEN_SCRIPT = """
import torch
import tiny_trl
torch.set_num_threads(1)
infinite = lambda completions, **_: [float("inf"), *[0.0] * (len(completions) - 1)]
tiny_trl.trainer("out", max_steps=8, reward_funcs=infinite).train()
"""


def test_an_untouched_training_that_breaks_tells_somebody_saves_and_stops(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    script = tmp_path / "train.py"
    script.write_text(BROKEN_SCRIPT)
    asked = ("--run", "x", "--alert-command", "sh -c 'cat >> told'", "--stop-on", "collapse")
    done = lldwatch(*asked, "--", sys.executable, str(script), folder=tmp_path)
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [(alert["kind"], alert["title"]) for alert in told] == [
        ("not_finite", "reward is inf at step 1"),
        ("stage", "COLLAPSE at step 3, numerical"),
    ]
    assert done.returncode == 0
    assert Run(tmp_path / "x").observations()[-1].step == 3
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]
    assert "is not watched" not in done.stderr
    assert "sh -c" not in done.stderr
    assert [event["kind"] for event in Run(tmp_path / "x").events().to_pylist()].count("alert") == 2


def test_a_program_that_is_not_there_is_said_before_the_training_begins(tmp_path: Path) -> None:
    done = lldwatch("--alert-command", "no-such-program", "--", sys.executable, "-c", "print(1)", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-program is not a program that can be found" in done.stderr


def test_a_command_that_trains_nothing_is_told_at_its_end(tmp_path: Path) -> None:
    done = lldwatch("--run", "x", "--", sys.executable, "-c", "print('hello'); raise SystemExit(3)", folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert "nothing was recorded in" in done.stderr
    assert "no trainer was imported" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_trainer_that_is_not_grpo_trains_unwatched(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    script = "import transformers.trainer; print(transformers.trainer.Trainer.train.__name__)"
    done = lldwatch("--run", "x", "--", sys.executable, "-c", script, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "train\n")
    assert "transformers.trainer was imported, but no GRPO training began" in done.stderr


def test_what_is_broken_in_lldwatch_is_one_line_and_the_training_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "verl.py").write_text("compute = 1\n")
    script = "import verl; print(verl.compute)"
    broken = tmp_path / "broken"
    (broken / "lldwatch").mkdir(parents=True)
    (broken / "lldwatch" / "__init__.py").write_text("raise RuntimeError('made to fail')\n")
    environment = environment_for({"RUN": str(tmp_path / "x")}, {"PYTHONPATH": f"{broken}{os.pathsep}{tmp_path}"})
    given = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=given, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "verl is not watched (RuntimeError: made to fail)" in done.stderr


def test_a_sitecustomize_of_the_users_own_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('own')\n")
    done = lldwatch("--run", "x", "--", sys.executable, "-c", "pass", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines().count("own") >= 1


def test_settings_reach_the_training_and_what_it_starts() -> None:
    made = environment_for({"RUN": "here", "LLDS": "auto", "RESUME": None}, {"PYTHONPATH": "/own", "HOME": "/home/me"})
    assert made["LLDWATCH_RUN"] == os.path.abspath("here")
    assert made["LLDWATCH_LLDS"] == "auto"
    assert "LLDWATCH_RESUME" not in made
    assert made["PYTHONPATH"] == f"{STARTUP}{os.pathsep}/own"
    assert made["HOME"] == "/home/me"


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no command"):
        launch([], {"RUN": str(tmp_path / "x")})
    with pytest.raises(InputError, match="no-such-program is not a program"):
        launch(["no-such-program"], {"RUN": str(tmp_path / "x")})
    with pytest.raises(InputError, match="LLDWATCH_STRENGTH='much'"):
        launch(["true"], {"RUN": str(tmp_path / "x"), "STRENGTH": "much"})
    with Monitor(tmp_path / "run") as monitor:
        monitor.step(reward=0.5)
    with pytest.raises(RunExistsError, match="--resume"):
        launch(["true"], {"RUN": str(tmp_path / "run")})


def test_verl_and_openrlhf_are_told_of_by_their_own_names(tmp_path: Path) -> None:
    """By stand-ins: what is watched in the real ones is shown by make test-verl and make test-openrlhf."""
    stand_in = str(Path(__file__).with_name("stand_in"))
    script = "import verl.trainer.ppo.core_algos as core; print(core.POLICY_LOSS_REGISTRY['vanilla'].lldwatch)"
    done = lldwatch("--run", "x", "--", sys.executable, "-c", script, folder=tmp_path, PYTHONPATH=stand_in)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert "found policy losses" in done.stderr
    actor = tmp_path / "openrlhf" / "trainer" / "ray" / "ppo_actor.py"
    actor.parent.mkdir(parents=True)
    (tmp_path / "openrlhf" / "__init__.py").touch()
    actor.write_text("class ActorPPOTrainer:\n    def __init__(self):\n        pass\n")
    script = "from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer; print(ActorPPOTrainer.__init__.lldwatch)"
    done = lldwatch("--run", "y", "--", sys.executable, "-c", script, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
