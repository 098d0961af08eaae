"""lldwatch in TRL's GRPOTrainer, and in trainers made from it.

```python
from lldwatch.integrations.trl import attach

trainer = GRPOTrainer(...)
attach(trainer, "runs/search", llds="auto")
trainer.train()
```

Methods of this one trainer are wrapped, none of the class: `compute_loss` (rows of each micro-batch, and LLDS), the
method that scores (its log-probs are read, never asked for again), the one that generates (identity, prompt and reward
of each response go along through TRL's shuffling), `accelerator.clip_grad_norm_` (the norm before clipping) and `log`.

A step of lldwatch is a rollout batch with all its optimizer updates, since only then is there something that the
updates were not shown; it has the number that TRL has by then (`global_step`). With the default settings of TRL that is
each optimizer update.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from lldwatch.alert_channels import Channel
from lldwatch.detector import CollapseDetector
from lldwatch.errors import InputError
from lldwatch.integrations.loss_hook import announce
from lldwatch.integrations.trl_callback import WatchCallback
from lldwatch.integrations.trl_seams import (
    CLIP,
    GENERATE,
    LOSS,
    REWARDS,
    Seams,
    find_seams,
    generates_every,
    settings_of,
)
from lldwatch.integrations.trl_terms import Reference, Scoring
from lldwatch.integrations.trl_watch import Watch
from lldwatch.intervention import Correct, Mode
from lldwatch.llds import Gate
from lldwatch.monitor import Monitor
from lldwatch.probe_plan import Plan
from lldwatch.probes import LikelihoodProbe
from lldwatch.ranks import Ranks

__all__ = ["attach"]

_INERT = (
    "each rollout batch is used for one update, so that its old log-probs are the current ones: LLDS with "
    "reference='old' has no effect. Set num_iterations or steps_per_generation above gradient_accumulation_steps, or "
    "use reference='both', 'replay' or 'lagged'"
)
_LIGER = (
    "use_liger_kernel: this TRL computes the loss without log-probs. The probes work, rows of responses come from one "
    "more forward pass of each rollout batch, and LLDS cannot be added: set use_liger_kernel=False or take TRL 1.14"
)


def attach(
    trainer: Any,
    run_dir: str | os.PathLike[str],
    *,
    llds: Mode | Correct = "off",
    reference: Literal["old", "lagged", "replay", "both"] = "both",
    gate: Gate = "action",
    replay_share: float = 0.25,
    lag: int = 16,
    probes: str | Plan = "standard",
    correct_above: float = 0.0,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    detector: CollapseDetector | None = None,
    alerts: Sequence[Channel] = (),
    stop_on: Literal["collapse"] | None = None,
) -> Monitor:
    """Watch a training. Call it after the trainer was made and before `trainer.train()`, on every rank.

    Args:
        trainer: a `trl.GRPOTrainer` or one made from it.
        run_dir: the run directory to write; the same on all ranks.
        llds: "off", "on", "auto", or `lldwatch.intervention.Correct`.
        reference: what LLDS compares with: correct responses of earlier batches ("replay", which acts in every
            configuration), the batch's own old log-probs ("old", the paper's; without effect when each batch is used
            once), both of them ("both"), or the batch under the policy `lag` updates ago ("lagged").
        gate: of LLDS, see `lldwatch.llds.llds_loss`.
        replay_share: replayed responses beside each micro-batch, as a share of its responses.
        lag: in optimizer updates.
        probes: what is re-scored, see `lldwatch.probe_plan`; "off" leaves the headline signal out.
        correct_above: a response is correct when its reward, summed with TRL's weights, is above this number. With a
            reward for the format beside that for the answer, give a number between the two.
        resume: go on with a run that is there, as `trainer.train(resume_from_checkpoint=...)` does with the training.
        config: to be found again in `run.json`, beside the trainer's own arguments.
        detector: with other settings than the default ones.
        alerts: whom to tell of what a person must know at once, see `lldwatch.Monitor`.
        stop_on: "collapse": the trainer is asked to save a checkpoint and to stop when the run has collapsed.

    Returns:
        The monitor, for `monitor.diagnosis` and the like. It is closed when `train` ends.

    Raises:
        InputError: the trainer is none that can be watched, or an argument is not what it should be.
        RunExistsError: a run is there already and `resume` is off.
    """
    seams, settings = find_seams(trainer), llds if isinstance(llds, Correct) else Correct(mode=llds)
    if seams.liger and settings.mode != "off":
        raise InputError(f"llds={settings.mode!r} with {_LIGER}")
    size, count = int(trainer.args.per_device_train_batch_size), trainer.accelerator.num_processes
    scoring = Scoring(trainer, seams)
    held = Reference(reference, trainer, seams, scoring, gate=gate, share=replay_share, lag=lag)
    probe = None if probes == "off" else LikelihoodProbe(scoring, probes, micro_batch=size, text=_text(trainer))
    if probe is not None:
        probe.plan = probe.plan.among(count)
    ranks = Ranks() if count > 1 else None
    monitor = Monitor(
        run_dir,
        trainer=_name(trainer),
        config={**settings_of(trainer), **(config or {})},
        planned_steps=trainer.args.max_steps if trainer.args.max_steps > 0 else None,
        resume=resume,
        detector=detector,
        llds=settings,
        ranks=ranks,
        alerts=alerts,
        stop_on=stop_on,
    )
    watch = Watch(trainer, seams, monitor, ranks, scoring, probe, held, settings.mode != "off", correct_above)
    _wrap(trainer, seams, watch)
    trainer.add_callback(WatchCallback(watch))
    price = held.price(generates_every(trainer) or 1)
    lines = _said(seams, settings, reference, price, correct_above, probes, _dropout(trainer.model))
    announce(monitor, lines, rank=trainer.accelerator.process_index)
    return monitor


def _text(trainer: Any) -> Callable[[int], str] | None:
    """Token id -> the token in words."""
    decode = getattr(trainer.processing_class, "decode", None)
    return None if decode is None else lambda token: str(decode([token]))


def _dropout(model: Any) -> float:
    """The largest rate among the model's dropout layers."""
    return max((float(layer.p) for layer in model.modules() if isinstance(layer, torch.nn.Dropout)), default=0.0)


