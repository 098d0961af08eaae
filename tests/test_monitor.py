from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from made_up import spiral
from told import Told

from lldwatch import InputError, Monitor, Observation, Probes, Responses, Run, RunExistsError, ScoreError, Stage
from lldwatch.detector import CollapseDetector
from lldwatch.hooks import per_response
from lldwatch.intervention import Correct, Intervention
from lldwatch.llds import LldsTerm, llds_loss
from lldwatch.schema import SCHEMA_VERSION, Actions, Gradients, Tokens


@pytest.fixture
def monitor(run_dir: Path) -> Iterator[Monitor]:
    with Monitor(run_dir, trainer="test") as monitor:
        yield monitor


def recorded(monitor: Monitor) -> list[Observation]:
    monitor._recorder.flush()
    return Run(monitor._recorder.path).observations()


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in Run(run).events().to_pylist() if row["kind"] == kind]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def batch(log_prob: float = -1.0, **more: Any) -> Responses:
    return per_response(
        torch.full((4, 3), log_prob),
        torch.full((4, 3), -1.5),
        torch.ones(4, 3),
        rewards=torch.tensor([0.0, 1.0, 1.0, 0.0]),
        advantages=torch.tensor([-1.0, 1.0, 1.0, -1.0]),
        **more,
    )


# what a step becomes


def test_a_step_holds_what_the_loop_and_its_responses_said(monitor: Monitor, run_dir: Path) -> None:
    monitor.observe(batch())
    monitor.observe(batch())
    diagnosis = monitor.step(loss=0.25, learning_rate=1e-6)
    assert diagnosis is monitor.diagnosis
    (step,) = recorded(monitor)
    assert (step.step, diagnosis.step) == (1, 1)
    assert step.loss == 0.25
    assert step.responses == 8
    assert step.reward == 0.5
    assert step.change_positive == 0.5
    assert step.updates == 1
    assert step.time is not None
    responses = Run(run_dir).responses()
    assert responses["uid"].to_pylist() == list(range(8))
    assert set(responses["update"].to_pylist()) == {0}


