"""Gzip streams that others made: unpacked whole and within a bound, or refused."""

from __future__ import annotations

import zlib
from types import ModuleType

from runvoy_protocol.errors import ErrorCode, RunvoyError

WINDOW_BITS = 31  # zlib's: the largest window, with gzip's header


def unpack(stream: bytes, max_bytes: int, what: str, library: ModuleType = zlib) -> bytes:
    """What a stream of one member holds, `max_bytes` at most; no more is ever made of it. `library` is zlib, or what does as it does.

    Raises INVALID_REQUEST for what is no gzip stream, is cut off, or goes on after its end, and TOO_LARGE for what holds more.
    `what` is the subject of their messages.
    """
    inflate = library.decompressobj(wbits=WINDOW_BITS)
    try:
        # One byte more than allowed tells a content of exactly the limit from a longer one.
        content: bytes = inflate.decompress(stream, max_bytes + 1)
    except library.error as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{what} is no gzip stream: {error}") from error
    if len(content) > max_bytes:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"{what} is over {max_bytes:,} bytes once it is unpacked")
    if not inflate.eof:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{what} is cut off")
    if inflate.unused_data:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{what} goes on after its end")
    return content
