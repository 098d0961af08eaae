"""Steps of a real `DataParallelPPOActor` of early 2025 on a tiny model: `child_search_r1.py FOLDER`; JSON at the end.

What is not real: flash_attn (not used without its padding), and that tensors go to a GPU.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPT, RESPONSE, SIZE = 4, 6, 8


def stub_flash_attn() -> None:
    for name in ("flash_attn", "flash_attn.bert_padding"):
        module: Any = types.ModuleType(name)
        module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None)
        for function in ("pad_input", "unpad_input", "rearrange", "index_first_axis"):
            setattr(module, function, None)
        sys.modules[name] = module


def actor_class() -> Any:
    try:
        from verl.workers.actor.dp_actor import DataParallelPPOActor
    except ModuleNotFoundError:  # 0.1
        from verl.trainer.ppo.actor.dp_actor import DataParallelPPOActor
    return DataParallelPPOActor


def model_of() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=40, num_key_value_heads=2, max_position_embeddings=64, **sizes))


class Config(dict[str, Any]):
    __getattr__ = dict.__getitem__


def main() -> None:
    from tensordict import TensorDict
    from verl import DataProto

    TensorDict.cuda = lambda self, *args, **kwargs: self
    model = model_of()
    config = Config(
        **{
            "ppo_mini_batch_size": 4,
            "ppo_micro_batch_size": 2,
            "ppo_micro_batch_size_per_gpu": 2,
            "ppo_epochs": 1,
            "shuffle": False,
            "clip_ratio": 0.2,
        },
        **{"entropy_coeff": 0.001, "use_kl_loss": False, "grad_clip": 1.0, "use_dynamic_bsz": False},
        **{"ulysses_sequence_parallel_size": 1, "use_remove_padding": False},
    )
    actor = actor_class()(config, model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    told = []
    for step in range(1, 4):
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 40, (SIZE, PROMPT + RESPONSE), generator=draw)
        scores = torch.zeros(SIZE, RESPONSE)
        scores[1::2, -1] = 1.0
        fields = {
            **{"input_ids": ids, "responses": ids[:, PROMPT:], "attention_mask": torch.ones_like(ids)},
            **{"position_ids": torch.arange(PROMPT + RESPONSE).expand(SIZE, -1).contiguous()},
            **{"token_level_scores": scores, "advantages": (2 * scores.sum(-1) - 1)[:, None].expand(-1, RESPONSE)},
        }
        about = {"temperature": 1.0, "micro_batch_size": 8, "use_dynamic_bsz": False}
        data = DataProto.from_dict(fields, meta_info=about)
        data.batch["old_log_probs"] = actor.compute_log_prob(data)
        data.non_tensor_batch["uid"] = np.array([f"{step}/{row // 2}" for row in range(SIZE)], object)
        told.append(actor.update_policy(data))
    print(
        json.dumps(
            {"metrics": told, "weights": float(sum(p.detach().double().sum() for p in model.parameters())).hex()}
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(sys.argv[1])))
    stub_flash_attn()
    import verl  # noqa: F401  # with the line that its user adds at the end

    import lldwatch.integrations.search_r1  # noqa: F401

    main()
