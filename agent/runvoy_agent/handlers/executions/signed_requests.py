"""The route that tells what was signed and what it was answered.

Of an execution both are made of records that live as long as it does: the canonical bytes that were admitted, from the inbox's
object or from a batch, and the record that its receipt was made of. What was refused, or is not decided, has no record: there
the object in the inbox is read, which is kept for as long as the inbox keeps it.
"""

from __future__ import annotations

import hashlib

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Execution, Refusal, StoredRequest
from runvoy_agent.handlers.admission.batches import open_batch
from runvoy_agent.handlers.admission.judging import verified_request
from runvoy_agent.handlers.documents import outbox, store
from runvoy_agent.handlers.executions import reads
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_protocol import object_keys, requests, signed_requests
from runvoy_protocol.batches import open_request
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.object_keys import BatchKey, RequestKey
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.signed_requests import SignedRequestAnswer


def show_request(call: Call) -> Response:
    """The request and the receipt of one's own, or, by one's role, of somebody else's. NOT_FOUND for what the caller may not see;
    FORBIDDEN for who may see the execution but not, for the values of its variables, its request."""
    execution_id = call.groups["execution_id"]
    execution = (
        store.load_execution(call.ports.records, execution_id).document if is_execution_id(execution_id) else None
    )
    if (
        execution is not None
        and not call.member.owns(execution.owner, execution.key_id)
        and call.member.may(Action.READ_ANY)
    ):
        call.check_others()
    found, receipt = reads.look_up(call, execution_id)
    if found is not None and found.document is not None:
        return answer(_of_execution(call, found.document))
    return answer(_of_object(call, execution_id, receipt))


def _of_execution(call: Call, execution: Execution) -> SignedRequestAnswer:
    execution_id = execution.execution_id
    stored = store.load(call.ports.records, store.request_key(execution_id), StoredRequest).document
    return SignedRequestAnswer(
        execution_id=execution_id,
        state="admitted",
        key_id=execution.key_id,
        object_sha256=execution.object_sha256,
        batch_id=execution.batch_id,
        request=None if stored is None else signed_requests.to_signed_request(requests.decode(stored.payload)),
        content_digest=execution.content_digest,
        missing="its record is gone" if stored is None else "",
        receipt=outbox.accepted_receipt(execution, execution.object_sha256),
    )


def _of_object(call: Call, execution_id: str, receipt: Receipt | None) -> SignedRequestAnswer:
    """One of the caller's key that was refused, or is not decided."""
    batch_id, sha256, missing = None, "" if receipt is None else receipt.object_sha256, ""
    request: RunRequest | None = None
    try:
        stored = call.ports.inbox.get(object_keys.request(call.key.key_id, execution_id))
        if stored is not None:
            sha256 = hashlib.sha256(stored.data).hexdigest()
            request = verified_request(stored.data, RequestKey(call.key.key_id, execution_id), call.key)
        elif receipt is not None:
            batch_id = _batch_of(call, receipt)
            request = _batched_request(call, execution_id, batch_id, sha256)
        else:
            missing = "it is in a batch that is not decided yet"
    except RunvoyError as error:
        missing = error.message
    return SignedRequestAnswer(
        execution_id=execution_id,
        state="pending" if receipt is None else "refused",
        key_id=call.key.key_id,
        object_sha256=sha256,
        batch_id=batch_id,
        request=None if request is None else signed_requests.to_signed_request(request),
        content_digest="" if request is None else requests.content_digest(request).hex(),
        missing=missing,
        receipt=receipt,
    )


def _batch_of(call: Call, receipt: Receipt) -> str | None:
    """The batch that a refused request came in, if the refusal's record knows."""
    record_key = store.refusal_key(receipt.key_id, receipt.execution_id, receipt.object_sha256)
    refusal = store.load(call.ports.records, record_key, Refusal).document
    return None if refusal is None else refusal.batch_id


def _batched_request(call: Call, execution_id: str, batch_id: str | None, sha256: str) -> RunRequest:
    place = BatchKey(call.key.key_id, batch_id or execution_id)
    stored = call.ports.inbox.get(object_keys.batch(*place))
    if stored is None or hashlib.sha256(stored.data).hexdigest() != sha256:
        raise RunvoyError(ErrorCode.NOT_FOUND, "the object that it came in is not kept any more")
    for batched in open_batch(stored.data, place, call.key).requests:
        if batched.request_id == execution_id:
            return open_request(batched)
    raise RunvoyError(ErrorCode.NOT_FOUND, "this is the answer to a batch as a whole")


ROUTES: tuple[Route, ...] = (
    route("GET", "/executions/{execution_id}/request", Action.READ_OWN, show_request, other=Action.READ_REQUESTS),
)
