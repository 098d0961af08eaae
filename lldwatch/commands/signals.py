"""`lldwatch signals`: what lldwatch measures, and what it means."""

from __future__ import annotations

import argparse

from lldwatch.signals import SIGNALS


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Its arguments."""
    parser = commands.add_parser("signals", help="what lldwatch measures, and what it means")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    for signal in SIGNALS.values():
        unit = f" [{signal.unit}]" if signal.unit else ""
        print(f"{signal.name}{unit}: {signal.title}")
        print(f"    {signal.meaning}\n    Healthy: {signal.healthy}")
        print(f"    Needs: {', '.join(signal.requires)}. Reference: {signal.reference}\n")
    return 0
