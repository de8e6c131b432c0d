"""A request, or a batch of them, arrived in the inbox: verify, admit, record, answer, push."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

import msgspec

from runvoy_agent.core import admission, retention
from runvoy_agent.core.admission import Accepted, Known
from runvoy_agent.core.model import Execution, Image, Key, LockRecord, Refusal, StoredRequest, User
from runvoy_agent.handlers.admission import batches, judging
from runvoy_agent.handlers.audit import notes
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import commits, outbox, pushes, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.handlers.quotas.counts import Number
from runvoy_agent.ports import Add, Ports, Write
from runvoy_protocol import object_keys, requests
from runvoy_protocol.batches import BatchedRequest, open_request
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.object_keys import BatchKey, RequestKey
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.inbox")

_Judged = Loaded[Key] | Loaded[User] | Loaded[Refusal] | Loaded[Execution] | Loaded[Image] | Number

MAX_DELAY_SECONDS = 900
"""The longest that a queue can delay a message (SQS: 15 minutes)."""


def handle(ports: Ports, deployment: Deployment, body: bytes, work_until: datetime | None = None) -> None:
    """Handle one delivery. Returns when all is recorded and answered; repeating it gives the same answer. From `work_until` on,
    what is left of a batch's range is left to another delivery."""
    delivery = msgspec.json.decode(body, type=InboxDelivery)
    batch = object_keys.parse_batch(delivery.object_key)
    if batch is not None:
        admit = partial(_admit_batched, ports, deployment, batch, delivery.source)
        batches.handle(ports, delivery, batch, admit, deployment.range_size, work_until)
        return
    place = object_keys.parse_request(delivery.object_key)
    if place is None:
        log.warning("ignored an object that is no request: %.200s", delivery.object_key)
        return
    stored = ports.inbox.get(delivery.object_key, delivery.version)
    if stored is None:
        log.warning("the object %s is gone; nothing was done", delivery.object_key)
        return
    object_sha256 = hashlib.sha256(stored.data).hexdigest()
    opened = partial(judging.verified_request, stored.data, place)
    _admit(ports, deployment, _Arrived(place, opened, object_sha256, delivery.source, stored.version))


class _Arrived(NamedTuple):
    """One request, of an object of its own or of a batch."""

    place: RequestKey  # where its object lies; of a batch's, where it would
    opened: Callable[
        [Key | None], RunRequest
    ]  # the verified request, given the record of its key; raises why it is refused
    sha256: str  # of the object that it came in, a batch's if it came in one; so are the next two
    source: str  # the network address that the object came from
    version: str
    batch_id: str | None = None


def _admit_batched(
    ports: Ports,
    deployment: Deployment,
    batch: BatchKey,
    source: str,
    arrived: batches.Arrived,
    batched: BatchedRequest,
) -> None:
    """Admit one request of a batch whose signature was verified. Its receipt lies under the digest of the batch's object."""
    place = RequestKey(batch.key_id, batched.request_id)
    opened = partial(_batched_request, batched)
    version = arrived.stored.version
    _admit(ports, deployment, _Arrived(place, opened, arrived.sha256, source, version, batch.batch_id))


def _batched_request(batched: BatchedRequest, _key: Key | None) -> RunRequest:
    return open_request(batched)


def _admit(ports: Ports, deployment: Deployment, arrived: _Arrived) -> None:
    refused = commits.with_retries(ports.clock, lambda: _judge(ports, deployment, arrived))
    if refused is not None:
        outbox.publish_receipt(ports.outbox, outbox.refused_receipt(refused))


