"""The signals of a run as small charts, each with what it shows: groups in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lldwatch.diagnosis import Diagnosis
from lldwatch.reports.axes import number
from lldwatch.reports.page import marked_up, text
from lldwatch.reports.svg import Chart, draw, notes, stages
from lldwatch.series import Band, Series, summary
from lldwatch.signals import SIGNALS


@dataclass(frozen=True, slots=True)
class Panel:
    """Signals that share a pair of axes.

    Attributes:
        signals: keys in SIGNALS.
        title: what stands above it; None: the title of its signal.
        names: of the lines, where there are several.
        log: the vertical axis is logarithmic.
    """

    signals: tuple[str, ...]
    title: str | None = None
    names: tuple[str, ...] = ()
    log: bool = False


GROUPS: Mapping[str, tuple[Panel, ...]] = {
    "Does it learn?": (
        Panel(("reward",)),
        Panel(("zero_advantage_share",)),
        Panel(("format_valid_share",)),
        Panel(("truncated_share",)),
        Panel(("response_length",)),
    ),
    "Does it forget? Likelihood change of responses across an update": (
        Panel(("cross_update_change",)),
        Panel(("post_update_zero_advantage",)),
        Panel(
            ("post_update_correct", "post_update_incorrect"),
            "Likelihood change of the batch it trains on",
            ("correct", "incorrect"),
        ),
    ),
    "How likely are its responses, and how certain is it?": (
        Panel(("log_prob_correct", "log_prob_incorrect"), "Log-likelihood of responses", ("correct", "incorrect")),
        Panel(
            ("log_prob_first_action", "log_prob_later_actions"),
            "Log-likelihood of correct responses, by action",
            ("first action", "later actions"),
        ),
        Panel(("entropy",)),
        Panel(("gap",)),
        Panel(("low_confidence_share",)),
    ),
    "What does the optimizer do?": (
        Panel(("grad_norm",), log=True),
        Panel(("clip_fraction",)),
        Panel(("kl",)),
        Panel(("rollout_kl",), log=True),
        Panel(("llds_coefficient",)),
        Panel(("loss",)),
    ),
}
"""What a reader asks -> what answers it. Signals that stand in none of them follow at the end."""

REST = "More likelihood changes, for the details"


def panels() -> dict[str, tuple[Panel, ...]]:
    """All groups; each signal stands in exactly one panel."""
    placed = {name for group in GROUPS.values() for panel in group for name in panel.signals}
    return {**GROUPS, REST: tuple(Panel((name,)) for name in SIGNALS if name not in placed)}


def figures(
    measured: Mapping[str, Series], steps: tuple[int, int], bands: Sequence[Band], diagnosis: Diagnosis
) -> dict[str, list[str]]:
    """What a reader asks -> `<figure>` elements, of the signals that were measured; groups without one are left out.

    Args:
        measured: key in SIGNALS -> the signal over the run.
        steps: the first and the last of the run.
        bands: where the stage was not healthy.
        diagnosis: as of the last step; the limits that were passed are drawn.
    """
    backdrop = stages(bands, *steps)
    limits = {item.signal: item.limit for item in diagnosis.evidence}
    found: dict[str, list[str]] = {}
    for question, group in panels().items():
        for panel in group:
            names = [name for name in panel.signals if name in measured]
            if names:
                chart = Chart(
                    label=_label(names, measured),
                    lines=[measured[name] for name in names],
                    first=steps[0],
                    last=steps[1],
                    log=panel.log,
                    backdrop=backdrop,
                    limit=limits.get(names[0]),
                    names=_keys(panel, names),
                )
                found.setdefault(question, []).append(figure(chart, _title(panel, names), names, _keys(panel, names)))
    return found


def figure(chart: Chart, title: str, names: Sequence[str], keys: Sequence[str] = (), words: str = "") -> str:
    """A chart with its title, the names of its lines, and what its signals mean.

    Args:
        chart: to be drawn.
        title: plain text.
        names: keys in SIGNALS.
        keys: names of the lines, if they need some.
        words: what stands first below it.
    """
    about = [SIGNALS[names[0]].unit, "logarithmic axis" if chart.log else ""]
    shown = f' <span class="unit">{text(", ".join(filter(None, about)))}</span>'
    told = "".join(f'<p class="over note">{text(line)}</p>' for line in notes(chart))
    lead = f"<b>{text(words)}</b> " if words else ""
    captions = " ".join(_meaning(name) for name in names)
    return (
        f"<figure><h4>{text(title)}{shown}</h4>{legend(keys)}{draw(chart)}{told}"
        f"<figcaption>{lead}{captions}</figcaption></figure>"
    )


def legend(keys: Iterable[str]) -> str:
    """The look and the name of each line; nothing if there is none to name."""
    sample = '<svg viewBox="0 0 30 8" aria-hidden="true"><path class="line l{}" d="M1 4H29"/></svg>'
    samples = "".join(f"<span>{sample.format(place)}{text(key)}</span>" for place, key in enumerate(keys))
    return f'<div class="keys">{samples}</div>' if samples else ""


def _title(panel: Panel, names: Sequence[str]) -> str:
    return panel.title if panel.title and len(names) == len(panel.signals) else SIGNALS[names[0]].title


def _keys(panel: Panel, names: Sequence[str]) -> list[str]:
    return list(panel.names) if len(names) == len(panel.signals) else []


def _meaning(name: str) -> str:
    signal = SIGNALS[name]
    return f"{marked_up(signal.meaning)} <b>Healthy:</b> {marked_up(signal.healthy)}"


def _label(names: Sequence[str], measured: Mapping[str, Series]) -> str:
    """The chart in words, for a reader who hears the page."""
    told = []
    for name in names:
        numbers = summary(measured[name])
        ends = f"from {number(numbers['first'])} to {number(numbers['last'])}"
        told.append(
            f"{SIGNALS[name].title}: {ends}, between {number(numbers['least'])} and {number(numbers['largest'])}"
        )
    return "; ".join(told)
