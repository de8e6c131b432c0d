"""Where a run's output goes: bytes exactly as they were printed, or one JSON object a line."""

from __future__ import annotations

import sys
from typing import BinaryIO, NamedTuple

from runvoy_cli.render import TerminalFilter, print_json
from runvoy_protocol.logs import LogRecord


class Line(NamedTuple):
    """One line of the log, without its newline. `time_ms` is when its first byte came."""

    number: int
    time_ms: int
    stream: str
    data: bytes

    def as_json(self) -> dict[str, object]:
        return {
            "n": self.number,
            "t": self.time_ms,
            "s": self.stream,
            "text": self.data.decode(errors="replace"),
        }


class Lines:
    """Puts lines together from records, which cut them anywhere and mix streams."""

    def __init__(self) -> None:
        self._open: dict[str, Line] = {}

    def feed(self, record: LogRecord) -> list[Line]:
        """The lines that this record finishes."""
        found = []
        number = record.n
        pieces = record.data.split(b"\n")
        last = pieces.pop()
        for piece in pieces:
            found.append(self._joined(record, number, piece))
            number += 1
        if record.p:
            self._open[record.s] = self._joined(record, number, last)
        elif last or record.s in self._open:
            found.append(self._joined(record, number, last))  # a last line that never got its newline
        return found

    def rest(self) -> list[Line]:
        """Lines whose end never came, in their order."""
        lines = sorted(self._open.values())
        self._open.clear()
        return lines

    def _joined(self, record: LogRecord, number: int, piece: bytes) -> Line:
        begun = self._open.pop(record.s, None)
        if begun is not None:
            return begun._replace(data=begun.data + piece)
        return Line(number, record.t, record.s, piece)


class Stream:
    """One of our standard streams, flushed at once; sanitized where it is a terminal."""

    def __init__(self, file: BinaryIO, is_terminal: bool) -> None:
        self._file = file
        self._filter = TerminalFilter() if is_terminal else None

    def write(self, data: bytes) -> None:
        self._file.write(self._filter.feed(data) if self._filter else data)
        self._file.flush()


class Split:
    """`out` to stdout, `err` to stderr, and runvoy's own words to stderr with a prefix."""

    def __init__(self) -> None:
        self._out = Stream(sys.stdout.buffer, sys.stdout.isatty())
        self._err = Stream(sys.stderr.buffer, sys.stderr.isatty())
        self.told = b""  # runvoy's own words so far, so that nobody says them twice

    def __call__(self, record: LogRecord) -> None:
        if record.s == "out":
            self._out.write(record.data)
        elif record.s == "err":
            self._err.write(record.data)
        else:
            self.told += record.data
            self._err.write(prefixed(record.data))


class Together:
    """All streams to stdout, in the order of the log; `is_raw` leaves out runvoy's own words."""

    def __init__(self, is_raw: bool = False) -> None:
        self._out = Stream(sys.stdout.buffer, sys.stdout.isatty())
        self._is_raw = is_raw

    def __call__(self, record: LogRecord) -> None:
        if record.s != "sys":
            self._out.write(record.data)
        elif not self._is_raw:
            self._out.write(prefixed(record.data))

    def line(self, line: Line) -> None:
        if line.stream != "sys":
            self._out.write(line.data + b"\n")
        elif not self._is_raw:
            self._out.write(prefixed(line.data + b"\n"))


class AsJson:
    """One JSON object for each line of the log: its number, time in ms, stream and text."""

    def __init__(self) -> None:
        self._lines = Lines()

    def __call__(self, record: LogRecord) -> None:
        for line in self._lines.feed(record):
            print_json(line.as_json())

    def finish(self) -> None:
        for line in self._lines.rest():
            print_json(line.as_json())


_PREFIX = b"runvoy: "


def prefixed(data: bytes) -> bytes:
    """runvoy's own words, marked as such; the runner marks them already."""
    return b"".join(_PREFIX + line.removeprefix(_PREFIX) + b"\n" for line in data.splitlines())
