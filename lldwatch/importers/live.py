"""Record what another process prints, while it does: `python train.py | tee log | lldwatch watch --import auto -`."""

from __future__ import annotations

import threading
from pathlib import Path

from lldwatch.errors import InputError
from lldwatch.importers.format import Format
from lldwatch.importers.job import Options, check_free, guarded, steps_of
from lldwatch.importers.known import by_name
from lldwatch.importers.recognise import recognise
from lldwatch.importers.result import Imported, account_of
from lldwatch.importers.source import Source
from lldwatch.importers.write import Written
from lldwatch.recorder import Recorder
from lldwatch.schema import RunInfo

_FLUSH_STEPS = 500


class LiveImport:
    """Reads standard input in a thread of its own, and records it into a run directory that others can follow.

    Args:
        out: the run directory.
        options: what the user says about the stream.

    Attributes:
        begun: set when the run directory is there, or when there will be none.
        error: what ended the reading; None if the stream ended, or goes on.
        record: what was read so far.
    """

    def __init__(self, out: Path, options: Options) -> None:
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.record = Imported(out, "run", "standard input", options.format, "you said so")
        self._out, self._options = out, options
        self._written = Written()
        threading.Thread(target=self._run, name="lldwatch-import", daemon=True).start()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # raised in this thread nobody would see it: the command says it
            self.error = error
        self.begun.set()

    def _read(self) -> None:
        check_free(self._out)  # before the training has run for hours
        source, tally = Source(None), self.record.tally
        source.step_column = self._options.step_column
        fmt = _chosen(self._options.format)
        if fmt is None:
            fmt, self.record.why = recognise(source, tally)
        self.record.format = fmt.name
        about = {"imported_from": source.name, "format": fmt.name}
        recorder = Recorder(self._out, RunInfo(trainer=fmt.trainer or "unknown trainer", config=about))
        self.begun.set()
        try:
            self._record(fmt, source, recorder)
        finally:
            recorder.event(-1, "import", account_of(self.record))
            recorder.close()

    def _record(self, fmt: Format, source: Source, recorder: Recorder) -> None:
        record, before = self.record, ("", 0)
        entries = fmt.read(source, record.tally)
        steps = steps_of(fmt, entries, self._options, record.tally, at_once=fmt.whole_steps)
        attempt = 0
        for number, step in enumerate(guarded(steps, record.tally), 1):
            if (step.run, step.attempt) != before and number > 1:
                recorder.new_attempt(step.observation.step - 1)
                attempt += 1
            before = step.run, step.attempt
            recorder.record(step.observation)
            self._written.add(step.observation, attempt)
            record.take(self._written)
            if number % _FLUSH_STEPS == 0:
                recorder.flush()  # a stream may come faster than the disk takes it, and nothing is to be dropped


def _chosen(name: str) -> Format | None:
    if name == "auto":
        return None
    fmt = by_name(name)
    if isinstance(fmt, Format) and not fmt.whole_folder:
        return fmt
    raise InputError(f"{name} is made of whole files: a stream holds lines")
