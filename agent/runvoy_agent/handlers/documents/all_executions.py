"""Going through the executions of everybody, as indexes show them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Records, Versioned


def active(records: Records) -> Iterator[Execution]:
    """Every execution whose task was not yet seen stopped."""
    for shard in range(store.SHARDS):
        for record in store.partition_records(records, store.INDEX_ACTIVE, store.shard_partition("", shard)):
            yield msgspec.json.decode(record.body, type=Execution)


def since(records: Records, first: datetime, until: datetime) -> Iterator[Versioned]:
    """Every execution admitted on the days from `first` to `until`."""
    for days in range((until.date() - first.date()).days + 1):
        of_day = store.day(first + timedelta(days=days))
        for shard in range(store.SHARDS):
            yield from store.partition_records(records, store.INDEX_DAY, store.shard_partition(of_day, shard))
