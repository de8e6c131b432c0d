"""Plain text for people. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from runvoy_cli.input.advice import in_options
from runvoy_cli.terminal.sanitize import json_text, one_line
from runvoy_cli.terminal.screen import Screen, cells, clip, screen_of
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.status import ExecutionStatus

if TYPE_CHECKING:
    from runvoy_cli.input.options import Settings

_GAP = "  "
_INDENT = "    "
_LEAST_CELLS = 24  # of a table's last column; with less one cannot tell a row's point


class Console:
    """stderr, and what of it is wanted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_chatty = settings.verbose or sys.stderr.isatty()
        self.screen = screen_of(settings.json)

    def say(self, text: str) -> None:
        """Always shown."""
        lines = [without_workflow_commands(one_line(line)) for line in text.splitlines() or [""]]
        self.screen.write("".join(f"runvoy: {line}\n" for line in lines))

    def hint(self, text: str) -> None:
        self.screen.write(without_workflow_commands(f"hint: {one_line(text)}") + "\n")

    def advise(self, text: str) -> None:
        """A hint, shown where a remark is."""
        if self.is_chatty:
            self.hint(text)

    def spelled(self, hint: str) -> str:
        """A hint in the words of the place where the request was written."""
        return in_options(hint) if self._settings.request_has_options else hint

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
        self.screen.write(f"debug: {one_line(text)}\n")


def without_workflow_commands(line: str) -> str:
    """A line of our own that may hold words of others, such that a runner of GitHub Actions finds no command in it (see
    github.py): neither the form that may stand anywhere nor the one that begins a line."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return line
    shown = line.replace("##[", "## [")
    return shown.replace("::", ": :", 1) if shown.lstrip().startswith("::") else shown


def _json_line(encoded: bytes) -> str:
    """JSON as one line, which means the same everywhere and is no command to a runner of GitHub Actions."""
    text = json_text(encoded)
    return text.replace("##[", "##\\u005b") if os.environ.get("GITHUB_ACTIONS") == "true" else text


def write_stderr(text: str) -> None:
    # A closed stderr is no reason to fail: there is nobody left to tell.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def print_line(text: str) -> None:
    """One line of data on stdout, at once: a reader behind a pipe waits for it."""
    with written_whole():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class NotWritten(RunvoyError):
    """stdout or stderr cannot be written, as when a disk is full. By then the command has done what it was asked to."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE,
            f"{name} cannot be written: {(error.strerror or str(error)).lower()}",
            "What the command was asked to do is done; look at what there is before you repeat it.",
        )
        self.retryable = False


@contextlib.contextmanager
def written_whole(name: str = "stdout") -> Iterator[None]:
    """Around writing to stdout or stderr: NotWritten for what is no reader that went away."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotWritten(name, error) from error


def print_json(value: object) -> None:
    """One JSON document on one line of stdout."""
    print_line(_json_line(msgspec.json.encode(value)))


def whole(value: object) -> object:
    """A message with all of its fields, those at their default too: what `--json` promises."""
    if isinstance(value, msgspec.Struct):
        return whole_fields(value)
    if isinstance(value, (tuple, list)):
        return [whole(one) for one in value]
    return value


def whole_fields(message: msgspec.Struct) -> dict[str, object]:
    """The same of one message, to add to."""
    return {name: whole(getattr(message, name)) for name in message.__struct_fields__}


def show_error(error: RunvoyError, as_json: bool, screen: Screen | None = None) -> None:
    """Tell of an error on stderr; `screen` if that may have live rows on it."""
    write = screen.write if screen is not None else write_stderr
    if as_json:
        write(_json_line(control.error_body(error)) + "\n")
        return
    first, *rest = error.message.splitlines() or [""]
    lines = [f"runvoy: {one_line(first)} ({error.code.value})", *map(one_line, rest)]
    if error.hint:
        lines.append(f"hint: {one_line(error.hint)}")
    write("".join(f"{without_workflow_commands(line)}\n" for line in lines))


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
    if at is None:
        return ""
    with contextlib.suppress(OverflowError):  # a time in no year that this zone has: it comes from outside
        at = at.astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S %z")


def short_id(execution_id: str) -> str:
    """Enough of an id to know it again. The beginning alone is its time: ids of one minute have it in common."""
    return f"{execution_id[:8]}…{execution_id[-4:]}"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], room: int | None = None) -> list[str]:
    """Lines of a table for `room` cells, by default the terminal's; 0, as without a terminal, is no bound.

    Where it is too narrow the last column is cut, the others never. Where hardly anything of it would be left, ids of executions
    are shown in short; and what does not fit then goes on in a line below, for it is mostly what a row is about.
    """
    table = [tuple(one_line(cell) for cell in row) for row in rows]
    room = _room() if room is None else room
    widths = _widths(header, table)
    if (
        room
        and _all_but_the_last(widths) + _LEAST_CELLS > room
        and any(_is_too_wide(row, widths, room) for row in table)
    ):
        table = [tuple(short_id(cell) if is_execution_id(cell) else cell for cell in row) for row in table]
        widths = _widths(header, table)
    lines = _fitted(header, widths, room)
    for row in table:
        lines.extend(without_workflow_commands(line) for line in _fitted(row, widths, room))
    return lines


def _widths(header: Sequence[str], table: Sequence[Sequence[str]]) -> list[int]:
    """Of each column but the last."""
    return [max(cells(row[index]) for row in (header, *table)) for index in range(len(header) - 1)]


def _all_but_the_last(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * len(widths)


def _is_too_wide(row: Sequence[str], widths: Sequence[int], room: int) -> bool:
    return cells(_row_text(row, widths)) > room


def _fitted(row: Sequence[str], widths: Sequence[int], room: int) -> list[str]:
    line = _row_text(row, widths)
    if not room or cells(line) <= room:
        return [line]
    ends = [sum(widths[:count]) + len(_GAP) * (count - 1) for count in range(1, len(widths) + 1)]
    if not ends or room - _all_but_the_last(widths) >= _LEAST_CELLS:
        return [clip(line, room)]
    kept = max(1, sum(end <= room for end in ends))
    rest = _GAP.join(filter(None, row[kept:]))
    return [_row_text(row[:kept], widths), _INDENT + clip(rest, max(room - len(_INDENT), 1))]


def _row_text(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cells(cell)) for cell, width in zip(row, widths, strict=False))
    return _GAP.join([*padded, *row[len(widths) :]]).rstrip()


def facts(pairs: Iterable[tuple[str, str]], room: int | None = None) -> list[str]:
    """Lines of `name  value`, without the empty ones, for `room` cells as in `columns`: what does not fit goes on below its value.

    A command is never broken, for it is copied.
    """
    present = [(name, one_line(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in present), default=0) + len(_GAP)
    room = _room() if room is None else room
    left = room - width if room - width >= _LEAST_CELLS else 0
    lines = []
    for name, value in present:
        pieces = [value] if not left or name == "command" else _broken(value, left)
        heads = (name if number == 0 else "" for number in range(len(pieces)))
        lines += [
            without_workflow_commands(f"{head.ljust(width)}{piece}") for head, piece in zip(heads, pieces, strict=True)
        ]
    return lines


def _room() -> int:
    """The terminal's columns; 0 where stdout is none."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0


def _broken(text: str, room: int) -> list[str]:
    """The text in lines of so many cells, broken between words: one that is longer, as an address, stays whole."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cells(lines[-1]) + 1 + cells(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def age(at: datetime, now: datetime | None = None) -> str:
    return span(((now or datetime.now(UTC)) - at).total_seconds())
