"""The control API's messages: the signed call, and the JSON bodies of its routes."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timedelta

import msgspec

from runvoy_protocol import codec, keys
from runvoy_protocol.envelope import Envelope, PayloadType, parse, seal
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.instants import Instant
from runvoy_protocol.members import KeyLimits, QuotaUse
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus

API_PREFIX = "/api/v1"
AUTHORIZATION_SCHEME = "Runvoy"
MAX_AUTHORIZATION_BYTES = 4096
MAX_BODY_BYTES = 352 * 1024  # a run request of 256 KiB in base64, to be tried out
CALL_LIFETIME = timedelta(seconds=60)
CHUNKS_PER_GRANT = 64
MAX_STATUSES = 500
MAX_LOG_GRANTS = 200
MSGPACK = "application/msgpack"
"""A caller that accepts it gets answers that hold chunks of logs in msgpack: in JSON they would be base64."""


class ControlCall(msgspec.Struct, frozen=True, array_like=True):
    """What is signed for one call. `target` is the path and query exactly as sent; `nonce` is 16 random bytes."""

    version: int
    deployment_id: str
    method: str
    target: str
    body_sha256: bytes
    issued_at: datetime
    nonce: bytes


SCHEMAS = {1: ControlCall}


def authorization(call: ControlCall, signing_key: keys.SigningKey) -> str:
    """The value of the Authorization header for a call."""
    sealed = seal(PayloadType.CONTROL, codec.encode(call), signing_key)
    return f"{AUTHORIZATION_SCHEME} {base64.urlsafe_b64encode(sealed).decode()}"


def parse_authorization(header: str) -> Envelope:
    """The envelope in an Authorization header, not yet verified; SIGNATURE_INVALID if there is none."""
    scheme, _, text = header.partition(" ")
    if scheme != AUTHORIZATION_SCHEME or not text:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the call is not signed")
    if len(text) > MAX_AUTHORIZATION_BYTES:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"the Authorization header is over {MAX_AUTHORIZATION_BYTES:,} bytes")
    try:
        raw = codec.decode_base64url(text)
    except ValueError as error:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the Authorization header is not base64url") from error
    return parse(raw, PayloadType.CONTROL, MAX_AUTHORIZATION_BYTES)


def decode_call(payload: bytes) -> ControlCall:
    """Decode the verified payload of a call."""
    call = codec.decode(payload, SCHEMAS, "control call", MAX_AUTHORIZATION_BYTES)
    if len(call.nonce) != 16 or call.issued_at.tzinfo is None:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the control call needs a 16-byte nonce and a time with a zone")
    return call


def body_digest(body: bytes) -> bytes:
    """SHA-256 of a call's body as it is sent, 32 bytes: what a control call signs."""
    return hashlib.sha256(body).digest()


PROTOCOL_VERSION = 1
"""Of the routes and messages under API_PREFIX. One that an older client could not speak would be another prefix."""


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET health: public. `status` is `ok`, or `low-disk` where nothing new is taken in for want of room. `instance` tells one start of an
    embedded stack from another; `protocol` is PROTOCOL_VERSION."""

    status: str
    version: str
    deployment_id: str
    time: Instant
    instance: str = ""
    protocol: int = 1


class QueueHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages of one queue: due now, due later, being handled, given up (dead letters). `oldest_seconds`: for how long the oldest
    has been due; null where none is, or where the platform does not tell."""

    name: str
    visible: int
    delayed: int
    in_flight: int
    dead: int
    oldest_seconds: float | None = None


class DiskHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The disk of a deployment that has one. With less than `needed_bytes` free nothing new is taken in or started."""

    free_bytes: int
    total_bytes: int
    needed_bytes: int

    @property
    def is_short(self) -> bool:
        return self.free_bytes < self.needed_bytes


class QueuesAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET health/queues: the queues, when the last whole round of the reconciler began, until when the audit is sealed, and the disk."""

    queues: tuple[QueueHealth, ...]
    reconciled_at: Instant | None = None
    audit_sealed_until: Instant | None = None
    disk: DiskHealth | None = None


class RedriveRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST health/redrive: of which queue; of all, if none is named."""

    queue: str | None = None


class Redriven(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead letters of a queue are due again, and how many are left."""

    queue: str
    redriven: int
    left: int


class RedriveAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST health/redrive."""

    queues: tuple[Redriven, ...]


class Whoami(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET whoami: who the deployment takes the caller for."""

    user: str
    role: str
    key_id: str
    deployment_id: str
    version: str
    key_expires_at: Instant | None = None
    limits: KeyLimits | None = None
    quota: QuotaUse | None = None


