"""`lldwatch run`: start a training and watch it, without touching its source."""

from __future__ import annotations

import argparse

from lldwatch.alert_channels import SHAPES
from lldwatch.integrations.environment import PROBES, REFERENCES
from lldwatch.intervention import MODES

_OF_ALERTS = ("webhook_shape", "alert_command", "stop_on")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("run", help="start a training and watch it, without touching its source")
    parser.add_argument("--run", metavar="RUN", help="run directory (default runs/ and the time)")
    parser.add_argument("--llds", choices=MODES)
    parser.add_argument("--strength", help="of LLDS, its coefficient")
    parser.add_argument("--reference", choices=REFERENCES, help="what LLDS compares with")
    parser.add_argument("--probes", choices=PROBES, help="what is re-scored (default standard)")
    parser.add_argument("--correct-above", metavar="REWARD", help="a response is correct above this reward (default 0)")
    parser.add_argument("--webhook-shape", choices=list(SHAPES), help="of alerts that go to $LLDWATCH_WEBHOOK")
    parser.add_argument("--alert-command", metavar="PROGRAM", help="run it with each alert as JSON on standard input")
    parser.add_argument("--stop-on", choices=["collapse"], help="ask the trainer to save and to stop then")
    parser.add_argument("--resume", action="store_true", help="go on with a run that is there")
    parser.add_argument(
        "training", nargs="...", metavar="-- COMMAND", help="the training, for instance python train.py"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Become the training."""
    from lldwatch.integrations.launch import launch

    names = ("run", "llds", "strength", "reference", "probes", "correct_above", *_OF_ALERTS)
    settings = {name.upper(): getattr(options, name) for name in names}
    command = options.training[1:] if options.training[:1] == ["--"] else options.training
    return launch(command, {**settings, "RESUME": "1" if options.resume else None})
