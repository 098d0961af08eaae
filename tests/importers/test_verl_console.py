from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from texts import FOREIGN, NOISE, auto, column, put, read, told

from lldwatch.importers.verl_console import FORMAT

OLD = (
    "\x1b[36m(main_task pid=54569)\x1b[0m step:0 - timing/gen:18.859 - critic/kl:-0.000 - critic/kl_coeff:0.001 - "
    "critic/lr(1e-4):0.100 - actor/entropy_loss:0.526 - actor/pg_loss:-0.012 - actor/pg_clipfrac:0.004 - "
    "actor/ppo_kl:0.000 - actor/grad_norm:1.250 - actor/lr(1e-4):0.010 - critic/score/mean:0.200 - "
    "critic/score/max:1.000 - critic/rewards/mean:0.199 - response_length/mean:300.500 - "
    "response_length/clip_ratio:0.125\n"
)
NEW = (
    "(TaskRunner pid=46086, ip=10.0.0.7) step:3 - actor/entropy:0.163 - actor/pg_clipfrac:np.float64(0.0) - "
    "actor/grad_norm:np.float64(0.0066) - actor/pg_loss:1e-05 - actor/kl_loss:np.float64(0.5) - actor/kl_coef:0.001 - "
    "actor/lr:np.float64(1e-06) - critic/score/mean:-0.043 - critic/rewards/mean:-0.05 - training/global_step:3 - "
    "response_length/mean:812.25 - response_length/clip_ratio:0.0 - rollout_corr/kl:0.002 - rollout_corr/k3_kl:0.001 - "
    "perf/throughput:123.4\n"
)


def line(step: int, reward: float, more: str = "") -> str:
    return f"(TaskRunner pid=1) step:{step} - critic/score/mean:{reward}{more} - perf/throughput:1.0\n"


def test_a_line_of_old_verl(tmp_path: Path) -> None:
    [step], tally = read(FORMAT, put(tmp_path, OLD))
    assert told(step) == {
        "step": 0, "reward": 0.2, "kl": 0.0, "entropy": 0.526, "loss": -0.012, "clip_fraction": 0.004,
        "grad_norm": 1.25, "learning_rate": 1e-06, "response_length": 300.5, "truncated_share": 0.125,
    }  # fmt: skip
    assert repr(step.observation.kl) == "-0.0"
    assert list(tally.unmapped) == [
        "timing/gen", "critic/kl_coeff", "critic/lr(1e-4)", "actor/ppo_kl", "critic/score/max",
    ]  # fmt: skip
    assert (tally.rows, tally.dropped, tally.notes) == (1, {}, [])


def test_a_line_of_new_verl(tmp_path: Path) -> None:
    [step], _ = read(FORMAT, put(tmp_path, NEW))
    assert told(step) == {
        "step": 3, "reward": -0.043, "kl": 0.5, "rollout_kl": 0.001, "entropy": 0.163, "loss": 1e-05,
        "clip_fraction": 0.0, "grad_norm": 0.0066, "learning_rate": 1e-06, "response_length": 812.25,
        "truncated_share": 0.0,
    }  # fmt: skip


def test_the_reward_after_the_kl_penalty_holds_only_where_no_other_is_there(tmp_path: Path) -> None:
    text = "step:1 - critic/rewards/mean:0.5 - perf/x:1\n"
    text += "step:2 - critic/rewards/mean:0.5 - critic/score/mean:0.6 - perf/x:1\n"
    assert column(read(FORMAT, put(tmp_path, text))[0], "reward") == [0.5, 0.6]


def test_a_learning_rate_that_three_decimals_cannot_show_is_not_zero(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, "step:1 - actor/lr:0.000 - actor/grad_norm:0.500 - perf/x:1\n"))
    assert (column(steps, "learning_rate"), column(steps, "grad_norm")) == ([None], [0.5])
    assert tally.notes == ["actor/lr is 0.000 with three decimals: the learning rate is not known"]


