"""Every exception that lldwatch raises on purpose.

```
LldwatchError
├── InputError (ValueError)              an argument has the wrong shape, type or value
├── ScoreError                           the function that a probe was given to score responses raised
├── RanksError                           the ranks of a distributed training do not answer each other
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


class RunError(LldwatchError):
    """A run directory cannot be used."""


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run at this path."""


class RunExistsError(RunError, FileExistsError):
    """A run stands at this path already; it is never overwritten."""


class SchemaTooNewError(RunError):
    """The run was written by a newer lldwatch than this one."""
