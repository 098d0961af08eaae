"""One of two processes that train together. Arguments: folder, and whether lldwatch is attached."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_trl
import torch

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
made = tiny_trl.trainer(folder, per_device_train_batch_size=4, num_iterations=2, max_steps=4)
if sys.argv[2] == "watched":
    from lldwatch.integrations.trl import attach

    attach(made, folder / "run", llds="auto")
made.train()
if made.accelerator.is_main_process:
    torch.save(tiny_trl.weights(made), folder / "weights.pt")
