"""A progress bar for long files: tqdm's, if it is installed and somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lldwatch.importers.source import Source

_LARGE = 20 * 1024**2


@contextmanager
def progress_of(source: Source, wanted: bool = True) -> Iterator[None]:
    """Show how much of a source has been read; nothing for small files, pipes, or where no terminal is.

    Args:
        source: whose reading is shown.
        wanted: False shows nothing.
    """
    size = source.size
    if not (wanted and sys.stderr.isatty()) or size is None or size < _LARGE:
        yield
        return
    try:
        from tqdm import tqdm
    except ImportError:
        sys.stderr.write(f"lldwatch: reading {source.name}, {size / 1024**2:,.0f} MiB (a bar needs tqdm)\n")
        yield
        return
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=source.name[-40:]) as bar:
        source.progress = bar.update
        yield
