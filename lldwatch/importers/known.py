"""The formats that can be imported, the most telling first: where two would fit, the first one is taken."""

from __future__ import annotations

from lldwatch.errors import InputError
from lldwatch.importers import (
    areal,
    csv_table,
    jsonl,
    nemo_rl,
    nemo_train_data,
    notebook,
    openrlhf,
    parquet_table,
    prime_rl,
    prime_rl_tokens,
    slime,
    swift,
    swift_completions,
    tensorboard,
    trl_completions,
    trl_console,
    trl_state,
    verl_console,
    verl_file,
    verl_rollouts,
    wandb_csv,
    wandb_offline,
)
from lldwatch.importers.format import Format, RowsFormat

FORMATS: tuple[Format, ...] = (
    swift.FORMAT,
    trl_state.FORMAT,
    verl_file.FORMAT,
    prime_rl.FORMAT,
    nemo_rl.FORMAT,
    tensorboard.FORMAT,
    wandb_offline.FORMAT,
    wandb_csv.FORMAT,
    notebook.FORMAT,
    parquet_table.FORMAT,
    verl_console.FORMAT,
    openrlhf.FORMAT,
    slime.FORMAT,
    areal.FORMAT,
    trl_console.FORMAT,
    jsonl.FORMAT,
    csv_table.FORMAT,
)
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
