"""The control API: who calls, may they, and the answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import unquote

from runvoy_agent.core import access
from runvoy_agent.core.access import Action, Member
from runvoy_agent.core.model import InboxGrantee, Key, Nonce, User
from runvoy_agent.handlers import healths
from runvoy_agent.handlers.admission import dry_runs
from runvoy_agent.handlers.audit import entries, notes, proof
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.executions import cost_sums, kills, log_grants, reads, run_grants, signed_requests, traces
from runvoy_agent.handlers.locks import queues
from runvoy_agent.handlers.members import claims, keys, quotas, users
from runvoy_agent.handlers.resources import images, playbooks, secrets
from runvoy_agent.handlers.routes import About, Call, Request, Response, Route, answer, route
from runvoy_agent.ports import Check, Conflict, Ports, Unavailable
from runvoy_protocol import codec, control, envelope, object_keys
from runvoy_protocol.control import (
    API_PREFIX,
    CALL_LIFETIME,
    ControlCall,
    Health,
    InboxGrant,
    Whoami,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError

log = logging.getLogger("runvoy.control")

GRANT_LIFETIME = timedelta(minutes=55)
REQUEST_CONTENT_TYPE = "application/vnd.runvoy.envelope+msgpack"
HEALTH_PATH = f"{API_PREFIX}/health"
CLAIM_PATH = f"{API_PREFIX}/claim"

HTTP_STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.SIGNATURE_INVALID: 401,
    ErrorCode.KEY_UNKNOWN: 401,
    ErrorCode.KEY_REVOKED: 401,
    ErrorCode.KEY_EXPIRED: 401,
    ErrorCode.REQUEST_EXPIRED: 401,
    ErrorCode.CLOCK_SKEW: 401,
    ErrorCode.WRONG_DEPLOYMENT: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.IMAGE_NOT_FOUND: 404,
    ErrorCode.SECRET_NOT_FOUND: 404,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.SECRET_EXISTS: 409,
    ErrorCode.LOCK_HELD: 409,
    ErrorCode.LOCK_QUEUE_FULL: 409,
    ErrorCode.ID_CONFLICT: 409,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.QUOTA_EXCEEDED: 429,
    ErrorCode.CAPACITY: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}


def handle(ports: Ports, deployment: Deployment, request: Request, routes: Sequence[Route] | None = None) -> Response:
    """Answer one request by `routes` (ROUTES, if none are given). Never raises: what fails becomes an answer with a code."""
    try:
        return _serve(ports, deployment, request, ROUTES if routes is None else routes)
    except RunvoyError as error:
        return error_response(error)
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(_public_error(error))


def _public_error(error: Exception) -> RunvoyError:
    """What a caller is told of what went wrong: of what nobody foresaw, nothing."""
    if isinstance(error, RunvoyError):
        return error
    if isinstance(error, Unavailable):
        return RunvoyError(ErrorCode.UNAVAILABLE, f"the deployment cannot do this now: {error}")
    return RunvoyError(ErrorCode.INTERNAL, "the deployment failed; its log says why")


def error_response(error: RunvoyError) -> Response:
    return Response(HTTP_STATUS[error.code], control.error_body(error))


def _serve(ports: Ports, deployment: Deployment, request: Request, routes: Sequence[Route]) -> Response:
    if (request.method, request.path) == ("GET", HEALTH_PATH):
        return _health(ports, deployment)
    try:
        if len(request.body) > control.MAX_BODY_BYTES:
            raise RunvoyError(ErrorCode.TOO_LARGE, f"the body is over {control.MAX_BODY_BYTES:,} bytes")
        if (request.method, request.path) == ("POST", CLAIM_PATH):
            return claims.serve_claim(ports, deployment, request)
        if run_grants.is_runner_call(request):
            return run_grants.serve(ports, deployment, request)
        signed = _verify(ports, request)
    except Exception as error:
        notes.note_refused(ports, request, _public_error(error))
        raise
    try:
        caller = _judge(ports, deployment, request, signed)
    except Exception as error:
        notes.note_refused(ports, request, _public_error(error), signed.key)
        raise
    # From here on what was signed counts: a front may have decoded the path on its way, and with it a name's slashes.
    request = request._replace(path=caller.call.target.partition("?")[0], target=caller.call.target)
    found, groups = _find(request, routes)
    other = found.other if found is not None else None
    call = Call(ports, deployment, request, caller.member, groups, other, caller.checks, About(groups))
    return _serve_member(call, found, caller)


def _serve_member(call: Call, found: Route | None, caller: _Caller) -> Response:
    """Serve somebody known. However it ends, that leaves a record."""
    request = call.request
    try:
        notes.note_use(call.ports, caller.member.key.key_id)
        if found is None:
            raise RunvoyError(ErrorCode.NOT_FOUND, f"{request.method} {request.path[:200]} does not exist")
        access.check_allowed(caller.member, found.action)
        if found.single_use:
            _use_up(call.ports, caller)
        response = found.serve(call)
    except Exception as error:
        public = _public_error(error)
        notes.note_call(call, found, public.code.value, public.message)
        raise
    if not response.audited:
        notes.note_call(call, found, "ok", request.target.partition("?")[2])
    return response


def _health(ports: Ports, deployment: Deployment) -> Response:
    return answer(
        Health(
            status="ok" if deployment.has_room else "low-disk",
            version=deployment.version,
            deployment_id=deployment.deployment_id,
            time=ports.clock.now(),
            instance=deployment.instance,
        )
    )


class _Signed(NamedTuple):
    """What a registered key signed; whether it may still, and signed this very request, is yet to be seen."""

    key: Key
    check: Check
    call: ControlCall


class _Caller(NamedTuple):
    member: Member
    call: ControlCall
    checks: tuple[Check, ...]


def _verify(ports: Ports, request: Request) -> _Signed:
    """The key that made the signature that came with the request."""
    sealed = control.parse_authorization(request.headers.get("authorization", ""))
    key_id = sealed.signatures[0].key_id
    key = store.load(ports.records, store.key_key(key_id), Key)
    if key.document is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, "no such key is registered in this deployment")
    call = control.decode_call(envelope.verified_payload(sealed, key_id, key.document.public_key))
    return _Signed(key.document, key.check, call)


def _judge(ports: Ports, deployment: Deployment, request: Request, signed: _Signed) -> _Caller:
    """Who calls, if the key is good and signed this very request, now, for this deployment."""
    call = signed.call
    user = store.load(ports.records, store.user_key(signed.key.user), User)
    now = ports.clock.now()
    member = access.check_key(signed.key, user.document, now)
    if call.deployment_id != deployment.deployment_id:
        raise RunvoyError(
            ErrorCode.WRONG_DEPLOYMENT,
            f"the call is for deployment {call.deployment_id[:128]!r}; this is {deployment.deployment_id!r}",
        )
    is_this_call = call.method == request.method and call.body_sha256 == control.body_digest(request.body)
    if not is_this_call or request.target not in (call.target, _decoded(call.target)):
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the signature is for another method, address or body")
    if abs(now - call.issued_at) > CALL_LIFETIME:
        raise RunvoyError(
            ErrorCode.CLOCK_SKEW,
            f"the call was signed at {call.issued_at.isoformat()}; the server's time is {now.isoformat()}",
            details={"server_time": now.isoformat()},
        )
    return _Caller(member, call, (signed.check, user.check))


def _decoded(target: str) -> str:
    """A target as fronts hand it over that decode its path, as function URLs do."""
    path, mark, query = target.partition("?")
    return f"{unquote(path)}{mark}{query}"


def _use_up(ports: Ports, caller: _Caller) -> None:
    """Record the call's nonce; the same call again is SIGNATURE_INVALID."""
    now = ports.clock.now()
    key_id = caller.member.key.key_id
    nonce = Nonce(key_id=key_id, used_at=now)
    record = store.put_new(store.nonce_key(key_id, caller.call.nonce), nonce, expires_at=now + store.NONCE_LIFETIME)
    try:
        ports.records.commit([record])
    except Conflict as error:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "this very call was used before") from error


