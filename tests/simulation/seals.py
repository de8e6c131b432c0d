"""At the end of a run: every record of the audit that is old enough stands in the chain of seals once, and each seal follows from
the one before."""

from __future__ import annotations

import hashlib

import msgspec
from tests.simulation.oracles import check
from tests.simulation.ports import SimRecords

from runvoy_agent.core.model import AuditEvent, AuditHead
from runvoy_agent.handlers.documents import store
from runvoy_protocol import seals
from runvoy_protocol.seals import Seal


def check_seals(records: SimRecords) -> None:
    """Violation if something was sealed twice, or not at all, or is not what was sealed."""
    head = msgspec.json.decode(records.rows[store.AUDIT_HEAD_KEY][0], type=AuditHead)
    check(head.number > 0, "nothing was sealed")
    sealed: dict[str, str] = {}
    previous, ends = seals.GENESIS, head.began
    for number in range(1, head.number + 1):
        seal = msgspec.json.decode(records.rows[store.seal_key(number)][0], type=Seal)
        check((seal.previous, seal.begins) == (previous, ends), f"seal {number} does not follow the one before it")
        for leaf in seals.unpack(seal):
            check(leaf.event_id not in sealed, f"the record {leaf.event_id} is sealed twice")
            sealed[leaf.event_id] = leaf.sha256
        previous, ends = seals.hash_of(seal), seal.ends
    check(head.hash == previous, "the head is not the newest seal's")
    for key, (body, _) in records.rows.items():
        if not key.startswith("audit#"):
            continue
        event = msgspec.json.decode(body, type=AuditEvent)
        if store.stamp(event.at) < head.scanned_to:
            found = sealed.get(event.event_id)
            check(found == hashlib.sha256(body).hexdigest(), f"the record {event.event_id} of {event.at} is not sealed")
