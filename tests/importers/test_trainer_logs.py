"""What holds for the logs of all trainers together."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path

import pytest
import test_areal
import test_openrlhf_log
import test_prime_rl_log
import test_slime_log
import test_swift_log
import test_trl_console
import test_verl_console
import test_verl_file
from texts import FOREIGN, NOISE, auto, put

from lldwatch.importers.known import FORMATS, by_name
from lldwatch.importers.names import lookup
from lldwatch.importers.trainers import TABLES
from lldwatch.inputs import SCALARS

LINES = {
    "verl-console": [test_verl_console.OLD, test_verl_console.NEW, test_verl_console.line(1, 0.5)],
    "verl-file": [test_verl_file.ROW],
    "swift": [test_swift_log.ROW, test_swift_log.ROW.replace('"', "'")],
    "openrlhf": [test_openrlhf_log.ROW],
    "slime": [test_slime_log.rollout(1), test_slime_log.update(1), test_slime_log.generated(1)],
    "areal": [test_areal.step(1, test_areal.BATCH)],
    "trl-console": [test_trl_console.row(), test_trl_console.bar(3) + test_trl_console.row()],
    "prime-rl": [test_prime_rl_log.trainer(1), test_prime_rl_log.orchestrator(1)],
}
SAMPLES = {
    "verl-console": ["verl/console.log", "verl-0.1/console.log", "verl-0.2/console.log"],
    "verl-file": ["verl/file.jsonl"],
    "swift": ["swift/logging.jsonl", "swift/console.log"],
    "openrlhf": ["openrlhf/console.log"],
    "slime": ["slime/console.log"],
    "areal": ["areal/console.log"],
    "trl-console": ["trl/console.log", "trl-old/console.log", "trl-reuse/console.log", "trl-0.15/console.log"],
    "prime-rl": ["prime-rl/metrics.jsonl"],
    "nemo-rl": ["nemo-rl/metrics.json"],
    "trl-state": ["trl-reuse/trainer_state.json"],
}
WITH_LINES = [fmt for fmt in FORMATS if fmt.line is not None]

LOOK_ALIKE = {
    "verl-console": """actor/ppo_kl actor/kl_coef training/rollout_probs_diff_mean critic/kl_coeff critic/vf_loss
        critic/advantages/mean critic/returns/mean critic/lr critic/grad_norm actor/pg_clipfrac_lower num_turns/mean
        env/ratio_of_valid_action rollout/old_log_prob rollout/in_group_std actor/pos_avg_old_log_prob
        actor/token_kl/mean rollout_corr/training_ppl val-core/gsm8k/acc/mean@1 actor/reward_kl_penalty_coeff""",
    "openrlhf": "return group_reward_std logprobs_diff ppo_kl total_length critic_loss critic_lr eval/eval_x_pass1",
    "nemo-rl": """train/token_mult_prob_error train/policy_kl_error train/js_divergence_error train/probs_ratio_clamped
        train/advantages/mean train/filtered_reward train/is_oob_ratio validation/accuracy train/draft_loss""",
    "slime": """rollout/rewards rollout/returns rollout/log_probs train/ppo_kl train/ois train/tis
        train/train_rollout_logprob_abs_diff train/value_loss rollout/zero_std/count_0 eval/aime""",
    "prime-rl": """is_masked/mean masked_mismatch_kl/mean kl_ent_ratio/mean ref_kl/mean entropy/gsm8k/mean
        train/gsm8k/all/policy/reward/mean eval/x/all/policy/reward/mean loss/std""",
    "areal": """ppo_actor/no_eos_ratios/avg ppo_actor/seq_len/avg ppo_actor/final_reward/avg ppo_actor/kl_rewards/avg
        ppo_actor/update/approx_kl/avg ppo_actor/update/behave_approx_kl/avg eval-rollout/reward""",
    "swift": "entropy/max entropy/threshold rollout_correction/training_ppl teacher_kl rewards/Letters/mean",
    "trl-console": """sampling/sampling_logp_difference/mean sampling/importance_sampling_ratio/mean entropy_coef
        completions/mean_terminated_length clip_ratio/low_mean eval_reward eval_loss rewards/x/mean""",
}


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_metrics_name_fields_of_the_observation(fmt: object) -> None:
    assert set(fmt.metrics.values()) <= set(SCALARS)  # type: ignore[attr-defined]


def test_no_name_means_this_to_one_trainer_and_that_to_another() -> None:
    for one, other in combinations(TABLES, 2):
        assert {name: one[name] for name in one.keys() & other.keys()} == {
            n: other[n] for n in one.keys() & other.keys()
        }


@pytest.mark.parametrize("name", LOOK_ALIKE)
def test_what_looks_like_a_metric_of_ours_and_is_none(name: str) -> None:
    """Neither by the table of the format nor, since all tables are looked through, by that of another."""
    fmt = by_name(name)
    of = lookup([fmt.metrics, *(other.metrics for other in FORMATS if other is not fmt)])  # type: ignore[union-attr]
    assert {their: found for their in LOOK_ALIKE[name].split() if (found := of(their))} == {}


@pytest.mark.parametrize("name", LINES)
def test_lines_are_of_one_format_alone(name: str) -> None:
    for text in LINES[name]:
        for line in text.splitlines():
            found = [fmt for fmt in WITH_LINES if fmt.line and fmt.line.search(line)]
            assert {fmt.name for fmt in found} <= {name, "json"}, line
            assert all(fmt.sign in line for fmt in found)
        assert any(
            fmt.name == name and fmt.line and fmt.line.search(line) for fmt in WITH_LINES for line in text.splitlines()
        )


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in SAMPLES.items() for file in files])
def test_no_line_of_a_sample_is_of_another_format(name: str, file: str) -> None:
    text = (FOREIGN / file).read_text()
    others = [fmt for fmt in WITH_LINES if fmt.name not in (name, "json")]
    for line in text.splitlines():
        assert [fmt.name for fmt in others if fmt.line and fmt.line.search(line[:100_000])] == []


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in SAMPLES.items() for file in files])
def test_samples_are_recognised(tmp_path: Path, name: str, file: str) -> None:
    data = (FOREIGN / file).read_bytes()
    whole_documents = ("nemo-rl", "trl-state")
    assert auto(put(tmp_path, data, Path(file).name))[0] == name
    if name not in whole_documents:
        assert auto(put(tmp_path, NOISE.encode() * 10_000 + data, "any.log"))[0] == name


@pytest.mark.parametrize("fmt", WITH_LINES, ids=lambda fmt: fmt.name)
def test_a_line_is_searched_in_linear_time(fmt: object) -> None:
    hostile = [
        "step:1 - a/", "step:1 - a/b:x", "{'loss': 'reward'", "{'loss': 1, ", "Train step 1/1 ", "Epoch 1/1 Step 1/1 ",
        "step 1: {'", '{"step": 1, "time": 1.', '"global_step/max_steps": ', "Global step 1: ", "rollout ", " ", '"',
    ]  # fmt: skip
    for piece in hostile:
        line = piece * (200_000 // len(piece))
        began = time.perf_counter()
        fmt.line.search(line)  # type: ignore[attr-defined]
        assert time.perf_counter() - began < 2, piece


@pytest.mark.parametrize("name", [*LINES, "nemo-rl"])
def test_readers_take_long_lines_of_anything_in_linear_time(tmp_path: Path, name: str) -> None:
    pieces = [
        "step:1 - a:1 - ",
        "step:1 - a - ",
        "{'loss': 1, 'a': ",
        "{'loss': (",
        "│ a │ 1 ",
        "  1%|█| 1/2 [",
        "step 1: {'a': ",
    ]
    text = "".join(piece * (200_000 // len(piece)) + "\n" for piece in pieces)
    source = put(tmp_path, "".join(LINES.get(name, [])) + text)
    began = time.perf_counter()
    test_verl_console.read(by_name(name), source)  # type: ignore[arg-type]
    assert time.perf_counter() - began < 20
