"""The two forms of a log: log.txt, its lines as they were printed, and log.jsonl, its records as the protocol has them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from runvoy_cli.output import Line, Lines, prefixed
from runvoy_protocol.logs import LogRecord

_SHOWN_CHARACTERS = 200
_encode = msgspec.json.Encoder().encode


class Forms(NamedTuple):
    text: bytes
    json: bytes


class LogText:
    """Makes both forms of records as they come. `last_line` is the beginning of the last whole line."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.last_line = ""

    def feed(self, record: LogRecord) -> Forms:
        """The record, and the lines that it finishes. It is encoded anew, for what its chunk holds may be more than a record."""
        if record.b or record.p or not record.m or self._lines.has_begun(record.s):
            text = self._of_lines(self._lines.feed(record))
        else:
            text = self._of_block(record)
        return Forms(text, _encode(record) + b"\n")

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
