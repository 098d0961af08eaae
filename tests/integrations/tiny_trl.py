"""A GRPOTrainer that really trains on a CPU in seconds: a model made from its configuration, a tokenizer made here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "learning_rate": 1e-3,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 3,
}


def tokenizer() -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .+=?"
    vocabulary = {"<pad>": 0, "<eos>": 1} | {letter: place + 2 for place, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "model_input_names": ["input_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def model(vocabulary: int) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    made = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, num_key_value_heads=2, **sizes, **special))
    made.generation_config.pad_token_id, made.generation_config.eos_token_id = 0, 1
    return made


def reward(completions: list[Any], **_: Any) -> list[float]:
    """One for an answer with one of nine letters: roughly half of what an untrained model writes."""
    return [float(any(letter in "abcdefghi" for letter in str(text)[:8])) for text in completions]


def trainer(folder: Path, kind: type[Any] = GRPOTrainer, **settings: Any) -> Any:
    """One that has not begun; the same settings train the same."""
    own = {
        name: settings.pop(name)
        for name in ("model", "rollout_func", "reward_funcs", "eval_dataset")
        if name in settings
    }
    made = tokenizer()
    arguments = GRPOConfig(output_dir=str(folder), **(SETTINGS | settings))
    data = Dataset.from_dict({"prompt": [f"{number}+{number}=" for number in range(64)]})
    policy = own.pop("model", None) or model(len(made))
    asked = {"reward_funcs": reward, "train_dataset": data, "processing_class": made} | own
    return kind(model=policy, args=arguments, **asked)


def weights(trained: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])


def losses(trained: Any) -> list[tuple[float, float]]:
    return [(entry["loss"], entry["grad_norm"]) for entry in trained.state.log_history if "loss" in entry]