def _find(request: Request, routes: Sequence[Route]) -> tuple[Route | None, Mapping[str, str]]:
    for candidate in routes:
        match = candidate.pattern.match(request.path)
        if match is not None and candidate.method == request.method:
            return candidate, {name: unquote(part) for name, part in match.groupdict().items()}
    return None, {}


def _whoami(call: Call) -> Response:
    return answer(
        Whoami(
            user=call.user.name,
            role=call.user.role.value,
            key_id=call.key.key_id,
            deployment_id=call.deployment.deployment_id,
            version=call.deployment.version,
            key_expires_at=call.key.expires_at,
            limits=call.key.limits,
            quota=quotas.use_of(call.ports.records, [call.user])[0],
        )
    )


def _grant_inbox(call: Call) -> Response:
    """The upload policy of a key. That the key got one is noted first: the reconciler looks for lost uploads there."""
    now = call.ports.clock.now()
    expires_at = now + GRANT_LIFETIME
    if call.key.expires_at is not None:
        expires_at = min(expires_at, call.key.expires_at)
    grantee = store.load(call.ports.records, store.grantee_key(call.key.key_id), InboxGrantee)
    noted = InboxGrantee(key_id=call.key.key_id, granted_at=now)
    try:
        call.ports.records.commit([store.put(grantee, noted)])
    except Conflict:
        log.info("key %s was granted an upload twice at once; either note will do", call.key.key_id)
    prefix = object_keys.inbox_prefix(call.key.key_id)
    policy = call.ports.inbox.presign_post(
        prefix, content_type=REQUEST_CONTENT_TYPE, max_bytes=codec.MAX_BATCH_BYTES, expires_at=expires_at
    )
    return answer(
        InboxGrant(
            url=policy.url,
            fields=policy.fields,
            key_prefix=prefix,
            content_type=REQUEST_CONTENT_TYPE,
            max_bytes=codec.MAX_BATCH_BYTES,
            expires_at=expires_at,
        )
    )


