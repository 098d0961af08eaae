"""A long run is drawn at once, and judged little by little: the detector takes 10 s for 100,000 steps."""

from __future__ import annotations

from collections.abc import Sequence

from lldwatch.run import Run
from lldwatch.schema import Observation

PORTION = 5000
"""Steps that are judged between two looks at the page: half a second's."""


class Portions(Run):
    """A run that gives its new steps in portions.

    Attributes:
        rest: steps that have been read, and not been given yet, in the order of writing.
    """

    rest: Sequence[Observation] = ()

    def poll(self) -> list[Observation]:
        """The next portion of the steps that are new."""
        new = [*self.rest, *super().poll()]
        self.rest = new[PORTION:]
        return new[:PORTION]
