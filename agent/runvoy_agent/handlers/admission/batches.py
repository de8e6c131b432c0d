"""A batch arrived in the inbox: verify it once, take it apart, and admit each of its requests on its own.

The batch's record says which of its ranges are done. It is committed before the first range is sent; a range is noted as
done after each of its requests was answered. So whatever is lost in between is sent again, and what comes twice finds the
requests admitted.

A delivery of a range works for as long as it has time. Then it notes how far it came, sends the range again, and is done:
the next one goes on there. So a range may be of any size, however slow the world is, and no delivery of a good one fails until
it is a dead letter.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

import msgspec

from runvoy_agent.core import access, admission, retention
from runvoy_agent.core import batches as taking
from runvoy_agent.core.model import Key, Refusal, TakenBatch, User
from runvoy_agent.handlers.documents import commits, messages, outbox, store
from runvoy_agent.handlers.documents.messages import BatchRange, InboxDelivery
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.ports import Conflict, Ports, Position, Put, QueueName, Records, StoredObject, Unavailable
from runvoy_protocol import batches, object_keys
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.object_keys import BatchKey

log = logging.getLogger("runvoy.batches")

Admit = Callable[[BatchedRequest], None]

_KEPT = timedelta(days=2)
"""How long the record of a batch that is done is kept, for deliveries that come late."""


class QueueWithRanges(Protocol):
    """A home's queues: those that the handlers know, and the one where ranges lie apart."""

    def send(self, queue: QueueName | Literal["ranges"], body: bytes, *, delay_seconds: float = 0) -> None: ...


class RangesApart:
    """The queue port for handlers: what they send to the inbox queue as a range of a batch goes where ranges lie apart, and
    nobody's single request stands behind them."""

    def __init__(self, queue: QueueWithRanges) -> None:
        self._queue = queue

    def send(self, queue: QueueName, body: bytes, *, delay_seconds: float = 0) -> None:
        is_range = queue == "inbox" and msgspec.json.decode(body, type=InboxDelivery).range is not None
        self._queue.send("ranges" if is_range else queue, body, delay_seconds=delay_seconds)


class Arrived(NamedTuple):
    """A batch's object: where it lies, its content, and where it came from."""

    place: BatchKey
    stored: StoredObject
    sha256: str
    source: str


def handle(
    ports: Ports,
    delivery: InboxDelivery,
    place: BatchKey,
    admit: Callable[[Arrived, BatchedRequest], None],
    range_size: int,
    work_until: datetime | None,
) -> None:
    """Handle one delivery of a batch, or of a range of one. `admit` gets the batch's object and a request.
    `range_size`: how many requests a range has. `work_until`: from then on a range is left to another delivery."""
    stored = ports.inbox.get(delivery.object_key, delivery.version)
    if stored is None:
        log.warning("the object %s is gone; nothing was done", delivery.object_key)
        return
    arrived = Arrived(place, stored, hashlib.sha256(stored.data).hexdigest(), delivery.source)
    if delivery.range is not None:
        if not _admit_range(ports, delivery.range, arrived, lambda one: admit(arrived, one), work_until):
            # Before this delivery is acknowledged: who dies in between leaves two, and both find what was admitted.
            ports.queue.send("inbox", messages.encode(delivery))
        return
    judged = commits.with_retries(ports.clock, lambda: _judge(ports, arrived, range_size))
    if isinstance(judged, Refusal):
        outbox.publish_receipt(ports.outbox, outbox.refused_receipt(judged))
        return
    # Before its ranges: whoever sees one of them sent finds the batch answered.
    outbox.publish_receipt(ports.outbox, outbox.batch_receipt(judged))
    for start, stop in taking.missing(judged):
        part = BatchRange(start=start, stop=stop, object_sha256=arrived.sha256)
        message = InboxDelivery(
            object_key=delivery.object_key, version=judged.object_version, source=delivery.source, range=part
        )
        ports.queue.send("inbox", messages.encode(message))


def _judge(ports: Ports, arrived: Arrived, range_size: int) -> TakenBatch | Refusal:
    """What becomes of the batch as a whole: taken once, or refused once, whatever changed since."""
    key_id, batch_id = arrived.place
    refusal_key, key_key = store.refusal_key(key_id, batch_id, arrived.sha256), store.key_key(key_id)
    batch_key = store.batch_key(key_id, batch_id, arrived.sha256)
    known = store.Several(ports.records, [refusal_key, batch_key, key_key])
    earlier, taken = known.document(refusal_key, Refusal), known.document(batch_key, TakenBatch)
    if earlier.document is not None:
        return earlier.document
    if taken.document is not None:
        return taken.document
    key = known.document(key_key, Key)
    user = store.load(ports.records, store.user_key(key.document.user if key.document else ""), User)
    actor = user.document.name if user.document else ""
    now = ports.clock.now()
    try:
        batch = open_batch(arrived.stored.data, arrived.place, key.document)
        # Each request is judged by this too. But not ten thousand times for who may run nothing.
        access.check_allowed(access.check_key(key.document, user.document, now), access.Action.RUN)
    except RunvoyError as error:
        refusal = admission.refusal(key_id, batch_id, arrived.sha256, now, error)
        audit = _audit(ports, arrived, actor, error.code.value, error.message)
        # Each of its requests would still be judged by its own end, should the batch be taken when this is forgotten.
        refused = store.put_new(earlier.key, refusal, expires_at=retention.refusal_forgotten_at(now, None))
        ports.records.commit([refused, taken.check, key.check, user.check, audit])
        return refusal
    made = TakenBatch(
        key_id=key_id,
        batch_id=batch_id,
        object_sha256=arrived.sha256,
        object_version=arrived.stored.version,
        count=len(batch.requests),
        range_size=range_size,
        taken_at=now,
        updated_at=now,
    )
    audit = _audit(ports, arrived, actor, "accepted", f"{made.count} requests")
    ports.records.commit([store.put_new(taken.key, made), earlier.check, key.check, user.check, audit])
    return made


