from __future__ import annotations

from pathlib import Path

import pytest
from texts import FOREIGN, NOISE, about, auto, column, put, read, told

from lldwatch.importers.trl_console import FORMAT

COUNTED = "rows have no step and no progress bar tells it: they are counted (with logging_steps > 1 that is no step)"


def bar(step: int, total: int = 60) -> str:
    return f"\r{100 * step // total:3d}%|▏         | {step}/{total} [00:00<00:12,  4.67it/s]"


def row(reward: float | None = 0.5, loss: float = 0.1, epoch: float = 0.5) -> str:
    told_reward = "" if reward is None else f", 'reward': {reward}, 'reward_std': 0.1"
    return f"{{'loss': {loss}, 'grad_norm': 0.2{told_reward}, 'epoch': {epoch}}}\n"


def written(step: int, text: str) -> str:
    """As tqdm writes it: the bar, its place wiped, the row, the bar again."""
    return bar(step) + "\r" + " " * 50 + "\r" + text + bar(step)


def summary() -> str:
    return "{'train_runtime': 3.2, 'train_steps_per_second': 9.1, 'train_loss': 0.05, 'epoch': 1.0}\n"


def test_a_row_with_numbers(tmp_path: Path) -> None:
    text = (
        "{'loss': -0.0996, 'grad_norm': 0.1997, 'learning_rate': 1e-06, 'num_tokens': 265.0, "
        "'completions/mean_length': 233.075, 'completions/clipped_ratio': 0.25, 'rewards/letters/mean': 0.4, "
        "'reward': 0.825, 'reward_std': 0.3, 'frac_reward_zero_std': 0.8, 'kl': nan, 'entropy': 0.155, "
        "'clip_ratio/low_mean': 0.0, 'clip_ratio/region_mean': 0.01, 'sampling/sampling_logp_difference/mean': 0.02, "
        "'epoch': 0.0}\n"
    )
    [step], tally = read(FORMAT, put(tmp_path, text))
    assert repr(step.observation.kl) == "nan"
    assert {name: value for name, value in told(step).items() if name != "kl"} == {
        "step": 1, "loss": -0.0996, "grad_norm": 0.1997, "learning_rate": 1e-06, "response_length": 233.075,
        "truncated_share": 0.25, "reward": 0.825, "reward_std": 0.3, "zero_advantage_share": 0.8, "entropy": 0.155,
        "clip_fraction": 0.01,
    }  # fmt: skip
    assert list(tally.unmapped) == [
        "num_tokens", "rewards/letters/mean", "clip_ratio/low_mean", "sampling/sampling_logp_difference/mean", "epoch",
    ]  # fmt: skip


def test_a_row_with_text_as_transformers_5_prints_it(tmp_path: Path) -> None:
    text = "{'loss': '0.001931', 'grad_norm': 'inf', 'reward': '0.5', 'reward_std': 'None', 'kl': '0.04827'}\n"
    [step], _ = read(FORMAT, put(tmp_path, text))
    assert told(step) == {"step": 1, "loss": 0.001931, "grad_norm": float("inf"), "reward": 0.5, "kl": 0.04827}


def test_the_older_names(tmp_path: Path) -> None:
    text = "{'loss': 0.0, 'completion_length': 120.5, 'reward': 0.5, 'clip_ratio': 0.1, 'epoch': 0.1}\n"
    [step], _ = read(FORMAT, put(tmp_path, text))
    assert told(step) == {"step": 1, "loss": 0.0, "response_length": 120.5, "reward": 0.5, "clip_fraction": 0.1}


def test_the_bar_that_follows_tells_the_step(tmp_path: Path) -> None:
    text = bar(0) + "".join(bar(s - 1) + written(s, row(s / 100)) for s in (5, 10, 15)) + bar(16)
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert list(zip(column(steps, "step"), column(steps, "reward"), strict=True)) == [(5, 0.05), (10, 0.1), (15, 0.15)]
    assert tally.notes == []


def test_steps_faster_than_the_bar(tmp_path: Path) -> None:
    text = bar(0) + "".join("\r" + " " * 50 + "\r" + row(s / 100) + bar(s) for s in (2, 4, 6))
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [2, 4, 6]


