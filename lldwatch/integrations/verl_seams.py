"""Where verl is watched: a table of modules, each of which is changed after somebody has imported it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from lldwatch.errors import LldwatchError
from lldwatch.integrations.environment import Wanted, wanted
from lldwatch.integrations.on_import import when_imported
from lldwatch.integrations.verl_actor import Actor, say_first
from lldwatch.integrations.verl_dp_actor import watch_dp_actor
from lldwatch.integrations.verl_engine import watch_engine_worker, watch_ppo_loss
from lldwatch.integrations.verl_loss import PLAIN
from lldwatch.integrations.verl_step import put_in_place

log = logging.getLogger("lldwatch")


def watch_losses(actor: Actor, _: Wanted, module: ModuleType) -> str:
    """`verl.trainer.ppo.core_algos`: every policy loss, also one that is registered later."""
    registry = getattr(module, "POLICY_LOSS_REGISTRY", None)
    plain = getattr(module, PLAIN, None)
    if registry is None and plain is None:
        raise LookupError(f"neither POLICY_LOSS_REGISTRY nor {PLAIN}: no losses, no log-probs, no LLDS")

    def watch_all() -> None:
        for name, loss in list((registry or {}).items()):
            if not getattr(loss, "lldwatch", False):
                assert registry is not None
                registry[name] = actor.around_loss(name, loss)

    watch_all()
    actor.before_steps.append(watch_all)
    if plain is not None and not getattr(plain, "lldwatch", False):
        put_in_place(plain, actor.around_loss(PLAIN, plain))
    return f"policy losses ({', '.join(registry or [PLAIN])})"


Seam = Callable[[Actor, Wanted, ModuleType], str]

SEAMS: Mapping[str, Seam] = {
    "verl.trainer.ppo.core_algos": watch_losses,
    "verl.workers.utils.losses": watch_ppo_loss,
    "verl.workers.engine_workers": watch_engine_worker,
    "verl.workers.actor.dp_actor": watch_dp_actor,
    "verl.trainer.ppo.actor.dp_actor": watch_dp_actor,
}
"""Module -> what is watched in it, once it is imported: the last two are of verl 0.2 to 0.7 and of verl 0.1."""

_registered: list[Actor] = []


def watch(trainer: str) -> bool:
    """Watch the verl trainings of this process, if the environment asks for it. A second call does nothing.

    Args:
        trainer: its name, for `run.json`.

    Returns:
        Whether they are watched.
    """
    try:
        settings = wanted()
    except LldwatchError as error:
        log.warning("lldwatch: %s is not watched: %s", trainer, error)
        return False
    if settings is None:
        return False
    if not _registered:
        actor = Actor(settings, f"{trainer} {_version()}".strip())
        _registered.append(actor)
        for name, seam in SEAMS.items():
            when_imported(name, _change(actor, settings, name, seam))
        say_first(f"watches {trainer} for {settings.run}, as soon as one of these is imported: {', '.join(SEAMS)}")
    return True


def _change(actor: Actor, settings: Wanted, name: str, seam: Seam) -> Callable[[ModuleType], None]:
    """The seam, so that it says what it found and never raises into an import."""

    def change(module: ModuleType) -> None:
        try:
            found = seam(actor, settings, module)
        except LookupError as error:
            log.warning("lldwatch: %s has %s", name, error.args[0])
        except Exception as error:
            trace = traceback.format_exc()
            log.warning("lldwatch: %s is not watched (%s: %s)\n%s", name, type(error).__name__, error, trace)
        else:
            actor.found.append(found)
            say_first(f"found {found} in {name}")

    return change


def _version() -> str:
    try:
        return version("verl")
    except PackageNotFoundError:
        return ""