def test_names_with_spaces_colons_and_dashes(tmp_path: Path) -> None:
    text = "step:1 - val-core/My set - part: two/acc/mean@1:0.24 - critic/score/mean:0.5 - critic/lr(1e-4):0.100\n"
    [step], tally = read(FORMAT, put(tmp_path, text))
    assert told(step) == {"step": 1, "reward": 0.5}
    assert list(tally.unmapped) == ["val-core/My set - part: two/acc/mean@1", "critic/lr(1e-4)"]


def test_validation_alone_is_no_step(tmp_path: Path) -> None:
    validation = "step:{} - val-core/openai/gsm8k/acc/mean@1:0.24 - val-aux/num_turns/mean:2.0\n"
    text = validation.format(0) + line(1, 0.1) + validation.format(1) + line(2, 0.2) + validation.format(3)
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert column(steps, "step") == [1, 2]
    assert tally.reasons == ["3 x validation without training metrics (first: line 1)"]


def test_noise_between_the_lines_and_progress_bars_before_them(tmp_path: Path) -> None:
    bar = "(TaskRunner pid=1) Training Progress:   0%|          | 1/435 [00:52<6:20:43, 52.64s/it]"
    text = NOISE * 3 + line(1, 0.1) + bar + "\r" + bar + line(2, 0.2) + "global_step:7 - is no step\n" + NOISE
    assert column(read(FORMAT, put(tmp_path, text))[0], "step") == [1, 2]


def test_nan_and_infinity_are_evidence(tmp_path: Path) -> None:
    text = line(1, 0.1, " - actor/grad_norm:inf") + line(2, 0.1, " - actor/grad_norm:nan")
    text += line(3, 0.1, " - actor/grad_norm:np.float64(nan) - actor/pg_loss:-inf")
    steps, _ = read(FORMAT, put(tmp_path, text))
    assert [repr(value) for value in column(steps, "grad_norm")] == ["inf", "nan", "nan"]
    assert column(steps, "loss") == [None, None, -math.inf]


def test_two_trainings_in_one_file(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, "".join(line(s, r) for s, r in ((1, 0.1), (2, 0.2), (1, 0.5), (2, 0.6)))))
    assert [(s.run, s.observation.step) for s in steps] == [("", 1), ("", 2), ("run-2", 1), ("run-2", 2)]
    assert tally.notes == ["line 3: the step goes back from 2 to 1: another run begins"]


def test_a_resumed_training(tmp_path: Path) -> None:
    steps, _ = read(FORMAT, put(tmp_path, "".join(line(s, s / 10) for s in (1, 2, 3, 4, 3, 4, 5))))
    assert [(s.attempt, s.observation.step) for s in steps][3:] == [(0, 4), (1, 3), (1, 4), (1, 5)]


def test_a_step_that_is_there_twice(tmp_path: Path) -> None:
    steps, tally = read(FORMAT, put(tmp_path, line(1, 0.1) + line(2, 0.2) + line(2, 0.3) + line(3, 0.4)))
    assert list(zip(column(steps, "step"), column(steps, "reward"), strict=True)) == [(1, 0.1), (2, 0.3), (3, 0.4)]
    assert tally.reasons == ["1 x reward given again for the same step: the last one holds (first: line 3)"]


def test_a_number_that_breaks_off_with_the_file_is_left_out(tmp_path: Path) -> None:
    text = line(1, 0.1, " - actor/grad_norm:0.12345") + "(TaskRunner pid=1) step:2 - critic/score/mean:0.2 - "
    for end in ("actor/grad_norm:0.1", "actor/grad_norm:", "actor/gra"):
        steps, tally = read(FORMAT, put(tmp_path, text + end))
        assert (column(steps, "reward"), column(steps, "grad_norm")) == ([0.1, 0.2], [0.12345, None])
        assert len(tally.reasons) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    path = put(tmp_path, (NOISE + OLD + NEW).replace("\n", end).encode(encoding))
    name, _, steps, _ = auto(path)
    assert (name, column(steps, "step"), column(steps, "truncated_share")) == ("verl-console", [0, 3], [0.125, 0.0])


