"""The run page's figure as plotly checks it: the page itself sends plain dictionaries."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from lldwatch_dashboard.figures import drawn


def run_figure(*run: Any, **how: Any) -> go.Figure:
    """See `lldwatch_dashboard.figures.drawn`.

    Raises:
        ValueError: plotly knows no such trace, setting or value.
    """
    return go.Figure(drawn(*run, **how)[0])
