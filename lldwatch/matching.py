"""Which names a pattern means that somebody types, or that stands in a link from somebody else.

The expressions are RE2's, in time linear to the names: no pattern can hold up the server. They know no lookaround and
no back-references; such a pattern is looked for as plain text, like any other that is no expression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def matching(names: Sequence[str], pattern: str) -> tuple[list[bool], bool]:
    """Which of the names hold the pattern somewhere, in upper or lower case.

    Args:
        names: of anything.
        pattern: a regular expression, or plain text; empty: all names.

    Returns:
        One answer a name; and whether the pattern is an expression (else it was looked for as it stands).
    """
    if not pattern:
        return [True] * len(names), True
    try:
        return pc.match_substring_regex(_strings(names), pattern, ignore_case=True).to_pylist(), True
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return [pattern.casefold() in name.casefold() for name in names], False


def _strings(texts: Sequence[str]) -> pa.Array:
    """From buffers: `pa.array` would import pandas, a second with the GIL held."""
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded], dtype=np.int64)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))
