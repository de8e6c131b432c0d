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
from runvoy_agent.core.admission import Accepted, Capabilities, Known
from runvoy_agent.core.batches import RANGE_SIZE
from runvoy_agent.core.cost import OWN_MACHINE, Pricing
from runvoy_agent.core.model import Execution, Image, Key, LockRecord, Refusal, StoredRequest, User
from runvoy_agent.handlers import audits, batches, counts, judging, outbox, pushes, store
from runvoy_agent.handlers.counts import Number
from runvoy_agent.handlers.messages import InboxDelivery
from runvoy_agent.handlers.store import Loaded
from runvoy_agent.ports import Add, Ports, QueueCare, TaskDefinitions, Write
from runvoy_protocol import envelope, object_keys, requests
from runvoy_protocol.batches import BatchedRequest, open_request
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.object_keys import BatchKey, RequestKey
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.inbox")

_Judged = Loaded[Key] | Loaded[User] | Loaded[Refusal] | Loaded[Execution] | Loaded[Image] | Number

MAX_DELAY_SECONDS = 900
"""The longest that a queue can delay a message (SQS: 15 minutes)."""


class Deployment(NamedTuple):
    """What a deployment is: fixed when it starts. `secret` is 32 bytes; the runners' keys are derived from it.

    `runner_endpoint` is the control API as runners reach it, where they upload what they have; empty where they spool it.
    `task_definitions`, if there are any, are told of every image. `range_size`: how many requests of a batch one delivery
    admits. `look_for_containers`, if there is one, tells afresh what the deployment can do, for requests that want a
    container. `queues`, where there are some, can be looked at. `pricing`: by which prices the cost of runs is reckoned.
    `inline_log_bytes`: logs up to so many bytes are handed out within a grant, where reading them costs less than serving a read
    of each; 0 for none.
    """

    deployment_id: str
    version: str
    created_at: datetime
    secret: bytes
    capabilities: Capabilities
    instance: str = ""
    look_for_containers: Callable[[], Capabilities] | None = None
    runner_endpoint: str = ""
    task_definitions: TaskDefinitions | None = None
    queues: QueueCare | None = None
    range_size: int = RANGE_SIZE
    pricing: Pricing = OWN_MACHINE
    inline_log_bytes: int = 0

    def __repr__(self) -> str:
        return f"Deployment({self.deployment_id}, {self.version})"  # all that it derives keys from is its secret

    def capabilities_for(self, request: RunRequest, has_default_image: bool = False) -> Capabilities:
        look = self.look_for_containers
        has_image = request.image is not None or has_default_image
        if look is None or admission.wanted_isolation(request, self.capabilities, has_image) == "process":
            return self.capabilities
        return look()


def handle(ports: Ports, deployment: Deployment, body: bytes, work_until: datetime | None = None) -> None:
    """Handle one delivery. Returns when all is recorded and answered; repeating it gives the same answer. `work_until`: when
    what may be left to another delivery is to be left to one."""
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
    opened = partial(verified_request, stored.data, place)
    _admit(ports, deployment, _Arrived(place, opened, object_sha256, delivery.source, stored.version))


class _Arrived(NamedTuple):
    """One request: where it lies or would lie, the verified request itself by its key, the digest of the object that it came
    in, where that came from, and its version; and the batch that it came in, if it came in one."""

    place: RequestKey
    opened: Callable[[Key | None], RunRequest]
    sha256: str
    source: str
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
    refused = store.with_retries(ports.clock, lambda: _judge(ports, deployment, arrived))
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
            audits.note_use(ports, place.key_id)
            _answer(ports, execution, 1, object_sha256)
    return None


def verified_request(raw: bytes, place: RequestKey, key: Key | None) -> RunRequest:
    """The request of an inbox object, if the key of its place signed it; the error that it is refused with otherwise."""
    sealed = envelope.parse(raw, PayloadType.RUN_REQUEST)
    if key is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, f"no key {place.key_id} is registered in this deployment")
    request = requests.decode(envelope.verified_payload(sealed, place.key_id, key.public_key))
    if request.request_id != place.request_id:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the object's name is not the id that was signed")
    return request


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
