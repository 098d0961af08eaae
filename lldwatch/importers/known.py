"""The formats that can be imported, the most telling first: where two would fit, the first one is taken."""

from __future__ import annotations

from lldwatch.errors import InputError
from lldwatch.importers import (
    nemo_train_data,
    prime_rl_tokens,
    swift_completions,
    trl_completions,
    trl_state,
    verl_rollouts,
)
from lldwatch.importers.format import Format, RowsFormat

FORMATS: tuple[Format, ...] = (trl_state.FORMAT,)
ROWS_FORMATS: tuple[RowsFormat, ...] = (
    nemo_train_data.FORMAT,
    prime_rl_tokens.FORMAT,
    trl_completions.FORMAT,
    swift_completions.FORMAT,
    verl_rollouts.FORMAT,
)


_ALL: tuple[Format | RowsFormat, ...] = (*FORMATS, *ROWS_FORMATS)


def by_name(name: str) -> Format | RowsFormat:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    for fmt in _ALL:
        if fmt.name == name:
            return fmt
    raise InputError(f"{name} is not a format: give auto or one of {', '.join(names())}")


def names() -> list[str]:
    """Of all formats, as on the command line."""
    return [fmt.name for fmt in _ALL]


def titles() -> dict[str, str]:
    """Name -> title of all formats."""
    return {fmt.name: fmt.title for fmt in _ALL}
