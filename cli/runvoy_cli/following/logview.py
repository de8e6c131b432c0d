"""A log on a terminal: each line with its number and its time; lines of stderr and runvoy's own are marked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import BinaryIO, NamedTuple

from runvoy_cli.following.output import Line
from runvoy_cli.terminal.sanitize import RESET, Sanitizer
from runvoy_cli.terminal.screen import STYLES, Screen
from runvoy_protocol.logs import LogRecord

_NUMBER_WIDTH = 5
_TIME_WIDTH = len("12:00:00.000")
_MARGIN = " " * (_NUMBER_WIDTH + 2 + _TIME_WIDTH + 3)  # before what goes on a line of the log


class _Mark(NamedTuple):
    sign: str
    style: str


_MARKS: Mapping[str, _Mark] = {"out": _Mark(" ", ""), "err": _Mark("!", "red"), "sys": _Mark("*", "yellow")}


class LogView:
    """Prints records on `file` as `line  time (UTC)  message`, a line's beginning as soon as it is there.

    A line that another stream cuts into is gone on with under its own number, after an ellipsis. What comes after a return
    stands below, without a number.
    """

    def __init__(self, screen: Screen, file: BinaryIO, has_colour: bool) -> None:
        self._screen = screen
        self._file = file
        self._has_colour = has_colour
        self._sanitizers = {name: Sanitizer() for name in _MARKS}
        self._begun: dict[str, int] = {}  # stream: the line of it that has begun and not ended
        self._standing: str | None = None  # the stream in whose line the cursor stands
        self._has_header = False

    def __call__(self, record: LogRecord) -> None:
        pieces = record.data.split(b"\n")
        last = pieces.pop()
        for index, piece in enumerate(pieces):
            self._piece(record.s, record.n + index, record.t, piece, ends=True)
        if last or record.p:
            self._piece(record.s, record.n + len(pieces), record.t, last, ends=not record.p)

    def line(self, line: Line) -> None:
        self._piece(line.stream, line.number, line.time_ms, line.data, ends=True)

    def finish(self) -> None:
        for name, sanitizer in self._sanitizers.items():
            self._write(sanitizer.finish(), name)
        if self._standing is not None:
            self._write(b"\n", self._standing)
            self._standing = None

    def _piece(self, stream: str, number: int, time_ms: int, data: bytes, ends: bool) -> None:
        """A part of one line; the whole of it or its last one if it `ends` there."""
        sanitizer = self._sanitizers[stream]
        style = sanitizer.style
        goes_on = self._begun.get(stream) == number
        shown = sanitizer.feed(data + b"\n" if ends else data)
        text = shown.removesuffix(b"\n") if ends else shown
        if not ends and not text:
            return
        text = text.replace(b"\n", f"\n{_MARGIN}".encode())
        gutter = ""
        if self._standing != stream or not goes_on:
            gutter = self._broken_off() + self._gutter(stream, number, time_ms, goes_on)
            gutter += style  # a colour that is on since an earlier line
        end = (RESET if sanitizer.style else "") + "\n" if ends else ""
        self._standing = None if ends else stream
        if ends:
            self._begun.pop(stream, None)
        else:
            self._begun[stream] = number
        self._write(gutter.encode() + text + end.encode(), stream)

    def _broken_off(self) -> str:
        """The end of the line in which the cursor stands, if it stands in one."""
        if self._standing is None:
            return ""
        return (RESET if self._sanitizers[self._standing].style else "") + "\n"

    def _gutter(self, stream: str, number: int, time_ms: int, goes_on: bool) -> str:
        header = ""
        if not self._has_header:
            self._has_header = True
            header = self._paint(f"{'line':>{_NUMBER_WIDTH}}  {'time (UTC)':<{_TIME_WIDTH}}   message", "dim") + "\n"
        at = datetime.fromtimestamp(time_ms / 1000, UTC)
        mark = _MARKS[stream]
        time = f"{at:%H:%M:%S}.{time_ms % 1000:03d}"
        before = self._paint(f"{number:>{_NUMBER_WIDTH}}  {time}", mark.style or "dim")
        dots = self._paint("…", "dim") if goes_on else ""
        return f"{header}{before} {self._paint(mark.sign, mark.style)} {dots}"

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}{RESET}" if style and self._has_colour else text

    def _write(self, data: bytes, stream: str) -> None:
        if data:
            self._screen.show(self._file, data, self._sanitizers[stream])
