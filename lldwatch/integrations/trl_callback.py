"""The events of a TRL training, told to its `Watch`. Nothing of ours is raised into the trainer here, either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lldwatch.integrations.trl_watch import Watch


class WatchCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not looked into
    """The trainer's events.

    Args:
        watch: whom to tell.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._learning_rate: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From a checkpoint, what was kept beside it is taken up."""
        self._watch.guard.run(
            "taking up a checkpoint", lambda: self._watch.begin(_folder(args, state), state.global_step)
        )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The learning rate is that of this update; after it the scheduler goes on."""
        groups = getattr(kwargs.get("optimizer"), "param_groups", None)
        self._learning_rate = self._watch.guard.run("reading the learning rate", lambda: _rate(groups))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimizer update."""
        last = control.should_training_stop or 0 < state.max_steps <= state.global_step
        self._watch.after_update(self._learning_rate, last=bool(last))
        if self._watch.should_stop:  # the same on all ranks, as both must be
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Beside a checkpoint."""
        self._watch.guard.run("saving beside a checkpoint", lambda: self._watch.save(_folder(args, state)))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What is open becomes the last step."""
        self._watch.end()


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _rate(groups: Any) -> float | None:
    return float(groups[0]["lr"]) if groups else None
