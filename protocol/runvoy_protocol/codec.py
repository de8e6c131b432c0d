"""The one msgpack codec: capped before it decodes, canonical after.

Signed messages are array-like structs whose first element is the schema version. New fields come at the end, with
defaults. A message is canonical when re-encoding what was decoded gives the same bytes: then two parties that hold the
same message hold the same digest.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_DEPTH = 16
MAX_ENVELOPE_BYTES = 256 * 1024
MAX_BATCH_BYTES = 8 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder(order="deterministic")

M = TypeVar("M", bound=msgspec.Struct)


class _Versioned(msgspec.Struct, array_like=True):
    version: int


def work_out_types() -> int:
    """Have msgspec work out how to decode each of our messages that is imported by now; how many there are.

    **Call it before a second thread that decodes is started.** msgspec works a type out when it is first asked for it, and two
    threads that ask for one type at that moment bring the interpreter down (a segmentation fault, seen with msgspec 0.22 about
    once in forty starts of a client with six threads). It takes 3 ms, and next to nothing the second time.
    """
    waiting = list(msgspec.Struct.__subclasses__())
    count = 0
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("runvoy_"):
            msgspec.json.Decoder(kind)
            count += 1
    return count


def encode(message: msgspec.Struct) -> bytes:
    """Canonical msgpack: fields in order, map keys sorted."""
    return _encoder.encode(message)


def decode(
    raw: bytes,
    schemas: Mapping[int, type[M]],
    what: str,
    max_bytes: int = MAX_ENVELOPE_BYTES,
    *,
    max_items: int | None = None,
    max_depth: int = MAX_DEPTH,
) -> M:
    """Decode one canonical message of a known schema version.

    Raises RunvoyError: TOO_LARGE, or INVALID_REQUEST for anything that is not exactly one canonical message.
    `what` names the message in the error. `max_items` and `max_depth` are for messages whose shape is known better than
    their size.
    """
    if len(raw) > max_bytes:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"the {what} has {len(raw):,} bytes; at most {max_bytes:,} are allowed")
    check_shape(raw, what, max_items=max_items or max(1024, max_bytes // 8), max_depth=max_depth)
    try:
        version = msgspec.msgpack.decode(raw, type=_Versioned).version
    except msgspec.MsgspecError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the {what} is malformed: {error}") from error
    schema = schemas.get(version)
    if schema is None:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"the {what} has schema version {version}; this deployment knows {_listed(schemas)}",
            "The client is newer than the deployment: upgrade the deployment, or use an older client."
            if version > max(schemas)
            else "",
        )
    try:
        message = msgspec.msgpack.decode(raw, type=schema)
        # Encoded where its errors are caught as well: a time as text, such as 0001-01-01T00:00:00+23:59, can be decoded
        # although it is in no year that UTC has.
        is_canonical = encode(message) == raw
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the {what} is malformed: {error}") from error
    if not is_canonical:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the {what} is not in its canonical form")
    return message


def decode_base64url(text: str) -> bytes:
    """The bytes that `text` is the padded base64url of; ValueError for any other text.

    Python's decoder also takes + and /, and bits that no byte has: the same bytes would have many texts.
    """
    raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(raw).decode() != text:
        raise ValueError("this is not the base64url of its bytes")
    return raw


def _listed(schemas: Mapping[int, object]) -> str:
    return ", ".join(str(version) for version in sorted(schemas))


# Bytes a fixed-size msgpack item takes after its first byte, and the size of a length field, by first byte
# (https://github.com/msgpack/msgpack/blob/master/spec.md).
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xC0: 0, 0xC2: 0, 0xC3: 0}
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin and str
_EXT_LENGTH_BYTES = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_COUNT_BYTES = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # array and map


def check_shape(raw: bytes, what: str, max_items: int, max_depth: int = MAX_DEPTH) -> None:
    """Refuse msgpack that nests too deep or holds too many items, without decoding it.

    Needed before any decoder sees the bytes: a decoder recurses, and 100,000 nested arrays fit in 100 KB. Whether the
    bytes are otherwise well-formed is left to the decoder.
    """
    open_counts: list[int] = []  # items still expected in each container that is open
    position, items, size = 0, 0, len(raw)
    while position < size:
        items += 1
        if items > max_items:
            raise RunvoyError(ErrorCode.TOO_LARGE, f"the {what} holds more than {max_items:,} items")
        first = raw[position]
        position += 1
        children = 0
        if first <= 0x7F or first >= 0xE0:
            pass
        elif first <= 0x8F:
            children = 2 * (first & 0x0F)
        elif first <= 0x9F:
            children = first & 0x0F
        elif first <= 0xBF:
            position += first & 0x1F
        elif first in _LENGTH_BYTES:
            width = _LENGTH_BYTES[first]
            position += width + int.from_bytes(raw[position : position + width], "big")
        elif first in _EXT_LENGTH_BYTES:
            width = _EXT_LENGTH_BYTES[first]
            position += width + 1 + int.from_bytes(raw[position : position + width], "big")
        elif first in _COUNT_BYTES:
            width = _COUNT_BYTES[first]
            children = int.from_bytes(raw[position : position + width], "big") * (2 if first >= 0xDE else 1)
            position += width
        elif first in _FIXED:
            position += _FIXED[first]
        else:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the {what} is malformed: byte 0x{first:02x} starts no item")
        while open_counts and open_counts[-1] == 0:
            open_counts.pop()
        if open_counts:
            open_counts[-1] -= 1
        if children:
            open_counts.append(children)
            if len(open_counts) > max_depth:
                raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the {what} nests deeper than {max_depth} levels")
