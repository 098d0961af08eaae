"""The lowest versions that pyproject.toml admits, for pip: `python tests/lowest.py dashboard pandas`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HELD = {"torch"}
"""As constraints.txt has it: lower ones come with gigabytes for GPUs. The oldest was tried by hand, see the README."""


def main(extras: list[str]) -> None:
    """Print the base dependencies and those of the extras, a line each."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    lines = sorted({line for lines in lists for line in lines if not line.startswith("lldwatch")})
    print("\n".join(line.replace(">=", "==") for line in lines if line.partition(">=")[0] not in HELD))


if __name__ == "__main__":
    main(sys.argv[1:])
