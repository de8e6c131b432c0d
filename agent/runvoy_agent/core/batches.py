"""How a batch is taken apart: ranges of its requests, and which of them are done."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runvoy_agent.core.model import TakenBatch

RANGE_SIZE = 250
"""Usual: as many requests as one delivery admits: few enough to be done long before the queue gives the delivery to another."""


def missing(batch: TakenBatch) -> list[tuple[int, int]]:
    """The ranges that are not known to be done: first request, and the one after the last."""
    return [
        (start, min(start + batch.range_size, batch.count))
        for start in range(0, batch.count, batch.range_size)
        if start not in batch.done
    ]


def is_range(batch: TakenBatch, start: int, stop: int) -> bool:
    """Whether the batch is taken apart there."""
    return (
        0 <= start < batch.count
        and start % batch.range_size == 0
        and stop == min(start + batch.range_size, batch.count)
    )


def note_done(batch: TakenBatch, start: int, now: datetime) -> TakenBatch | None:
    """The batch with one more range done; None if that was known."""
    if start in batch.done:
        return None
    return msgspec.structs.replace(batch, done=tuple(sorted((*batch.done, start))), updated_at=now)
