"""Batches that do not get on: what the reconciler mends of the inbox beside lost uploads."""

from __future__ import annotations

from collections.abc import Iterator

from runvoy_agent.core import batches as taking
from runvoy_agent.handlers.admission import batches
from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.ports import Ports
from runvoy_protocol import object_keys


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
