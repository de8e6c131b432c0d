"""Log chunks: gzip NDJSON, one record a line, a record being a block of one stream.

A record is `{n, t, s, m}`: the number of its first line (from 1), the time of its first byte in milliseconds since the
epoch, its stream, its text with every newline it had. `b` (base64) stands instead of `m` for bytes that are not UTF-8.
`p` says that its last line goes on in a later record of the same stream; that record's `n` is the same line's number,
and it holds nothing after that line's end. Concatenating one stream's records gives its bytes exactly. The last chunk
ends with a record that has `end: true`, whose `n` is one more than the number of lines.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec

from runvoy_protocol import gzip_streams
from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_CHUNK_BYTES = 32 * 1024 * 1024  # of one chunk, uncompressed; a runner closes a chunk at 4 MiB of output
MAX_LINE_NUMBER = 2**53 - 1  # what a browser reads exactly
# The last millisecond of the year 9998: a datetime ends with 9999, and a timeout or a zone may still be added to this.
MAX_TIME_MS = 253_370_764_799_999


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block of one stream; the module says what each field is."""

    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINE_NUMBER)]
    t: Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
    s: Literal["out", "err", "sys"]
    m: str = ""
    b: str = ""
    p: bool = False
    end: bool = False

    @property
    def data(self) -> bytes:
        """The record's bytes, exactly as they were printed."""
        return base64.b64decode(self.b) if self.b else self.m.encode()

    @property
    def text(self) -> str:
        """The record as text; what is not UTF-8 becomes U+FFFD."""
        return self.data.decode(errors="replace") if self.b else self.m


class _ExactRecord(LogRecord, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A record whose line holds what the schema knows, and nothing else."""


class Chunk(NamedTuple):
    """A chunk's records. `lines` is the text of those that hold something, whole lines that are JSON each; None if a line holds
    more than a record, for what is in a field that no schema knows need not even be JSON."""

    records: Sequence[LogRecord]
    lines: bytes | None


_Record = TypeVar("_Record", bound=LogRecord)

_decoder = msgspec.json.Decoder(LogRecord)
_exact_decoder = msgspec.json.Decoder(_ExactRecord)


def decode_chunk(raw: bytes) -> list[LogRecord]:
    """Decode one chunk; INVALID_REQUEST or TOO_LARGE if it is none, for its writer may be the command itself."""
    with _refusing_what_is_malformed():
        return list(_records(_inflated(raw), _decoder))


def read_chunk(raw: bytes) -> Chunk:
    """Decode one chunk for who keeps its text, too. Raises as `decode_chunk` does."""
    with _refusing_what_is_malformed():
        text = _inflated(raw)
        try:
            records = list(_records(text, _exact_decoder))
        # UnicodeDecodeError: msgspec wants to tell the name of such a field, which need not be UTF-8.
        except (msgspec.ValidationError, UnicodeDecodeError):
            return Chunk(list(_records(text, _decoder)), None)
        return Chunk(records, _lines_of(records, text))


def _lines_of(records: Sequence[LogRecord], text: bytes) -> bytes | None:
    """The text of exact records without those that hold nothing, as a log's last one does."""
    if b"\r" in text:
        return None  # white space to JSON, the end of a line to many that read lines
    holding = [record.m != "" or record.b != "" for record in records]
    if not all(holding[:-1]):
        return None
    if holding and not holding[-1]:
        return text[: text.rfind(b"\n", 0, -1) + 1]
    return text if text.endswith(b"\n") or not text else text + b"\n"


def claimed_size(raw: bytes) -> int:
    """How many bytes a chunk has uncompressed, by its last four (RFC 1952, ISIZE). Nobody has looked: it is a hint."""
    return int.from_bytes(raw[-4:], "little")


@contextmanager
def _refusing_what_is_malformed() -> Iterator[None]:
    try:
        yield
    # RecursionError: a field no schema knows may nest as deep as it likes.
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"a log chunk is malformed: {error}") from error


def _inflated(raw: bytes) -> bytes:
    from zlib_ng import zlib_ng  # loaded where logs are read: what runs commands never does

    return gzip_streams.unpack(raw, MAX_CHUNK_BYTES, "a log chunk", zlib_ng)


def _records(text: bytes, decoder: msgspec.json.Decoder[_Record]) -> Iterator[_Record]:
    for line in io.BytesIO(text):  # no list of all lines: 32 MiB of newlines would take ten times as much
        record = decoder.decode(line)
        if record.b:
            if record.m:
                raise ValueError("a record holds both text and bytes")
            base64.b64decode(record.b, validate=True)
        yield record
