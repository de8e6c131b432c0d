"""Execution ids: UUIDv7 as 32 lower-case hex digits, made by the client before its first try (RFC 9562).

A request id *is* the execution id, and the idempotency key.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime.fromtimestamp(0, UTC)
ID_PATTERN = re.compile(r"[0-9a-f]{12}[78][0-9a-f]{3}[89ab][0-9a-f]{15}\Z")


def uuid7(at: datetime, random_bytes: bytes) -> str:
    """A UUIDv7 (RFC 9562 §5.7) for the instant `at`, from 10 random bytes."""
    if len(random_bytes) != 10:
        raise ValueError("a UUIDv7 takes 10 random bytes")
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    raw = bytearray(milliseconds.to_bytes(6, "big") + random_bytes)
    return _stamp(raw, 7)


def uuid8(raw: bytes) -> str:
    """The UUIDv8 (RFC 9562 §5.8) of 16 bytes."""
    if len(raw) != 16:
        raise ValueError("a UUIDv8 is made of 16 bytes")
    return _stamp(bytearray(raw), 8)


def _stamp(raw: bytearray, version: int) -> str:
    raw[6] = (raw[6] & 0x0F) | (version << 4)
    raw[8] = (raw[8] & 0x3F) | 0x80
    return raw.hex()


def is_execution_id(text: str) -> bool:
    """Whether `text` is a UUIDv7 or UUIDv8 as 32 lower-case hex digits."""
    return ID_PATTERN.match(text) is not None


def made_at(execution_id: str) -> datetime | None:
    """When the client made a UUIDv7, by its own clock; None for a UUIDv8, which holds no time, or a year past 9999."""
    if not is_execution_id(execution_id) or execution_id[12] != "7":
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(execution_id[:12], 16))
    except OverflowError:  # whoever makes the id chooses its 48 bits
        return None
