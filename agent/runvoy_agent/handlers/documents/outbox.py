"""Writing the outbox: receipts, and status.json as a projection that never goes back."""

from __future__ import annotations

import contextlib

import msgspec

from runvoy_agent.core import projection
from runvoy_agent.core.model import Execution, Refusal, TakenBatch
from runvoy_agent.ports import Objects, Ports, PreconditionFailed
from runvoy_protocol import object_keys, receipts, status
from runvoy_protocol.errors import OF_CLOCKS
from runvoy_protocol.receipts import Receipt, Resolved

JSON = "application/json"
_STATUS_TRIES = 20


def accepted_receipt(execution: Execution, object_sha256: str) -> Receipt:
    return Receipt(
        outcome="accepted",
        execution_id=execution.execution_id,
        key_id=execution.key_id,
        object_sha256=object_sha256,
        at=execution.admitted_at,
        resolved=resolved(execution),
    )


def resolved(execution: Execution) -> Resolved:
    """What was made of its request."""
    return Resolved(
        owner=execution.owner,
        isolation=execution.isolation,
        timeout_seconds=execution.timeout_seconds,
        image=execution.image,
        image_name=execution.image_name,
        cpu=execution.cpu,
        memory_mib=execution.memory_mib,
        platform=execution.platform,
        task_role=execution.task_role,
        locks=tuple(lock.name for lock in execution.locks),
    )


def refused_receipt(refusal: Refusal) -> Receipt:
    """The receipt of a refusal. Where a wrong clock may be its cause, with the server's time: a client learns the offset of its
    own clock from that, and tries once more."""
    is_of_clocks = refusal.code in OF_CLOCKS
    return Receipt(
        outcome="refused",
        execution_id=refusal.request_id,
        key_id=refusal.key_id,
        object_sha256=refusal.object_sha256,
        at=refusal.at,
        code=refusal.code,
        message=refusal.message,
        hint=refusal.hint,
        details={"server_time": refusal.at.isoformat()} if is_of_clocks else {},
    )


def batch_receipt(batch: TakenBatch) -> Receipt:
    """That a batch was taken apart; what became of its requests, their own receipts say."""
    return Receipt(
        outcome="accepted",
        execution_id=batch.batch_id,
        key_id=batch.key_id,
        object_sha256=batch.object_sha256,
        at=batch.taken_at,
    )


def publish_receipt(outbox: Objects, receipt: Receipt) -> None:
    """Put a receipt where its sender looks. It is made of the record alone, so writing it again would change nothing; and when
    the record is forgotten, and its object delivered once more, the first answer stands."""
    object_key = object_keys.receipt(receipt.key_id, receipt.execution_id, receipt.object_sha256)
    with contextlib.suppress(PreconditionFailed):
        outbox.put(object_key, receipts.encode(receipt), content_type=JSON, if_absent=True)


def publish_status(ports: Ports, execution: Execution, record_version: int) -> None:
    """Bring status.json up to this version of the record; a later one that is there already stays.

    The write is conditional on what was read: a handler that was held up between the two cannot turn it back.
    """
    object_key = object_keys.status(execution.execution_id)
    encoded = status.encode(projection.project(execution, record_version))
    for _ in range(_STATUS_TRIES):
        current = ports.outbox.get(object_key)
        if current is not None and shown_version(current.data) >= record_version:
            return
        try:
            if current is None:
                ports.outbox.put(object_key, encoded, content_type=JSON, if_absent=True)
            else:
                ports.outbox.put(object_key, encoded, content_type=JSON, if_match=current.etag)
        except PreconditionFailed:
            continue
        return
    raise PreconditionFailed(f"{object_key} changed {_STATUS_TRIES} times while it was being written")


def shown_version(raw: bytes) -> int:
    """The record version a status.json shows; 0 for one that cannot be read, which is then written anew."""
    try:
        return status.decode(raw).record_version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0
