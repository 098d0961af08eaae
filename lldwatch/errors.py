"""Every exception that lldwatch raises on purpose.

```
LldwatchError
├── InputError (ValueError)              an argument has the wrong shape, type or value
├── ScoreError                           the function that a probe was given to score responses raised
├── RanksError                           the ranks of a distributed training do not answer each other
├── DeliveryError                        an alert could not be delivered
└── RunError                           a run directory cannot be used
    ├── RunNotFoundError (FileNotFoundError)    there is no run there
    ├── RunExistsError (FileExistsError)        a run is there already, and was not asked to be resumed
    └── SchemaTooNewError                       it was written by a newer lldwatch
```

Each message is one line: what was wrong, where, and what to do.
"""


class LldwatchError(Exception):
    """The root of the tree: catch this to catch all of ours."""


class InputError(LldwatchError, ValueError):
    """An argument has the wrong shape, type or value."""


class ScoreError(LldwatchError):
    """The function that a probe was given to score responses raised: out of memory, say."""


class RanksError(LldwatchError):
    """The ranks of a distributed training do not answer each other, or rank 0 failed."""


class DeliveryError(LldwatchError):
    """An alert could not be delivered; a channel of your own may raise it as well. Its words hold no secret.

    Args:
        words: why.
        again: it may work later, and is tried again.
        wait_s: not before so many seconds; None: when lldwatch thinks fit.
    """

    def __init__(self, words: str, *, again: bool = False, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.again, self.wait_s = again, wait_s


class RunError(LldwatchError):
    """A run directory cannot be used."""


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run at this path."""


class RunExistsError(RunError, FileExistsError):
    """A run stands at this path already; it is never overwritten."""


class SchemaTooNewError(RunError):
    """The run was written by a newer lldwatch than this one."""
