"""What the daemon says: plain lines on stderr, and on a terminal a live row for each running execution."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from runvoy_cli.render import Console, command_text, span
from runvoy_cli.terminal import Row
from runvoy_cli.words import short_id
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.status import ExecutionStatus

_MOST_REMEMBERED = 1_000


class Teller:
    """For all threads. A trouble that lasts is told once, and when it is over."""

    def __init__(self, console: Console, now: Callable[[], datetime]) -> None:
        self._console = console
        self._now = now
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._live: dict[str, tuple[ExecutionStatus, str]] = {}

    def say(self, text: str) -> None:
        self._console.say(text)

    def trouble(self, subject: str, error: RunvoyError | OSError | str) -> None:
        text = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {text}"
        with self._lock:
            if self._troubles.get(subject) == text or len(self._troubles) >= _MOST_REMEMBERED:
                return
            self._troubles[subject] = text
        self._console.say(f"{subject}: {text}; it is tried again")

    def fine(self, subject: str) -> None:
        with self._lock:
            if self._troubles.pop(subject, None) is None:
                return
        self._console.say(f"{subject}: it works again")

    def forget(self, subject: str) -> None:
        """A trouble is over with its subject."""
        with self._lock:
            self._troubles.pop(subject, None)

    def running(self, status: ExecutionStatus, last_line: str) -> None:
        with self._lock:
            self._live[status.execution_id] = (status, last_line)

    def ended(self, execution_id: str) -> None:
        with self._lock:
            self._live.pop(execution_id, None)

    def rows(self, _number: int) -> Sequence[Row]:
        with self._lock:
            live = list(self._live.values())
        room = max(shutil.get_terminal_size().lines - 2, 1)
        now = self._now()
        rows = [_row(status, last_line, now) for status, last_line in live[:room]]
        if len(live) > room:
            rows[-1] = [(f"and {len(live) - room + 1} more", "dim")]
        return rows


def fault(error: Exception) -> RunvoyError:
    """An error that nobody foresaw, to be told about like others."""
    return RunvoyError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")


def _row(status: ExecutionStatus, last_line: str, now: datetime) -> Row:
    since = status.started_at or status.admitted_at
    name = status.name or command_text(status.command)
    return [
        (f"{short_id(status.execution_id)} ", "dim"),
        (status.state.value, "bold"),
        (f" {span((now - since).total_seconds())} ", ""),
        (name[:40], "cyan"),
        (f"  {last_line}", "dim"),
    ]
