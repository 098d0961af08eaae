"""The run page's figure as plotly checks it: the page itself sends plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lldwatch import Observation
from lldwatch.diagnosis import Verdict
from lldwatch_dashboard.figures import drawn
from lldwatch_dashboard.lines import lines_of


def run_figure(observations: Sequence[Observation], verdicts: Sequence[Verdict], *events: Any, **how: Any) -> go.Figure:
    """See `lldwatch_dashboard.figures.drawn`.

    Raises:
        ValueError: plotly knows no such trace, setting or value.
    """
    return go.Figure(drawn(lines_of(observations, verdicts), *events, **how)[0])