def test_rows_that_wait_in_a_buffer_belong_to_the_bars_that_were_shown_twice(tmp_path: Path) -> None:
    """What nohup and a batch system make of it: the bars at once, the rows when eight kilobytes are full."""
    bars = [
        "".join(bar(s) + (bar(s) if s % 5 == 0 else "") for s in range(first, last))
        for first, last in ((0, 26), (26, 51))
    ]
    rows = ["".join(row(s / 100) for s in steps) for steps in ((5, 10, 15, 20, 25), (30, 35, 40, 45, 50))]
    text = bars[0] + "\r" + rows[0] + bars[1] + "\r" + rows[1] + summary()
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert column(steps, "step") == list(range(5, 51, 5))
    assert column(steps, "reward") == [s / 100 for s in range(5, 51, 5)]
    assert tally.notes == []


def test_the_bars_before_the_first_row_are_not_lost_when_the_format_is_found(tmp_path: Path) -> None:
    text = NOISE + "".join(bar(s) + bar(s) for s in range(1, 9)) + "\n" + "".join(row(s / 10) for s in range(1, 9))
    name, _, steps, tally = auto(put(tmp_path, text))
    assert (name, column(steps, "step"), tally.notes) == ("trl-console", list(range(1, 9)), [])


def test_a_row_in_the_line_of_its_bar(tmp_path: Path) -> None:
    text = "".join(bar(s) + row(s / 100) for s in (12, 24, 36)) + bar(37)
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [12, 24, 36]


def test_without_bars_the_rows_are_counted(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, "".join(row(r) for r in (0.1, 0.2, 0.3))))
    assert (column(steps, "step"), tally.notes) == ([1, 2, 3], [COUNTED])


def test_a_bar_at_the_top_alone_as_in_a_log_of_wandb(tmp_path: Path) -> None:
    steps, tally = read(
        FORMAT, put(tmp_path, bar(20, 20) + "\n" + "".join(row(s / 20) for s in range(1, 21)) + summary())
    )
    assert (column(steps, "step"), tally.notes) == (list(range(1, 21)), [COUNTED])


def test_bars_of_something_else(tmp_path: Path) -> None:
    other = "Map: 100%|██████████| 7/7 [00:00<00:00, 9.1it/s]\rProcessed prompts: 50%|█████     | 3/6 [00:00<00:00]\n"
    evaluation = "".join(f"\r{10 * i}%|█         | {i}/10 [00:00<00:00,  9it/s]" for i in range(11))
    text = other + written(1, row(0.1)) + evaluation + "\r{'eval_loss': 0.1, 'eval_reward': 0.9}\n" + bar(1)
    text += written(2, row(0.2)) + other + written(3, row(0.3))
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert list(zip(column(steps, "step"), column(steps, "reward"), strict=True)) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert tally.reasons == ["1 x evaluation (first: line 3)"]


def test_rows_of_a_reused_batch_have_no_reward(tmp_path: Path) -> None:
    steps, _ = read(FORMAT, put(tmp_path, written(1, row(0.5)) + written(2, row(None)) + written(3, row(0.25))))
    assert (column(steps, "step"), column(steps, "reward")) == ([1, 2, 3], [0.5, None, 0.25])


def test_the_summary_is_no_step(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, written(1, row(0.5)) + summary()))
    assert (column(steps, "loss"), tally.reasons) == ([0.1], ["1 x summary of the whole training (first: line 2)"])


def test_two_trainings_in_one_file(tmp_path: Path) -> None:
    first = "".join(written(s, row(0.1)) for s in (1, 2, 3))
    for between in ("", summary()):
        steps, _ = read(FORMAT, put(tmp_path, first + between + bar(0) + first))
        assert sorted((s.run, s.observation.step) for s in steps) == [(r, s) for r in ("", "run-2") for s in (1, 2, 3)]
    rows = "".join(row(0.1, epoch=s / 3) for s in (1, 2, 3))
    steps, _ = read(FORMAT, put(tmp_path, rows + rows))
    assert [(s.run, s.observation.step) for s in steps] == [(r, s) for r in ("", "run-2") for s in (1, 2, 3)]


