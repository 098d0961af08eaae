"""ms-swift's `completions.jsonl` (`log_completions`): one line a logged step, each key a list over the responses.

With `log_entropy` a line holds only as many responses as were trained on so far, and its `entropy` comes from a ring
that is not filled at the same pace as the others: it belongs to other responses, often of the batch before, and is left
out. As with TRL a batch that is used again is written again. What follows a step's first line is an evaluation, or the
end of the training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lldwatch.importers.completions import Batch, adds_up, evenly, rows_of
from lldwatch.importers.format import Part, Rows, RowsFormat
from lldwatch.importers.row_lines import first_object, lines, numbers, objects
from lldwatch.importers.tally import Tally
from lldwatch.schema import Responses

_STEP = re.compile(rb'^\s*\{\s*"(?:step|gen_step)"\s*:\s*\[\s*"?(\d{1,15})"?\s*[,\]]')
_WORDS = ("prompt", "completion")


def _recognise(path: Path) -> str | None:
    row = first_object(path)
    lists = all(isinstance(row.get(name), list) for name in _WORDS)
    return "its lines have lists of prompts and completions" if lists else None


def _steps(path: Path, tally: Tally) -> dict[int, Part]:
    """Step -> its first line, found without decoding the words in it."""
    found: dict[int, Part] = {}
    for number, start, text in lines(Part(path), tally):
        step = _STEP.match(text)
        if step is None:
            tally.drop("line of completions that names no step first", f"{path}, line {number}")
        elif int(step[1]) in found:
            tally.drop("further line of completions of a step (an evaluation, or the end)", f"{path}, line {number}")
        else:
            found[int(step[1])] = Part(path, start, 1)
    return found


def _read(places: Mapping[int, Sequence[Part]], tally: Tally) -> Callable[[int], Rows]:
    some = [batch for step in evenly(places) for batch in _batches(places[step], Tally())]
    summed = adds_up(some, tally)

    def of_step(step: int) -> Rows:
        batch = next(_batches(places[step], tally), None)
        if batch is None:
            return Rows(Responses())
        tally.note("prompt and completion, the words of the responses, are not kept: lldwatch has no column for them")
        return rows_of(batch, summed, tally, f"step {step}")

    return of_step


def _batches(parts: Sequence[Part], tally: Tally) -> Iterator[Batch]:
    for where, row in objects(parts[:1], tally):
        words = [row.get(name) for name in _WORDS]
        prompts, completions = ([_bytes(word) for word in part] if isinstance(part, list) else [] for part in words)
        # the rewards stand between the words and the advantages, what follows is the user's or the ring of entropies
        keys = list(row)
        first = keys.index("completion") + 1 if "completion" in keys else len(keys)
        names = list(takewhile(lambda key: key != "advantages", keys[first:])) if "advantages" in keys else []
        told = {name: numbers(row.get(name)) for name in (*names, "advantages")}
        rewards = {name: told[name] for name in names}
        if not prompts or any(len(part) != len(prompts) for part in (completions, *_known(told))):
            tally.drop("line of completions whose lists differ in length", where)
            continue
        if strangers := [key for key in keys[first:] if told.get(key) is None and key != "advantages"]:
            tally.note(f"lists of the completions that are not used: {', '.join(strangers[:20])}")
        yield Batch(prompts, completions, {k: v for k, v in rewards.items() if v is not None}, told["advantages"])


def _known(columns: Mapping[str, Any]) -> list[Any]:
    return [column for column in columns.values() if column is not None]


def _bytes(word: Any) -> bytes:
    return (word if isinstance(word, str) else repr(word)).encode(errors="replace")


FORMAT = RowsFormat(
    name="swift-completions",
    title="completions.jsonl of ms-swift",
    trainer="ms-swift",
    path=re.compile(r"(?:^|/)completions\.jsonl$"),
    recognise=_recognise,
    read=_read,
    steps=_steps,
)
