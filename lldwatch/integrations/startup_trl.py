"""Every GRPO trainer of the TRL family that begins to train in this process is watched, with its source untouched.

The class is patched, not TRL's: ms-swift, open-r1 and trainers of one's own override TRL's methods, but all of them are
trained by `transformers.Trainer.train`.
"""

from __future__ import annotations

import functools
from typing import Any

from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.loss_hook import say
from lldwatch.integrations.trl import attach
from lldwatch.integrations.trl_seams import LOG_PROBS
from lldwatch.monitor import Monitor

_MARK = "_lldwatch_tried"


def watch_every_trainer() -> None:
    """Patch `transformers.Trainer.train`. A second call does nothing.

    Raises:
        InputError: a setting in the environment is not what it should be.
    """
    from transformers.trainer import Trainer

    settings = wanted()
    if settings is None or hasattr(Trainer.train, _MARK):
        return
    own = Trainer.train

    @functools.wraps(own)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, _MARK) and any(hasattr(self, name) for name in LOG_PROBS):
            setattr(self, _MARK, True)
            monitor = _attached(self, settings)
            if monitor is not None:
                with monitor:  # not self.train again: what a class made from it does around this would be done twice
                    return own(self, *args, **kwargs)
        return own(self, *args, **kwargs)

    setattr(train, _MARK, True)
    Trainer.train = train


def _attached(trainer: Any, settings: Wanted) -> Monitor | None:
    """Watches the trainer; None if that cannot be, and why is said."""
    try:
        return attach(
            trainer,
            settings.run,
            llds=settings.llds,
            probes=settings.probes or "standard",
            reference=settings.reference or "both",  # type: ignore[arg-type]  # `wanted` lets no other through
            correct_above=settings.correct_above,
            resume=settings.resume,
            alerts=settings.alerts,
            stop_on=settings.stop_on,
        )
    except Exception as error:  # nobody asked for us in the training's source: nothing of ours may end it
        say(f"{type(trainer).__name__} is not watched ({error}); the training goes on without lldwatch")
        return None
