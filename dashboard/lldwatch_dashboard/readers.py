"""A process that reads runs for the list, so that folding 1,000 of them takes no time from whoever serves the pages.

It is a command that is asked by lines of text and ends when its pipe does: nothing is pickled, and no training script
is imported a second time, as `multiprocessing` would.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import weakref
from pathlib import Path

import lldwatch
from lldwatch.glance import Glance

_COMMAND = "import sys; sys.path.append(sys.argv[1]); from lldwatch.glance import main; main()"


class ReaderProcess:
    """Answers like `lldwatch.glance.Reader`, from another process of low priority. One thread may ask at a time.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        if not sys.executable:
            raise OSError("this Python does not know where it is")
        # -P: nothing that lies in the user's folder is taken for a module
        command = [sys.executable, "-P", "-c", _COMMAND, str(Path(lldwatch.__file__).parent.parent)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii", bufsize=1
        )
        self._end = weakref.finalize(self, _end, self._process)

    def glance(self, path: str) -> Glance:
        """One run as it stands now; never raises what a run can cause."""
        for _ in range(2):
            try:
                return self._ask(path)
            except (OSError, ValueError, TypeError, KeyError):
                self._end()
            try:
                self._start()
            except OSError:
                break
        return Glance(run=path, error="the process that reads runs died over it (out of memory?)")

    def _ask(self, path: str) -> Glance:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(path) + "\n")
        return Glance.from_dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._end()


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # it has died before it read what stood in the pipe
            pipe.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
