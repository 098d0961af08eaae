"""lldwatch in OpenRLHF: a stand-in for three of its generations, and the real trainer if it is there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_openrlhf
import torch
from tiny_openrlhf import EACH, PROMPTS, CurrentDevice, StandInTrainer, World, module_of, world
from torch import Tensor

from lldwatch import Run
from lldwatch.integrations import openrlhf, openrlhf_fields
from lldwatch.integrations.environment import wanted
from lldwatch.llds import llds_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # of OpenRLHF's packages, which warn of each other

RESPONSES = PROMPTS * EACH
KINDS = ("0.8", "0.10", "0.11", "real")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No trainer is patched, no variable of ours is set, one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in os.environ:
        if name.startswith("LLDWATCH_"):
            monkeypatch.delenv(name)
    tiny_openrlhf.forget_stand_ins()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "real":
        why = tiny_openrlhf.why_not_real()
        if why is not None:
            pytest.skip(why)
        module = module_of("real")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: CurrentDevice("cpu"))
        monkeypatch.setattr(module, "torch_dist_barrier_and_cuda_sync", lambda: None)
        # put back afterwards, whatever `patch` does to it
        monkeypatch.setattr(module.ActorPPOTrainer, "__init__", module.ActorPPOTrainer.__init__)
    return str(request.param)


def watched(kind: str, run: Path, environment: dict[str, str] | None = None, **given: Any) -> World:
    """A training that is watched, as its worker process would be."""
    settings = wanted({"LLDWATCH_RUN": str(run), **(environment or {})})
    assert settings is not None
    openrlhf.patch(module_of(kind), settings)
    return world(kind, **given)


def closed(made: World) -> None:
    """As when the process ends."""
    made.trainer.ppo_train.__wrapped__  # noqa: B018  # it is watched
    monitor_of(made).close()


def monitor_of(made: World) -> Any:
    (hook,) = [hook for hook in made.trainer.actor_loss_fn._forward_hooks.values() if hasattr(hook, "__self__")]
    return hook.__self__._monitor


def events(run: Path, kind: str) -> list[str]:
    return [event["detail"] for event in Run(run).events().to_pylist() if event["kind"] == kind]


@pytest.mark.parametrize("settings", [{}, {"epochs": 2}, {"accumulate": 2}], ids=["plain", "two epochs", "accumulated"])
def test_a_watched_training_is_bit_for_bit_the_unwatched_one(
    kind: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain = world(kind, **settings)
    for number in range(3):
        plain.step(number)
    left = torch.get_rng_state()
    made = watched(kind, tmp_path / "run", {"LLDWATCH_PROBES": "full"}, **settings)
    for number in range(3):
        made.step(number)
    assert made.strategy.seen == plain.strategy.seen
    assert made.weights() == plain.weights()
    assert torch.equal(torch.get_rng_state(), left)
    closed(made)
    assert Run(tmp_path / "run").steps().num_rows == 3
    assert all(status["lldwatch/stage"] == 0.0 for status in made.statuses)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_term_is_added_exactly_from_the_second_update_on(kind: str, tmp_path: Path, accumulate: int) -> None:
    calls: list[dict[str, Any]] = []
    made = watched(
        kind, tmp_path / "run", {"LLDWATCH_LLDS": "on", "LLDWATCH_STRENGTH": "0.7"}, accumulate=accumulate, epochs=2
    )
    loss_fn = made.trainer.actor_loss_fn

    def keep(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any) -> None:
        args[0].retain_grad()
        calls.append({"args": args, "kwargs": kwargs, "updates": made.actor.model.global_steps})

    loss_fn.register_forward_hook(keep, with_kwargs=True)
    made.step(0)
    assert made.statuses[0]["lldwatch/llds_coefficient"] == pytest.approx(0.7)
    added = 0.0
    for call, seen in zip(calls, made.strategy.seen, strict=True):
        new, old, advantages = call["args"]
        leaf, mask = new.detach().clone().requires_grad_(), call["kwargs"]["action_mask"]
        out = loss_fn.forward(leaf, old, advantages, **call["kwargs"])
        expected = out[0] if isinstance(out, tuple) else out
        if call["updates"]:
            tokens = call["kwargs"].get("batch_num_tokens", mask.sum())
            about = {"normaliser": "global_tokens", "global_tokens": float(tokens), "dead_zone": noise(calls)}
            term = llds_loss(leaf, old, advantages, mask, **about).loss
            expected, added = expected + 0.7 * term, added + term.item()
        assert seen == pytest.approx(expected.item(), rel=1e-5, abs=1e-8)
        (gradient,) = torch.autograd.grad(expected, leaf)
        torch.testing.assert_close(new.grad * accumulate, gradient, rtol=1e-5, atol=1e-8)
    assert added > 1e-3


def noise(calls: list[dict[str, Any]]) -> float:
    """Of the batch before its first update: the largest change, since there are less than a thousand tokens."""
    first = [call for call in calls if not call["updates"]]
    changes = [(c["args"][0] - c["args"][1]).abs()[c["kwargs"]["action_mask"] != 0].max() for c in first]
    return max(change.item() for change in changes)


def test_what_is_recorded(kind: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = watched(kind, run, {"LLDWATCH_PROBES": "standard"}, epochs=2)
    for number in range(3):
        made.step(number)
    closed(made)
    for step in Run(run).steps().to_pylist():
        assert (step["responses"], step["updates"], step["updates_per_batch"]) == (RESPONSES, 4, 4)
        assert (step["reward"], step["correct_share"], step["truncated_share"]) == (0.5, 0.5, 0.5)
        assert step["learning_rate"] == pytest.approx(0.1)
        assert step["entropy"] > 0
        assert step["actions"] == 2
        assert step["loss"] is not None
        assert (step["grad_norm"] is not None) == (kind != "0.8")
        assert step["first_update_change"] == pytest.approx(0.0, abs=1e-5)
        assert step["post_update_correct"] is not None
        assert (step["cross_update_change"] is not None) == (step["step"] > 1)
    rows = Run(run).responses().to_pylist()
    assert len(rows) == 3 * 2 * RESPONSES, "each response is seen by two updates"
    assert len({row["uid"] for row in rows}) == 3 * RESPONSES
    assert len({row["group"] for row in rows}) == PROMPTS
    assert {row["reward"] for row in rows} == {0.0, 1.0}
    rescored = {row["uid"] for row in Run(run).probes().to_pylist() if row["kind"] == "cross_update"}
    assert rescored <= {row["uid"] for row in rows if row["correct"]}


def test_a_reward_for_the_format_makes_no_response_correct(kind: str, tmp_path: Path) -> None:
    made = watched(kind, tmp_path / "run", {"LLDWATCH_CORRECT_ABOVE": "1.0"})
    made.step(0)
    closed(made)
    assert Run(tmp_path / "run").steps()["correct_share"].to_pylist() == [0.0]


def test_the_start_says_what_is_recorded_and_what_is_missing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"LLDWATCH_LLDS": "auto", "LLDWATCH_PROBES": "off"}
    made = watched(kind, tmp_path / "run", environment, entropy_coef=None)
    said = capsys.readouterr().err
    assert "lldwatch: attached to ActorPPOTrainer: rows of each micro-batch, rewards and prompts" in said
    assert "entropy is not recorded: --actor.entropy_coef 0 computes it and leaves the loss as it is" in said
    assert "cross_update_change, the headline, is not measured" in said
    assert "LLDS auto, strength 1: from the second update on a rollout batch on (2 of them)" in said
    made.step(0)
    closed(made)
    assert len(events(tmp_path / "run", "attach")) == 4
    (step,) = Run(tmp_path / "run").steps().to_pylist()
    assert step["entropy"] is None
    assert step["probe_seconds"] is None
    assert "a secret" not in (tmp_path / "run" / "run.json").read_text()


def test_one_update_for_each_rollout_batch_is_said_to_be_inert(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = world(kind, train_batch_size=RESPONSES)
    made = watched(kind, tmp_path / "run", {"LLDWATCH_LLDS": "on"}, train_batch_size=RESPONSES)
    assert "used for one update, so that it has no effect" in capsys.readouterr().err
    for number in range(4):
        plain.step(number)
        made.step(number)
    closed(made)
    assert made.weights() == plain.weights(), "rounding alone is nothing to hold on to"
    assert any("LLDS has no effect" in line for line in events(tmp_path / "run", "llds"))


def test_a_run_that_is_there_is_left_alone_and_the_training_goes_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = watched(kind, tmp_path / "run")
    made.step(0)
    closed(made)
    before = (tmp_path / "run" / "run.json").read_text()
    capsys.readouterr()
    tiny_openrlhf.forget_stand_ins()
    again = world(kind) if kind == "real" else watched(kind, tmp_path / "run")
    said = capsys.readouterr().err
    assert "holds a run already" in said
    assert said.count("\n") == 1
    assert "LLDWATCH_RESUME=1): nothing is watched, the training goes on" in said
    again.step(0)
    assert again.weights() == made.weights()
    assert "lldwatch/stage" not in again.statuses[0]
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_run_is_resumed_if_that_is_asked_for(tmp_path: Path) -> None:
    for attempt in range(2):
        tiny_openrlhf.forget_stand_ins()
        made = watched("0.11", tmp_path / "run", {"LLDWATCH_RESUME": "1"})
        made.step(attempt)
        closed(made)
    assert Run(tmp_path / "run").steps()["step"].to_pylist() == [1, 2]
    assert Run(tmp_path / "run").info.attempt == 1


def test_an_exception_of_ours_never_reaches_the_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise KeyError("renamed")

    plain = world(kind)
    monkeypatch.setattr(openrlhf_fields, "rewards_of", broken)
    monkeypatch.setattr("lldwatch.integrations.loss_hook.noise_of", broken)
    made = watched(kind, tmp_path / "run", {"LLDWATCH_LLDS": "on"})
    for number in range(2):
        plain.step(number)
        made.step(number)
    closed(made)
    assert made.weights() == plain.weights()
    errors = events(tmp_path / "run", "error")
    assert any("reading the loss failed: KeyError: 'renamed'; the training goes on" in line for line in errors)
    assert any("adding LLDS failed: KeyError" in line for line in errors)
    assert Run(tmp_path / "run").steps().num_rows == 2


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("training_step", "looked for training_step on ActorPPOTrainer, which has none: nothing is watched"),
        ("actor_loss_fn", "no actor_loss_fn on ActorPPOTrainer: responses are not recorded, and LLDS cannot be added"),
        ("replay_buffer", "no replay_buffer on ActorPPOTrainer: nothing is re-scored"),
    ],
)
def test_a_seam_that_is_missing_is_named_together_with_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str, said: str
) -> None:
    module = module_of("0.11")

    class ActorPPOTrainer(StandInTrainer):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    module.ActorPPOTrainer = ActorPPOTrainer  # type: ignore[attr-defined]
    watched("0.11", tmp_path / "run")
    assert said in capsys.readouterr().err


def test_a_module_without_the_trainer_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = module_of("0.11")
    module.PPOActor = module.ActorPPOTrainer  # type: ignore[attr-defined]
    del module.ActorPPOTrainer
    settings = wanted({"LLDWATCH_RUN": str(tmp_path / "run")})
    assert settings is not None
    openrlhf.patch(module, settings)
    looked = "lldwatch: looked for ActorPPOTrainer in stand_in_0.11, found PPOActor"
    assert capsys.readouterr().err == f"{looked}: nothing is watched, the training goes on\n"


def test_patching_twice_watches_once(tmp_path: Path) -> None:
    settings = wanted({"LLDWATCH_RUN": str(tmp_path / "run")})
    assert settings is not None
    openrlhf.patch(module_of("0.11"), settings)
    made = watched("0.11", tmp_path / "run")
    made.step(0)
    closed(made)
    assert Run(tmp_path / "run").responses().num_rows == RESPONSES


# ranks


def on_two_ranks(folder: Path, kind: str, *, stage: int = 0, same: bool = False, **environment: str) -> list[Any]:
    """What came out on each rank of a training in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLDWATCH_")}
    clean |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    clean |= {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    folder.mkdir(exist_ok=True)
    children = []
    for rank in range(2):
        command = [sys.executable, str(Path(__file__).with_name("child_openrlhf.py")), kind, str(stage)]
        own = {**clean, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"said-{rank}").open("w") as said:
            children.append(
                subprocess.Popen([*command, "same" if same else "", str(folder / f"{rank}.json")], env=own, stderr=said)
            )
    try:
        assert [child.wait(240) for child in children] == [0, 0], (folder / "said-0").read_text()[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


STAGES = [("0.11", 0), ("real", 2), ("real", 3)]


@pytest.fixture(params=STAGES, ids=["0.11", "real, ZeRO 2", "real, ZeRO 3"])
def ranks_kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param[0] == "real" and (why := tiny_openrlhf.why_not_real()) is not None:
        pytest.skip(why)
    return {"kind": request.param[0], "stage": request.param[1]}


def test_two_ranks_are_one_run_and_agree(ranks_kind: dict[str, Any], tmp_path: Path) -> None:
    plain = on_two_ranks(tmp_path / "plain", **ranks_kind)
    run = tmp_path / "run"
    made = on_two_ranks(tmp_path / "off", **ranks_kind, LLDWATCH_RUN=str(run), LLDWATCH_PROBES="full")
    assert made[0]["weights"] == made[1]["weights"] == plain[0]["weights"]
    for before, after in zip(plain[0]["statuses"], made[0]["statuses"], strict=True):
        assert before == {name: value for name, value in after.items() if not name.startswith("lldwatch/")}
    assert [ours(one) for one in made[0]["statuses"]] == [ours(one) for one in made[1]["statuses"]]
    assert Run(run).steps()["responses"].to_pylist() == [2 * RESPONSES] * 3
    assert Run(run).steps()["cross_update_change"].to_pylist()[1] is not None
    assert len(set(Run(run).responses()["uid"].to_pylist())) == 3 * 2 * RESPONSES
    assert "lldwatch: attached" in (tmp_path / "off" / "said-0").read_text()
    assert "lldwatch: attached" not in (tmp_path / "off" / "said-1").read_text()


def ours(status: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in status.items() if name.startswith("lldwatch/")}


def test_ranks_that_hold_the_same_responses_count_them_once_and_add_the_same_term(
    ranks_kind: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = on_two_ranks(tmp_path / "on", **ranks_kind, same=True, LLDWATCH_RUN=str(run), LLDWATCH_LLDS="on")
    assert made[0]["weights"] == made[1]["weights"]
    assert Run(run).steps()["responses"].to_pylist() == [RESPONSES] * 3
    assert any(status["lldwatch/llds_loss"] > 0 for status in made[1]["statuses"])
    assert {row["kind"] for row in Run(run).probes().to_pylist()} >= {"cross_update"}


WORKER = """
import sys
from lldwatch.integrations import openrlhf
openrlhf.setup()
assert "torch" not in sys.modules, "a worker of vLLM imports its own things first"
import openrlhf.trainer.ray.ppo_actor as actor
print(actor.ActorPPOTrainer.__init__.__name__, hasattr(actor.ActorPPOTrainer.__init__, "lldwatch"))
print([type(finder).__name__ for finder in sys.meta_path].count("_Finder"))
"""


@pytest.mark.parametrize(
    ("environment", "printed", "said"),
    [
        ({}, "__init__ False\n0\n", ""),
        ({"LLDWATCH_RUN": "somewhere"}, "__init__ True\n0\n", ""),
        (
            {"LLDWATCH_RUN": "somewhere", "LLDWATCH_LLDS": "yes"},
            "__init__ False\n0\n",
            "lldwatch: LLDWATCH_LLDS='yes': expected one of off, on, auto: nothing is watched\n",
        ),
    ],
)
def test_a_worker_is_set_up_before_openrlhf_is_imported(
    tmp_path: Path, environment: dict[str, str], printed: str, said: str
) -> None:
    package = tmp_path / "openrlhf" / "trainer" / "ray"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "ppo_actor.py").write_text("class ActorPPOTrainer:\n    def __init__(self):\n        pass\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(openrlhf.__file__).parents[2])])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLDWATCH_")}
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        env={**clean, **environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert (done.stdout, done.stderr) == (printed, said)
