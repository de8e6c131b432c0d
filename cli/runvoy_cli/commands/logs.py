"""`runvoy logs`: an execution's log, as it is or as it grows."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Protocol

import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.session import open_session
from runvoy_cli.following.follow import Follower
from runvoy_cli.following.logview import LogView
from runvoy_cli.following.output import AsJson, Line, Lines, Together
from runvoy_cli.following.progress import progress_of
from runvoy_cli.following.readers import StdoutReader
from runvoy_cli.input.options import Settings, new_app
from runvoy_cli.input.problems import GaveUp, UsageProblem
from runvoy_cli.input.values import moment
from runvoy_cli.terminal import github
from runvoy_cli.terminal.screen import Screen, has_colour, is_capable
from runvoy_protocol.exit_codes import EXIT_GAVE_UP
from runvoy_protocol.logs import LogRecord

TIMEOUT_HELP = "How long to wait for the log or follow it, then give up with 120.  [default: no limit]"
app = new_app()


@app.command(epilog="Example: runvoy logs --follow --tail 20 01890a5d-ac96-774b-bcce-b302099a8057")
def logs(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="ID", help=f"The execution: {short_ids.HELP}.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until the run has ended.")] = False,
    tail: Annotated[int | None, typer.Option(metavar="N", min=0, help="Begin with the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 10m (ago), or 2030-01-31T09:00:00Z.")
    ] = None,
    grep: Annotated[str | None, typer.Option(metavar="RE", help="Only lines that match this Python pattern.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The command's bytes alone, without runvoy's own words.")] = False,
) -> int:
    """Print an execution's log to stdout, all streams in the order they came.

    A run that has not begun is waited for. Without --follow it is then what is there. On a terminal each line has its
    number and time, and stderr's are marked; elsewhere it is the text exactly. With --json one object for each line: its
    number n, time t in ms since 1970, stream s (out, err, or sys for runvoy's own words) and text.
    """
    settings: Settings = context.obj
    written = short_ids.read(one)
    chosen = _Filter(since=_since(since), pattern=_pattern(grep))
    session = open_session(settings, calls_are_limited=False, begins=False)
    [wanted] = short_ids.resolve([written], session.client)
    limit = settings.timeout_seconds
    progress, live = progress_of(session)
    follower = Follower(
        session.client,
        wanted,
        deadline=None if limit is None else time.monotonic() + limit,
        on_status=progress.on_status,
    )
    sink = _sink(_printer(settings.json, raw, session.console.screen), chosen, tail)
    code = 0
    try:
        with StdoutReader(), github.output_of_others(), live:
            try:
                follower.await_start(
                    lambda: session.console.say(f"{wanted} has not begun; waiting for it"), sink.record
                )
                if tail is not None or not follow:
                    follower.read_now(sink.record)
                    sink.end_of_tail()
                if follow:
                    follower.follow(sink.record)
            finally:
                sink.finish()
    except GaveUp:
        session.console.say(f"{wanted} gave up waiting for its log; it goes on")
        code = EXIT_GAVE_UP
    if follow and code == 0 and not follower.log_is_whole:
        session.console.say("the end of the log is missing")
    return code


class _Filter:
    """Which lines are wanted."""

    def __init__(self, since: datetime | None, pattern: re.Pattern[str] | None) -> None:
        self._since_ms = since.timestamp() * 1000 if since is not None else None
        self._pattern = pattern

    @property
    def takes_all(self) -> bool:
        return self._since_ms is None and self._pattern is None

    def takes(self, line: Line) -> bool:
        if self._since_ms is not None and line.time_ms < self._since_ms:
            return False
        return self._pattern is None or self._pattern.search(line.data.decode(errors="replace")) is not None


class _Printer(Protocol):
    """Shows records as they come, or whole lines."""

    def __call__(self, record: LogRecord) -> None: ...
    def line(self, line: Line) -> None: ...
    def finish(self) -> None: ...


class _Exact:
    """Everything is wanted: records go through as they come, with unfinished lines too."""

    def __init__(self, printer: _Printer) -> None:
        self.record = printer
        self.finish = printer.finish

    def end_of_tail(self) -> None:
        return


class _ByLine:
    """Some lines are wanted, of those before `end_of_tail` the last `tail` only."""

    def __init__(self, chosen: _Filter, tail: int | None, printer: _Printer) -> None:
        self._chosen = chosen
        self._held: deque[Line] | None = None if tail is None else deque(maxlen=tail)
        self._lines = Lines()
        self._printer = printer

    def record(self, record: LogRecord) -> None:
        self._take(self._lines.feed(record))

    def end_of_tail(self) -> None:
        held, self._held = self._held, None
        for line in held or ():
            self._printer.line(line)

    def finish(self) -> None:
        self._take(self._lines.rest())
        self._printer.finish()

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if not self._chosen.takes(line):
                continue
            if self._held is not None:
                self._held.append(line)
            else:
                self._printer.line(line)


def _printer(as_json: bool, raw: bool, screen: Screen) -> _Printer:
    if as_json:
        return AsJson()
    if not raw and is_capable(sys.stdout):
        return LogView(screen, sys.stdout.buffer, has_colour(sys.stdout))
    return Together(screen, is_raw=raw)


def _sink(printer: _Printer, chosen: _Filter, tail: int | None) -> _Exact | _ByLine:
    return _Exact(printer) if chosen.takes_all and tail is None else _ByLine(chosen, tail, printer)


def _since(text: str | None) -> datetime | None:
    return None if text is None else moment(text, datetime.now(UTC))


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageProblem(
            f"--grep {text!r} is no Python pattern: {error}",
            "Put a backslash before characters that are meant literally.",
        ) from error
