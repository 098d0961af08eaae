"""A comparison in words: for a terminal, and as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from lldwatch.compare import NO_SETTING, Comparison, Contender, Pair
from lldwatch.diagnosis import Stage
from lldwatch.parting import FALSE_ALARMS, Parting
from lldwatch.postmortem import final_reward, finite_json, in_words, moment, planned, printable, state_of
from lldwatch.report import verdict
from lldwatch.reports.axes import number

_NONE = "\N{EN DASH}"


def letter(place: int) -> str:
    """What a run is called in tables: A, B, C ..."""
    return chr(65 + place) if place < 26 else f"R{place + 1}"


def sentence(comparison: Comparison, pair: Pair) -> str:
    """What the comparison of two runs came to."""
    names = f"{letter(0)} and {letter(pair.other)}"
    if not pair.steps:
        return f"{names} have no step in common at which both measured the same signal."
    if pair.equal:
        return f"{names} are the same, number for number, at all {pair.steps:,} common steps."
    same = "" if pair.equal_until is None else f" are the same, number for number, up to step {pair.equal_until:,}, and"
    judged = sum(not parting.why or parting.step is not None for parting in pair.partings)
    if not pair.parted:
        if not judged:
            return f"{names} have {pair.steps:,} steps in common: too few to tell a difference from noise."
        return f"{names}{same} differ by no more than noise in each of {judged} signals."
    first = pair.parted[0]
    lost = "" if any(found.signal == "reward" for found in pair.parted) else ", the reward not among them"
    return (
        f"{names}{same} part from step {first.step:,} on, first in {first.signal}: "
        f"{len(pair.parted)} of {judged} signals differ by more than noise{lost}."
    )


def run_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The runs side by side: what, and one cell for each run. Rows in which no run has anything are left out."""
    rows = [
        ("steps", *(f"{len(run.observations):,}{planned(run.info)}" for run in comparison.runs)),
        ("stage", *(_stage(run) for run in comparison.runs)),
        ("kind of collapse", *(_kind(run) for run in comparison.runs)),
        ("first warning", *(_step(run.diagnosis.first_warning) for run in comparison.runs)),
    ]
    for stage in (Stage.STAGNATION, Stage.DECAY, Stage.COLLAPSE):
        rows.append((f"{stage.label} began", *(_step(run.diagnosis.onsets.get(stage)) for run in comparison.runs)))
        rows.append((f"{stage.label} known", *(_step(run.diagnosis.known.get(stage)) for run in comparison.runs)))
    rows += [
        ("dips that healed", *(_dips(run) for run in comparison.runs)),
        ("final reward, mean of 10", *(number(final_reward(run.observations)) for run in comparison.runs)),
        ("trainer", *(run.info.trainer or _NONE for run in comparison.runs)),
        ("ended", *(moment(run.info.ended) or state_of(run.info) for run in comparison.runs)),
    ]
    return [row for row in rows if set(row[1:]) != {_NONE}]


def _stage(run: Contender) -> str:
    return run.diagnosis.stage.label if run.diagnosis.step is not None else "no step yet"


def _kind(run: Contender) -> str:
    return run.diagnosis.family.label if run.diagnosis.family else _NONE


def _step(step: int | None) -> str:
    return _NONE if step is None else f"step {step:,}"


def _dips(run: Contender) -> str:
    return "; ".join(f"steps {dip.onset:,} to {dip.until:,}" for dip in run.diagnosis.episodes[-3:]) or _NONE


PARTING_HEAD = ("signal", "part from", "certain at", "together again")


def parting_row(parting: Parting) -> tuple[str, ...]:
    """A signal in words: its name, where it parts, both means from there on, and the noise of their difference."""
    steps = (_step(step) for step in (parting.step, parting.certain, parting.until))
    return (parting.signal, *steps, number(parting.first), number(parting.other), number(parting.noise))


def setting_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The settings that differ: key, and one cell for each run."""
    return [
        (key, *("(not set)" if value is NO_SETTING else in_words(value) for value in row))
        for key, row in comparison.settings.items()
    ]


def aside(pair: Pair) -> Iterator[str]:
    """The signals that do not part, that could not be compared, and that one of the two runs lacks, in words."""
    together = [found.signal for found in pair.partings if found.step is None and not found.why]
    if together:
        yield f"No difference beyond noise: {', '.join(together)}"
    skipped = [found for found in pair.partings if found.why and found.step is None]
    yield from (f"Not compared: {found.signal} ({found.why})" for found in skipped)
    for place, names in ((pair.other, pair.only_first), (0, pair.only_other)):
        if names:
            yield f"{letter(place)} lacks {', '.join(names)}"


def write_text(comparison: Comparison, out: TextIO) -> None:
    """The whole comparison for a person at a terminal; ends with one plain line for each pair.

    Args:
        comparison: of the runs.
        out: where the lines go.
    """
    for place, run in enumerate(comparison.runs):
        print(f"{letter(place)}  {printable(run.name)}: {verdict(run.diagnosis)}", file=out)
    letters = [letter(place) for place in range(len(comparison.runs))]
    _table("The runs", ("", *letters), run_rows(comparison), out)
    _table("Settings that differ", ("", *letters), setting_rows(comparison), out)
    for pair in comparison.pairs:
        head = (*PARTING_HEAD, letter(0), letter(pair.other), "noise")
        title = f"{letter(0)} and {letter(pair.other)}: where each signal parts"
        _table(title, head, [parting_row(parting) for parting in pair.parted], out)
        for line in aside(pair):
            print(f"  {line}", file=out)
    once = f"once in {1000 / FALSE_ALARMS:,.0f} steps"
    print(f"\nNormal noise alone would part a signal {once} on each side.\n", file=out)
    for pair in comparison.pairs:
        print(sentence(comparison, pair), file=out)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    if not rows:
        return
    cells = [head, *([_short(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}", file=out)
    for row in cells:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)


def _short(cell: str) -> str:
    text = printable(cell)
    return text if len(text) <= 60 else f"{text[:59]}\N{HORIZONTAL ELLIPSIS}"


_OF_THE_DIAGNOSIS = ("stage", "family", "onsets", "known", "first_warning")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison in JSON's types; what is not known is None, and a run without a setting lacks the key."""
    settings = [
        {key: finite_json(row[place]) for key, row in comparison.settings.items() if row[place] is not NO_SETTING}
        for place in range(len(comparison.runs))
    ]
    return {
        "runs": [
            {
                "name": run.name,
                "steps": len(run.observations),
                "trainer": run.info.trainer,
                "ended": run.info.ended,
                "final_reward": final_reward(run.observations),
                **{
                    key: run.diagnosis.as_dict()[key] for key in ("stage", "family", "onsets", "known", "first_warning")
                },
                "settings": own,
            }
            for run, own in zip(comparison.runs, settings, strict=True)
        ],
        "pairs": [_pair_json(comparison, pair) for pair in comparison.pairs],
        "false_alarms_per_1000_steps": FALSE_ALARMS,
    }


def _pair_json(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    return {
        "first": 0,
        "other": pair.other,
        "common_steps": pair.steps,
        "equal_until": pair.equal_until,
        "verdict": sentence(comparison, pair),
        "signals": {
            found.signal: {name: getattr(found, name) for name in Parting.__slots__ if name != "signal"}
            for found in pair.partings
        },
        "only_first": list(pair.only_first),
        "only_other": list(pair.only_other),
    }


def write_json(comparison: Comparison, out: TextIO) -> None:
    """What `as_json` says.

    Args:
        comparison: of the runs.
        out: where the object goes.
    """
    print(json.dumps(as_json(comparison), indent=2), file=out)
