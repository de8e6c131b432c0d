"""Where a run's output goes: bytes exactly as they were printed, or one JSON object a line."""

from __future__ import annotations

import sys
from typing import NamedTuple, TextIO

from runvoy_cli.terminal.render import print_json, written_whole
from runvoy_cli.terminal.sanitize import Sanitizer, one_line
from runvoy_cli.terminal.screen import Screen
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


class _Begun(NamedTuple):
    """A line whose end is yet to come, in the pieces in which it came: joined once, for a line may have many."""

    number: int
    time_ms: int
    stream: str
    pieces: list[bytes]

    def ended(self, last: bytes = b"") -> Line:
        self.pieces.append(last)
        return Line(self.number, self.time_ms, self.stream, b"".join(self.pieces))


class Lines:
    """Puts lines together from records, which cut them anywhere and mix streams."""

    def __init__(self) -> None:
        self._open: dict[str, _Begun] = {}

    def feed(self, record: LogRecord) -> list[Line]:
        """The lines that this record finishes."""
        found = []
        number = record.n
        pieces = record.data.split(b"\n")
        last = pieces.pop()
        for piece in pieces:
            found.append(self._ended(record, number, piece))
            number += 1
        if record.p:
            begun = self._open.setdefault(record.s, _Begun(number, record.t, record.s, []))
            begun.pieces.append(last)
        elif last or record.s in self._open:
            found.append(self._ended(record, number, last))  # a last line that never got its newline
        return found

    def has_begun(self, stream: str) -> bool:
        """Whether a line of the stream has begun and not ended."""
        return stream in self._open

    def rest(self) -> list[Line]:
        """Lines whose end never came, in their order."""
        lines = sorted(begun.ended() for begun in self._open.values())
        self._open.clear()
        return lines

    def _ended(self, record: LogRecord, number: int, piece: bytes) -> Line:
        begun = self._open.pop(record.s, None)
        return Line(number, record.t, record.s, piece) if begun is None else begun.ended(piece)


class Stream:
    """One stream of the log on one of our own, flushed at once; sanitized where that is a terminal."""

    def __init__(self, file: TextIO, screen: Screen) -> None:
        self._file = file.buffer
        self._name = "stderr" if file is sys.stderr else "stdout"
        self._screen = screen
        self._sanitizer = Sanitizer() if file.isatty() else None

    @property
    def is_terminal(self) -> bool:
        return self._sanitizer is not None

    def write(self, data: bytes) -> None:
        if self._sanitizer is None:
            with written_whole(self._name):
                self._file.write(data)
                self._file.flush()
        else:
            self._show(self._sanitizer.feed(data))

    def finish(self) -> None:
        """Leave the terminal in its own colours."""
        if self._sanitizer is not None:
            self._show(self._sanitizer.finish())

    def _show(self, data: bytes) -> None:
        if data and self._sanitizer is not None:
            self._screen.show(self._file, data, self._sanitizer)


class Split:
    """`out` to stdout, `err` to stderr, and runvoy's own words to stderr with a prefix."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._out = Stream(sys.stdout, screen)
        self._err = Stream(sys.stderr, screen)
        self.told = b""  # runvoy's own words so far, so that nobody says them twice

    def __call__(self, record: LogRecord) -> None:
        if record.s == "out":
            self._out.write(record.data)
        elif record.s == "err":
            self._err.write(record.data)
        else:
            self.told += record.data
            self._tell(prefixed(record.data))

    def finish(self) -> None:
        self._out.finish()
        self._err.finish()

    def _tell(self, lines: bytes) -> None:
        if self._err.is_terminal:
            text = lines.decode(errors="replace").removesuffix("\n")
            self._screen.write("".join(f"{one_line(line)}\n" for line in text.split("\n")))
        else:
            self._err.write(lines)


class Together:
    """All streams to stdout, in the order of the log; `is_raw` leaves out runvoy's own words."""

    def __init__(self, screen: Screen, is_raw: bool = False) -> None:
        # A stream each, for a sequence that one of them leaves open is not the other's to go on with.
        self._streams = {name: Stream(sys.stdout, screen) for name in ("out", "err", "sys")}
        self._is_raw = is_raw

    def __call__(self, record: LogRecord) -> None:
        self._write(record.s, record.data)

    def line(self, line: Line) -> None:
        self._write(line.stream, line.data + b"\n")

    def finish(self) -> None:
        for stream in self._streams.values():
            stream.finish()

    def _write(self, name: str, data: bytes) -> None:
        if name != "sys":
            self._streams[name].write(data)
        elif not self._is_raw:
            self._streams[name].write(prefixed(data))


class AsJson:
    """One JSON object for each line of the log: its number, time in ms, stream and text."""

    def __init__(self) -> None:
        self._lines = Lines()

    def __call__(self, record: LogRecord) -> None:
        for line in self._lines.feed(record):
            print_json(line.as_json())

    def line(self, line: Line) -> None:
        print_json(line.as_json())

    def finish(self) -> None:
        for line in self._lines.rest():
            print_json(line.as_json())


_PREFIX = b"runvoy: "


def prefixed(data: bytes) -> bytes:
    """runvoy's own words, marked as such; the runner marks them already."""
    return b"".join(_PREFIX + line.removeprefix(_PREFIX) + b"\n" for line in data.splitlines())
