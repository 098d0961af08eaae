"""The report as a file: it stands alone, tells everything, and cannot be made to do anything."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_svg import WEIRD

from lldwatch import SIGNALS, Monitor, Observation, Run, RunInfo, Stage
from lldwatch.diagnosis import Verdict
from lldwatch.follow import Follower
from lldwatch.postmortem import DEEP, flat, in_words, llds_spans, milestones, moment, printable
from lldwatch.recorder import Recorder
from lldwatch.report import verdict, write_json
from lldwatch.reports.charts import panels
from lldwatch.reports.page import ROWS
from lldwatch.reports.report_html import write_html
from lldwatch.reports.report_markdown import plain, write_markdown
from lldwatch.schema import arrow_schema, observations_of

ROOT = Path(__file__).parent.parent
VOID = {"meta", "br", "img", "link", "hr", "input"}
HOSTILE = '"><script>alert(1)</script><img src=http://evil onerror=x> & \x00\x1b[31m \u202egnirts | `_*[a](b)'


class Page(HTMLParser):
    """Balanced tags, the attributes that could fetch something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.links.append((tag, value or ""))
            if name.startswith("on"):
                self.handlers.append(name)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data


def checked(text: str) -> Page:
    """A page that is whole and asks for nothing."""
    page = Page(text)
    assert page.open == []
    assert not page.seen & {"script", "iframe", "object", "embed", "link", "img", "form", "base"}
    assert page.links == []
    assert page.handlers == []
    assert "url(" not in text
    assert "@import" not in text
    text.encode("utf-8")
    return page


def followed(path: Path | str) -> Follower:
    follower = Follower(Run(path))
    follower.update()
    return follower


def html_of(follower: Follower, write: Callable[..., None] = write_html) -> str:
    out = io.StringIO()
    write(follower, out)
    return out.getvalue()


def record(path: Path, rows: list[Observation], **info: Any) -> Follower:
    recorder = Recorder(path, RunInfo(**info))
    for row in rows:
        recorder.record(row)
    recorder.close()
    return followed(path)


@pytest.mark.parametrize("name", ["healthy", "collapse", "collapse-with-llds"])
def test_a_sample_log_is_told_whole(name: str) -> None:
    follower = followed(ROOT / "sample_logs" / name)
    text = html_of(follower)
    page, diagnosis = checked(text), follower.diagnosis
    assert len(text) < 150_000
    assert f"<h1>{name}</h1>" in text
    assert verdict(diagnosis) in page.words
    for check in diagnosis.checks:
        assert check.reason in page.words
    for item in diagnosis.evidence:
        assert item.reference in page.words
    for line in diagnosis.advice:
        assert line in page.words
    drawn = [title.strip() for title in re.findall(r"<h4>([^<]*)<", text)]
    assert {"Reward", "Entropy", "Gradient norm before clipping"} <= {*drawn}
    assert "LLD, arXiv:2512.04220" in page.words
    assert "nats/token means" in page.words
    assert "KL from the reference policy" in page.words
    assert "updates_per_batch" in page.words
    assert ("LLDS on" in page.words) == (name == "collapse-with-llds")


def test_stages_are_named_with_their_steps() -> None:
    follower = followed(ROOT / "sample_logs" / "collapse")
    events = [{"step": 40, "kind": "resume", "detail": "from 39\nmore"}, {"step": 1, "kind": "probe", "detail": "x"}]
    told = [(step, what) for step, what, _ in milestones(follower.diagnosis, follower.observations, events)]
    expected = [(11, "decay"), (14, "first warning"), (14, "decay"), (32, "collapse"), (32, "collapse"), (40, "resume")]
    assert told == expected
    words = Page(html_of(follower)).words
    assert "step 11decaybegan, as estimated afterwards" in words.replace("\n", "")


def test_each_signal_stands_in_exactly_one_chart() -> None:
    placed = [name for group in panels().values() for panel in group for name in panel.signals]
    assert sorted(placed) == sorted(SIGNALS)


def test_nothing_of_a_run_is_taken_for_markup(run_dir: Path) -> None:
    path = run_dir.parent / "<b>evil&"
    config = {HOSTILE: HOSTILE, "half": "\ud800", "deep": {"a.b": [math.nan, HOSTILE]}, "long": "x" * 10_000}
    with Monitor(path, trainer=HOSTILE, config=config) as monitor:
        for _ in range(3):
            monitor.step(reward=0.5)
    follower = followed(path)
    follower.run.problems.append(HOSTILE)
    page = checked(html_of(follower))
    assert "<b>evil&" in page.words
    assert page.words.count('"><script>alert(1)</script>') >= 3
    assert "\x00" not in page.words
    assert "\u202e" not in page.words
    assert "(10,000 characters)" in page.words
    markdown = html_of(follower, write_markdown)
    markdown.encode("utf-8")
    assert "\x1b" not in markdown
    assert "<script" not in markdown.replace("\\<", "")
    assert "| `" not in markdown.replace("\\`", "")


def test_the_words_of_a_run_stay_in_their_cell_in_markdown() -> None:
    assert plain("a|b\nc `d` <e> [f](http://g)") == r"a\|b c \`d\` \<e\> \[f\](http\://g)"


@pytest.mark.parametrize("write", [write_html, write_markdown, write_json])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_of_hardly_a_step_is_no_mistake(run_dir: Path, steps: int, write: Callable[..., None]) -> None:
    text = html_of(record(run_dir, [Observation(step=step, reward=0.5) for step in range(steps)]), write)
    if write is write_html:
        page = checked(text)
        assert ("No step has been recorded yet." in page.words) == (steps == 0)


