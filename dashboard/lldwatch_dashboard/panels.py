"""What the run page's figure is made of: its panels, their place in pixels, and the colours.

`PANELS` is a table like `SIGNALS`: a further panel is one more row.
"""

from __future__ import annotations

from dataclasses import dataclass

from lldwatch.diagnosis import Stage


@dataclass(frozen=True, slots=True)
class Panel:
    """Signals that share a y axis.

    Attributes:
        title: what stands above it.
        signals: keys in SIGNALS; the second one is drawn dashed.
        height: in pixels, without the title.
        log: the axis is logarithmic.
        absent: what it means that there is nothing to draw; None: that the columns are missing.
    """

    title: str
    signals: tuple[str, ...]
    height: int
    log: bool = False
    absent: str | None = None


PANELS = (
    Panel("Likelihood change of responses not trained on", ("cross_update_change", "post_update_zero_advantage"), 180),
    Panel("Log-likelihood", ("log_prob_correct", "log_prob_incorrect"), 84),
    Panel("Entropy", ("entropy",), 84),
    Panel("Gradient norm", ("grad_norm",), 84, log=True),
    Panel("Reward", ("reward",), 84),
    Panel("LLDS coefficient", ("llds_coefficient",), 56, absent="LLDS was not in use"),
)
TITLE_HEIGHT = 30
LANE_HEIGHT = 15
TOP, BOTTOM, LEFT, RIGHT = 3 * LANE_HEIGHT + 4, 44, 58, 14
PLOT_HEIGHT = sum(panel.height + TITLE_HEIGHT for panel in PANELS)
HEIGHT = TOP + PLOT_HEIGHT + BOTTOM

# the shortest words that tell the lines of the hover box apart
SHORT = {
    "cross_update_change": "earlier correct",
    "post_update_zero_advantage": "no advantage",
    "log_prob_correct": "correct",
    "log_prob_incorrect": "incorrect",
    "grad_norm": "grad norm",
    "llds_coefficient": "LLDS",
}

# Okabe-Ito, so that colours differ for colour-blind eyes as well; the stages also differ by their lane and their word
STAGE_COLOURS = {Stage.STAGNATION: "#F0E442", Stage.DECAY: "#E69F00", Stage.COLLAPSE: "#D55E00"}
ALERT = "#D55E00"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a light or a dark page."""

    ink: str
    muted: str
    grid: str
    paper: str
    lines: tuple[str, str]
    error_band: str
    noise_band: str = "rgba(128,128,128,0.30)"


LIGHT = Palette(
    "#1f2328", "#57606a", "#e4e7eb", "#ffffff", ("#0072B2", "#A8467F"), "rgba(0,114,178,0.22)"
)  # the reddish purple is darkened for white paper
DARK = Palette("#e6e8eb", "#a3acb7", "#2c323a", "#1b1f24", ("#56B4E9", "#CC79A7"), "rgba(86,180,233,0.24)")


def panel_tops() -> list[int]:
    """Pixels from the top of the figure to where each panel's title begins."""
    heights = [panel.height + TITLE_HEIGHT for panel in PANELS]
    return [TOP + sum(heights[:index]) for index in range(len(PANELS))]


def axis(row: int) -> str:
    """The y axis of the panel at this place, from 0, as plotly calls it in a trace."""
    return "y" if row == 0 else f"y{row + 1}"


def domain(row: int) -> tuple[float, float]:
    """The share of the plot's height that a panel takes, from the bottom."""
    top = panel_tops()[row] - TOP + TITLE_HEIGHT
    return 1 - (top + PANELS[row].height) / PLOT_HEIGHT, 1 - top / PLOT_HEIGHT
