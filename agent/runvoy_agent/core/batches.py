"""How a batch is taken apart: ranges of its requests, which of them are done, and how far the others are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core.model import TakenBatch

RANGE_SIZE = 250
"""How many requests one delivery admits, if it has the time; else it leaves the rest to another delivery."""

IDLE = timedelta(minutes=2)
"""Longer than a range takes. A batch of which no range was done for so long has lost some, or waits behind other batches."""

_LONGEST_PAUSE = timedelta(hours=1)


def missing(batch: TakenBatch) -> list[tuple[int, int]]:
    """The ranges that are not known to be done, each as [start, stop): its first request, and the one after its last."""
    return [
        (start, min(start + batch.range_size, batch.count))
        for start in range(0, batch.count, batch.range_size)
        if start not in batch.done
    ]


def goes_on_at(batch: TakenBatch, start: int) -> int:
    """The first request of the range that is not known to be answered."""
    return batch.reached.get(start, start)


def is_range(batch: TakenBatch, start: int, stop: int) -> bool:
    """Whether the batch is taken apart there."""
    return (
        0 <= start < batch.count
        and start % batch.range_size == 0
        and stop == min(start + batch.range_size, batch.count)
    )


def note_reached(batch: TakenBatch, start: int, position: int, now: datetime) -> TakenBatch | None:
    """The batch with a range answered up to `position`, which is its first request that is not; None if that was known."""
    if start in batch.done or position <= goes_on_at(batch, start):
        return None
    reached = {other: at for other, at in batch.reached.items() if other != start}
    if is_range(batch, start, position):
        done = tuple(sorted((*batch.done, start)))
        return msgspec.structs.replace(batch, done=done, reached=reached, updated_at=now)
    return msgspec.structs.replace(batch, reached={**reached, start: position}, updated_at=now)


def has_lost_some(batch: TakenBatch, under_way: Iterable[TakenBatch], now: datetime) -> bool:
    """Whether its missing ranges are to be sent again.

    Not while a batch that was taken before it gets on: its ranges stand behind that one's in the queue. And where sending them
    again changed nothing, only after twice as long as the time before: a queue that nobody reads keeps what is in it, and would
    hold each range a hundred times when somebody does."""
    if any(other.taken_at < batch.taken_at and now - other.updated_at <= IDLE for other in under_way):
        return False
    again = batch.sent_again_at
    if again is None or again <= batch.updated_at:
        return now - batch.updated_at > IDLE
    return now - again > min(max(again - batch.updated_at, IDLE), _LONGEST_PAUSE)
