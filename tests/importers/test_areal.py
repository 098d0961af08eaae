from __future__ import annotations

from pathlib import Path

from texts import FOREIGN, NOISE, about, auto, column, put, read, told

from lldwatch.importers.areal import FORMAT

BATCH = {"n_seqs": 64.0, "correct_n_seqs": 16.0, "task_reward/avg": 0.25, "seq_len/avg": 500.0, "prompt_len/avg": 120.5,
         "no_eos_ratios/avg": 0.1, "kl_rewards/avg": -0.001}  # fmt: skip
UPDATE = {"actor_loss/avg": -0.0123, "grad_norm": 5.67, "lr": 1e-06, "entropy/avg": 0.48791, "clip_ratio/avg": 0.01,
          "approx_kl/avg": 0.0002}  # fmt: skip


def step(number: int, *tables: dict[str, float], prefix: str = "ppo_actor/") -> str:
    text = f"(AReaL) 20261126-05:43:16.392 StatsLogger INFO: Epoch 1/1 Step {number}/50 Train step {number}/50 done.\n"
    for count, table in enumerate(tables, 1):
        cells = [f" {prefix}{name:<30} │ {value: .4e} " for name, value in table.items()]
        rows = [cells[start : start + 2] for start in range(0, len(cells), 2)]
        drawn = "\n├────┼────┤\n".join("│" + "│".join(row) + "│" for row in rows)
        text += (
            f"(AReaL) 20261126 StatsLogger INFO: Stats ({count}/{len(tables)}):\n╒════╤════╕\n{drawn}\n╘════╧════╛\n"
        )
    return text


def under(scope: str, values: dict[str, float]) -> dict[str, float]:
    return {scope + name: value for name, value in values.items()}


def test_one_table(tmp_path: Path) -> None:
    [one], tally = read(FORMAT, put(tmp_path, step(47, {**BATCH, **under("update/", UPDATE)})))
    assert told(one) == {
        "step": 47, "reward": 0.25, "responses": 64, "correct_share": 0.25, "response_length": 379.5, "loss": -0.0123,
        "grad_norm": 5.67, "learning_rate": 1e-06, "entropy": 0.48791, "clip_fraction": 0.01,
    }  # fmt: skip
    assert list(tally.unmapped) == [
        "ppo_actor/seq_len/avg", "ppo_actor/no_eos_ratios/avg", "ppo_actor/kl_rewards/avg",
        "ppo_actor/update/approx_kl/avg",
    ]  # fmt: skip


def test_a_table_for_each_update_as_older_versions_have_it(tmp_path: Path) -> None:
    second = {**UPDATE, "grad_norm": 1.33, "lr": 2e-06, "entropy/avg": 0.51209}
    [one], _ = read(FORMAT, put(tmp_path, step(1, {**UPDATE, **BATCH}, second, prefix="grpo_actor/")))
    assert (one.observation.updates, column([one], "grad_norm"), column([one], "entropy")) == (2, [3.5], [0.5])
    assert (column([one], "learning_rate"), column([one], "reward"), one.observation.responses) == ([2e-06], [0.25], 64)


def test_nan_and_infinity(tmp_path: Path) -> None:
    text = step(1, {"update/grad_norm": float("inf")}) + step(2, {"update/grad_norm": float("nan")})
    assert [repr(value) for value in column(read(FORMAT, put(tmp_path, text))[0], "grad_norm")] == ["inf", "nan"]


def test_what_stands_between_the_tables(tmp_path: Path) -> None:
    other = "│ ppo_actor/update/grad_norm │ 9.0 │\n| a | b |\n"
    text = other + NOISE + step(1, under("update/", UPDATE)) + NOISE + "| question | answer |\n" + step(2, BATCH)
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert (column(steps, "step"), column(steps, "grad_norm"), column(steps, "reward")) == (
        [1, 2],
        [5.67, None],
        [None, 0.25],
    )


def test_a_table_that_breaks_off(tmp_path: Path) -> None:
    whole = step(1, under("update/", UPDATE))
    steps, _ = read(FORMAT, put(tmp_path, whole[: whole.index("5.67") + 2]))
    assert (column(steps, "loss"), column(steps, "grad_norm")) == ([-0.0123], [None])
    assert read(FORMAT, put(tmp_path, step(1)))[0] == []


def test_runs_and_resumptions(tmp_path: Path) -> None:
    text = "".join(step(number, BATCH) for number in (1, 2, 3, 4, 3, 4, 1, 2))
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert [(s.run, s.attempt, s.observation.step) for s in steps][3:] == [
        ("", 0, 4), ("", 1, 3), ("", 1, 4), ("run-2", 0, 1), ("run-2", 0, 2),
    ]  # fmt: skip


def test_the_planned_steps(tmp_path: Path) -> None:
    assert about(FORMAT, put(tmp_path, step(1, BATCH))) == {"planned_steps": 50}


def test_a_log_as_areal_writes_it() -> None:
    name, why, steps, tally = auto(FOREIGN / "areal" / "console.log")
    assert (name, column(steps, "step"), tally.dropped) == ("areal", list(range(1, 25)), {})
    assert " reads " in why
    assert (column(steps, "reward")[0], column(steps, "correct_share")[0], column(steps, "responses")[0]) == (
        0.51667,
        0.516667,
        60,
    )
    for field in ("loss", "grad_norm", "learning_rate", "entropy", "clip_fraction"):
        assert None not in column(steps, field)