ROUTES: tuple[Route, ...] = (
    route("GET", "/whoami", Action.KNOW_SELF, _whoami),
    route("POST", "/grants/inbox", Action.RUN, _grant_inbox, single_use=True),
    route("POST", "/grants/outbox", Action.READ_OWN, reads.grant_outbox, other=Action.READ_ANY, single_use=True),
    route("POST", "/grants/logs", Action.READ_OWN, log_grants.grant_logs, other=Action.READ_ANY, single_use=True),
    route("GET", "/executions", Action.READ_OWN, reads.list_executions, other=Action.READ_ANY),
    route(
        "POST",
        "/executions/statuses",
        Action.READ_OWN,
        reads.show_many,
        other=Action.READ_ANY,
        name="show-executions",
    ),
    route(
        "GET",
        "/executions/{execution_id}",
        Action.READ_OWN,
        reads.show,
        other=Action.READ_ANY,
        name="show-execution",
    ),
    route(
        "DELETE",
        "/executions/{execution_id}",
        Action.KILL_OWN,
        kills.serve_kill,
        other=Action.KILL_ANY,
        single_use=True,
        name="kill",
    ),
    route("GET", "/locks", Action.READ_LOCKS, queues.list_locks),
    route("GET", "/locks/{name}", Action.READ_LOCKS, queues.show_lock),
    route("POST", "/locks/{name}/release", Action.RELEASE_LOCKS, queues.release_lock, single_use=True),
    *healths.ROUTES,
    *users.ROUTES,
    *quotas.ROUTES,
    *keys.ROUTES,
    *images.ROUTES,
    *playbooks.ROUTES,
    *secrets.ROUTES,
    *entries.ROUTES,
    *cost_sums.ROUTES,
    *dry_runs.ROUTES,
    *proof.ROUTES,
    *traces.ROUTES,
    *signed_requests.ROUTES,
)