def test_several_updates_in_a_step_give_mean_and_largest_gradient_norm(monitor: Monitor, run_dir: Path) -> None:
    for grad_norm in (1.0, 5.0, 3.0):
        monitor.observe(batch())
        monitor.update(grad_norm=grad_norm, loss=grad_norm / 2)
    monitor.step()
    monitor.step(grad_norm=2.0)
    first, second = recorded(monitor)
    assert (first.updates, first.grad_norm, first.grad_norm_max, first.loss) == (3, 3.0, 5.0, 1.5)
    assert (second.updates, second.grad_norm, second.grad_norm_max, second.loss) == (1, 2.0, 2.0, None)
    assert Run(run_dir).responses()["update"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(("values", "expected"), [([math.nan, 1.0], "nan"), ([math.inf, -math.inf], "nan")])
def test_a_broken_update_makes_the_mean_nan_and_loses_no_step(
    monitor: Monitor, values: list[float], expected: str
) -> None:
    monitor.step()
    for value in values:
        monitor.update(loss=value, grad_norm=value)
    monitor.step()
    assert [repr(step.loss) for step in recorded(monitor)] == ["None", expected]


def test_tensors_of_any_kind_are_scalars(monitor: Monitor) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    monitor.step(
        loss=weight * 3,
        grad_norm=torch.tensor([[1.5]], dtype=torch.bfloat16),
        kl=np.float16(0.5),
        updates=torch.tensor(3),
        entropy=None,
    )
    (step,) = recorded(monitor)
    assert (step.loss, step.grad_norm, step.kl, step.updates, step.entropy) == (6.0, 1.5, 0.5, 3, None)


def test_what_the_step_says_wins_over_updates_and_responses(monitor: Monitor) -> None:
    monitor.observe(batch())
    monitor.update(loss=1.0)
    monitor.step(reward=0.75, loss=2.0, updates=9)
    (step,) = recorded(monitor)
    assert (step.reward, step.loss, step.updates) == (0.75, 2.0, 9)


def test_nothing_is_carried_over_to_the_next_step(monitor: Monitor) -> None:
    monitor.observe(batch())
    monitor.update(loss=1.0)
    monitor.probe(Probes(kind=["noise"], tokens=[2], log_prob_before=[-1.0], log_prob_after=[-1.5]))
    monitor.step()
    monitor.step()
    first, second = recorded(monitor)
    assert first.noise_floor == 0.25
    assert {name for name, value in second.as_dict().items() if value is not None} == {"step", "time", "updates"}


def test_probes_are_recorded_and_rolled_up(monitor: Monitor, run_dir: Path) -> None:
    same = {"kind": ["cross_update"] * 2, "group": [1, 2], "tokens": [4, 4]}
    monitor.probe(Probes(**same, log_prob_before=[-1.0, -1.0], log_prob_after=[-2.0, -3.0]))
    monitor.step()
    (step,) = recorded(monitor)
    assert step.cross_update_change == -0.375
    assert step.cross_update_responses == 2
    assert Run(run_dir).probes()["step"].to_pylist() == [1, 1]


def test_confidence_by_place_and_the_batch_s_own_change_by_update_are_recorded(monitor: Monitor, run_dir: Path) -> None:
    for log_prob in (-1.5, -1.25, -3.0):
        monitor.observe(batch(log_prob, uid=torch.arange(4)))
        monitor.update(grad_norm=1.0)
    monitor.step()
    (step,) = recorded(monitor)
    assert step.low_confidence_share == 0.0  # as the first update saw them
    assert step.first_update_change == 0.0
    places = Run(run_dir).positions().to_pylist()  # the three updates added up
    assert [(row["position"], row["tokens"], row["low_confidence_tokens"]) for row in places] == [
        (place, 12, 4) for place in (0, 1, 2)
    ]
    assert {(row["log_prob"], row["min_log_prob"], row["after_feedback"]) for row in places} == {(-23.0, -3.0, False)}
    rows = [row for row in Run(run_dir).probes().to_pylist() if row["kind"] == "in_batch"]
    changes = {(row["update"], row["correct"]): row["log_prob_after"] - row["log_prob_before"] for row in rows}
    assert changes == {(0, False): 0, (0, True): 0, (1, False): 1.5, (1, True): 1.5, (2, False): -9, (2, True): -9}


def test_gradient_norms_of_the_parts_of_a_model_are_recorded_with_their_update(monitor: Monitor, run_dir: Path) -> None:
    for norm in (2.0, math.inf):
        monitor.gradients(Gradients(module=["head", "total"], grad_norm=[1.0, norm], parameters=[3, 9]))
        monitor.gradients(Gradients())  # an update that the schedule left out
        monitor.update(grad_norm=norm)
    monitor.step()
    (step,) = recorded(monitor)
    assert step.grad_norm_max == math.inf
    rows = [
        (row["step"], row["update"], row["module"], row["grad_norm"]) for row in Run(run_dir).gradients().to_pylist()
    ]
    assert rows == [(1, 0, "head", 1.0), (1, 0, "total", 2.0), (1, 1, "head", 1.0), (1, 1, "total", math.inf)]


@pytest.mark.parametrize(
    ("norms", "zeros"), [([0.0, 0.0, 1.0], 2), ([0.0], 1), ([math.nan, 1e-30], 0), ([math.inf, 0.0], 1)]
)
def test_updates_whose_gradient_was_exactly_0_are_counted(monitor: Monitor, norms: list[float], zeros: int) -> None:
    for norm in norms:
        monitor.update(grad_norm=norm)
    monitor.step()
    monitor.step(grad_norm=norms[0])
    first, second = recorded(monitor)
    assert first.zero_gradient_updates == zeros
    assert second.zero_gradient_updates == (norms[0] == 0.0)


def test_what_the_probes_cost_is_said_once_and_recorded(
    monitor: Monitor, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for note in ("probes (economy) re-score up to 20 responses a step", None):
        monitor.probe(Probes().having(note=note, seconds=0.25))
        monitor.probe(Probes().having(seconds=0.5))
        monitor.step()
    assert [step.probe_seconds for step in recorded(monitor)] == [0.75, 0.75]
    assert [row["detail"] for row in events(run_dir, "probe")] == [
        "probes (economy) re-score up to 20 responses a step"
    ]
    assert capsys.readouterr().err == "lldwatch: probes (economy) re-score up to 20 responses a step\n"


def test_a_score_that_fails_is_recorded_said_once_and_raises_not_even_in_the_first_step(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        monitor.probe(Probes().having(error=ScoreError("score failed in a probe (RuntimeError: no memory)")))
        monitor.step(loss=1.0)
    assert len(recorded(monitor)) == 3
    assert [row["detail"] for row in events(run_dir, "error")] == ["score failed in a probe (RuntimeError: no memory)"]
    assert len(warnings(caplog)) == 1


class OnDevice:
    """Stands for a tensor on a GPU: says when somebody waits for it."""

    is_cuda = True

    def __init__(self, number: float, waited: list[float]) -> None:
        self._number, self._waited = number, waited

    def detach(self) -> OnDevice:
        return self

    def clone(self) -> OnDevice:
        return OnDevice(self._number, self._waited)

    def __float__(self) -> float:
        self._waited.append(self._number)
        return self._number


def test_what_is_still_on_the_device_is_waited_for_once_the_step_ends_and_in_the_first_step_at_once(
    monitor: Monitor, run_dir: Path
) -> None:
    waited: list[Any] = []

    def pending() -> Responses:
        waited.append("rows")
        return batch(-1.25)

    def one_step() -> list[Any]:
        waited.clear()
        for norm in (1.0, 2.0):
            monitor.observe(Responses().having(pending=pending))
            monitor.update(grad_norm=OnDevice(norm, waited))
        before_the_end = list(waited)
        monitor.step(loss=OnDevice(0.5, waited))
        return before_the_end

    assert one_step() == ["rows", 1.0, "rows", 2.0]
    assert one_step() == []
    assert waited == [1.0, 2.0, "rows", "rows", 0.5]
    first, second = recorded(monitor)
    for step in (first, second):
        assert (step.responses, step.updates, step.grad_norm, step.loss) == (8, 2, 1.5, 0.5)
        assert step.log_prob_correct == -1.5
    table = Run(run_dir).responses()
    assert table["update"].to_pylist() == 2 * ([0] * 4 + [1] * 4)
    assert len(set(table["uid"].to_pylist())) == 16


def test_one_table_that_fails_on_the_device_costs_neither_the_step_nor_the_other_rows(
    monitor: Monitor, run_dir: Path
) -> None:
    def broken() -> Responses:
        raise RuntimeError("CUDA error: an illegal memory access")

    monitor.step(loss=1.0)
    waited: list[float] = []
    for pending in (broken, batch):
        monitor.observe(Responses().having(pending=pending))
        monitor.update(grad_norm=OnDevice(2.0, waited))
    monitor.step(loss=2.0)
    _, second = recorded(monitor)
    assert (second.loss, second.grad_norm, second.responses) == (2.0, 2.0, 4)
    assert monitor.dropped_steps == 0
    (event,) = events(run_dir, "error")
    assert "an illegal memory access" in event["detail"]


@pytest.mark.parametrize("number", [3, torch.tensor(3), np.int64(3)])
def test_what_compares_with_a_policy_that_was_given_up_is_left_out_when_the_training_goes_back(
    monitor: Monitor, run_dir: Path, number: Any
) -> None:
    for _ in range(5):
        monitor.step()
    kinds = ["cross_update", "noise", "post_update", "lagged"]
    probes = Probes(
        kind=kinds, correct=[True] * 4, tokens=[2] * 4, log_prob_before=[-4.0] * 4, log_prob_after=[-2.0] * 4
    )
    actions = Actions(kind=["cross_update"], tokens=[2])
    tokens = Tokens(kind=["cross_update"], token=[7])
    monitor.probe(probes.having(companions=(actions, tokens)))
    monitor.step(number)
    step = recorded(monitor)[-1]
    assert (step.step, step.cross_update_change, step.post_update_correct) == (3, None, 1.0)
    run = Run(run_dir)
    assert run.probes()["kind"].to_pylist() == ["noise", "post_update"]
    assert len(run.actions()) == len(run.tokens()) == 0


def test_rows_that_fail_on_the_device_are_said_and_cost_nothing_else(monitor: Monitor, run_dir: Path) -> None:
    monitor.step(loss=1.0)
    monitor.observe(Responses().having(pending=lambda: Responses.unusable(InputError("response_mask is odd"))))
    monitor.step(loss=2.0)
    assert [step.loss for step in recorded(monitor)] == [1.0, 2.0]
    assert [row["detail"] for row in events(run_dir, "bad_input")] == ["response_mask is odd"]


def test_step_numbers_count_on_from_the_last_one(monitor: Monitor) -> None:
    assert [monitor.step(number).step for number in (None, 5, None, torch.tensor(10), None)] == [1, 5, 6, 10, 11]


def test_a_step_zero_is_a_step(monitor: Monitor, run_dir: Path) -> None:
    assert [monitor.step(0).step, monitor.step().step] == [0, 1]
    monitor.close()
    assert [row["step"] for row in events(run_dir, "finish")] == [1]
    assert events(run_dir, "resume") == []


# mistakes in the first step raise


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gradnorm": 1.0}, "gradnorm is not a field of Observation: did you mean grad_norm"),
        ({"lr": 1.0}, r"lr is not a field of Observation: did you mean learning_rate\?"),
        ({"xyz": 1.0}, "xyz is not a field of Observation: expected one of .*grad_norm"),
        ({"loss": "low"}, "loss is not one number"),
        ({"loss": torch.zeros(2)}, r"loss of shape \(2,\) is not one number"),
        ({"loss": [1.0]}, "loss"),
        ({"time": 3.0}, "time is not a field"),
        ({"updates": math.nan}, "updates=nan is not a number"),
        ({"step": "first"}, "step='first' is not a number"),
    ],
)
def test_a_wrong_scalar_in_the_first_step_raises_and_names_it(
    monitor: Monitor, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        monitor.step(**values)
    if "step" not in values and "updates" not in values:
        with pytest.raises(InputError, match=words):
            monitor.update(**values)
    assert monitor.step().step == 1  # a notebook goes on after the mistake


@pytest.mark.parametrize(
    ("responses", "words"),
    [
        (batch(math.nan), r"log_probs is not finite in 4 of 4 responses \(first: row 0\)"),
        (batch(-math.inf), "log_probs is not finite"),
        (Responses(tokens=[1, 1], old_log_prob=[-1.0, math.nan]), r"old_log_probs.*1 of 2 responses \(first: row 1\)"),
        (batch(entropy=torch.full((4, 3), math.nan)), "entropy"),
        (Responses(tokens=[0, 0]), "response_mask is 0 everywhere in a batch of 2 responses"),
        ({"tokens": [1]}, "responses is a dict"),
        (torch.zeros(2, 3), "responses is a Tensor"),
    ],
)
def test_wrong_responses_in_the_first_step_raise_and_name_the_argument(
    monitor: Monitor, responses: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        monitor.observe(responses)


def test_wrong_probes_in_the_first_step_raise(monitor: Monitor) -> None:
    with pytest.raises(InputError, match="probes is a Responses"):
        monitor.probe(batch())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "wrong", "words"),
    [
        ("probe", Probes().having(error=InputError("score returned shape (3, 4)")), r"score returned shape \(3, 4\)"),
        (
            "probe",
            Probes(tokens=[4, 4], log_prob_before=[-2.0, -2.0], log_prob_after=[-2.0, 0.5]),
            r"score is above 0 in 1 of 2 responses \(first: row 1\): expected log-probs of the tokens",
        ),
        ("probe", Probes(tokens=[4], log_prob_before=[math.nan]), "score is not finite in 1 of 1 responses"),
        ("gradients", Gradients().having(error=InputError("gradients have no numbers")), "no numbers"),
        ("gradients", torch.zeros(3), "gradients is a Tensor: expected what GradientNorms returns"),
    ],
)
def test_what_a_hook_could_not_measure_in_the_first_step_raises(
    monitor: Monitor, method: str, wrong: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        getattr(monitor, method)(wrong)


def test_one_identity_for_two_responses_raises_in_the_first_step_and_is_named_later(
    monitor: Monitor, run_dir: Path
) -> None:
    monitor.observe(batch(uid=torch.tensor([7, 8, 7, 9])))
    with pytest.raises(InputError, match="uid 7 stands 2 times in update 0"):
        monitor.step()
    for _ in range(2):  # the same responses in two updates are no mistake
        monitor.observe(batch(uid=torch.arange(4)))
        monitor.update()
    monitor.step()
    for _ in range(2):
        monitor.observe(batch(uid=torch.arange(4)))
    monitor.step()
    assert [step.responses for step in recorded(monitor)] == [4, 4]
    (event,) = events(run_dir, "bad_input")
    assert event["detail"].startswith("uid 0 stands 2 times in update 0")


def test_a_directory_with_a_run_is_refused(run_dir: Path, monitor: Monitor) -> None:
    monitor.step()
    monitor.close()
    with pytest.raises(RunExistsError, match="resume=True"):
        Monitor(run_dir)


def test_a_run_whose_first_step_was_refused_can_be_started_again(run_dir: Path, monitor: Monitor) -> None:
    with pytest.raises(InputError):
        monitor.step(gradnorm=1.0)
    monitor.close()
    with Monitor(run_dir) as again:
        assert again.step(grad_norm=1.0).step == 1
    assert [step.grad_norm for step in Run(run_dir).observations()] == [1.0]


def test_a_config_that_cannot_be_written_is_refused_before_anything_is_made(run_dir: Path) -> None:
    with pytest.raises(InputError, match="config"):
        Monitor(run_dir, config={("a", 1): 2})  # type: ignore[dict-item]
    assert not run_dir.exists()


# and later ones never do


def test_mistakes_after_the_first_step_are_said_once_and_never_raise(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.step(loss=1.0)
    for _ in range(3):
        monitor.observe({"tokens": [1]})  # type: ignore[arg-type]
        monitor.update(gradnorm=1.0)
        monitor.probe(None)  # type: ignore[arg-type]
        monitor.step(loss="low")
    assert monitor.step(loss=2.0).step == 5
    monitor.close()
    assert [step.loss for step in Run(run_dir).observations()] == [1.0, None, None, None, 2.0]
    assert len(warnings(caplog)) == 4  # responses, gradnorm, probes, loss
    assert all("said once" in line for line in warnings(caplog))
    found = events(run_dir, "bad_input")
    assert [event["step"] for event in found] == [2] * 4
    assert "responses is a dict" in found[0]["detail"]
    assert monitor.dropped_steps == 0


def test_a_shape_that_changes_later_costs_its_rows_and_nothing_else(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.observe(batch())
    monitor.step()
    for _ in range(2):
        monitor.observe(per_response(torch.zeros(4, 3), None, torch.ones(4, 2)))
        monitor.step(loss=1.0)
    monitor.close()
    assert [step.loss for step in Run(run_dir).observations()] == [None, 1.0, 1.0]
    (event,) = events(run_dir, "bad_input")
    assert event["detail"].startswith("response_mask has shape (4, 2), expected (4, 3)")
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(("value", "words"), [(0.5, "above 0"), (-1e9, "does response_mask cover masked-out")])
def test_log_probs_that_are_none_raise_in_the_first_step(monitor: Monitor, value: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        monitor.observe(batch(value))


def test_log_probs_that_break_later_are_recorded_and_said_once(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.observe(batch())
    monitor.step()
    for _ in range(2):
        monitor.observe(batch(math.nan))
        monitor.step()
    monitor.close()
    assert [repr(step.change_positive) for step in Run(run_dir).observations()] == ["0.5", "nan", "nan"]
    assert len(warnings(caplog)) == 1
    (event,) = events(run_dir, "bad_input")
    assert "log_probs is not finite" in event["detail"]


@pytest.mark.parametrize(("of", "method"), [(CollapseDetector, "fold"), (Intervention, "update")])
def test_an_error_of_ours_does_not_end_the_training(
    monitor: Monitor,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    of: type,
    method: str,
) -> None:
    for _ in range(3):
        monitor.step(loss=1.0)

    def broken(self: Any, of_step: Any) -> None:
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(of, method, broken)
        for _ in range(4):
            assert monitor.step(loss=2.0).step == 3  # the last diagnosis there is
    assert monitor.step(loss=3.0).step == 8
    monitor.close()
    assert [step.loss for step in Run(run_dir).observations()] == [1.0] * 3 + [2.0] * 4 + [3.0]
    assert len(warnings(caplog)) == 1
    (event,) = events(run_dir, "error")
    assert "RuntimeError: a bug of ours" in event["detail"]
    assert event["step"] == 4


def test_one_kind_of_mistake_does_not_hide_another(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.step()
    monitor.observe(batch(math.nan))
    monitor.step(gradnorm=1.0)
    monitor.close()
    assert len(warnings(caplog)) == len(events(run_dir, "bad_input")) == 2


def test_a_disk_that_fails_does_not_end_the_training(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "steps").touch()
    for step in range(1, 6):
        assert monitor.step(loss=1.0).step == step
    monitor._recorder.flush()
    (run_dir / "steps").unlink()
    monitor.close()
    assert len(Run(run_dir).observations()) == 5
    assert monitor.dropped_steps == 0
    assert len(warnings(caplog)) == 1


def test_going_back_without_a_readable_history_loses_no_step(
    monitor: Monitor, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        monitor.step(loss=1.0)
    monitor._recorder.flush()
    info = (run_dir / "run.json").read_text()
    (run_dir / ".run.json.tmp").mkdir()  # run.json cannot be replaced ...
    (run_dir / "run.json").write_text(
        info.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
    )  # ... nor understood
    monitor.step(3, loss=2.0)
    monitor.step(4, loss=2.0)
    (run_dir / "run.json").write_text(info)
    (run_dir / ".run.json.tmp").rmdir()
    monitor.close()
    assert [(step.step, step.loss) for step in Run(run_dir).observations()] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    assert "SchemaTooNewError" in events(run_dir, "error")[0]["detail"]


# the end, and going on


def test_an_exception_of_the_training_is_not_swallowed_and_is_noted(run_dir: Path) -> None:
    def train() -> None:
        with Monitor(run_dir) as monitor:
            monitor.step(loss=1.0)
            monitor.step(loss=1.0 / 0)

    with pytest.raises(ZeroDivisionError):
        train()
    run = Run(run_dir)
    assert run.ended
    assert len(run.observations()) == 1
    (event,) = events(run_dir, "finish")
    assert event["detail"] == "the training ended with ZeroDivisionError: float division by zero"
    assert event["step"] == 1


def test_closing_twice_notes_one_end(run_dir: Path) -> None:
    with Monitor(run_dir) as monitor:
        monitor.step()
        monitor.close()
    assert len(events(run_dir, "finish")) == 1


def steps_of_a_spiral() -> list[dict[str, float]]:
    noise = random.Random(3)
    return [spiral(step, noise) for step in range(1, 121)]


@pytest.mark.parametrize("interrupted_after", [1, 43, 80])
def test_an_interrupted_and_resumed_training_has_the_same_diagnosis(tmp_path: Path, interrupted_after: int) -> None:
    steps = steps_of_a_spiral()
    with Monitor(tmp_path / "whole") as whole:
        expected = [whole.step(**values).as_dict() for values in steps]
    with Monitor(tmp_path / "run") as first:
        for values in steps[:interrupted_after]:
            first.step(**values)
    with Monitor(tmp_path / "run", resume=True) as second:
        said = [second.step(**values).as_dict() for values in steps[interrupted_after:]]
    assert said == expected[interrupted_after:]
    assert whole.diagnosis.stage is Stage.COLLAPSE
    assert [step.step for step in Run(tmp_path / "run").observations()] == list(range(1, 121))
    (event,) = events(tmp_path / "run", "resume")
    assert event["step"] == interrupted_after + 1


def test_a_training_that_goes_back_forgets_what_it_repeats(run_dir: Path, tmp_path: Path) -> None:
    steps = steps_of_a_spiral()
    with Monitor(tmp_path / "straight") as straight:
        for values in steps[:50]:
            straight.step(**values)
    with Monitor(run_dir) as monitor:
        for values in steps:
            monitor.step(**values)
        assert monitor.diagnosis.stage is Stage.COLLAPSE
        monitor.step(50, **steps[49])
        assert monitor.diagnosis.as_dict() == straight.diagnosis.as_dict()
        assert monitor.step().step == 51
    run = Run(run_dir)
    assert [step.step for step in run.observations()] == list(range(1, 52))
    assert (run.info.attempt, run.info.resumed_from) == (1, 49)
    assert "went back from step 120 to step 50" in events(run_dir, "resume")[0]["detail"]


def test_resuming_from_an_earlier_checkpoint_replaces_the_later_steps(run_dir: Path) -> None:
    with Monitor(run_dir) as first:
        for _ in range(9):
            first.step(loss=1.0)
    with Monitor(run_dir, resume=True) as second:
        second.step(5, loss=2.0)
        second.step(loss=2.0)
    assert [(step.step, step.loss) for step in Run(run_dir).observations()] == [
        *((step, 1.0) for step in range(1, 5)),
        (5, 2.0),
        (6, 2.0),
    ]


def test_responses_of_a_resumed_training_have_identities_of_their_own(run_dir: Path) -> None:
    for resume in (False, True):
        with Monitor(run_dir, resume=resume) as monitor:
            monitor.observe(batch())
            monitor.step()
    uids = Run(run_dir).responses()["uid"].to_pylist()
    assert len(set(uids)) == len(uids) == 8


def test_resuming_where_there_is_no_run_starts_one(run_dir: Path) -> None:
    with Monitor(run_dir, resume=True) as monitor:
        assert monitor.step().step == 1
    assert Run(run_dir).info.attempt == 0
    assert events(run_dir, "resume") == []


def test_a_step_that_is_given_again_keeps_its_rows_for_the_next(monitor: Monitor, run_dir: Path) -> None:
    for step in (1, 2, 2, 3):
        monitor.observe(batch())
        monitor.step(step, loss=float(step))
    monitor.close()
    run = Run(run_dir)
    assert [step.step for step in run.observations()] == [1, 2, 3]
    assert run.info.attempt == 0
    assert run.responses()["step"].to_pylist() == [step for step in (1, 2, 3, 3) for _ in range(len(batch()))]
    (event,) = events(run_dir, "bad_input")
    assert "step 2 was given again" in event["detail"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # which is what is tested
def test_a_forked_worker_does_not_end_the_run(monitor: Monitor, run_dir: Path) -> None:
    monitor.step()
    monitor._recorder.flush()
    child = os.fork()
    if child == 0:
        monitor._recorder.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not Run(run_dir).ended
    monitor.step()
    monitor.close()
    assert len(Run(run_dir).observations()) == 2


def test_settings_of_a_step_are_those_of_its_last_update(monitor: Monitor, run_dir: Path) -> None:
    for rate in (0.25, 0.5):
        monitor.update(learning_rate=rate, loss=rate)
    monitor.step()
    monitor.close()
    (step,) = Run(run_dir).observations()
    assert (step.learning_rate, step.loss) == (0.5, 0.375)


@pytest.mark.parametrize("first", [3, 2, 4])
def test_a_resumed_training_may_repeat_the_last_recorded_step(run_dir: Path, first: int) -> None:
    with Monitor(run_dir) as monitor:
        for step in (1, 2, 3):
            monitor.step(step, loss=1.0)
    with Monitor(run_dir, resume=True) as monitor:
        monitor.step(first, loss=2.0)
    steps = [(step.step, step.loss) for step in Run(run_dir).observations()]
    assert steps == [(step, 1.0) for step in range(1, first)] + [(first, 2.0)]


# LLDS: off, on, and by the prediction

AUTO = Correct(mode="auto", strength=3.0, ramp=3, release=2)
WELL, ILL = {"loss": 0.0}, {"loss": 1.0}
"""What `Told` is told."""


def corrected(run_dir: Path, **more: Any) -> Monitor:
    return Monitor(run_dir, **{"llds": AUTO, "detector": Told(), **more})


def told(monitor: Monitor, *steps: dict[str, float]) -> list[float]:
    """The coefficient that each step was trained with."""
    applied = []
    for step in steps:
        applied.append(monitor.llds_coefficient)
        monitor.step(**step)
    return applied


def coefficients_of(run_dir: Path) -> list[float | None]:
    return [step.llds_coefficient for step in Run(run_dir).observations()]


def changes_of(run_dir: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["detail"].rpartition("coefficient ")[2]) for row in events(run_dir, "llds")]


def test_without_llds_nothing_is_asked_recorded_or_said_of_it(run_dir: Path) -> None:
    with corrected(run_dir, llds="off") as monitor:
        assert told(monitor, ILL, ILL) == [0, 0]
        assert not monitor.fewer_updates
    assert coefficients_of(run_dir) == [None, None]
    assert events(run_dir, "llds") == []


def test_with_on_the_coefficient_is_there_in_the_first_step_and_is_an_event(run_dir: Path) -> None:
    with corrected(run_dir, llds="on") as monitor:
        assert told(monitor, WELL, ILL) == [1, 1]
    assert coefficients_of(run_dir) == [1, 1]
    (event,) = events(run_dir, "llds")
    assert (event["step"], event["detail"]) == (1, "on from the first step: coefficient 1")


def test_what_is_applied_stands_in_the_step_s_column_and_each_change_is_an_event(run_dir: Path) -> None:
    steps = [WELL, ILL, ILL, ILL, WELL, WELL, WELL, WELL, WELL]
    with corrected(run_dir) as monitor:
        applied = told(monitor, *steps)
    assert applied == [0, 0, 1, 2, 3, 3, 2, 1, 0]
    assert coefficients_of(run_dir) == applied
    assert changes_of(run_dir) == [
        (2, "0 -> 1"),
        (3, "1 -> 2"),
        (4, "2 -> 3"),
        (6, "3 -> 2"),
        (7, "2 -> 1"),
        (8, "1 -> 0"),
    ]


def test_auto_is_switched_on_by_the_detector_itself(run_dir: Path) -> None:
    with Monitor(run_dir, llds="auto") as monitor:
        applied = told(monitor, *steps_of_a_spiral())
    assert applied[:40] == [0] * 40
    assert applied[-1] == 1
    assert events(run_dir, "llds")[0]["step"] == monitor.diagnosis.first_warning


def test_a_coefficient_that_the_loop_tells_itself_wins(run_dir: Path) -> None:
    with corrected(run_dir, llds="on") as monitor:
        monitor.update(llds_coefficient=0.25)
        monitor.step()
        monitor.step(llds_coefficient=0.5)
        monitor.step()
    assert coefficients_of(run_dir) == [0.25, 0.5, 1.0]


def test_a_dry_run_applies_nothing_and_says_what_it_would_have_done(run_dir: Path) -> None:
    calls: list[bool] = []
    dry = Correct(mode="auto", strength=3.0, ramp=1, dry_run=True)
    with corrected(run_dir, llds=dry, reduce_updates=calls.append) as monitor:
        assert told(monitor, WELL, ILL, ILL, ILL) == [0] * 4
    assert coefficients_of(run_dir) == [0] * 4
    (event,) = events(run_dir, "llds")
    assert event["step"] == 2
    assert event["detail"].startswith("would have: engaged (1 of at most 3) up to 3")
    assert calls == []


@pytest.mark.parametrize("interrupted_after", range(1, 9))
def test_a_resumed_training_goes_on_with_the_decision(tmp_path: Path, interrupted_after: int) -> None:
    steps = [WELL, ILL, ILL, ILL, WELL, WELL, WELL, WELL, WELL]
    with corrected(tmp_path / "whole") as whole:
        expected = told(whole, *steps)
    with corrected(tmp_path / "run") as first:
        applied = told(first, *steps[:interrupted_after])
    with corrected(tmp_path / "run", resume=True) as second:
        applied += told(second, *steps[interrupted_after:])
    assert applied == expected
    assert changes_of(tmp_path / "run") == changes_of(tmp_path / "whole")


def test_a_training_that_goes_back_goes_back_with_its_decision_too_and_that_is_an_event(run_dir: Path) -> None:
    with corrected(run_dir) as monitor:
        told(monitor, WELL, WELL, WELL, ILL, ILL, ILL)
        assert monitor.llds_coefficient == 3
        monitor.step(3, **WELL)  # it was trained with what held before anybody could know that it is the third one
        assert monitor.llds_coefficient == 0
        assert told(monitor, WELL, ILL, WELL) == [0, 0, 1]
    assert coefficients_of(run_dir) == [0, 0, 3, 0, 0, 1]
    after = changes_of(run_dir)[-3:]
    assert after == [(3, "3 -> 0: as of the step before"), (5, "0 -> 1"), (6, "1 -> 2")]


def test_going_back_to_where_the_decision_was_the_same_is_no_change(run_dir: Path) -> None:
    with corrected(run_dir) as monitor:
        told(monitor, WELL, WELL, WELL)
        monitor.step(2, **WELL)
    assert events(run_dir, "llds") == []


def test_fewer_updates_are_asked_for_while_it_is_engaged(run_dir: Path) -> None:
    calls: list[tuple[int | None, bool]] = []
    with corrected(run_dir, reduce_updates=lambda fewer: calls.append((monitor.diagnosis.step, fewer))) as monitor:
        for step in (WELL, ILL, ILL, WELL, WELL, WELL, ILL, ILL):
            monitor.step(**step)
            assert monitor.fewer_updates == bool(calls and calls[-1][1])
    assert calls == [(2, True), (5, False), (7, True)]


def test_a_resumed_process_is_asked_anew(run_dir: Path) -> None:
    calls: list[bool] = []
    with corrected(run_dir, reduce_updates=calls.append) as monitor:
        told(monitor, WELL, ILL)
    with corrected(run_dir, resume=True, reduce_updates=calls.append) as monitor:
        assert calls == [True, True]
        told(monitor, ILL, WELL, WELL, WELL)
    assert calls == [True, True, False]


@pytest.mark.parametrize("error", [RuntimeError("no such dial"), InputError("no such dial")])
def test_a_loop_s_own_error_in_reduce_updates_is_said_once_and_ends_nothing(
    run_dir: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def reduce(fewer: bool) -> None:
        raise error

    with corrected(run_dir, reduce_updates=reduce) as monitor:
        assert told(monitor, ILL, ILL, WELL, WELL, WELL) == [0, 1, 2, 3, 2]  # the first step of all, too
        assert monitor.diagnosis.step == 5
    with corrected(run_dir, resume=True, reduce_updates=reduce) as monitor:
        told(monitor, ILL)
    assert len(warnings(caplog)) == 2  # once in each process
    for event in events(run_dir, "error"):
        assert event["detail"].startswith(f"reduce_updates failed: {type(error).__name__}: no such dial")


@pytest.mark.parametrize(
    ("llds", "words"),
    [
        (lambda: "nonsense", "llds='nonsense': expected one of off, on, auto"),
        (lambda: None, "llds=None: expected one of off, on, auto"),
        (lambda: 0.2, "llds=0.2: expected one of off, on, auto"),
        (lambda: Correct(mode="auto", strength=-1.0), "strength=-1.0: expected a coefficient of at least 0"),
    ],
)
def test_bad_settings_of_llds_are_refused_before_anything_is_made(
    run_dir: Path, llds: Callable[[], Any], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        Monitor(run_dir, llds=llds())
    assert str(refused.value) == words
    assert not run_dir.exists()


class Term(NamedTuple):
    """As of `llds_loss`, as far as a monitor looks."""

    loss: torch.Tensor
    moved_tokens: torch.Tensor


def terms(moved: int) -> Term:
    return Term(torch.tensor(0.5, requires_grad=True), torch.tensor(moved))


def of_steps(monitor: Monitor, *steps: list[int]) -> None:
    for moved in steps:
        for tokens in moved:
            monitor.llds(terms(tokens))
            monitor.update()
        monitor.step()


@pytest.mark.parametrize("llds", ["on", "off"])  # "off": the loop adds the term with a coefficient of its own
def test_a_term_that_cannot_act_three_steps_on_end_is_said_once(
    run_dir: Path, caplog: pytest.LogCaptureFixture, llds: Any
) -> None:
    with Monitor(run_dir, llds=llds) as monitor:
        of_steps(monitor, [0, 0], [0, 0])
        assert warnings(caplog) == []
        of_steps(monitor, [0], [0], [0], [0], [3], [0], [0], [0])
    (line,) = warnings(caplog)
    assert "LLDS has no effect in this configuration: the old log-probs are the current ones" in line
    assert "more than one update" in line
    assert "Replay or LaggedPolicy" in line
    assert [event["step"] for event in events(run_dir, "llds") if "no effect" in event["detail"]] == [3]


@pytest.mark.parametrize(
    "steps",
    [
        [[0, 2], [0, 2], [0, 1], [0, 7]],  # the first update on a batch never moves anything
        [[0], [0], [1], [0], [0]],
        [[], [], [], []],
    ],
)
def test_a_term_that_acts_now_and_then_is_none_that_cannot(
    run_dir: Path, caplog: pytest.LogCaptureFixture, steps: list[list[int]]
) -> None:
    with Monitor(run_dir, llds="on") as monitor:
        of_steps(monitor, *steps)
    assert warnings(caplog) == []


def test_a_term_that_is_switched_off_is_not_blamed(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with corrected(run_dir) as monitor:
        of_steps(monitor, [0], [0], [0], [0])
    assert warnings(caplog) == []


def test_what_the_term_was_is_recorded_as_a_mean_over_the_updates(run_dir: Path) -> None:
    log_probs = torch.tensor([[-2.0, -1.0]], requires_grad=True)
    term: LldsTerm = llds_loss(log_probs, torch.tensor([[-1.0, -1.0]]), torch.ones(1), torch.ones(1, 2))
    with Monitor(run_dir, llds="on") as monitor:
        for _ in range(2):
            monitor.llds(term)
            monitor.update(loss=term.loss)
        monitor.step()
    (step,) = Run(run_dir).observations()
    assert (step.llds_loss, step.llds_coefficient, step.loss, step.updates) == (0.5, 1.0, 0.5, 2)


def test_a_term_that_is_none_raises_in_the_first_step_and_is_said_once_later(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Monitor(run_dir, llds="on") as monitor:
        with pytest.raises(InputError, match="term is a Tensor: expected what llds_loss returns"):
            monitor.llds(torch.tensor(0.25))  # type: ignore[arg-type]
        monitor.step()
        for _ in range(2):
            monitor.llds(0.25)  # type: ignore[arg-type]
            assert monitor.step(loss=1.0).step
    assert len(Run(run_dir).observations()) == 3
    (line,) = warnings(caplog)
    assert "term is a float" in line
