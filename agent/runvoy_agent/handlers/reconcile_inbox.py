"""What the reconciler mends of the inbox: uploads that no delivery was handled for, and batches that do not get on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core import batches as taking
from runvoy_agent.core.model import InboxGrantee
from runvoy_agent.handlers import batches, messages, store
from runvoy_agent.handlers.messages import InboxDelivery
from runvoy_agent.handlers.repairs import Repair
from runvoy_agent.ports import Ports
from runvoy_protocol import ids, object_keys

LISTED_BACK = timedelta(minutes=70)
"""A grant lives for 55 minutes and a request for 60: an upload older than this cannot be on its way any more."""

LISTED_AHEAD = timedelta(minutes=10)
"""How far a client's clock may be ahead: ids made later than this were made of something else than the time."""


def lost_ranges(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    """Batches that were taken apart and do not get on: some of their ranges were lost."""
    now = ports.clock.now()
    under_way = list(batches.under_way(ports.records))
    for batch in under_way:
        if starting_up or taking.has_lost_some(batch, under_way, now):
            object_key = object_keys.batch(batch.key_id, batch.batch_id)
            # The batch again, not its ranges: whoever handles it sends those that are missing.
            delivery = InboxDelivery(object_key=object_key, version=batch.object_version)
            ports.queue.send("inbox", messages.encode(delivery))
            batches.note_sent_again(ports, batch)
            yield Repair(object_key, "some of its requests were not answered", "delivered it again")


def lost_uploads(ports: Ports, since: datetime, *, list_all: bool) -> Iterator[Repair]:
    """Objects in the inbox, of keys that were granted uploads lately, that no delivery was handled for.

    A key's inbox may hold all it ever sent, so most rounds list what was made lately by the time in its id, and read what
    was written since the last round. What has no time in its id, or an old one (it was made of a text, or is sent again),
    is listed every ten minutes, and with it everything is read again that may still be on its way.
    """
    now = ports.clock.now()
    oldest = now - LISTED_BACK
    for shard in range(store.SHARDS):
        for record in store.partition_records(ports.records, store.INDEX_GRANTEES, store.shard_partition("", shard)):
            grantee = msgspec.json.decode(record.body, type=InboxGrantee)
            if grantee.granted_at < oldest:
                continue
            if list_all:
                yield from _lost_uploads_of(ports, grantee.key_id, oldest)
            else:
                made = (oldest, now + LISTED_AHEAD)
                yield from _lost_uploads_of(ports, grantee.key_id, max(since, oldest), made)


def _lost_uploads_of(
    ports: Ports, key_id: str, since: datetime, made: tuple[datetime, datetime] | None = None
) -> Iterator[Repair]:
    """Those written since; with `made` those alone whose id says that it was made between these times."""
    after, last = None, None
    if made is not None:
        after, last = (object_keys.request(key_id, ids.uuid7(at, bytes(10))) for at in made)
    while True:
        page = ports.inbox.list(object_keys.inbox_prefix(key_id), after=after)
        for info in page:
            if last is not None and info.key > last:
                return
            if info.modified_at < since:
                continue
            version = _unanswered_version(ports, info.key)
            if version is not None:
                # That very version: another may be uploaded before it is answered.
                ports.queue.send("inbox", messages.encode(InboxDelivery(object_key=info.key, version=version)))
                yield Repair(info.key, "no delivery of it was handled", "delivered it again")
        if not page:
            return
        after = page[-1].key


def _unanswered_version(ports: Ports, object_key: str) -> str | None:
    """The version of this very object if it has no receipt: one of the same id may have been answered otherwise before."""
    place, batch = object_keys.parse_request(object_key), object_keys.parse_batch(object_key)
    stored = ports.inbox.get(object_key) if place or batch else None
    if stored is None:
        return None
    digest = hashlib.sha256(stored.data).hexdigest()
    if batch is not None:
        is_answered = batches.is_answered(ports, batch, digest)
    else:
        key_id, request_id = place or ("", "")
        is_answered = ports.outbox.get(object_keys.receipt(key_id, request_id, digest)) is not None
    return None if is_answered else stored.version
