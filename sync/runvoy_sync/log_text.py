"""The two forms of a log: log.txt, its lines as they were printed, and log.jsonl, its records as the protocol has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from runvoy_cli.following.output import Line, Lines, prefixed
from runvoy_protocol.logs import Chunk, LogRecord

_SHOWN_CHARACTERS = 200
_encode = msgspec.json.Encoder().encode


class Forms(NamedTuple):
    """`text` comes in pieces, to be written before the next is asked for; one is about as large as a record."""

    text: Iterator[bytes]
    json: bytes


class LogText:
    """Makes both forms of chunks as they come. `last_line` is the beginning of the last whole line."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.last_line = ""

    def feed(self, chunk: Chunk) -> Forms:
        """The chunk's records, and the lines that they finish. Records are encoded anew where their lines hold more."""
        json = chunk.lines
        if json is None:
            json = b"".join(_encode(record) + b"\n" for record in chunk.records if record.m or record.b)
        return Forms(self._text_of(chunk), json)

    def _text_of(self, chunk: Chunk) -> Iterator[bytes]:
        for record in chunk.records:
            if not record.m and not record.b:
                continue  # nothing was printed: it neither begins a line nor ends one
            if record.b or record.p or self._lines.has_begun(record.s):
                yield self._of_lines(self._lines.feed(record))
            else:
                yield self._of_block(record)

    def rest(self) -> bytes:
        """Lines whose end never came, as text."""
        return self._of_lines(self._lines.rest())

    def _of_block(self, record: LogRecord) -> bytes:
        """Whole lines of text, as nearly all records are: at once, for one line after the other takes several times as long."""
        text = record.m if record.m.endswith("\n") else record.m + "\n"
        self.last_line = text[text.rfind("\n", 0, -1) + 1 : -1][:_SHOWN_CHARACTERS]
        data = text.encode()
        return prefixed(data) if record.s == "sys" else data

    def _of_lines(self, lines: list[Line]) -> bytes:
        if lines:
            self.last_line = lines[-1].data[:_SHOWN_CHARACTERS].decode(errors="replace")
        return b"".join(prefixed(line.data + b"\n") if line.stream == "sys" else line.data + b"\n" for line in lines)
