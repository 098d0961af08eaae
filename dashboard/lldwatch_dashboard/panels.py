"""What the run page's figure is made of: its panels, their place in pixels, and the colours.

`PANELS` is a table like `SIGNALS`: a further panel is one more row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter

from lldwatch.diagnosis import Stage
from lldwatch.signals import SIGNALS, Signal


@dataclass(frozen=True, slots=True)
class Panel:
    """Signals that share a y axis.

    Attributes:
        title: what stands above it.
        signals: keys in READINGS; the second one is drawn dashed.
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
    Panel("Likelihood change of the batch trained on", ("post_update_correct", "post_update_incorrect"), 84),
    Panel("Likelihood change over many steps", ("lagged_change_10", "fixed_anchor_change"), 84),
    Panel("Response length", ("response_length",), 56),
    Panel("KL from the reference policy", ("kl",), 56),
    Panel("Clip fraction", ("clip_fraction",), 56),
    Panel("Updates per batch", ("updates_per_batch",), 56),
)
ALWAYS = 5
"""So many panels stand there whether they were recorded or not."""

READINGS: Mapping[str, Signal] = {
    **SIGNALS,
    "updates_per_batch": Signal(
        "updates_per_batch",
        "Updates per batch",
        "updates",
        ("updates_per_batch",),
        "Optimizer updates made on each rollout batch: how often what was written once is trained on.",
        "1 is on-policy. The more, the further the policy moves from the one that wrote the batch.",
        "arXiv:2402.03300 (GRPO)",
        attrgetter("updates_per_batch"),
    ),
}
"""What a panel can show: the signals, and settings of the training that go with them."""

TITLE_HEIGHT = 30
LANE_HEIGHT = 15
EVENT_LANES = 2
STAGE_LANES = 3
BOTTOM, LEFT, RIGHT = 56, 58, 14


@dataclass(frozen=True, slots=True)
class Sheet:
    """Panels below each other, and their places; `events`: there is room above them for the names of events."""

    panels: tuple[Panel, ...] = PANELS[:ALWAYS]
    events: bool = False

    @property
    def top(self) -> int:
        """Pixels above the panels."""
        return (STAGE_LANES + EVENT_LANES * self.events) * LANE_HEIGHT + 4

    @property
    def signals(self) -> list[str]:
        """Keys in READINGS of all that is shown."""
        return [name for panel in self.panels for name in panel.signals]

    @property
    def plot_height(self) -> int:
        """In pixels, without the margins."""
        return sum(panel.height + TITLE_HEIGHT for panel in self.panels)

    @property
    def height(self) -> int:
        """Of the figure, in pixels."""
        return self.top + self.plot_height + BOTTOM

    def tops(self) -> list[int]:
        """Pixels from the top of the figure to where each panel's title begins."""
        heights = [panel.height + TITLE_HEIGHT for panel in self.panels]
        return [self.top + sum(heights[:index]) for index in range(len(heights))]

    def domains(self) -> list[tuple[float, float]]:
        """The share of the plot's height that each panel takes, from the bottom."""
        whole, tops = self.plot_height, [top - self.top + TITLE_HEIGHT for top in self.tops()]
        return [
            (1 - (top + panel.height) / whole, 1 - top / whole) for panel, top in zip(self.panels, tops, strict=True)
        ]


def sheet_of(recorded: Collection[str], *, events: bool = False) -> Sheet:
    """The first panels always, the others if one of their signals was recorded.

    Args:
        recorded: keys in READINGS.
        events: something befell the run.
    """
    further = [panel for panel in PANELS[ALWAYS:] if any(name in recorded for name in panel.signals)]
    return Sheet((*PANELS[:ALWAYS], *further), events)


def left_out(sheet: Sheet) -> list[str]:
    """What is said of the panels that have no place, in one line: first the titles of those that lack a column."""
    gone = [panel for panel in PANELS if panel not in sheet.panels]
    return [*(panel.title for panel in gone if not panel.absent), *(panel.absent for panel in gone if panel.absent)]


# the shortest words that tell the lines of the hover box apart
SHORT = {
    "cross_update_change": "earlier correct",
    "post_update_zero_advantage": "no advantage",
    "log_prob_correct": "correct",
    "log_prob_incorrect": "incorrect",
    "grad_norm": "grad norm",
    "llds_coefficient": "LLDS",
    "post_update_correct": "batch, correct",
    "post_update_incorrect": "batch, incorrect",
    "lagged_change_10": "over 10 steps",
    "fixed_anchor_change": "fixed anchors",
    "response_length": "length",
    "kl": "KL",
    "clip_fraction": "clipped",
    "updates_per_batch": "updates a batch",
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


def axis(row: int) -> str:
    """The y axis of the panel at this place, from 0, as plotly calls it in a trace."""
    return "y" if row == 0 else f"y{row + 1}"
