"""A log's chunks as they were read: decoded, whatever their writer put there, and large ones one at a time."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

from runvoy_protocol import logs
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.logs import Chunk, LogRecord

_LARGE_BYTES = 8 * 1024 * 1024  # twice what a runner puts into a chunk
_large = threading.Lock()


def chunk_of(raw: bytes, number: int) -> Chunk:
    """A log's chunk, the first of which is number 1.

    Its writer may be the command itself: in the place of what cannot be read a record of runvoy's own tells about it.
    """
    try:
        return logs.read_chunk(raw)
    except RunvoyError as error:
        told = f"chunk {number} of the log cannot be read: {error.message}\n"
        return Chunk([LogRecord(n=0, t=0, s="sys", m=told)], None)


def one_large(raw: bytes) -> AbstractContextManager[object]:
    """To be entered while a chunk is decoded and used. Of those that hold much more than a runner puts into one, and take several
    times that in memory, one at a time is in use, by whatever threads."""
    return _large if logs.claimed_size(raw) > _LARGE_BYTES else nullcontext()