class InboxGrant(msgspec.Struct, frozen=True, kw_only=True):
    """POST grants/inbox: a presigned POST policy tied to the caller's key.

    The upload is one multipart form to `url`: `key` and `Content-Type`, then `fields`, then `file`.
    """

    url: str
    fields: dict[str, str]
    key_prefix: str
    content_type: str
    max_bytes: int
    expires_at: Instant


class OutboxGrantRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for reads of one execution: from chunk `from_chunk` on, and, where the digest of the caller's own object is
    given, its receipt."""

    execution_id: str
    from_chunk: int = 1
    object_sha256: str | None = None


class OutboxGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST grants/outbox: presigned reads, good until `expires_at`.

    `state` is `admitted` (then `status_url` and the next chunks are there), `pending` (the object lies in the inbox and
    nothing is decided), or `refused` (then `receipt` says why).
    """

    state: str
    expires_at: Instant
    receipt_url: str | None = None
    receipt: Receipt | None = None
    status_url: str | None = None
    from_chunk: int = 1
    chunk_urls: tuple[str, ...] = ()


class LogGrantsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST grants/logs: 1 to 200 execution ids, for reads of the logs of those that have ended."""

    execution_ids: tuple[str, ...]


class LogGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Reads of one execution's log from its first chunk on, as URLs of all its chunks or of the first 64; or, of a small log,
    all the chunks themselves. Both are empty for an execution that has not ended, whose log's end is not known, or of which the
    caller may see nothing: POST grants/outbox tells which."""

    execution_id: str
    chunk_urls: tuple[str, ...] = ()
    chunks: tuple[bytes, ...] = ()


class LogGrantsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Grants for the executions that were asked for, in that order: as many as one answer can hold, and one at least. The rest
    is to be asked for again. All are good until `expires_at`."""

    expires_at: Instant
    executions: tuple[LogGrant, ...]


class ExecutionAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET executions/{id}: `state` as in OutboxGrant, with the status of an admitted one."""

    state: str
    status: ExecutionStatus | None = None
    receipt: Receipt | None = None


class StatusesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST executions/statuses: 1 to 500 execution ids."""

    execution_ids: tuple[str, ...]


class KnownExecution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one of many executions: `state` as in OutboxGrant, or `unknown` for an id of which there is nothing
    that the caller may see."""

    execution_id: str
    state: str
    status: ExecutionStatus | None = None
    receipt: Receipt | None = None


class StatusesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The executions that were asked for, in that order: as many as one answer can hold, and one at least. The rest is to be
    asked for again."""

    executions: tuple[KnownExecution, ...]


class ExecutionsPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET executions: newest first; `after` asks for the next page and is absent on the last."""

    executions: tuple[ExecutionStatus, ...]
    after: str | None = None


class LockEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One execution in a lock's queue. `position` 0 is the head, which holds the lock once it heads all it asked for;
    `granted_at` is when that was."""

    execution_id: str
    position: int
    owner: str
    state: State
    admitted_at: Instant
    granted_at: Instant | None = None


class LockAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET locks/{name}: its queue from the head on (the first 100), how many are in it, and the last fence given."""

    name: str
    fence: int
    length: int
    queue: tuple[LockEntry, ...] = ()


class LocksAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET locks: every lock somebody holds or waits for, each with its head alone."""

    locks: tuple[LockAnswer, ...]


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST locks/{name}/release: who is thought to hold it, so that nobody else's is released by a moment's delay."""

    execution_id: str


class RepairAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the reconciler mended: what was wrong with what, and what was done."""

    subject: str
    problem: str
    action: str


class ReconcileAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST health/reconcile. `left` is how many executions the next round has to look at again, because the platform did not
    say what became of their tasks."""

    repairs: tuple[RepairAnswer, ...]
    left: int = 0


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer that is an error, and of the command line's `--json` errors."""

    code: ErrorCode
    message: str
    hint: str = ""
    retryable: bool = False
    details: dict[str, msgspec.Raw] = {}


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer of the control API that is no success."""

    error: ErrorBody


def error_body(error: RunvoyError) -> bytes:
    """`{"error": {...}}` for an error."""
    body = {
        "code": error.code.value,
        "message": _encodable(error.message),
        "hint": _encodable(error.hint),
        "retryable": error.retryable,
        "details": error.details,
    }
    return msgspec.json.encode({"error": body})


def _encodable(text: str) -> str:
    """`text` with lone surrogates (from arguments and paths that are not UTF-8) replaced, so that it can be sent."""
    return text.encode(errors="replace").decode()


def parse_error(raw: bytes) -> RunvoyError | None:
    """The error in an answer's body; None if the body is something else (a proxy's page, say)."""
    try:
        body = msgspec.json.decode(raw, type=ErrorAnswer).error
        details = {name: msgspec.json.decode(value) for name, value in body.details.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return RunvoyError(body.code, body.message, body.hint, details)
