"""The Clock port on the machine's own clock and random source."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime, timedelta

from runvoy_protocol import ids

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_MILLISECOND = timedelta(microseconds=500)


class SystemClock:
    """Wall clock time, and ids that rise within one millisecond (RFC 9562 §6.2, method 2)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_milliseconds = -1
        self._head = b""
        self._tail = 0

    def now(self) -> datetime:
        return _at(time.time_ns() // 1_000_000)

    def new_id(self) -> str:
        with self._lock:
            milliseconds = time.time_ns() // 1_000_000
            if milliseconds == self._last_milliseconds:
                # By a random step, so that one id does not tell the next.
                self._tail += 1 + secrets.randbits(32)
            else:
                self._last_milliseconds = milliseconds
                self._head = secrets.token_bytes(2)
                # 61 of the 62 bits: the free top bit is room for two thousand million steps.
                self._tail = secrets.randbits(61)
            random_bytes = self._head + self._tail.to_bytes(8, "big")
        # In the middle of the millisecond: uuid7 goes by a float, which may lie a hair below a whole millisecond.
        return ids.uuid7(_at(milliseconds) + _HALF_MILLISECOND, random_bytes)

    def random(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
