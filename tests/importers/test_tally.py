from __future__ import annotations

import pytest

from lldwatch.importers.tally import Tally, one_line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("as it was", "as it was"),
        ("first\nsecond\r\n third", "first second third"),
        ("red \x1b[31m text\x07", "red \N{REPLACEMENT CHARACTER}[31m text\N{REPLACEMENT CHARACTER}"),
        ("right \N{RIGHT-TO-LEFT OVERRIDE}left", "right \N{REPLACEMENT CHARACTER}left"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}", "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}"),
    ],
)
def test_the_words_of_a_log_cannot_move_the_cursor(words: str, expected: str) -> None:
    assert one_line(words) == expected
    tally = Tally()
    tally.note(words)
    tally.drop(words, words, 2)
    tally.drop(words, "elsewhere")
    assert tally.notes == [expected]
    assert tally.reasons == [f"3 x {expected} (first: {expected})"]


def test_nothing_left_out_is_not_counted() -> None:
    tally = Tally()
    tally.drop("row", "line 1", 0)
    assert tally.reasons == []
