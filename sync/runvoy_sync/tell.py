"""What the daemon says: plain lines on stderr, and on a terminal a live row for each running execution; with --json events on
stdout, one JSON object a line, in place of the lines."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from runvoy_cli.terminal.render import Console, command_text, print_json, short_id, span
from runvoy_cli.terminal.screen import Row
from runvoy_cli.terminal.words import result_json, summary
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.names import REQUEST_SUFFIXES

_MOST_REMEMBERED = 1_000


class Teller:
    """For all threads. A trouble that lasts is told once, and when it is over."""

    def __init__(self, console: Console, now: Callable[[], datetime], as_json: bool = False) -> None:
        self._console = console
        self._now = now
        self._as_json = as_json
        self._is_unread = False
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._live: dict[str, tuple[ExecutionStatus, str]] = {}
        self._began_at = now()
        self._places: dict[str, str] = {}  # of what was submitted here and has not ended
        self._earlier: Counter[str] = Counter()  # by state

    def say(self, text: str) -> None:
        """What no program has to know."""
        self._console.say(text)

    def submitted(self, place: str, execution_id: str, *, is_committed: bool = False) -> None:
        """A request file became an execution. `place` is relative to the folder."""
        with self._lock:
            if len(self._places) < _MOST_REMEMBERED:
                self._places[execution_id] = place
        self._tell(
            f"{place}{_of_the_commit(is_committed)} is submitted as {execution_id}",
            "submitted",
            file=_utf8(place),
            execution_id=execution_id,
        )

    def rejected(self, place: str, error: RunvoyError, *, is_committed: bool = False) -> None:
        """A request file is not right, or what it asked for was refused."""
        # What is wrong with a file names it in each of its lines, for they stand in a file of their own as well.
        message = error.message.replace(f"{place}, line ", "line ")
        self._tell(
            f"{place}{_of_the_commit(is_committed)} is rejected: " + message.replace("\n", f"\n{place}: "),
            "rejected",
            file=_utf8(place),
            code=error.code.value,
            message=_utf8(error.message),
            hint=_utf8(error.hint),
        )

    def ignored(self, place: str) -> None:
        """What lies in the inbox and is no request by its name."""
        self._tell(
            f"{place} is left alone: requests are called {', '.join(f'*{one}' for one in REQUEST_SUFFIXES)}",
            "ignored",
            file=_utf8(place),
        )

    def known(self, place: str, execution_id: str) -> None:
        """A committed request was submitted before, by another key or with another playbook."""
        text = "was submitted before, with another key or when its playbook was another; it is not run again"
        self._tell(f"{place} of the commit {text}", "known", file=_utf8(place), execution_id=execution_id)

    def over(self, status: ExecutionStatus, *, log_is_whole: bool) -> None:
        """An execution has ended, and its copy is there. Of one that had ended before the daemon began, and was not submitted
        by it, people are told in a number: see `caught_up`."""
        self.ended(status.execution_id)
        with self._lock:
            place = self._places.pop(status.execution_id, "")
            is_earlier = not place and status.ended_at is not None and status.ended_at < self._began_at
            if is_earlier:
                self._earlier[status.state.value] += 1
        text = summary(status, status.ended_at or status.admitted_at)
        known_as = place or status.name or ""
        text = f"{known_as}: {text}" if known_as else text
        if is_earlier and not self._as_json:
            self._console.detail(text)
        else:
            self._tell(text, "ended", **result_json(status), log_is_whole=log_is_whole)
        if not log_is_whole and not self._as_json:
            self.say(f"{status.execution_id}: its log never became whole; log.txt has what there is of it")

    def caught_up(self, *, is_whole: bool = True) -> None:
        """Tell, for people, how many that had ended before the daemon began were copied since this was called last."""
        with self._lock:
            earlier, self._earlier = self._earlier, Counter()
        if earlier.total() and not self._as_json:
            counts = ", ".join(f"{count:,} {state}" for state, count in sorted(earlier.items()))
            so_far = "" if is_whole else " in part, and the next start goes on"
            self.say(f"what had ended before is copied{so_far}: {counts}")

    def ended_before(self, result: Mapping[str, object]) -> None:
        """What was submitted had ended and is copied, by its result.json: an event alone, for people see the file move."""
        if self._as_json:
            self._print({"event": "ended", **result})

    def lost(self, execution_id: str, error: RunvoyError) -> None:
        """An execution can be read no more, and is copied no further."""
        self._tell(
            f"{execution_id} can be read no more: {error.message}",
            "lost",
            execution_id=execution_id,
            code=error.code.value,
            message=error.message,
        )

    def trouble(self, subject: str, error: RunvoyError | OSError | str) -> None:
        text = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {text}"
        with self._lock:
            if self._troubles.get(subject) == text or len(self._troubles) >= _MOST_REMEMBERED:
                return
            self._troubles[subject] = text
        self._tell(
            f"{subject}: {text}; it is tried again",
            "trouble",
            subject=_utf8(subject),
            message=_utf8(text),
            is_over=False,
        )

    def fine(self, subject: str) -> None:
        with self._lock:
            if self._troubles.pop(subject, None) is None:
                return
        self._tell(f"{subject}: it works again", "trouble", subject=_utf8(subject), message="", is_over=True)

    def forget(self, subject: str) -> None:
        """A trouble is over with its subject."""
        with self._lock:
            self._troubles.pop(subject, None)

    def _tell(self, text: str, event: str, **fields: object) -> None:
        if not self._as_json:
            self._console.say(text)
            return
        self._print({"event": event, **fields})

    def _print(self, document: dict[str, object]) -> None:
        with self._writing:
            if self._is_unread:
                return
            try:
                print_json(document)
            except BrokenPipeError:
                self._is_unread = True  # the main thread is told of it as well, and leaves
            except RunvoyError as error:  # a full disk, say: the folder is kept all the same
                self._is_unread = True
                self._console.say(f"{error.message}; from here on there are no events")

    def running(self, status: ExecutionStatus, last_line: str) -> None:
        with self._lock:
            self._live[status.execution_id] = (status, last_line)

    def ended(self, execution_id: str) -> None:
        with self._lock:
            self._live.pop(execution_id, None)

    def rows(self, _number: int) -> Sequence[Row]:
        with self._lock:
            live = list(self._live.values())
            earlier = self._earlier.total()
        room = max(shutil.get_terminal_size().lines - 2, 1)
        now = self._now()
        if earlier and not live:
            return [[(f"copying what had ended before: {earlier:,}", "dim")]]
        rows: list[Row] = [_row(status, last_line, now) for status, last_line in live[:room]]
        if len(live) > room:
            rows[-1] = [(f"and {len(live) - room + 1} more", "dim")]
        return rows


def _of_the_commit(is_committed: bool) -> str:
    return " of the commit" if is_committed else ""


def _utf8(text: str) -> str:
    """A file's name may hold bytes that are no text."""
    return text.encode(errors="replace").decode()


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
