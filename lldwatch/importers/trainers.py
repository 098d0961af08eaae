"""The names that trainers give to what they log, for files that any of them may have written (CSV, W&B, ...)."""

from __future__ import annotations

from collections.abc import Mapping

from lldwatch.importers import trl_state

TABLES: tuple[Mapping[str, str], ...] = (trl_state.METRICS,)
"""`METRICS` of each trainer's format, the most used first."""
