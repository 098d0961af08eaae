"""Start a training that nobody touched, and watch it: the command `lldwatch run`.

The training takes the place of this process: its output, its signals and its exit status are its own. What makes it
watched is in its environment alone, so that the processes it starts (torchrun, Ray, accelerate) have it too.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from lldwatch.alert_delivery import check
from lldwatch.errors import InputError, RunExistsError
from lldwatch.integrations.environment import PREFIX, wanted
from lldwatch.run import is_run
from lldwatch.stores.store import is_url

STARTUP = Path(__file__).with_name("startup")


def environment_for(settings: Mapping[str, str | None], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a training that is to be watched.

    Args:
        settings: name without prefix, as in `environment` -> value; None: not given.
        environment: that it would have had.

    Raises:
        InputError: a setting is not what it should be.
        RunExistsError: a run stands at the run directory, and it is not to be resumed.
    """
    made = dict(environment)
    for name, value in settings.items():
        if value is not None:
            made[f"{PREFIX}{name}"] = value
    run = made.get(f"{PREFIX}RUN") or f"runs/{datetime.now():%Y%m%d-%H%M%S}"
    made[f"{PREFIX}RUN"] = run = run if is_url(run) else os.path.abspath(run)
    said = wanted(made)
    if said is not None:
        check(said.alerts)
    if said is not None and not is_url(run) and is_run(Path(run)) and not said.resume:
        raise RunExistsError(f"{run} holds a run already: give --resume to go on with it, or another --run")
    made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STARTUP), made.get("PYTHONPATH", "")]))
    return made


def launch(command: Sequence[str], settings: Mapping[str, str | None]) -> int:
    """Become the training. Returns only if it could not be started.

    Args:
        command: program and arguments.
        settings: as for `environment_for`.

    Raises:
        InputError: there is no command, or no such program, or a setting is not what it should be.
        RunExistsError: a run stands at the run directory, and it is not to be resumed.
    """
    if not command:
        raise InputError("no command: expected `lldwatch run [--run DIR] -- python train.py ...`")
    environment = environment_for(settings, os.environ)
    if shutil.which(command[0]) is None:
        raise InputError(f"{command[0]} is not a program that can be found: expected one after `--`")
    environment[f"{PREFIX}LAUNCHED"] = str(os.getpid())
    run = environment[f"{PREFIX}RUN"]
    waits = "waiting for a GRPO trainer to begin"
    sys.stderr.write(f"lldwatch: {waits}; recording to {run} (follow it: lldwatch watch {run})\n")
    sys.stderr.flush()
    os.execvpe(command[0], list(command), environment)
