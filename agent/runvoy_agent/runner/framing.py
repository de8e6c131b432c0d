"""Framing: bytes of two streams, as they arrive, to the records of a log (runvoy_protocol.logs documents the format).

Blocks, not lines: a block is scanned by bytes.count and rfind alone, so that the cost per line is nothing.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from json.encoder import encode_basestring

RECORD_BYTES = 64 * 1024
SPAN_MS = 100
_CONTINUATION = 0x80
_LONGEST_TAIL = 3
_COMMON = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"))  # the backslash first
_RARE = bytes(byte for byte in range(0x20) if byte not in b"\n\t\r")  # what else JSON wants escaped


class Framer:
    """Turns output into encoded records, one JSON line each.

    `emit` gets a record and the number of output bytes in it. One block is open at a time; `flush` closes it. A UTF-8
    sequence that a border would split is held back for the stream's next block.
    """

    def __init__(self, emit: Callable[[bytes, int], None]) -> None:
        self._emit = emit
        self._next_line = 1
        self._stream = ""
        self._time_ms = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._open_lines: dict[str, int] = {}  # the number of a stream's line that goes on
        self._held: dict[str, bytes] = {}

    @property
    def lines(self) -> int:
        """How many lines there are so far, those of closed blocks."""
        return self._next_line - 1

    @property
    def is_pending(self) -> bool:
        """Whether a block is open."""
        return self._size > 0

    def feed(self, stream: str, data: bytes, now_ms: int) -> None:
        """Take what one read gave."""
        if self._size and (stream != self._stream or not 0 <= now_ms - self._time_ms <= SPAN_MS):
            self.flush()
        for start in range(0, len(data), RECORD_BYTES):
            part = data[start : start + RECORD_BYTES]
            if not self._size:
                self._stream, self._time_ms = stream, now_ms
                part = self._held.pop(stream, b"") + part
            self._parts.append(part)
            self._size += len(part)
            while self._size >= RECORD_BYTES:
                self._cut(now_ms)

    def flush(self) -> None:
        """Close the open block."""
        block = b"".join(self._parts)
        self._parts, self._size = [], 0
        tail = _incomplete(block)
        if tail:
            self._held[self._stream] = block[-tail:]
            block = block[:-tail]
        self._write(block)

    def begun(self) -> list[str]:
        """The streams whose last line has no end yet, by its number. Closes the open block."""
        self.flush()
        begun = sorted(self._open_lines, key=self._open_lines.__getitem__)
        return begun + sorted(self._held.keys() - self._open_lines.keys())

    def end(self, now_ms: int) -> None:
        """Close everything and write the record that ends the log."""
        for stream in self.begun():
            self._stream, self._time_ms = stream, now_ms
            self._close_stream(self._held.pop(stream, b""))
        self._emit(b'{"n":%d,"t":%d,"s":"sys","end":true}\n' % (self._next_line, now_ms), 0)

    def _close_stream(self, held: bytes) -> None:
        """The rest of a stream's last line; empty if there is none, for an earlier record said that it goes on."""
        number = self._open_lines.pop(self._stream, None)
        if number is None:
            number = self._next_line
            self._next_line += 1
        self._record(number, held, goes_on=False)

    def _cut(self, now_ms: int) -> None:
        """Write the first RECORD_BYTES of the block, up to a line's end if there is one, else up to a whole character."""
        block = b"".join(self._parts)
        end = block.rfind(b"\n", 0, RECORD_BYTES) + 1
        if not end:
            end = RECORD_BYTES - _incomplete(block[RECORD_BYTES - _LONGEST_TAIL : RECORD_BYTES])
        self._write(block[:end])
        rest = block[end:]
        self._parts, self._size, self._time_ms = [rest] if rest else [], len(rest), now_ms

    def _write(self, block: bytes) -> None:
        """One record, or two where an open line ends within the block."""
        if not block:
            return
        number = self._open_lines.pop(self._stream, None)
        if number is not None:
            end = block.find(b"\n") + 1
            if not end:
                self._open_lines[self._stream] = number
                self._record(number, block, goes_on=True)
                return
            self._record(number, block[:end], goes_on=False)
            block = block[end:]
            if not block:
                return
        first = self._next_line
        self._next_line += block.count(b"\n")
        goes_on = not block.endswith(b"\n")
        if goes_on:
            self._open_lines[self._stream] = self._next_line
            self._next_line += 1
        self._record(first, block, goes_on)

    def _record(self, number: int, block: bytes, goes_on: bool) -> None:
        more = b',"p":true' if goes_on else b""
        head = b'{"n":%d,"t":%d,"s":"%s",' % (number, self._time_ms, self._stream.encode())
        self._emit(b"".join((head, _encoded(block), more, b"}\n")), len(block))


def _encoded(block: bytes) -> bytes:
    """The block as the record's `m`, or `b` if it is not UTF-8."""
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            return b'"b":"' + binascii.b2a_base64(block, newline=False) + b'"'
    if len(block.translate(None, _RARE)) != len(block):
        return b'"m":' + encode_basestring(block.decode()).encode()
    # Twice as fast as the json module, for what is nearly always there.
    for byte, escaped in _COMMON:
        block = block.replace(byte, escaped)
    return b'"m":"' + block + b'"'


def _incomplete(block: bytes) -> int:
    """How many bytes at the end begin a UTF-8 sequence that is not finished: 0 to 3."""
    for length in range(1, min(_LONGEST_TAIL, len(block)) + 1):
        byte = block[-length]
        if byte & 0xC0 == _CONTINUATION:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return length if needed > length and _may_go_on(block[-length:]) else 0
    return 0


def _may_go_on(tail: bytes) -> bool:
    try:
        tail.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
