"""The live rows for who waits: the state, since when, and who stands before this run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from runvoy_cli.deployment.client import Client
from runvoy_cli.terminal.render import span
from runvoy_cli.terminal.screen import Live, Row, Screen, cells
from runvoy_cli.terminal.words import short_lock_text
from runvoy_protocol import codec
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, LockStatus

if TYPE_CHECKING:
    from runvoy_cli.deployment.session import Session

POLL_SECONDS = 2.0
_CALL_SECONDS = 2.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_SPINNER = "|/-\\"

Look = Callable[[str], Sequence[LockStatus]]


class Progress:
    """What is known of the execution that is waited for now, as rows. `look` asks for its places in its locks' queues.

    It is told of by one thread and drawn by another, so each of its facts is replaced as a whole.
    """

    def __init__(self, screen: Screen, now: Callable[[], datetime], look: Look) -> None:
        self._screen = screen
        self._now = now
        self._look = look
        self._began = now()
        self._status: ExecutionStatus | None = None
        self._prefix = ""
        self._places: tuple[str, Sequence[LockStatus]] = ("", ())
        self._look_at = 0.0

    def begin(self, prefix: str = "") -> None:
        """Another execution is waited for; `prefix` says which one."""
        self._prefix, self._status, self._began = prefix, None, self._now()

    def on_status(self, status: ExecutionStatus) -> None:
        self._status = status

    def rows(self, number: int) -> list[Row]:
        """The rows of one drawing. While the run waits for locks this asks the deployment, every two seconds."""
        status = self._status
        locks = self._waiting_for(status)
        now = self._now()
        spinner = _SPINNER if self._screen.has_symbols else _PLAIN_SPINNER
        state = "" if status is None else status.state.value
        row = [
            (f"{spinner[number % len(spinner)]} ", "cyan"),
            (self._prefix, "dim"),
            (state or "submitted", "bold"),
            (f" {span((now - self._since(status)).total_seconds())}", ""),
        ]
        parts = [(lock.name, short_lock_text(lock, now)) for lock in locks]
        texts = [f"{name}: {text}" if text else name for name, text in parts]
        if texts:
            row.append(("  waits for ", "dim"))
            joined = "; ".join(texts)
            room = self._screen.live_columns() - sum(cells(text) for text, _ in row)
            if cells(joined) <= room:
                return [[*row, (joined, "")]]
            row.append(("lock" if len(texts) == 1 else f"{len(texts)} locks", "dim"))
            return [row, *([("  ", ""), (text, "")] for text in texts)]
        if status is not None and status.state in (State.QUEUED, State.STARTING):
            why = status.message or ("waits for room" if status.reason is Reason.CAPACITY else "")
            row.append((f"  {why}" if why else "", "dim"))
        return [row]

    def _since(self, status: ExecutionStatus | None) -> datetime:
        if status is None:
            return self._began
        return status.started_at or status.admitted_at

    def _waiting_for(self, status: ExecutionStatus | None) -> Sequence[LockStatus]:
        """The locks that stand between a queued execution and its start; empty if it waits for none."""
        if status is None or status.state is not State.QUEUED or status.reason is not Reason.LOCK:
            return ()
        if time.monotonic() >= self._look_at:
            self._places = (status.execution_id, self._look(status.execution_id))
            self._look_at = time.monotonic() + POLL_SECONDS
        execution_id, found = self._places
        locks = found if execution_id == status.execution_id and found else status.locks
        return [lock for lock in locks if lock.position != 0] or locks


def looking_with(client: Client) -> Look:
    """Look by calls of a connection of its own: the client itself is busy waiting. What fails is tried again later."""

    def look(execution_id: str) -> Sequence[LockStatus]:
        try:
            status = client.twin(_CALL_SECONDS).show(execution_id).status
        except RunvoyError:
            return ()
        return status.locks if status is not None else ()

    return look


def progress_of(session: Session) -> tuple[Progress, Live]:
    """The rows for a session's terminal, and what keeps them there while it is entered."""
    screen = session.console.screen
    if screen.is_rich:
        codec.work_out_types()  # the thread that draws looks, too
    progress = Progress(screen, session.client.now, looking_with(session.client))
    return progress, Live(screen, progress.rows)