def test_a_run_without_run_json_says_so(run_dir: Path) -> None:
    record(run_dir, [Observation(step=step, reward=0.5) for step in range(5)])
    (run_dir / "run.json").unlink()
    words = checked(html_of(followed(run_dir))).words
    assert "Files that could not be used" in words
    assert "run.json is missing" in words
    assert "No configuration was recorded." in words


def test_a_resumed_run_is_told_as_one(run_dir: Path) -> None:
    for resumed, steps in ((False, range(1, 21)), (True, range(10, 31))):
        with Monitor(run_dir, resume=resumed) as monitor:
            for step in steps:
                monitor.step(step, reward=0.5)
    follower = followed(run_dir)
    words = checked(html_of(follower)).words
    assert len(follower.observations) == 30
    assert "resume" in words
    assert "attempts" in words


@given(st.lists(st.tuples(WEIRD | st.none(), WEIRD | st.none()), min_size=1, max_size=40), st.integers(1, 1000))
@settings(max_examples=25)
def test_any_numbers_are_told(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float | None, float | None]], apart: int
) -> None:
    seen = [Observation(step=place * apart, reward=one, grad_norm=two) for place, (one, two) in enumerate(rows)]
    follower = record(tmp_path_factory.mktemp("weird") / "run", seen)
    checked(html_of(follower))
    html_of(follower, write_markdown)
    told = json.loads(html_of(follower, write_json), parse_constant=pytest.fail)
    assert told["steps"] == len(rows)


def test_a_hundred_thousand_steps_fit_into_two_megabytes(run_dir: Path) -> None:
    follower = record(run_dir, [Observation(step=0)], config={f"key{place}": "v" * 900 for place in range(5000)})
    needed = {column for signal in SIGNALS.values() for column in signal.requires}
    step = np.arange(100_000)
    values = {"step": step, "updates": step} | dict.fromkeys(
        needed - {"updates"}, np.where(step % 7, np.sin(step), np.inf)
    )
    columns = [
        pa.array(values[field.name], field.type) if field.name in values else pa.nulls(100_000, field.type)
        for field in arrow_schema("steps")
    ]
    follower.observations = [*observations_of(pa.table(columns, schema=arrow_schema("steps")))]
    stages = list(Stage)
    follower.verdicts = [Verdict(place, stages[place % 4], None, None) for place in range(100_000)]
    follower.run.problems.extend(f"file {place}" for place in range(10_000))
    text = html_of(follower)
    checked(text)
    assert len(text.encode()) < 2_000_000
    assert text.count("<figure>") == sum(len(group) for group in panels().values())
    assert f"{5000 - ROWS:,} more, not shown" in text
    assert f"{10_000 - ROWS:,} more" in text


def test_the_json_has_the_configuration_and_the_signals_in_numbers() -> None:
    told = json.loads(html_of(followed(ROOT / "sample_logs" / "collapse"), write_json))
    assert told["config"]["updates_per_batch"] == 16
    assert told["signals"]["reward"]["last"] == pytest.approx(0.035)
    assert told["signals"]["reward"]["steps"] == 80
    assert {"kl": ["kl"], "rollout_kl": ["rollout_kl"]}.items() <= told["lacking"].items()
    assert told["lacking"].keys() | told["signals"].keys() | {"llds_coefficient"} == SIGNALS.keys()
    assert not told["lacking"].keys() & told["signals"].keys()
    assert told["onsets"] == {"stagnation": None, "decay": 11, "collapse": 32}
    assert [event["kind"] for event in told["events"]] == ["probe", "finish"]


def test_markdown_tells_the_same() -> None:
    text = html_of(followed(ROOT / "sample_logs" / "collapse"), write_markdown)
    assert text.startswith("# collapse\n\n**COLLAPSE. The run has collapsed (LLD death spiral)")
    assert "| 11 | decay | began, as estimated afterwards |" in text
    assert "| Reward |  | 0.57 | 0.035 | 0 | 0.6833 | 80 | 0 |" in text
    assert "| ○ skipped | kl | needs kl |" in text
    heads = re.findall(r"^\|(?:---\|)+$", text, re.M)
    assert len(heads) == 8


def test_settings_are_flattened_and_no_two_keys_fall_together() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "a.b": 2, "": 3, "f": {}}) == {
        "a.b": 1,
        "a.c.d": [1, {"e": 2}],
        '"a.b"': 2,
        '""': 3,
        "f": {},
    }
    deep: Any = "end"
    for _ in range(900):
        deep = {"k": [deep]}
    assert max(key.count(".") for key in flat({"deep": deep})) <= DEEP
    assert "nested too deeply" in in_words(deep)


def test_times_are_short_and_odd_ones_stay_as_they_are() -> None:
    assert moment("2026-01-31T12:00:00+02:00") == "2026-01-31 10:00 UTC"
    assert moment("yesterday") == "yesterday"
    assert moment(None) == ""


def test_llds_acts_in_stretches() -> None:
    coefficients = [None, 0.0, 1.0, 2.0, 0.0, None, 1.0]
    rows = [Observation(step=step, llds_coefficient=value) for step, value in enumerate(coefficients)]
    assert llds_spans(rows) == [(2, 3), (6, 6)]
    assert llds_spans([]) == []


def test_printable_text_has_no_control_characters() -> None:
    assert printable("a\x1b[2J\u202eb\ud800\tc\n") == "a\ufffd[2J\ufffdb?\tc\ufffd"
    assert printable("a\nb", lines=True) == "a\nb"
