"""Which kind of collapse it is: the cure differs, and for one kind the cure of another makes it worse.

Kinds with a direct measurement (arithmetic, mismatch, format) come first; then what came before what decides. The
table of kinds and their signs: README; arXiv:2512.04220 for the first, the others from public runs.
"""

from __future__ import annotations

import math

from lldwatch.diagnosis import Family
from lldwatch.signs import Signs

BLOW_UP = math.log(10.0)
"""Of the gradient norm's logarithm: what no clipping makes harmless."""
SHARP = -math.log(3.0)
"""Of the entropy's logarithm: a third of it is left."""


def name_family(signs: Signs) -> Family | None:
    """The kind that the signs point to, or None if they point to none.

    Args:
        signs: of a run at whose stage something is wrong.
    """
    levels = signs.levels
    if signs.finite.speaks:
        return Family.NUMERICAL
    if levels["rollout_mismatch"].speaks:
        return Family.MISMATCH
    displaced = signs.displaced_since
    entropy = levels["entropy"].since if levels["entropy"].speaks else None
    spread_since = min((since for since in (displaced, entropy) if since is not None), default=None)
    if _first(_since(signs, "format"), spread_since, -signs.settings.window) or (displaced is None and _format(signs)):
        return Family.FORMAT_LOSS
    norm = levels["grad_norm"]
    if norm.speaks and norm.change >= BLOW_UP and _first(norm.since, spread_since, signs.settings.window):
        return Family.OPTIMISER_BLOW_UP
    if signs.reused.speaks and _first(signs.reused.since, spread_since, signs.settings.window):
        return Family.OFF_POLICY_OVERUSE
    if displaced is not None:
        return Family.LLD_SPIRAL
    if levels["entropy"].fell is not None and levels["entropy"].change <= SHARP and _worse(signs):
        return Family.SHARPENING
    measured_and_quiet = signs.displacements[0].measured
    if not measured_and_quiet and (entropy is not None or levels["likelihood_of_correct"] in signs.bad):
        return Family.LLD_SPIRAL
    lost = signs.reward.falling or signs.reward.speaks  # equal rewards then are what is left, not what it died of
    return Family.GRADIENT_STARVATION if signs.starved.speaks and not lost else None


def _since(signs: Signs, name: str) -> int | None:
    return signs.levels[name].since if signs.levels[name].speaks else None


def _format(signs: Signs) -> bool:
    return signs.levels["format"].speaks or signs.levels["truncation"].speaks


def _worse(signs: Signs) -> bool:
    """Growing certain is what learning does; it is an illness when reward or variety go with it."""
    return signs.reward.falling or signs.reward.speaks or signs.levels["equal_rewards"].speaks or signs.starved.speaks


def _first(one: int | None, other: int | None, slack: int) -> bool:
    """Whether `one` began not later than `other`, but for what a window cannot tell; None has not begun."""
    return one is not None and (other is None or one <= other + slack)
