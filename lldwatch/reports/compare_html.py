"""A comparison as one HTML file: the lines of all runs on the same axes, and where they part."""

from __future__ import annotations

from typing import TextIO

from lldwatch import __version__
from lldwatch.compare import Comparison, Pair
from lldwatch.parting import BLOCK, FALSE_ALARMS, Parting
from lldwatch.postmortem import ABOUT_LLD, ABOUT_NATS
from lldwatch.report import verdict
from lldwatch.reports.charts import figure, legend, panels
from lldwatch.reports.compare_report import PARTING_HEAD, aside, letter, parting_row, run_rows, sentence, setting_rows
from lldwatch.reports.page import list_of, page, paragraph, section, table, text
from lldwatch.reports.svg import Chart
from lldwatch.series import NOTHING, Series, all_measured
from lldwatch.signals import SIGNALS

MOST = 5
"""Lines that one chart can tell apart."""

_RULE = (
    "A signal parts where the runs differ by more than noise. The noise is what is left of each run around a straight "
    f"line through each {BLOCK} steps, widened where neighbouring steps move together; differences are summed up until "
    f"they are beyond what normal noise alone would reach once in {1000 / FALSE_ALARMS:,.0f} steps. Differences below "
    "a quarter of the signal's level in its first steps do not count. The vertical line marks where the difference "
    "began; it is certain only some steps later. Trainings with other seeds see other prompts, and take other courses "
    "without any cause that a setting could name: their likelihoods part early, their rewards rarely do."
)


def write_html(comparison: Comparison, out: TextIO) -> None:
    """The comparison as one HTML document that needs nothing else.

    Args:
        comparison: of the runs.
        out: where the document goes; to be encoded as UTF-8.
    """
    names = ", ".join(run.name for run in comparison.runs[:-1]) + f" and {comparison.runs[-1].name}"
    said = "".join(f"<p>{text(sentence(comparison, pair), 2000)}</p>" for pair in comparison.pairs)
    letters = [letter(place) for place in range(len(comparison.runs))]
    cells = [[text(cell) for cell in row] for row in run_rows(comparison)]
    settings = [[f"<code>{text(row[0])}</code>", *map(text, row[1:])] for row in setting_rows(comparison)]
    body = [
        f'<p class="over">lldwatch {text(__version__)}, comparison of GRPO trainings</p>',
        f"<h1>{text(names)}</h1>",
        f'<div class="verdict">{said}</div>',
        section("The runs", _who(comparison), table(("", *letters), cells, "same")),
        section("Settings that differ", table(("Setting", *letters), settings, "same") or _none()),
        *(_partings(comparison, pair) for pair in comparison.pairs),
        _charts(comparison),
        section("What is looked for", paragraph(ABOUT_LLD), paragraph(ABOUT_NATS)),
    ]
    out.write(page(f"{names} - lldwatch", body))


def _who(comparison: Comparison) -> str:
    rows = [
        (f"<b>{letter(place)}</b> {text(run.name)}", text(verdict(run.diagnosis), 2000))
        for place, run in enumerate(comparison.runs)
    ]
    return table(("Run", "Verdict"), rows, "same")


def _none() -> str:
    return paragraph("None: the recorded configurations are the same.", "muted")


def _partings(comparison: Comparison, pair: Pair) -> str:
    rows = [[text(cell) for cell in parting_row(parting)] for parting in pair.parted]
    title = f"{letter(0)} and {letter(pair.other)}: where each signal parts"
    head = (*PARTING_HEAD, letter(0), letter(pair.other), "noise")
    return section(title, table(head, rows), list_of([*aside(pair)]))


def _charts(comparison: Comparison) -> str:
    """Signals that at least one run has; of many runs the first ones."""
    shown = comparison.runs[:MOST]
    measured = [all_measured(run.observations) for run in shown]
    ends = [seen.step for run in shown for seen in (*run.observations[:1], *run.observations[-1:])]
    charts = []
    for name in (name for group in panels().values() for panel in group for name in panel.signals):
        if any(name in each for each in measured):
            charts.append(_figure(comparison, name, [each.get(name) for each in measured], (min(ends), max(ends))))
    keys = [f"{letter(place)} {run.name}" for place, run in enumerate(shown)]
    left_out = f"The charts show the first {MOST} of {len(comparison.runs)} runs."
    more = paragraph(left_out, "muted") if len(comparison.runs) > MOST else ""
    grid = "\n".join(charts)
    drawn = f'{legend(keys)}\n<div class="charts">\n{grid}\n</div>' if charts else ""
    return section("The signals", paragraph(_RULE, "small"), more, drawn)


def _figure(comparison: Comparison, name: str, lines: list[Series | None], steps: tuple[int, int]) -> str:
    """One signal of all runs; a run without it has no line, but keeps its place and with it its look."""
    found = [(pair.other, part) for pair in comparison.pairs for part in pair.partings if part.signal == name]
    marked = [part.step for _, part in found if part.step is not None]
    words = "; ".join(_in_words(other, part) for other, part in found) or "Not in both runs"
    chart = Chart(
        label=f"{SIGNALS[name].title} of {len(lines)} runs. {words}",
        lines=[NOTHING if line is None else line for line in lines],
        names=[letter(place) for place in range(len(lines))],
        first=steps[0],
        last=steps[1],
        log=any(panel.log and name in panel.signals for group in panels().values() for panel in group),
        marked=min(marked, default=None),
    )
    return figure(chart, SIGNALS[name].title, [name], words=f"{words}.")


def _in_words(other: int, part: Parting) -> str:
    names = f"{letter(0)} and {letter(other)}"
    if part.step is not None:
        return f"{names} part from step {part.step:,} on"
    return f"{names}: {part.why or 'no difference beyond noise'}"
