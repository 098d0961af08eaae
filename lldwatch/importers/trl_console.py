"""Console log of TRL and of what is built on it (Open-R1, Unsloth, forks): one printed dict a logged step.

`{'loss': -0.0996, 'grad_norm': 0.1997, 'reward': 0.825, 'epoch': 0.0}`; from transformers 5 on the values are strings.
The rows of a reused batch lack the reward. No row has its step: the progress bars tell it (`lldwatch.importers.bars`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lldwatch.importers import trl_state
from lldwatch.importers.bars import Bars
from lldwatch.importers.format import Entry, Format
from lldwatch.importers.names import step_of
from lldwatch.importers.numbers import number_in, pairs
from lldwatch.importers.source import Line, Source
from lldwatch.importers.tally import Tally

METRICS = trl_state.METRICS
"""Not mapped: `sampling/sampling_logp_difference/*` (absolute differences, no KL), `policy_loss` (beside `loss`),
`entropy_coef`, `completions/mean_terminated_length` (of some responses), `eval_*`."""

_LINE = re.compile(  # rows of ms-swift are those of TRL with one name more
    r"\{'loss': (?![^{}\n]{0,20000}'global_step/max_steps')[^{}\n]{0,20000}'(?:reward|completion_length)': "
)
_REFUSED = re.compile(r"User provided step: (\d{1,12}) is less than current step")
"""W&B warns of a row that comes late, and prints it: some loops print it nowhere else."""

_COUNTED = "rows have no step and no progress bar tells it: they are counted (with logging_steps > 1 that is no step)"


class _Row(NamedTuple):
    values: dict[str, str]
    where: str
    same_line: int | None
    run: str = ""


def _read(source: Source, tally: Tally) -> Iterator[Entry]:
    bars, waiting, epoch, trainings = Bars(), None, 0.0, 1
    for line in source.lines(tally):
        shown = bars.find(line.text)
        if shown is not None:
            if waiting is not None:
                yield _entry(bars.after(shown, waiting.same_line), waiting)
            bars.show(shown, of_row=waiting is not None)
            waiting = None
        row = _row(line, shown, tally)
        if row is None:
            continue
        if waiting is not None:
            yield _counted(bars, waiting, tally)
            waiting = None
        if "train_runtime" in row.values:
            tally.drop("summary of the whole training", row.where)
            trainings += 1
            bars.end()
            continue
        row = row if trainings == 1 else row._replace(run=f"run-{trainings}")
        before, epoch = epoch, number_in(row.values, "epoch") or 0.0
        if epoch < before / 2 and bars.counts:
            bars.end()
        step = step_of(row.values)  # loops of one's own print it
        if step is None and (step := bars.logged()) is None:
            waiting = row
        else:
            yield _entry(step, row)
    if waiting is not None:
        yield _counted(bars, waiting, tally)


def _entry(step: int, row: _Row) -> Entry:
    return Entry(step, row.values, row.where, row.run)


def _counted(bars: Bars, row: _Row, tally: Tally) -> Entry:
    """A row that no bar follows: the next row, or the end of the log."""
    if row.same_line is not None and not bars.counts:
        return _entry(bars.after(row.same_line, row.same_line), row)
    if bars.counts:
        tally.note(_COUNTED)
    return _entry(bars.count(), row)


def _row(line: Line, shown: int | None, tally: Tally) -> _Row | None:
    """The dict in a line, if it is one of the training's."""
    text, where = line.text, f"line {line.number}"
    start = text.find("{'")
    if start < 0 or ("'loss': " not in text and "'train_runtime': " not in text):
        if start >= 0 and text.startswith("{'eval_", start):
            tally.drop("evaluation", where)
        return None
    end = text.find("}", start)
    if end < 0:
        tally.drop("row that breaks off", where)
        return None
    values = pairs(text[start:end])
    refused = _REFUSED.search(text[:start])
    if refused is not None:
        values["step"] = refused[1]
    return _Row(values, where, shown)


def _about(source: Source) -> dict[str, Any]:
    totals = re.findall(r"(?m)(?:^|\r)\s*\d{1,3}%\|[^|\n]{0,500}\| {0,9}\d+/(\d{1,9}) \[", source.opening)
    return {"planned_steps": int(totals[-1])} if totals and int(totals[-1]) > 0 else {}


FORMAT = Format(
    name="trl-console",
    title="console log of TRL (also Open-R1, Unsloth and forks)",
    trainer="TRL",
    metrics=METRICS,
    line=_LINE,
    sign="{'loss': ",
    read=_read,
    about=_about,
    whole_steps=True,
)
