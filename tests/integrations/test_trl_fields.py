"""What is read out of a batch of TRL, without TRL."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lldwatch import InputError
from lldwatch.integrations import trl_fields as fields
from lldwatch.integrations.trl_seams import find_seams, generates_next

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def batch(**more: Any) -> dict[str, Any]:
    return {"completion_mask": MASK, "advantages": torch.tensor([1.0, -1.0]), **more}


def test_tool_feedback_and_what_vllm_has_masked_out_are_left_out() -> None:
    tools, ratio = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]), torch.tensor([[0.0], [1.3]])
    field = fields.reader(batch(tool_mask=tools, importance_sampling_ratio=ratio))
    assert fields.response_mask(field).tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert fields.trusted_mask(field).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]


def test_the_mismatch_is_the_k3_estimate_over_policy_tokens() -> None:
    trainer = torch.tensor([[-1.0, -2.0, -0.5, 9.0], [-1.0, -1.0, 9.0, 9.0]])
    engine = torch.tensor([[-1.1, -2.0, -0.4, 3.0], [math.nan, -1.0, 3.0, 3.0]])
    for name in ("sampling_per_token_logps", "rollout_per_token_logps"):
        found = fields.mismatch(fields.reader(batch(old_per_token_logps=trainer, **{name: engine})))
        expected = sum(math.exp(gap) - 1 - gap for gap in (0.1, 0.0, -0.1, 0.0, 0.0)) / 5
        assert found is not None
        assert float(found) == pytest.approx(expected, rel=1e-4)
    assert fields.mismatch(fields.reader(batch())) is None


def test_correct_is_told_by_the_reward_and_without_one_by_the_advantage() -> None:
    assert fields.correct(fields.reader(batch()), 0.5).tolist() == [True, False]
    rewarded = batch(**{fields.REWARD: torch.tensor([0.4, 0.6])})
    assert fields.correct(fields.reader(rewarded), 0.5).tolist() == [False, True]
    with pytest.raises(InputError, match="has no advantages"):
        fields.correct(fields.reader({"completion_mask": MASK}), 0.0)


def test_advantages_of_tokens_are_averaged_inside_of_the_mask() -> None:
    per_token = torch.tensor([[1.0, 2.0, 3.0, 100.0], [-1.0, -3.0, 100.0, 100.0]])
    mean = fields.one_a_response(fields.reader(batch(advantages=per_token)), "advantages")
    assert mean is not None
    assert mean.tolist() == [2.0, -2.0]


def test_a_missing_mask_and_images_are_named() -> None:
    with pytest.raises(InputError, match="no completion_mask"):
        fields.response_mask(fields.reader({}))
    with pytest.raises(InputError, match="prompts with images cannot be re-scored"):
        fields.scored_part(batch(pixel_values=torch.zeros(1)))


def test_ms_swift_keeps_its_fields_in_an_object() -> None:
    inner = SimpleNamespace(completion_mask=MASK, advantages=torch.tensor([1.0, -1.0]))
    part = {"model_inputs": {}, "grpo_batch": inner}
    fields.put(part, fields.UID, torch.tensor([7, 8]))
    assert fields.reader([part])(fields.UID).tolist() == [7, 8]
    assert fields.reader(part)("old_per_token_logps") is None


def made(**more: Any) -> Any:
    args = SimpleNamespace(gradient_accumulation_steps=4, steps_per_generation=4, num_iterations=1)
    accelerator = SimpleNamespace(clip_grad_norm_=lambda: None)
    methods = ("_get_per_token_logps", "compute_loss", "add_callback", "_generate_and_score_completions")
    names = dict.fromkeys((*methods, "_calculate_rewards"), lambda *_: None)
    return SimpleNamespace(**names, args=args, accelerator=accelerator, num_iterations=1, _step=8, **more)


def test_what_is_said_of_a_trainers_configuration() -> None:
    seams = find_seams(made())
    assert (seams.log_probs, seams.missing, seams.liger, seams.vllm) == ("_get_per_token_logps", (), False, False)
    assert seams.on_policy
    assert seams.scales_loss, "as transformers does without a word to the contrary"
    corrected = find_seams(made(use_vllm=True, vllm_importance_sampling_correction=True))
    assert corrected.vllm
    assert not corrected.on_policy, "old log-probs are there, whatever they differ by"
    assert not find_seams(made(loss_is_scaled_for_ga=True)).scales_loss
    assert not find_seams(made(compute_loss_func="TRL scales by itself")).scales_loss
    assert find_seams(made(use_liger_kernel=True, compute_liger_loss=print)).liger
    assert generates_next(made())
    silent = made()
    del silent._step
    assert generates_next(silent) is None
