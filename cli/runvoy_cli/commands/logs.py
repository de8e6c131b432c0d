"""`runvoy logs`: an execution's log, as it is or as it grows."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from runvoy_cli.follow import Follower
from runvoy_cli.options import Settings, new_app
from runvoy_cli.output import AsJson, Line, Lines, Together
from runvoy_cli.problems import GaveUp, UsageProblem
from runvoy_cli.render import print_json
from runvoy_cli.session import open_session
from runvoy_cli.values import execution_id, moment
from runvoy_protocol.logs import LogRecord
from runvoy_protocol.status import EXIT_GAVE_UP

TIMEOUT_HELP = "With --follow: how long to follow, then give up with 120.  [default: no limit]"
app = new_app()


@app.command(epilog="Example: runvoy logs --follow --tail 20 01890a5d-ac96-774b-bcce-b302099a8057")
def logs(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until the run has ended.")] = False,
    tail: Annotated[int | None, typer.Option(metavar="N", min=0, help="Begin with the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only lines since then: 10m (ago), or 2030-01-31T09:00:00Z.")
    ] = None,
    grep: Annotated[str | None, typer.Option(metavar="RE", help="Only lines that match this Python pattern.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The command's bytes alone, without runvoy's own words.")] = False,
) -> int:
    """Print an execution's log to stdout, all streams in the order they came.

    Without --follow it is what is there now. With --json one object for each line: its number n, time t in ms since
    1970, stream s (out, err, or sys for runvoy's own words) and text.
    """
    settings: Settings = context.obj
    wanted = execution_id(one)
    chosen = _Filter(since=_since(since), pattern=_pattern(grep))
    session = open_session(settings, calls_are_limited=False)
    limit = settings.timeout_seconds
    deadline = time.monotonic() + limit if follow and limit is not None else None
    follower = Follower(session.client, wanted, deadline=deadline)
    sink = _sink(settings.json, raw, chosen, tail)
    code = 0
    try:
        if tail is not None or not follow:
            status = follower.read_now(sink.record)
            sink.end_of_tail()
            if status is None and not follow:
                session.console.remark(f"{wanted} is not decided yet; --follow waits for it")
        if follow:
            follower.follow(sink.record)
    except GaveUp:
        session.console.say(f"{wanted} gave up following; it goes on")
        code = EXIT_GAVE_UP
    sink.finish()
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


class _Exact:
    """Everything is wanted: bytes go through as they come, unfinished lines too."""

    def __init__(self, record: Callable[[LogRecord], None], finish: Callable[[], None] = lambda: None) -> None:
        self.record = record
        self.finish = finish

    def end_of_tail(self) -> None:
        return


class _ByLine:
    """Some lines are wanted, of those before `end_of_tail` the last `tail` only."""

    def __init__(self, chosen: _Filter, tail: int | None, show: Callable[[Line], None]) -> None:
        self._chosen = chosen
        self._held: deque[Line] | None = None if tail is None else deque(maxlen=tail)
        self._lines = Lines()
        self._show = show

    def record(self, record: LogRecord) -> None:
        self._take(self._lines.feed(record))

    def end_of_tail(self) -> None:
        held, self._held = self._held, None
        for line in held or ():
            self._show(line)

    def finish(self) -> None:
        self._take(self._lines.rest())

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if not self._chosen.takes(line):
                continue
            if self._held is not None:
                self._held.append(line)
            else:
                self._show(line)


def _sink(as_json: bool, raw: bool, chosen: _Filter, tail: int | None) -> _Exact | _ByLine:
    if chosen.takes_all and tail is None:
        if as_json:
            lines = AsJson()
            return _Exact(lines, lines.finish)
        return _Exact(Together(is_raw=raw))
    if as_json:
        return _ByLine(chosen, tail, lambda line: print_json(line.as_json()))
    return _ByLine(chosen, tail, Together(is_raw=raw).line)


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
