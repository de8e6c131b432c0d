"""Plain text for people. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from runvoy_protocol import control
from runvoy_protocol.status import EXIT_CODES_OF_RUNVOY, ExecutionStatus, decided_by, exit_code_of

if TYPE_CHECKING:
    from runvoy_cli.options import Settings
    from runvoy_protocol.errors import RunvoyError

_STOP = "\x1b\\"
_SEQUENCE = re.compile(
    rb"\x1b\[[0-9;:]*m"  # SGR, colours: group 0 begins with it and is kept
    rb"|\x1b\[[0-?]*[ -/]*[@-~]"  # any other CSI
    rb"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM, APC, to their end
    rb"|\x1b[ -/]*[0-~]"  # two characters, or with intermediates
    rb"|\xc2[\x80-\x9f]"  # C1 in UTF-8
    rb"|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f]"  # C0 without tab, newline, return and backspace
)
_SGR = re.compile(rb"\x1b\[[0-9;:]*m\Z")
_UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x9c]*\x1b?|[ -/]*)|\xc2)\Z")
_LONGEST_SEQUENCE = 4096


class TerminalFilter:
    """Takes escape sequences other than colours out of a stream on its way to a terminal, across its pieces."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        self._held = b""
        unfinished = _UNFINISHED.search(data)
        if unfinished is not None and len(data) - unfinished.start() <= _LONGEST_SEQUENCE:
            self._held = data[unfinished.start() :]
            data = data[: unfinished.start()]
        return _SEQUENCE.sub(lambda match: match.group() if _SGR.match(match.group()) else b"", data)


def printable(text: str) -> str:
    """One line that is safe on a terminal: what does not print is shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Console:
    """stderr, and what of it is wanted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_chatty = settings.verbose or sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Always shown."""
        for line in text.splitlines() or [""]:
            write_stderr(f"runvoy: {printable(line)}\n")

    def remark(self, text: str) -> None:
        """Shown to people: on a terminal or with --verbose; a script's stderr stays the command's own."""
        if self.is_chatty:
            self.say(text)

    def detail(self, text: str) -> None:
        """Shown with --verbose."""
        if self._settings.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        self.say(text)

    def trace(self, text: str) -> None:
        write_stderr(f"debug: {printable(text)}\n")


def write_stderr(text: str) -> None:
    # A closed stderr is no reason to fail: there is nobody left to tell.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def print_line(text: str) -> None:
    """One line of data on stdout, at once: a reader behind a pipe waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """One JSON document on one line of stdout."""
    print_line(msgspec.json.encode(value).decode())


def show_error(error: RunvoyError, as_json: bool) -> None:
    if as_json:
        write_stderr(control.error_body(error).decode() + "\n")
        return
    first, *rest = error.message.splitlines() or [""]
    write_stderr(f"runvoy: {printable(first)} ({error.code.value})\n")
    for line in rest:
        write_stderr(f"{printable(line)}\n")
    if error.hint:
        write_stderr(f"hint: {printable(error.hint)}\n")


def result_json(status: ExecutionStatus, exit_code: int | None = None) -> dict[str, object]:
    """What programs want to know of an execution that was waited for."""
    return {
        "execution_id": status.execution_id,
        "state": status.state.value,
        "exit_code": exit_code_of(status) if exit_code is None else exit_code,
        "decided_by": decided_by(status) if exit_code is None else "runvoy",
        "status": status,
    }


def command_text(command: tuple[str, ...] | str) -> str:
    """The command as one would type it."""
    if isinstance(command, str):
        return command
    import shlex

    return shlex.join(command)


def span(seconds: float) -> str:
    """A duration in few characters: 0.42s, 12s, 3m05s, 2h10m, 4d03h."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    whole = int(seconds)
    for size, unit, smaller, smaller_unit in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02d}{smaller_unit}"
    return f"{whole}s"


def ran_for(status: ExecutionStatus, now: datetime) -> str:
    if status.started_at is None:
        return ""
    return span(((status.ended_at or now) - status.started_at).total_seconds())


def moment(at: datetime | None) -> str:
    """A time in this machine's zone, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if at else ""


def summary(status: ExecutionStatus, now: datetime) -> str:
    """One line: what became of an execution."""
    code = exit_code_of(status)
    meaning = "" if decided_by(status) == "command" else f" ({EXIT_CODES_OF_RUNVOY.get(code, '')})"
    duration = ran_for(status, now)
    text = f"{status.execution_id} {status.state.value}, exit code {code}{meaning}"
    return text + (f", {duration}" if duration else "") + (f": {status.message}" if status.message else "")


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the last column is cut to the terminal's width where there is one."""
    table = [tuple(header), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(header) - 1)]
    room = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    lines = []
    for row in table:
        line = "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        lines.append(line if not room or len(line) <= room else line[: max(room - 1, 1)] + "…")
    return lines


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of `name  value`, without the empty ones."""
    present = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in present), default=0)
    return [f"{name.ljust(width)}  {printable(value)}" for name, value in present]


def age(at: datetime, now: datetime | None = None) -> str:
    return span(((now or datetime.now(UTC)) - at).total_seconds())
