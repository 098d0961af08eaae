"""What the probes measure how often, and what that costs: three presets, or a plan of one's own.

The price of a probe is counted in responses that go through the model once more, without gradient. An update costs
about three such passes of each response that it trains on (forward and backward), and generation comes on top: 64
responses a step are less than a tenth of the work of an update on 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from lldwatch.errors import InputError
from lldwatch.schema import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured how often. Numbers of responses are at most, and on each rank; 0 switches a kind off.

    Attributes:
        cross_update: correct responses of a step that are re-scored across the next one; each step, twice.
        noise_every: score them a second time without an update, at the first step and then each so many steps.
        post_update: responses of a step's own batch, scored before and after its updates,
        post_update_every: each so many steps.
        lagged: correct responses of a step, of those of `cross_update`, that are scored again later,
        lags: so many steps later (multiples of `lagged_every`; a lag of 1 is `cross_update`). Those of 5, 10 and 20
            have a column in the table `steps`, others stand in `probes` alone.
        lagged_every: each so many steps.
        fixed: anchors, correct responses of the first steps (or the user's own), scored again
        fixed_every: each so many steps.
        tokens: responses of `cross_update` that are kept token by token, those that fell most,
        tokens_every: each so many steps.

    Raises:
        InputError: a number is negative or not whole, a period is not at least 1, or a lag is no multiple of
            `lagged_every`.
    """

    cross_update: int = 64
    noise_every: int = 10
    post_update: int = 32
    post_update_every: int = 1
    lagged: int = 16
    lags: tuple[int, ...] = (5, 10, 20)
    lagged_every: int = 5
    fixed: int = 64
    fixed_every: int = 10
    tokens: int = 0
    tokens_every: int = 10

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 1 if item.name.endswith("_every") else 0
            if item.name != "lags" and (not isinstance(value, int) or value < least):
                raise InputError(f"{item.name}={value!r}, expected a whole number from {least}")
        if not isinstance(self.lags, tuple):
            raise InputError(f"lags={self.lags!r}, expected a tuple of whole numbers")
        for lag in self.lags:
            if lag < 1 or lag % self.lagged_every:
                raise InputError(f"lags={self.lags} with lagged_every={self.lagged_every}: expected multiples of it")

    def among(self, ranks: int) -> Plan:
        """The same over all ranks together: each scores its part."""
        parts = {name: -(-getattr(self, name) // ranks) for name in ("cross_update", "post_update", "lagged", "fixed")}
        return replace(self, **parts)

    def price(self, batch: int | None = None) -> dict[str, float]:
        """Kind -> responses that are scored for it, a step, on each rank, at most, in the mean over many steps.

        Args:
            batch: responses in a step's batch, if that is known.
        """
        own = [self.cross_update, self.lagged, self.post_update]
        cross_update, lagged, post_update = own if batch is None else (min(number, batch) for number in own)
        return {
            "cross_update": 2.0 * cross_update,
            "noise": cross_update / self.noise_every,
            "post_update": 2.0 * post_update / self.post_update_every,
            "lagged": len(self.lags) * min(lagged, cross_update) / self.lagged_every,
            "fixed": min(self.fixed, 4 * cross_update) / self.fixed_every,
        }

    def in_words(self, name: str, batch: int, *, at_most: bool = False) -> str:
        """One line for the start of a run.

        Args:
            name: of the preset.
            batch: responses in a step's batch.
            at_most: as many are scored as the plan has at most, whatever the batch holds.
        """
        price = {kind: scored for kind, scored in self.price(None if at_most else batch).items() if scored}
        parts = ", ".join(f"{kind} {scored:g}" for kind, scored in price.items())
        total = sum(price.values())
        share = total / max(batch, 1)
        return (
            f"probes ({name}) re-score up to {total:.4g} responses a step without gradient ({parts}): "
            f"{share:.2g} forward passes of a batch of {batch}"
        )


PRESETS: Mapping[str, Plan] = MappingProxyType(
    {
        "economy": Plan(cross_update=16, noise_every=20, post_update=0, lagged=0, fixed=0),
        "standard": Plan(),
        "full": Plan(
            noise_every=5,
            lagged_every=1,
            fixed_every=5,
            tokens=4,
            tokens_every=5,
        ),
    }
)
"""`economy`: the headline alone, on few responses. `standard`: all kinds. `full`: all of them as often as is of use."""

FREE_KINDS = tuple(kind for kind in KINDS if kind not in Plan().price())
"""Kinds that need no pass through the model."""


def plan_of(preset: str | Plan) -> tuple[str, Plan]:
    """Name and plan of a preset; a plan of the user's own is called `custom`.

    Raises:
        InputError: there is no such preset.
    """
    if isinstance(preset, Plan):
        return "custom", preset
    if preset not in PRESETS:
        raise InputError(f"preset={preset!r}, expected {', '.join(PRESETS)}, or a Plan")
    return preset, PRESETS[preset]