def _judge(ports: Ports, deployment: Deployment, arrived: _Arrived) -> Refusal | None:
    """Decide and commit; an accepted request is answered and pushed here, a refusal is returned. An object that was
    refused once stays refused, whatever changed since."""
    place, object_sha256 = arrived.place, arrived.sha256
    refusal_key, key_key = store.refusal_key(*place, object_sha256), store.key_key(place.key_id)
    known = store.Several(ports.records, [refusal_key, key_key])
    earlier, key = known.document(refusal_key, Refusal), known.document(key_key, Key)
    if earlier.document is not None:
        return earlier.document
    try:
        request = arrived.opened(key.document)
    except RunvoyError as error:
        now = ports.clock.now()
        refusal = admission.refusal(place.key_id, place.request_id, object_sha256, now, error)
        return _refuse(ports, refusal, arrived, key, [key], None)
    judged = judging.judge(
        ports,
        deployment,
        request,
        place.key_id,
        key,
        object_sha256,
        object_version=arrived.version,
        batch_id=arrived.batch_id,
    )
    relied_on: list[_Judged]
    match judged.decision:
        case Refusal() as refusal:
            relied_on = [key, judged.user, judged.existing]
            if refusal.code is ErrorCode.QUOTA_EXCEEDED:
                relied_on.append(judged.unfinished)  # one of them may have ended meanwhile
            return _refuse(ports, refusal, arrived, key, relied_on, request.expires_at)
        case Known(execution=execution):
            # The same request signed anew may be what was admitted, after this very object was refused. No refusal of it can come
            # any more, for the execution is there: what is read now is its last word.
            refused = store.load(ports.records, refusal_key, Refusal).document
            if refused is not None:
                return refused
            _answer(ports, execution, judged.existing.version, object_sha256)
        case Accepted(execution=execution, locks=joined, max_unfinished=limit):
            relied_on = [key, judged.user, earlier, *judged.images.used_by(execution)]
            counted = counts.changes(None, execution, max_unfinished=limit)
            _record(ports, request, execution, arrived.source, relied_on, judged.locks, joined, counted)
            notes.note_use(ports, place.key_id)
            _answer(ports, execution, 1, object_sha256)
    return None


def _refuse(
    ports: Ports,
    refusal: Refusal,
    arrived: _Arrived,
    key: Loaded[Key],
    relied_on: Sequence[_Judged],
    expires_at: datetime | None,
) -> Refusal:
    """The commit of a refusal. It holds only if what was judged still stands: a delivery that was held up while another
    one of the same object was accepted would otherwise refuse what runs."""
    refusal = msgspec.structs.replace(refusal, batch_id=arrived.batch_id)
    writes: list[Write] = [
        *(document.check for document in relied_on),
        store.put_new(
            store.refusal_key(refusal.key_id, refusal.request_id, refusal.object_sha256),
            refusal,
            expires_at=retention.refusal_forgotten_at(refusal.at, expires_at),
        ),
        store.audit(
            ports.clock,
            key.document.user if key.document else "",
            "admit",
            refusal.code.value,
            key_id=refusal.key_id,
            execution_id=refusal.request_id,
            source=arrived.source,
            message=refusal.message,
        ),
    ]
    ports.records.commit(writes)
    return refusal


def _record(
    ports: Ports,
    request: RunRequest,
    execution: Execution,
    source: str,
    relied_on: Sequence[_Judged],
    named: dict[str, Loaded[LockRecord]],
    joined: dict[str, LockRecord],
    counted: Sequence[Add],
) -> None:
    """The admission commit: the execution, the bytes that were signed, its place in every queue and among its owner's
    unfinished ones, and the audit. It holds only if key, user and image are still what was judged, so a revocation that
    committed first wins, if no other delivery of the object was refused meanwhile, and if the owner may have one more."""
    stored = StoredRequest(execution_id=execution.execution_id, payload=requests.encode(request))
    writes: list[Write] = [
        store.put_new(store.execution_key(execution.execution_id), execution),
        store.put_new(store.request_key(execution.execution_id), stored),
        *counted,
        *(document.check for document in relied_on),
        *(store.put(named[name], lock) for name, lock in joined.items()),
        store.audit(
            ports.clock,
            execution.owner,
            "admit",
            "accepted",
            at=execution.admitted_at,
            key_id=execution.key_id,
            execution_id=execution.execution_id,
            # What was signed, in the record that is sealed: the inbox's object can be held against it for ever.
            subject=f"sha256:{execution.object_sha256}",
            source=source,
        ),
    ]
    ports.records.commit(writes)


def _answer(ports: Ports, execution: Execution, record_version: int, object_sha256: str) -> None:
    """Everything that follows the commit, repeated by every delivery until one comes through."""
    outbox.publish_receipt(ports.outbox, outbox.accepted_receipt(execution, object_sha256))
    outbox.publish_status(ports, execution, record_version)
    if execution.state is not State.QUEUED:
        return
    if execution.granted:
        pushes.push(ports.queue, execution)
    if execution.queue_timeout_seconds is not None and execution.queue_timeout_seconds <= MAX_DELAY_SECONDS:
        # Ends it in time; longer waits are the reconciler's, once a minute.
        pushes.push(ports.queue, execution, delay_seconds=execution.queue_timeout_seconds)
