"""The way of the output: read → mask → frame → chunk → shipper.

Chunks close when the shipper's delay has passed since their first byte, or at 4 MiB of output. When the shipper is full
the output is dropped, counted and reported as a visible line: never lost in silence, and never a command that hangs
because a disk is full. So is what comes after `max_bytes` of output, for a command that prints for ever fills what all share.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

from runvoy_agent.runner.framing import Framer
from runvoy_agent.runner.shipping import Shipper

CHUNK_BYTES = 4 * 1024 * 1024
_CHUNK_ENCODED_BYTES = 16 * 1024 * 1024  # many tiny records weigh more than their output; readers accept 32 MiB
_POSTPONE_SECONDS = 0.1
_GZIP = 31  # zlib's window bits for a gzip wrapper
_FASTEST = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Kind = TypeVar("Kind", bound="Output")

Filter = Callable[[str, bytes], bytes]
"""Sees every read of a stream, and b"" at its end; returns what may be shown of what it saw so far. What comes after a
stream's end begins it anew."""


def unfiltered(_stream: str, data: bytes) -> bytes:
    """The filter that shows everything."""
    return data


class Output:
    """Takes what was read and ships it. Call `tick` when `due` comes, `end` once after the last byte."""

    def __init__(self, shipper: Shipper, shown: Filter = unfiltered, max_bytes: int = 0) -> None:
        """`max_bytes`: so much of the output is kept, to the byte; 0 is all of it. runvoy's own words are not counted, nor the ends of
        the lines that are cut there."""
        self._shipper = shipper
        self._filter = shown
        self._framer = Framer(self._add)
        self._gzip = _new_gzip()
        self._encoded: list[bytes] = []
        self._encoded_bytes = 0
        self._chunk_bytes = 0
        self._lost_now = 0
        self._max_bytes = max_bytes
        self._kept_bytes = 0
        self._beyond_bytes = 0
        self.chunks = 0
        self.lost_bytes = 0
        self.due: float | None = None

    @property
    def lines(self) -> int:
        """How many lines the log has; exact after `end`."""
        return self._framer.lines

    def feed(self, stream: str, data: bytes) -> None:
        shown = self._filter(stream, data)
        if not shown:
            return
        if self._shipper.is_full:
            self._lost_now += len(shown)
            self.lost_bytes += len(shown)
            return
        self._report_loss()
        self._frame_kept(stream, shown)

    def note(self, text: str) -> None:
        """A line of runvoy's own in the log."""
        self._frame("sys", f"runvoy: {self.showable(text)}\n".encode("utf-8", "replace"))

    def showable(self, text: str) -> str:
        """What the filter lets pass of a text of runvoy's own, which may quote the command line."""
        data = self._filter("sys", text.encode("utf-8", "replace")) + self._filter("sys", b"")
        return data.decode("utf-8", "replace")

    def tick(self, now: float) -> None:
        if self.due is not None and now >= self.due:
            if self._shipper.is_behind:
                self.due = now + _POSTPONE_SECONDS
                return
            self._framer.flush()
            self._close_chunk()
            self.due = None

    def end(self) -> None:
        """Ship the rest, with the record that ends the log: there is always a last chunk."""
        for stream in ("out", "err"):
            self.feed(stream, b"")
        self._report_loss()
        if self._beyond_bytes:
            self.note(f"{self._beyond_bytes:,} bytes of output were lost: a log keeps {self._max_bytes:,} here")
        self._framer.end(_now_ms())
        self._close_chunk()

    def _report_loss(self) -> None:
        if self._lost_now:
            lost, self._lost_now = self._lost_now, 0
            self.note(f"{lost:,} bytes of output were lost: {self._shipper.failure}")

    def _frame_kept(self, stream: str, shown: bytes) -> None:
        """Frame as much of it as the log may keep yet. That the rest is lost is said when it begins, and how much at the end."""
        kept = shown if not self._max_bytes else shown[: self._max_bytes - self._kept_bytes]
        self._kept_bytes += len(kept)
        if kept:
            self._frame(stream, kept)
        beyond = len(shown) - len(kept)
        if not beyond:
            return
        if not self._beyond_bytes:
            for begun in self._framer.begun():  # else whoever puts lines together shows them behind what follows
                self._frame(begun, b"\n")
            self.note(f"the log is full: it keeps {self._max_bytes:,} bytes of output here, and the rest is lost")
        self._beyond_bytes += beyond
        self.lost_bytes += beyond

    def _frame(self, stream: str, data: bytes) -> None:
        self._framer.feed(stream, data, _now_ms())
        if self.due is None:
            self.due = time.monotonic() + self._shipper.delay_seconds()

    def _add(self, record: bytes, size: int) -> None:
        self._encoded.append(self._gzip.compress(record))
        self._encoded_bytes += len(record)
        self._chunk_bytes += size
        if self._chunk_bytes >= CHUNK_BYTES or self._encoded_bytes >= _CHUNK_ENCODED_BYTES:
            self._close_chunk()

    def _close_chunk(self) -> None:
        self.due = None
        if not self._encoded_bytes:
            return
        data = b"".join(self._encoded) + self._gzip.flush()
        self._gzip, self._encoded, self._encoded_bytes, self._chunk_bytes = _new_gzip(), [], 0, 0
        self.chunks += 1
        self._shipper.put(f"logs/{self.chunks:08d}", data)


def masked(kind: type[Kind], shipper: Shipper, secrets: dict[bytes, bytes], max_bytes: int) -> Kind:
    """An output that masks the values of `secrets`, and keeps `max_bytes`."""
    if not secrets:
        return kind(shipper, max_bytes=max_bytes)
    from runvoy_agent.runner.masking import Masker

    masker = Masker(secrets)
    output = kind(shipper, masker.filter, max_bytes)
    for name in masker.too_short:
        output.note(f"secret {name} is too short to be masked")
    return output


def _new_gzip() -> zlib._Compress:
    return zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
