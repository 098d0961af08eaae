from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lldwatch.matching import matching

NAMES = ["Qwen/seed-1", "qwen/seed-12", "<script>", "a(b", "ümlaut", "50%"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", NAMES),
        ("qwen", ["Qwen/seed-1", "qwen/seed-12"]),
        ("seed-1$", ["Qwen/seed-1"]),
        ("^a|%$", ["a(b", "50%"]),
        ("ÜML", ["ümlaut"]),
        ("<script>", ["<script>"]),
        ("no such", []),
    ],
)
def test_an_expression_is_looked_for_anywhere_in_upper_and_lower_case(pattern: str, found: list[str]) -> None:
    answers, expression = matching(NAMES, pattern)
    assert [name for name, wanted in zip(NAMES, answers, strict=True) if wanted] == found
    assert expression


@pytest.mark.parametrize("pattern", ["a(", "(?<=x)", "*", "[", "\\"])
def test_what_is_no_expression_is_looked_for_as_it_stands(pattern: str) -> None:
    answers, expression = matching([f"x{pattern.upper()}y", "other"], pattern)
    assert (answers, expression) == ([True, False], False)


def test_a_pattern_that_takes_others_forever_takes_no_time() -> None:
    assert matching(["a" * 200 + "!"] * 1000, "(a+)+$") == ([False] * 1000, True)


def test_a_file_name_that_is_no_text_can_be_looked_for() -> None:
    assert matching(["\udcff-run", "other"], "RUN") == ([True, False], False)


@given(st.lists(st.text()), st.text())
def test_there_is_an_answer_for_each_name_whatever_is_typed(names: list[str], pattern: str) -> None:
    assert len(matching(names, pattern)[0]) == len(names)


def test_pandas_is_not_imported_for_it() -> None:
    code = "import sys; from lldwatch.matching import matching; matching(['a'], 'a'); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