def _audit(ports: Ports, arrived: Arrived, actor: str, outcome: str, message: str) -> Put:
    key_id, batch_id = arrived.place
    return store.audit(
        ports.clock,
        actor,
        "take-batch",
        outcome,
        key_id=key_id,
        subject=batch_id,
        source=arrived.source,
        message=message,
    )


def open_batch(raw: bytes, place: BatchKey, key: Key | None) -> Batch:
    """The verified batch of an object; an error for the whole of it."""
    if key is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, f"no key {place.key_id} is registered in this deployment")
    batch = batches.open_batch(raw, place.key_id, key.public_key)
    if batch.batch_id != place.batch_id:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the object's name is not the id that was signed")
    return batch


def _admit_range(ports: Ports, part: BatchRange, arrived: Arrived, admit: Admit, work_until: datetime | None) -> bool:
    """Admit the requests of a range, from where it goes on; False if some are left for another delivery of it.

    One that fails where it began has done nothing, and fails; it is what comes again until it is a dead letter.
    """
    key_id, batch_id = arrived.place
    record_key = store.batch_key(key_id, batch_id, part.object_sha256)
    taken = store.load(ports.records, record_key, TakenBatch).document
    if part.object_sha256 != arrived.sha256 or taken is None or not taking.is_range(taken, part.start, part.stop):
        log.warning("a message names a range of the batch %s that there is not", batch_id)
        return True
    if part.start in taken.done:
        return True
    key = store.load(ports.records, store.key_key(key_id), Key)
    # Verified again: what a message says is no proof of what the object holds.
    batch = open_batch(arrived.stored.data, arrived.place, key.document)
    begun = position = taking.goes_on_at(taken, part.start)
    for batched in batch.requests[begun : part.stop]:
        if position > begun and work_until is not None and ports.clock.now() >= work_until:
            break
        try:
            admit(batched)
        except (Unavailable, RunvoyError) as error:  # the latter: too many conflicts. A refusal is an answer
            if position == begun:
                raise
            log.warning("request %d of the batch %s is left to another delivery: %s", position, batch_id, error)
            break
        position += 1
    commits.with_retries(ports.clock, lambda: _note_reached(ports, record_key, part.start, position))
    return position == part.stop


def _note_reached(ports: Ports, record_key: str, start: int, position: int) -> None:
    current: Loaded[TakenBatch] = store.load(ports.records, record_key, TakenBatch)
    now = ports.clock.now()
    changed = None if current.document is None else taking.note_reached(current.document, start, position, now)
    if changed is not None:
        is_over = not taking.missing(changed)
        ports.records.commit([store.put(current, changed, expires_at=now + _KEPT if is_over else None)])


def note_sent_again(ports: Ports, batch: TakenBatch) -> None:
    """Note that ranges of it were sent again; not if it gets on meanwhile, for then that is what counts."""
    key = store.batch_key(batch.key_id, batch.batch_id, batch.object_sha256)
    current: Loaded[TakenBatch] = store.load(ports.records, key, TakenBatch)
    if current.document != batch:
        return
    with contextlib.suppress(Conflict):
        noted = msgspec.structs.replace(batch, sent_again_at=ports.clock.now())
        ports.records.commit([store.put(current, noted)])


# -- batches under way


def under_way(records: Records, key_id: str | None = None) -> Iterator[TakenBatch]:
    """The batches that are not done, of one key or of all."""
    after = None if key_id is None else Position(key_id, store.KIND_BATCH)  # before the first of its batches
    while True:
        page = records.query(store.INDEX_KIND, store.KIND_BATCH, after=after)
        for record in page.records:
            # The index may be behind: decide on the record itself.
            batch = store.load(records, record.key, TakenBatch).document
            if batch is None or not taking.missing(batch):
                continue
            if key_id is not None and batch.key_id != key_id:
                return
            yield batch
        after = page.after
        if after is None:
            return


def undecided_ids(ports: Ports, key_id: str) -> frozenset[str]:
    """The ids of all requests in the key's batches that are not done. Some of them may be decided already."""
    found: set[str] = set()
    for batch in under_way(ports.records, key_id):
        stored = ports.inbox.get(object_keys.batch(key_id, batch.batch_id), batch.object_version)
        key = store.load(ports.records, store.key_key(key_id), Key).document
        if stored is not None:
            opened = open_batch(stored.data, BatchKey(key_id, batch.batch_id), key)
            found.update(one.request_id for one in opened.requests)
    return frozenset(found)


def is_answered(ports: Ports, place: BatchKey, object_sha256: str) -> bool:
    """Whether this very object was taken or refused. What of a taken one is missing, `under_way` tells."""
    if ports.records.get(store.batch_key(place.key_id, place.batch_id, object_sha256)) is not None:
        return True
    return ports.outbox.get(object_keys.receipt(place.key_id, place.batch_id, object_sha256)) is not None