def _name(trainer: Any) -> str:
    """Of the trainer's class and package, with its version."""
    package = type(trainer).__module__.partition(".")[0]
    version = getattr(sys.modules.get(package), "__version__", None)
    return f"{type(trainer).__name__} ({package}{f' {version}' if version else ''})"


def _wrap(trainer: Any, seams: Seams, watch: Watch) -> None:
    """Put ours around the trainer's own methods, on this instance alone."""

    def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        if hasattr(owner, name):
            setattr(owner, name, wrapper(getattr(owner, name)))

    around(trainer, seams.log_probs, watch.around_log_probs)
    around(trainer, LOSS, watch.around_loss)
    around(trainer, GENERATE, watch.around_generation)
    around(trainer, REWARDS, watch.around_rewards)
    around(trainer, "log", watch.around_log)
    around(trainer, "train", watch.around_training)
    around(trainer.accelerator, CLIP, watch.around_clipping)


def _said(
    seams: Seams,
    settings: Correct,
    reference: str,
    price: str | None,
    correct_above: float,
    probes: str | Plan,
    dropout: float,
) -> list[str]:
    """What the user should know at the start."""
    lines = [f"attached: log-probs from {seams.log_probs}; correct is a response with a reward above {correct_above:g}"]
    lines += seams.missing
    if seams.liger:
        lines.append(_LIGER)
    if seams.vllm:
        lines.append("vLLM: old log-probs are the trainer's own, tokens it has masked out get no LLDS, see rollout_kl")
    if settings.mode != "off":
        costs = f"; {price}" if price else ""
        lines.append(f"LLDS {settings.mode}, strength {settings.strength:g}, reference {reference!r}{costs}")
    if settings.mode != "off" and dropout:
        lines.append(f"dropout of {dropout:g} is noise to LLDS, which pushes against it: set it to 0")
    if settings.mode != "off" and reference == "old" and seams.on_policy:
        lines.append(_INERT)
    if probes == "off":
        lines.append(
            "no probes: cross_update_change, the headline, is not measured, nor are responses without advantage"
        )
    return lines