def test_two_trainings_of_different_length(tmp_path: Path) -> None:
    text = written(1, row(0.1)) + written(2, row(0.1)) + summary() + bar(0, 30) + "\r" + row(0.3) + bar(5, 30)
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert sorted((s.run, s.observation.step) for s in steps) == [("", 1), ("", 2), ("run-2", 5)]


def test_a_resumed_training(tmp_path: Path) -> None:
    steps, _ = read(FORMAT, put(tmp_path, "".join(written(s, row(0.1)) for s in (1, 2, 3, 4, 3, 4, 5))))
    assert [(s.attempt, s.observation.step) for s in steps][3:] == [(0, 4), (1, 3), (1, 4), (1, 5)]


def test_loops_that_print_the_step_themselves(tmp_path: Path) -> None:
    text = "{'step': 10, 'loss': 0.1, 'reward': 0.5}\n{'step': 20, 'loss': 0.1, 'reward': 0.6}\n"
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [10, 20]


def test_rows_that_wandb_refuses(tmp_path: Path) -> None:
    warning = "wandb: WARNING (User provided step: {} is less than current step: 9. Dropping entry: {}).\n"
    text = "".join(warning.format(s, row(s / 10).strip()) for s in (7, 8))
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [7, 8]


def test_a_row_that_breaks_off(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, row(0.5) + row(0.6)[:-9]))
    assert (column(steps, "reward"), tally.reasons) == ([0.5], ["1 x row that breaks off (first: line 2)"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    text = "".join("\x1b[33m" + written(s, row(s / 100)) + "\x1b[0m\n" for s in (2, 4))
    name, _, steps, _ = auto(put(tmp_path, text.replace("\n", end).encode(encoding)))
    assert (name, column(steps, "step"), column(steps, "reward")) == ("trl-console", [2, 4], [0.02, 0.04])


def test_a_log_with_a_hole_of_zero_bytes(tmp_path: Path) -> None:
    path = put(tmp_path, b"begins\n" + b"\0" * 5000 + written(3, row(0.1)).encode())
    assert auto(path)[0] == "trl-console"


def test_other_dicts_are_not_taken(tmp_path: Path) -> None:
    text = "{'role': 'user', 'content': 'x'}\n{'policy_loss': 0.1, 'reward': 0.2}\n" + NOISE
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert (steps, tally.dropped) == ([], {})


def test_the_planned_steps(tmp_path: Path) -> None:
    assert about(FORMAT, put(tmp_path, "loading: 100%|██| 3/3 [0s]\n" + bar(1, 300))) == {"planned_steps": 300}
    assert about(FORMAT, put(tmp_path, row(0.1))) == {}


def test_it_is_recognised_by_its_first_row(tmp_path: Path) -> None:
    name, why, _, _ = auto(put(tmp_path, NOISE * 10_000 + row(0.5)))
    assert (name, why) == (
        "trl-console",
        "line 10001 reads \"{'loss': 0.1, 'grad_norm': 0.2, 'reward': 0.5, 'reward_std':\"",
    )


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("trl", range(1, 31)), ("trl-old", range(2, 61, 2)), ("trl-reuse", range(1, 61)), ("trl-0.15", range(1, 41))],
)
def test_logs_that_trl_wrote(folder: str, expected: range) -> None:
    name, _, steps, tally = auto(FOREIGN / folder / "console.log")
    assert (name, column(steps, "step"), tally.notes) == ("trl-console", list(expected), [])
    assert None not in column(steps, "loss") + column(steps, "grad_norm")
    assert (None in column(steps, "clip_fraction")) is (folder == "trl-0.15")  # which did not log it
    assert tally.reasons[0].startswith("1 x summary of the whole training")


def test_the_console_tells_what_the_state_tells() -> None:
    _, _, console, _ = auto(FOREIGN / "trl-reuse" / "console.log")
    _, _, state, _ = auto(FOREIGN / "trl-reuse" / "trainer_state.json")
    for name in ("reward", "entropy", "clip_fraction", "zero_advantage_share"):
        for printed, kept in zip(column(console, name), column(state, name), strict=True):
            assert printed == kept or printed == pytest.approx(kept, rel=1e-3)  # four digits are printed
