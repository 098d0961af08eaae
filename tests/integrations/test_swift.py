"""lldwatch in a real `swift rlhf` of ms-swift, which wants other versions than we do: make test-swift."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lldwatch import InputError, Run
from lldwatch.integrations import swift_batches

PLUGIN = """
from swift.rewards import ORM, orms

class Letters(ORM):
    def __call__(self, completions, **kwargs):
        return [float(any(letter in "abcdefghi" for letter in text[:8])) for text in completions]

orms["letters"] = Letters
"""


def micro_batch(ids: list[list[int]], attention: list[list[int]], kept: list[list[int]]) -> dict[str, object]:
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(attention)}
    return {"model_inputs": inputs, "grpo_batch": SimpleNamespace(completion_mask=torch.tensor(kept))}


def test_micro_batches_of_different_length_come_to_one() -> None:
    padded_behind = micro_batch([[1, 2, 3, 0], [4, 5, 6, 7]], [[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 0], [1, 1]])
    padded_before = micro_batch([[0, 8, 9]], [[0, 1, 1]], [[0, 1]])
    batch = swift_batches.together([padded_behind, padded_before])
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 8, 9]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["kept"].tolist() == [[0, 1], [1, 1], [0, 1]]


def test_images_and_packed_rows_are_refused_by_name() -> None:
    part = micro_batch([[1, 2]], [[1, 1]], [[1]])
    part["model_inputs"]["pixel_values"] = torch.zeros(1)  # type: ignore[index]
    with pytest.raises(InputError, match="micro-batches with pixel_values cannot be re-scored"):
        swift_batches.together([part])
    packed = micro_batch([[1, 2, 3]], [[1, 1, 1]], [[1], [1]])
    with pytest.raises(InputError, match="packed rows"):
        swift_batches.together([packed])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["plugin", "run"])
def test_a_real_training_is_watched(tmp_path: Path, way: str) -> None:
    pytest.importorskip("swift.rlhf_trainers", reason="ms-swift is not installed: make test-swift")
    import tiny_trl

    made = tiny_trl.tokenizer()
    tiny_trl.model(len(made)).save_pretrained(tmp_path / "model")
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    made.save_pretrained(tmp_path / "model")
    rows = [{"messages": [{"role": "user", "content": f"{number}+{number}="}]} for number in range(32)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(PLUGIN)
    plugins = [str(tmp_path / "rewards.py")]
    if way == "plugin":
        from lldwatch.integrations import swift

        plugins.append(str(swift.__file__))
    words = (
        "--rlhf_type grpo --model_type qwen2 --template dummy --tuner_type full --use_cpu true --torch_dtype float32 "
    )
    words += (
        "--reward_funcs letters --num_generations 4 --per_device_train_batch_size 4 --num_iterations 2 --max_steps 4 "
    )
    words += "--max_completion_length 12 --learning_rate 1e-3 --logging_steps 1 --save_strategy no --report_to none "
    words += "--steps_per_generation 2 --gradient_accumulation_steps 1 --dataset_num_proc 1 --dataloader_num_workers 0"
    places = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "data.jsonl")]
    places += ["--output_dir", str(tmp_path / "out"), "--external_plugins", *plugins]
    command = [sys.executable, "-m", "swift.cli.main", "rlhf", *words.split(), *places]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if way == "plugin":
        environment |= {"LLDWATCH_RUN": str(tmp_path / "run"), "LLDWATCH_LLDS": "on", "LLDWATCH_STRENGTH": "4"}
    else:
        command = [
            sys.executable,
            "-m",
            "lldwatch",
            "run",
            "--run",
            str(tmp_path / "run"),
            "--llds",
            "on",
            "--",
            *command,
        ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lldwatch: attached" in done.stderr
    run = Run(tmp_path / "run")
    steps = run.observations()
    assert [(step.step, step.updates, step.responses) for step in steps] == [(4, 4, 8)]
    assert all(step.reward is not None and step.grad_norm is not None for step in steps)
    assert all(step.llds_coefficient for step in steps)
    assert set(run.probes()["kind"].to_pylist()) >= {"post_update"}
    assert not [event["detail"] for event in run.events().to_pylist() if event["kind"] in ("error", "bad_input")]
