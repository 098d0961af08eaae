"""Gradient norms before clipping, in total and per part of the model: where in the model an update blows up.

Each gradient is read once on its own device; the norms come to the host in one transfer, which waits for the backward
pass. Norms are taken in float32 also of bf16 and fp16 gradients, in float64 of float64 ones. As in torch's
`clip_grad_norm_`, float32 squares end at 3e38: numbers above 1.8e19 count as inf, those below 1e-23 as 0.

Rejected: `torch._foreach_norm`, which is private, has no float32 norm of fp16 before torch 2.4, and saves only launches
that queue up behind the backward pass anyway.
"""

from __future__ import annotations

import math
import re
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lldwatch.errors import InputError
from lldwatch.schema import Gradients

__all__ = ["GradientNorms"]

_ORDER = ("embedding", "block", "head", "other")
_HEAD = re.compile(r"(^|_)heads?$|^(score|classifier|embed_out|unembed|out(put)?_proj(ection)?|output(_layer)?)$")
_STACKS = ("blocks", "layers", "layer", "h")
_EMBEDDING = re.compile(r"embed|(^|_)emb(_|$)|^w[tp]e$")


class GradientNorms:
    """Per-module gradient norms on a schedule.

    ```python
    norms = GradientNorms(policy)
    loss.backward()             # the last micro-batch of each update; with a GradScaler, unscale_ comes next
    rows = norms.measure()      # before clipping
    ```

    Args:
        model: what is trained. Wrappers (DDP, FSDP, PEFT, torch.compile) may be around it or inside it, also later.
        every: measure at the first optimizer update and then each so many updates.

    Raises:
        InputError: `model` is not a torch.nn.Module, or `every` is not a whole number of at least 1.
    """

    def __init__(self, model: nn.Module, *, every: int = 10) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
        if not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}, expected an int of at least 1")
        self._model, self._every, self._calls = model, every, 0

    @torch.no_grad()
    def measure(self) -> Gradients:
        """The norms of the gradients as they stand. Call it once an optimizer update, between backward and clipping.

        Where gradients are DTensors (FSDP2, tensor parallelism), the norms are those of the whole model, and all ranks
        must call it, since they exchange one number a parameter. Where they are plain shards (FSDP1, DeepSpeed ZeRO),
        rows describe the shard of this rank, or there are none, since ZeRO keeps `.grad` empty.

        Returns:
            One row per part of the model that has a gradient, as `module_of` names it: embedding, blocks by number,
            head, other; then "total", the root of the sum of the squares of all. `grad_norm` is in the unit of the
            gradients, inf and NaN as they are; `parameters` counts the numbers that have one, a tied weight once. No
            rows on updates that the schedule leaves out. Nothing is raised: what fails stands in `error`.
        """
        self._calls += 1
        if (self._calls - 1) % self._every:
            return Gradients()
        try:
            gradients = _gradients(self._model)
            return _rows(gradients) if gradients else Gradients()
        except Exception as error:  # out of memory, a layout that has no norm, a process group that is gone, ...
            return Gradients.unusable(InputError(f"gradient norms failed ({type(error).__name__}: {error})"))


def module_of(name: str, model: nn.Module | None = None) -> str:
    """The part of the model that a parameter belongs to: "embedding", "block 0", "block 1", ..., "head" or "other".

    The first component of its path that says something decides:

    - a module that is an nn.Embedding or nn.EmbeddingBag: embedding;
    - a number that leads to a module in an nn.ModuleList, or in anything else but an nn.Sequential: that block. Lists
      further in (experts) do not count, then, and two stacks of one model (vision and text) share their numbers;
    - a number in an nn.Sequential called blocks, layers, layer or h, if it stacks more than lone layers: that block;
    - a name of an output layer (lm_head, score, embed_out, ...) or of an embedding (embed_tokens, wte, ...).

    The rest, such as the last norm, is other. Names that say nothing, such as prefixes of wrappers, are skipped.

    Args:
        name: as in `model.named_parameters()`.
        model: where the path leads; without it, names alone decide, and every number counts as one in a list.
    """
    place: Any = model
    before = ""
    for part in name.split("."):
        parent, place = place, getattr(place, part, None)
        if isinstance(place, nn.Embedding | nn.EmbeddingBag):
            return "embedding"
        in_stack = parent is None or isinstance(place, nn.Module)
        if isinstance(parent, nn.Sequential):
            in_stack = before in _STACKS and any(any(layer.children()) for layer in parent)
        if part.isdecimal() and in_stack:
            return f"block {int(part)}"
        if _HEAD.search(part) or _EMBEDDING.search(part):
            return "head" if _HEAD.search(part) else "embedding"
        before = part
    return "other"


def _gradients(model: nn.Module) -> dict[str, list[Tensor]]:
    """Part of the model -> its gradients, parts in the order of the rows."""
    parts: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            part = module_of(name, model)
            if parameter not in parts or part == "embedding":  # a tied weight may be listed as the head first
                parts[parameter] = part
    return {
        part: [parameter.grad for parameter, its in parts.items() if its == part and parameter.grad is not None]
        for part in sorted(set(parts.values()), key=_order)
    }


def _order(part: str) -> tuple[int, int]:
    kind, _, index = part.partition(" ")
    return _ORDER.index(kind), int(index or 0)


def _rows(gradients: dict[str, list[Tensor]]) -> Gradients:
    norms = [_norm(gradient) for part in gradients.values() for gradient in part]
    on_host = iter(torch.stack([norm.to(norms[0].device) for norm in norms]).tolist())  # the only transfer
    # products, not powers, which raise, nor math.hypot, which hides a NaN beside an inf
    squares = [sum(norm * norm for norm in islice(on_host, len(part))) for part in gradients.values()]
    sizes = [sum(gradient.numel() for gradient in part) for part in gradients.values()]
    return Gradients(
        module=np.array([*gradients, "total"]),
        grad_norm=np.array([math.sqrt(square) for square in (*squares, sum(squares))]),
        parameters=np.array([*sizes, sum(sizes)]),
    )


def _norm(gradient: Tensor) -> Tensor:
    """Its 2-norm, a number on its own device, over all ranks if it is a DTensor."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()  # a token that occurs twice has two entries that add up
    norm = torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
    return getattr(norm, "full_tensor", norm.detach)()  # type: ignore[no-any-return]  # torch.distributed may be absent
