from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lldwatch import Monitor, RanksError, Run
from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.loss_hook import Correction, announce, identities, noise_of, of_llds, open_run
from lldwatch.llds import llds_loss

MASK = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])
ADVANTAGES = torch.tensor([1.0, 0.5])


def asked(run: Path, **more: str) -> Wanted:
    found = wanted({"LLDWATCH_RUN": str(run), **{f"LLDWATCH_{name.upper()}": value for name, value in more.items()}})
    assert found is not None
    return found


def nats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).expand(2, 4).clone().requires_grad_()


def test_before_the_first_update_changes_are_noise_and_set_the_dead_zone(run_dir: Path) -> None:
    old = torch.full((2, 4), -1.0)
    with Monitor(run_dir, llds="on") as monitor:
        correction = Correction(monitor)
        assert correction.token_sum(nats(0, -1.01, -0.98, -1.03), old, ADVANTAGES, MASK) is None
        correction.updated()
        new = nats(0, -1.02, -1.2, -1.5)
        term = correction.token_sum(new, old, ADVANTAGES, MASK)
        expected = llds_loss(
            new, old, ADVANTAGES, MASK, dead_zone=0.03, normaliser="global_tokens", global_tokens=1.0
        ).loss
        assert term is not None
        assert term.item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.autograd.grad(term, new)[0].equal(torch.tensor([[0.0, 0, -1, -1], [0, 0, -1, 0]]))
        correction.step_ended()
        assert correction.token_sum(new, old, ADVANTAGES, MASK) is None, "the next rollout batch is measured anew"


def test_a_run_that_the_environment_asks_for_tells_people_and_says_that_nobody_can_stop_the_trainer(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told"
    monitor = open_run("verl", asked(run_dir, alert_command=f"sh -c 'cat > {told}'", stop_on="collapse"))
    assert monitor is not None
    assert "LLDWATCH_STOP_ON: verl cannot be asked to stop" in capsys.readouterr().err
    monitor.step(loss=1.0)
    monitor.step(loss=float("nan"))
    monitor.close()
    assert json.loads(told.read_text())["title"] == "loss is nan at step 2"


def test_a_dead_zone_that_is_given_is_not_measured(run_dir: Path) -> None:
    with Monitor(run_dir, llds="on") as monitor:
        term = Correction(monitor, 0.25).token_sum(
            nats(0, -1.2, -1.5, -1.5), torch.full((2, 4), -1.0), ADVANTAGES, MASK
        )
        assert term is not None
        assert term.item() == pytest.approx(0.75)


def test_nothing_is_added_where_it_could_not_act(run_dir: Path) -> None:
    old = torch.full((2, 4), -1.0)
    with Monitor(run_dir, llds="on") as monitor:
        unmeasured = Correction(monitor)
        unmeasured.updated()
        assert unmeasured.token_sum(nats(0, -2, -2, -2), old, ADVANTAGES, MASK) is None
        assert Correction(monitor, 0.1).token_sum(nats(0, -2, -2, -2), None, ADVANTAGES, MASK) is None
    with Monitor(run_dir.with_name("off"), llds="off") as monitor:
        assert Correction(monitor, 0.1).token_sum(nats(0, -2, -2, -2), old, ADVANTAGES, MASK) is None


def test_what_the_term_did_is_recorded_for_a_token(run_dir: Path) -> None:
    with Monitor(run_dir, llds="on") as monitor:
        Correction(monitor, 0.0).token_sum(nats(0, -1.5, -1, -1), torch.full((2, 4), -1.0), ADVANTAGES, MASK)
        monitor.step()
        assert monitor.observation is not None
        assert monitor.observation.llds_loss == pytest.approx(2 * 0.5 / 5)


def test_one_token_in_a_thousand_may_be_farther_off() -> None:
    new = torch.zeros(1, 3000)
    new[0, :2] = torch.tensor([-5.0, -4.0])
    new[0, 2:10] = -0.01
    assert noise_of(new, torch.zeros(1, 3000), torch.ones(1, 3000)) == pytest.approx(0.01)
    assert noise_of(new, torch.zeros(1, 3000), torch.zeros(1, 3000)) == 0.0


def test_a_prompt_has_one_identity_in_all_processes() -> None:
    first, other, again = identities([b"a", b"b", b"a"]).tolist()
    assert first == again == 4681665781835383343, "whatever PYTHONHASHSEED is"
    assert other != first


@pytest.mark.parametrize(("mode", "said"), [("off", "LLDS off: nothing is added"), ("on", "LLDS on, strength 1: acts")])
def test_the_line_about_llds(run_dir: Path, mode: str, said: str) -> None:
    assert of_llds(asked(run_dir, llds=mode), "acts").startswith(said)


def test_another_reference_than_the_old_log_probs_is_said_to_be_for_other_trainers(run_dir: Path) -> None:
    assert "LLDWATCH_REFERENCE=replay is not for here" in of_llds(asked(run_dir, llds="on", reference="replay"), "acts")
    assert "LLDWATCH_REFERENCE" not in of_llds(asked(run_dir, llds="on", reference="old"), "acts")


def test_what_is_announced_stands_in_the_run_and_is_said_by_rank_0_alone(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(run_dir) as monitor:
        announce(monitor, ["a line"])
        announce(monitor, ["another"], rank=1)
    assert capsys.readouterr().err == "lldwatch: a line\n"
    assert [row["detail"] for row in Run(run_dir).events().to_pylist() if row["kind"] == "attach"] == ["a line"]


class Two:
    """Two ranks in two threads."""

    def __init__(self, shared: dict[str, Any], rank: int) -> None:
        self.rank, self._shared = rank, shared

    def decide(self, mine: Any, decide: Callable[[Sequence[Any]], Any]) -> Any:
        self._shared.setdefault("mine", {})[self.rank] = mine
        self._shared["both"].wait(10)
        if self.rank == 0:
            try:
                self._shared["answer"] = decide([self._shared["mine"][0], self._shared["mine"][1]])
            except Exception as error:
                self._shared["answer"] = error
        self._shared["both"].wait(10)
        if isinstance(self._shared["answer"], Exception):
            raise self._shared["answer"]
        return self._shared["answer"]


def test_one_rank_that_cannot_write_leaves_all_unwatched(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the others would wait for it at the end of each step."""
    shared: dict[str, Any] = {"both": threading.Barrier(2)}
    opened: dict[int, Monitor | None] = {}
    from lldwatch import course

    own = course.Recorder

    def recorder(path: Any, info: Any, *, rank: int = 0, **more: Any) -> Any:
        if rank:
            raise OSError("no such disk here")
        return own(path, info, rank=rank, **more)

    monkeypatch.setattr(course, "Recorder", recorder)

    def of_rank(rank: int) -> None:
        opened[rank] = open_run("a trainer", asked(run_dir), ranks=Two(shared, rank))

    threads = [threading.Thread(target=of_rank, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert opened == {0: None, 1: None}
    said = capsys.readouterr().err
    assert "no such disk here" in said
    assert "another rank could not open the run" in said


def test_ranks_that_do_not_answer_leave_the_training_unwatched(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone:
        rank = 1

        def decide(self, mine: Any, decide: Any) -> Any:
            raise RanksError("ranks do not answer each other any more")

    assert open_run("a trainer", asked(run_dir), ranks=Gone()) is None
    assert "ranks do not answer each other any more" in capsys.readouterr().err
