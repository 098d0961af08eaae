"""The settings of a training that nobody touched: environment variables, the same for every trainer.

| variable | what it says |
|---|---|
| `LLDWATCH_RUN` | the run directory, or a URL such as `s3://bucket/run`; without it nothing is watched |
| `LLDWATCH_LLDS` | `off` (default), `on`, `auto` |
| `LLDWATCH_STRENGTH` | of LLDS, a coefficient |
| `LLDWATCH_REFERENCE` | of LLDS: `old`, `lagged`, `replay`, `both` |
| `LLDWATCH_PROBES` | `off`, `economy`, `standard`, `full` |
| `LLDWATCH_RESUME` | `1`: go on with a run that is there |
| `LLDWATCH_CORRECT_ABOVE` | a response is correct when its reward is above this number (0) |
| `LLDWATCH_WEBHOOK` | URL that alerts are posted to: a secret |
| `LLDWATCH_WEBHOOK_SHAPE` | `json` (default), `slack`, `discord` |
| `LLDWATCH_ALERT_COMMAND` | a program that is run with each alert as JSON on its standard input |
| `LLDWATCH_STOP_ON` | `collapse`: the trainer is asked to save and to stop then |
| `LLDWATCH_STAGING` | where a run that goes to an object store is written first |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from lldwatch.alert_channels import SHAPES, TOLD, Channel, Command, Webhook
from lldwatch.errors import InputError
from lldwatch.intervention import MODES, Correct
from lldwatch.probe_plan import PRESETS

PREFIX = "LLDWATCH_"
REFERENCES = ("old", "lagged", "replay", "both")
PROBES = ("off", *PRESETS)

_TOLD = tuple(f"ALERT_{name.upper()}" for name in TOLD)  # what a program that was told of an alert finds
_ALERTS = ("WEBHOOK", "WEBHOOK_SHAPE", "ALERT_COMMAND", "STOP_ON")
_OTHERS = ("CACHE", "STAGING", "UPDATE", "LAUNCHED")  # of caches, of uploads, of the tests, of `lldwatch run`
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the environment asks for.

    Attributes:
        run: the run directory.
        llds: how LLDS is to be used.
        reference: what LLDS compares with; None: the integration's default.
        probes: preset; None: the integration's default.
        resume: go on with a run that is there.
        correct_above: a response is correct when its reward is above this number.
        alerts: whom to tell of what a person must know at once.
        stop_on: when the trainer is asked to stop; None: never.
    """

    run: str
    llds: Correct
    reference: str | None
    probes: str | None
    resume: bool
    correct_above: float
    alerts: tuple[Channel, ...] = ()
    stop_on: Literal["collapse"] | None = None


def wanted(environment: Mapping[str, str] | None = None) -> Wanted | None:
    """The settings; None if `LLDWATCH_RUN` is not set: nothing is to be watched.

    Args:
        environment: name -> value; None: that of this process.

    Raises:
        InputError: a variable that begins with `LLDWATCH_` is not known, or its value is not.
    """
    given = os.environ if environment is None else environment
    ours = {name.removeprefix(PREFIX): value for name, value in given.items() if name.startswith(PREFIX)}
    if not ours.get("RUN"):
        return None
    known = ("RUN", "LLDS", "STRENGTH", "REFERENCE", "PROBES", "RESUME", "CORRECT_ABOVE", *_ALERTS)
    for name in ours.keys() - {*known, *_OTHERS, *_TOLD}:
        meant = get_close_matches(name, known, 1)
        guess = (
            f"did you mean {PREFIX}{meant[0]}?" if meant else f"expected one of {', '.join(PREFIX + n for n in known)}"
        )
        raise InputError(f"{PREFIX}{name} is not a setting: {guess}")
    strength = _number("STRENGTH", ours["STRENGTH"]) if ours.get("STRENGTH") else Correct().strength
    stop_on: Any = _one_of("STOP_ON", ours["STOP_ON"], ("collapse",)) if ours.get("STOP_ON") else None
    mode: Any = _one_of("LLDS", ours.get("LLDS") or "off", MODES)
    return Wanted(
        run=ours["RUN"],
        llds=Correct(mode=mode, strength=strength),
        reference=_one_of("REFERENCE", ours["REFERENCE"], REFERENCES) if ours.get("REFERENCE") else None,
        probes=_one_of("PROBES", ours["PROBES"], PROBES) if ours.get("PROBES") else None,
        resume=_yes_or_no("RESUME", ours.get("RESUME", "")),
        correct_above=_number("CORRECT_ABOVE", ours.get("CORRECT_ABOVE") or "0"),
        alerts=_channels(ours),
        stop_on=stop_on,
    )


def _channels(ours: Mapping[str, str]) -> tuple[Channel, ...]:
    shape: Any = _one_of("WEBHOOK_SHAPE", ours.get("WEBHOOK_SHAPE") or "json", tuple(SHAPES))
    channels: list[Channel] = [Webhook(shape=shape)] if ours.get("WEBHOOK") else []
    channels += [Command(ours["ALERT_COMMAND"])] if ours.get("ALERT_COMMAND") else []
    return tuple(channels)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(f"{PREFIX}{name}={value!r}: expected one of {', '.join(known)}")
    return value


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"{PREFIX}{name}={value!r}: expected a number") from error


def _yes_or_no(name: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise InputError(f"{PREFIX}{name}={value!r}: expected 1 or 0")
