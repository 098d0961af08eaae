"""The names that trainers give to what they log, for files that any of them may have written (CSV, W&B, ...)."""

from __future__ import annotations

from collections.abc import Mapping

from lldwatch.importers import (
    areal,
    nemo_rl,
    openrlhf,
    own_loops,
    prime_rl,
    slime,
    swift,
    trl_state,
    verl_metrics,
)

TABLES: tuple[Mapping[str, str], ...] = (
    trl_state.METRICS,
    verl_metrics.METRICS,
    swift.METRICS,
    openrlhf.METRICS,
    nemo_rl.METRICS,
    slime.METRICS,
    prime_rl.METRICS,
    areal.METRICS,
    own_loops.METRICS,
)
"""`METRICS` of each trainer's format, the most used first."""
