"""What a run's page hands out: the report, and the steps on screen for other tools."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lldwatch.exports import parquet_of
from lldwatch.follow import Follower
from lldwatch.reports.report_html import write_html
from lldwatch.run import Run
from lldwatch.schema import Observation
from lldwatch_dashboard.series import Span


def as_csv(observations: Sequence[Observation], span: Span | None = None) -> str:
    """One row a step, one column for each thing that was measured at least once; what was not measured is empty.

    Args:
        observations: of the run.
        span: first and last step; None: all of them.
    """
    low, high = span or (-float("inf"), float("inf"))
    rows = [seen.as_dict() for seen in observations if low <= seen.step <= high]
    names = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names or ["step"])
    writer.writerows([row[name] for name in names] for row in rows)
    return out.getvalue()


def as_html(path: Path, name: str) -> str:
    """The post-mortem of a run as one HTML document."""
    follower = Follower(Run(path))
    follower.update()
    out = io.StringIO()
    write_html(follower, out, name)
    return out.getvalue()


def sent(kind: str, path: Path, name: str, observations: Sequence[Observation], span: Span | None) -> dict[str, Any]:
    """A file as dash sends it to the browser.

    Args:
        kind: `html`, `csv` or `parquet`.
        path: of the run.
        name: of the run.
        observations: its steps.
        span: first and last step on screen; None: all of them. A report is always of the whole run.
    """
    file = f"{file_name(name, path)}.{kind}"
    if kind == "html":
        return {"content": as_html(path, name if name != "." else path.name), "filename": file, "type": "text/html"}
    if kind == "csv":
        return {"content": as_csv(observations, span), "filename": file, "type": "text/csv"}
    content = base64.b64encode(parquet_of(Run(path).steps(), span)).decode()
    return {"content": content, "filename": file, "type": "application/vnd.apache.parquet", "base64": True}


def file_name(name: str, path: Path) -> str:
    """A run's name as that of a file."""
    return re.sub(r"[^\w.-]+", "-", path.name if name == "." else name).strip("-.") or "run"
