r"""lldwatch in OpenRLHF (0.8 and newer), without a change to it: a set-up function for ray's worker processes.

Where the training starts ray itself, `lldwatch run -- python -m openrlhf.cli.train_ppo_ray ...` is enough; on a cluster
that runs already:

```sh
ray job submit --runtime-env-json '{"worker_process_setup_hook": "lldwatch.integrations.openrlhf.setup",
    "env_vars": {"LLDWATCH_RUN": "/shared/runs/search", "LLDWATCH_LLDS": "auto"}}' -- \
    python -m openrlhf.cli.train_ppo_ray ...
```

Nothing happens without `LLDWATCH_RUN`; the other variables are those of `lldwatch.integrations.environment`. The path
is to be absolute, since a worker starts in another folder, and seen by all nodes of the actor.

The set-up runs in every worker process, also in those of vLLM, and so imports next to nothing; when the actor's module
is imported, `ActorPPOTrainer.__init__` is wrapped, and each trainer that it makes is watched (`openrlhf_watch`). A step
is one call of `ppo_train`: a rollout batch with all its optimizer updates. OpenRLHF does not tell the actor its number:
steps are counted, and counted on after a resume, also from an earlier checkpoint.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from types import ModuleType
from typing import Any

from lldwatch.errors import LldwatchError
from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.guard import Guard
from lldwatch.integrations.on_import import when_imported

__all__ = ["attach", "setup"]

ACTOR = "openrlhf.trainer.ray.ppo_actor"
TRAINER = "ActorPPOTrainer"
METHODS = ("ppo_train", "training_step")
LOSS = "actor_loss_fn"

_LOST = {
    LOSS: "responses are not recorded, and LLDS cannot be added",
    "actor": "entropy is not recorded, and nothing is re-scored",
    "replay_buffer": "nothing is re-scored, and a response that is used twice counts as two",
}


def setup() -> None:
    """For ray's `worker_process_setup_hook`: watch the actor's training if `LLDWATCH_RUN` is set. Never raises."""
    try:
        settings = wanted()
    except LldwatchError as error:
        print(f"lldwatch: {error}: nothing is watched", file=sys.stderr)
        return
    if settings is not None:
        chosen = settings
        when_imported(ACTOR, lambda module: patch(module, chosen))


def patch(module: ModuleType, settings: Wanted) -> None:
    """Watch each trainer that the module makes from now on. Says so in one line if it holds none.

    Args:
        module: `openrlhf.trainer.ray.ppo_actor`.
        settings: what the environment asks for.
    """
    trainer = getattr(module, TRAINER, None)
    if not isinstance(trainer, type):
        found = ", ".join(name for name, value in vars(module).items() if isinstance(value, type)) or "no class"
        words = f"looked for {TRAINER} in {module.__name__}, found {found}"
        print(f"lldwatch: {words}: nothing is watched, the training goes on", file=sys.stderr)
        return
    own = trainer.__init__  # type: ignore[misc]  # of the class that was found
    if getattr(own, "lldwatch", False):
        return
    guard = Guard()

    @functools.wraps(own)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        guard.run("attaching to OpenRLHF", lambda: attach(self, settings))

    made.lldwatch = True  # type: ignore[attr-defined]  # patched once, however often it is asked for
    trainer.__init__ = made  # type: ignore[misc]  # the same


def attach(trainer: Any, settings: Wanted) -> None:
    """Watch one trainer. Every rank of the actor must call it, after torch.distributed was started.

    Args:
        trainer: an `ActorPPOTrainer`.
        settings: what the environment asks for.
    """
    # here, since the set-up of a worker of vLLM must not import torch
    from lldwatch.integrations.loss_hook import all_ranks, announce, open_run, say
    from lldwatch.integrations.openrlhf_watch import Watch

    kind = type(trainer).__name__
    missing = [name for name in METHODS if not callable(getattr(trainer, name, None))]
    if missing:
        say(f"looked for {' and '.join(missing)} on {kind}, which has none: nothing is watched, the training goes on")
        return
    ranks = all_ranks()
    monitor = open_run(f"OpenRLHF {_version()}", settings, ranks=ranks, config=_config(trainer))
    if monitor is None:
        return
    watch = Watch(trainer, settings, monitor)
    trainer.ppo_train = watch.around_step(trainer.ppo_train)
    trainer.training_step = watch.around_micro_batch(trainer.training_step)
    if hasattr(trainer, "actor"):
        trainer.actor.register_forward_hook(watch.of_actor)
    if hasattr(trainer, LOSS):
        getattr(trainer, LOSS).register_forward_hook(watch.of_loss, with_kwargs=True)
    lost = [f"no {name} on {kind}: {what}" for name, what in _LOST.items() if not hasattr(trainer, name)]
    announce(monitor, [*watch.found(), *lost], rank=0 if ranks is None else ranks.rank)


def _version() -> str:
    try:
        return importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _config(trainer: Any) -> dict[str, Any]:
    """The training's arguments, for `run.json`, without keys and tokens of other services."""
    told = _plain(getattr(trainer, "args", None))
    return told if isinstance(told, dict) else {}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, dict):
        secret = ("key", "token", "password", "secret")
        return {str(name): _plain(part) for name, part in value.items() if not str(name).lower().endswith(secret)}
    return value
