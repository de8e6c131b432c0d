"""A job of GitHub Actions: groups around output, annotations of failures, the job's summary.

The runner obeys *workflow commands*: lines of a step's output that begin with `::`, or hold `##[`. What a command prints may
hold such lines, and nobody here answers for it. So while output of others may be shown, the runner is told to obey nothing
until a token comes that nobody can guess; and texts that go into a command of ours are escaped.

All of ours go to stderr, which the runner reads as well: stdout stays data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runvoy_cli.terminal.render import write_stderr
from runvoy_cli.terminal.sanitize import one_line

MAX_ANNOTATIONS = 10  # as many of a step as GitHub shows
MAX_ROWS = 200
_SETTLE_SECONDS = 0.1
"""The runner reads stdout and stderr by two threads: what is to be obeyed first is written well before."""


class Row(NamedTuple):
    """One execution in the job's summary."""

    execution_id: str
    state: str
    exit_code: int
    duration: str = ""
    what: str = ""


def is_active(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a step of a job of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


@contextmanager
def output_of_others(title: str = "") -> Iterator[None]:
    """While it is entered, nothing that is printed is obeyed; with a title it is a group that folds."""
    if not is_active():
        yield
        return
    token = os.urandom(16).hex()
    begin = f"::group::{_data(title)}\n" if title else ""
    write_stderr(f"{begin}::stop-commands::{token}\n")
    time.sleep(_SETTLE_SECONDS)
    try:
        yield
    finally:
        time.sleep(_SETTLE_SECONDS)
        # A line of its own, whatever stands there without its end.
        write_stderr(f"\n::{token}::\n" + ("::endgroup::\n" if title else ""))


def annotate(title: str, message: str) -> None:
    """Mark the step with an error."""
    if is_active():
        write_stderr(f"::error title={_property(title)}::{_data(message)}\n")


def summarize(rows: Sequence[Row], environ: Mapping[str, str] = os.environ) -> str:
    """Add a table to the job's summary, where there is one; why that failed, if it did."""
    place = environ.get("GITHUB_STEP_SUMMARY")
    if not is_active(environ) or not place or not rows:
        return ""
    failed = sum(1 for row in rows if row.exit_code)
    lines = [
        f"### runvoy: {len(rows):,} execution{'s' if len(rows) != 1 else ''}, {failed:,} failed",
        "",
        "| | execution | state | exit code | ran | |",
        "|---|---|---|---|---|---|",
    ]
    # Failures first: they are looked for, and there is no room for thousands.
    shown = sorted(rows, key=lambda row: row.exit_code == 0)[:MAX_ROWS]
    for row in shown:
        mark = "❌" if row.exit_code else "✅"
        cells = (mark, f"`{row.execution_id}`", row.state, str(row.exit_code), row.duration, _cell(row.what))
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > len(shown):
        lines.append(f"\nand {len(rows) - len(shown):,} more")
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        return f"the job's summary cannot be written: {(error.strerror or str(error)).lower()}"
    return ""


def _data(text: str) -> str:
    """As the runner's own toolkit escapes it (actions/toolkit, command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace("##[", "## [")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """A text as a table's cell of Markdown, with no mark-up in it."""
    shown = one_line(" ".join(text.split()))[:200]
    return "".join(f"&#{ord(char)};" if char in "&<>|`*_[]\\~!#@" else char for char in shown)
