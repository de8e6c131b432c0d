"""The two forms of a log: log.txt, its lines as they were printed, and log.jsonl, a JSON object for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from runvoy_cli.output import Line, Lines, prefixed
from runvoy_protocol.logs import LogRecord

_SHOWN_CHARACTERS = 200
_encode = msgspec.json.Encoder().encode

# What stands for a newline while many lines are encoded as one text: a character that the encoder leaves as it is, and hardly a log
# has. By the two characters of a newline's escape the interpreter would look for it many times as long.
_BREAK = "\x7f"

_TAIL = b'"}\n'  # of a line's object; the next one's head begins with it
_HEAD = _TAIL + b'{"n":%d'
_KEPT_HEADS = 50_000
_kept_heads: list[bytes] = []


class Forms(NamedTuple):
    text: bytes
    json: bytes


class LogText:
    """Makes both forms of records as they come. `last_line` is the beginning of the last whole line."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.last_line = ""

    def feed(self, record: LogRecord) -> Forms:
        """The lines that this record finishes."""
        if record.b or record.p or not record.m or self._lines.has_begun(record.s):
            return self._of_lines(self._lines.feed(record))
        return self._of_block(record)

    def rest(self) -> Forms:
        """Lines whose end never came."""
        return self._of_lines(self._lines.rest())

    def _of_block(self, record: LogRecord) -> Forms:
        """Whole lines of text, as nearly all records are: by joins and splits of the whole, for what is done to one line after
        the other takes several times as long."""
        text = record.m if record.m.endswith("\n") else record.m + "\n"
        data = text.encode()
        if _BREAK in text:
            encoded = [_encode(line)[1:-1] for line in text.split("\n")]
        else:
            encoded = _encode(text.replace("\n", _BREAK))[1:-1].split(_BREAK.encode())
        encoded.pop()
        # A list with all that stands between two texts, and then the heads and the texts in their places.
        parts = [b',"t":%d,"s":"%s","text":"' % (record.t, record.s.encode())] * (3 * len(encoded) + 1)
        parts[:-1:3] = _heads(record.n, len(encoded))
        parts[2::3] = encoded
        parts[-1] = _TAIL
        lines = b"".join(parts)
        self.last_line = text[text.rfind("\n", 0, -1) + 1 : -1][:_SHOWN_CHARACTERS]
        return Forms(prefixed(data) if record.s == "sys" else data, lines[len(_TAIL) :])

    def _of_lines(self, lines: list[Line]) -> Forms:
        if lines:
            self.last_line = lines[-1].data[:_SHOWN_CHARACTERS].decode(errors="replace")
        return Forms(
            b"".join(prefixed(line.data + b"\n") if line.stream == "sys" else line.data + b"\n" for line in lines),
            b"".join(_encode(line.as_json()) + b"\n" for line in lines),
        )


def _heads(first: int, count: int) -> Iterable[bytes]:
    """What stands between the texts of two lines, up to the number of the second, for lines from `first` on. Those of the first
    lines, which every log has, are kept."""
    end = first + count
    if end > _KEPT_HEADS:
        return map(_HEAD.__mod__, range(first, end))
    if len(_kept_heads) < end:
        # Another thread may do the same at this moment: so it is put there at once, and is longer or the same.
        made = [_HEAD % number for number in range(min(2 * end, _KEPT_HEADS))]
        if len(made) > len(_kept_heads):
            _kept_heads[:] = made
    return _kept_heads[first:end]
