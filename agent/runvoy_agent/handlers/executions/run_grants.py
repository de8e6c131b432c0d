"""What lets a runner upload: the grant in its payload, and the next ones, which it asks for by calls of its own.

Those are signed with the execution key, reach this one thing, and are worth nothing once the execution is settled.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from runvoy_agent.core.model import Execution, Nonce
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Request, Response, answer
from runvoy_agent.ports import Conflict, Objects, Ports
from runvoy_protocol import object_keys, run_objects
from runvoy_protocol.control import API_PREFIX
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.run_objects import RunGrant, RunnerCall, UploadPolicy
from runvoy_protocol.states import State

GRANT_LIFETIME = timedelta(minutes=55)
_PATH = re.compile(re.escape(API_PREFIX) + r"/runs/([0-9a-f]{32})/grant\Z")
_LIVING = frozenset({State.STARTING, State.RUNNING, State.TERMINATING})


def first_grant(ports: Ports, deployment: Deployment, execution_id: str) -> RunGrant | None:
    """The grant of a payload; None where runners spool on the deployment's own machine."""
    if not deployment.runner_endpoint:
        return None
    return _grant(ports, deployment, execution_id, ports.clock.now())


def is_runner_call(request: Request) -> bool:
    """Whether a request is for the one route that is the runners'."""
    return request.method == "POST" and _PATH.match(request.path) is not None


def serve(ports: Ports, deployment: Deployment, request: Request) -> Response:
    """POST runs/{execution_id}/grant. Raises RunvoyError for whoever is not the runner of a living attempt."""
    now = ports.clock.now()
    call = _authenticate(deployment, request, now)
    execution = store.load_execution(ports.records, call.execution_id).document
    if execution is None or execution.attempt != call.attempt or execution.state not in _LIVING:
        raise RunvoyError(
            ErrorCode.FORBIDDEN, "the execution is not under way, so its runner may write no more", "End the runner."
        )
    grant = _grant(ports, deployment, call.execution_id, now)
    _record(ports, call, execution, request, now)
    return answer(grant, audited=True)


def _authenticate(deployment: Deployment, request: Request, now: datetime) -> RunnerCall:
    match = _PATH.match(request.path)
    call = run_objects.parse_runner_authorization(request.headers.get("authorization", ""))
    key = run_objects.execution_key(deployment.secret, call.execution_id, call.attempt)
    if (
        match is None
        or match[1] != call.execution_id
        or not call.is_signed(key, request.method, request.target, request.body)
    ):
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the call is not signed by this execution's runner")
    if not call.issued_near(now):
        raise RunvoyError(
            ErrorCode.CLOCK_SKEW,
            f"the call was not made now; the server's time is {now.isoformat()}",
            details={"server_time": now.isoformat()},
        )
    return call


def _grant(ports: Ports, deployment: Deployment, execution_id: str, now: datetime) -> RunGrant:
    expires_at = now + GRANT_LIFETIME
    prefix = object_keys.run_prefix(execution_id)
    chunks = _policy(
        ports.outbox,
        object_keys.log_prefix(execution_id),
        run_objects.CHUNK_CONTENT_TYPE,
        run_objects.MAX_CHUNK_OBJECT_BYTES,
        expires_at,
    )
    reports = _policy(
        ports.outbox, prefix, run_objects.REPORT_CONTENT_TYPE, run_objects.MAX_RUN_OBJECT_BYTES, expires_at
    )
    renew_url = f"{deployment.runner_endpoint}{API_PREFIX}/runs/{execution_id}/grant"
    return RunGrant(key_prefix=prefix, logs=chunks, reports=reports, expires_at=expires_at, renew_url=renew_url)


def _policy(outbox: Objects, prefix: str, content_type: str, max_bytes: int, expires_at: datetime) -> UploadPolicy:
    policy = outbox.presign_post(prefix, content_type=content_type, max_bytes=max_bytes, expires_at=expires_at)
    return UploadPolicy(url=policy.url, fields=policy.fields, content_type=content_type, max_bytes=max_bytes)


def _record(ports: Ports, call: RunnerCall, execution: Execution, request: Request, now: datetime) -> None:
    """Use the call up, and keep who was granted what; SIGNATURE_INVALID for one that was used before."""
    used = store.nonce_key(call.execution_id, bytes.fromhex(call.mac))
    nonce = store.put_new(used, Nonce(key_id=call.execution_id, used_at=now), expires_at=now + store.NONCE_LIFETIME)
    audit = store.audit(
        ports.clock, "runner", "renew-grant", "ok", execution_id=execution.execution_id, source=request.source
    )
    try:
        ports.records.commit([nonce, audit])
    except Conflict as error:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "this very call was used before") from error