def test_a_compressed_log(tmp_path: Path) -> None:
    assert column(auto(put(tmp_path, gzip.compress(NEW.encode()), "log.gz"))[2], "step") == [3]


def test_kl_that_was_not_measured(tmp_path: Path) -> None:
    text = "step:1 - critic/kl:0.000 - critic/kl_coeff:0.000 - actor/kl_loss:0.0 - critic/score/mean:0.5\n"
    steps, tally = read(FORMAT, put(tmp_path, text))
    assert column(steps, "kl") == [None]
    assert tally.notes == [f"{n} is 0 without a coefficient: no KL divergence was measured"
                           for n in ("critic/kl", "actor/kl_loss")]  # fmt: skip
    measured = "step:1 - critic/kl:0.000 - critic/kl_coeff:0.001 - critic/score/mean:0.5\n"
    assert column(read(FORMAT, put(tmp_path, measured))[0], "kl") == [0.0]


def test_search_r1_counts_the_tokens_of_the_policy(tmp_path: Path) -> None:
    actions = "step:1 - response_length/mean:500.000 - env/number_of_actions/mean:2.500 - env/ratio_of_valid_action:0.5"
    [own], tally = read(FORMAT, put(tmp_path, actions + " - state_tokens/total:9 - state_tokens/coverage:0.300\n"))
    assert (own.observation.response_length, own.observation.actions, tally.notes) == (150, 2.5, [])
    [all_tokens], tally = read(FORMAT, put(tmp_path, actions + "\n"))
    assert all_tokens.observation.response_length == 500
    assert tally.notes == ["response_length/mean counts the tokens of tool feedback as well as the policy's own"]


def test_the_fork_with_llds(tmp_path: Path) -> None:
    text = "step:1 - critic/score/mean:0.5 - actor/loss_noreduce:0.010 - actor/loss_noreduce_coef:0.200 - {}:0.0\n"
    [step], tally = read(FORMAT, put(tmp_path, text.format("actor/pos_avg_old_log_prob")))
    assert told(step) == {"step": 1, "reward": 0.5, "llds_coefficient": 0.2, "llds_loss": 0.05}
    assert list(tally.unmapped) == ["actor/pos_avg_old_log_prob"]
    [masked], _ = read(FORMAT, put(tmp_path, text.replace(" - {}:0.0", " - actor/is_answer_mask:0.500")))
    assert masked.observation.llds_loss is None


def test_it_is_recognised_behind_a_megabyte_of_noise(tmp_path: Path) -> None:
    name, why, steps, _ = auto(put(tmp_path, NOISE * 10_000 + NEW))
    assert (name, len(steps)) == ("verl-console", 1)
    assert why == 'line 10001 reads "(TaskRunner pid=46086, ip=10.0.0.7) step:3 - actor/entropy:0"'


@pytest.mark.parametrize(
    ("folder", "first", "steps", "reward"),
    [("verl", 1, 48, 0.516667), ("verl-0.1", 0, 40, 0.517), ("verl-0.2", 1, 40, 0.517)],
)
def test_logs_that_verl_wrote(folder: str, first: int, steps: int, reward: float) -> None:
    name, _, read_steps, tally = auto(FOREIGN / folder / "console.log")
    assert (name, column(read_steps, "step")) == ("verl-console", list(range(first, first + steps)))
    assert column(read_steps, "reward")[0] == reward
    for field in ("entropy", "grad_norm", "loss", "clip_fraction", "response_length", "learning_rate"):
        if (folder, field) != ("verl-0.2", "learning_rate"):  # three decimals
            assert None not in column(read_steps, field)
    assert {why.split(" x ")[1].split(" (")[0] for why in tally.reasons} <= {"validation without training metrics"}
