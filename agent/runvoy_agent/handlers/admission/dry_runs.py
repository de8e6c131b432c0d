"""The route that tries a run request out: judged as in earnest, and nothing of it recorded but the audit's line."""

from __future__ import annotations

import hashlib

import msgspec

from runvoy_agent.core import admission
from runvoy_agent.core.access import Action
from runvoy_agent.core.admission import Accepted, Known
from runvoy_agent.core.model import Execution, Key, LockRecord, Refusal
from runvoy_agent.handlers.admission import judging
from runvoy_agent.handlers.admission.judging import Judged
from runvoy_agent.handlers.documents import outbox, store
from runvoy_agent.handlers.locks import queues
from runvoy_agent.handlers.routes import Call, Response, answer, route
from runvoy_agent.ports import Records
from runvoy_protocol import requests
from runvoy_protocol.dry_runs import DryRunAnswer, DryRunRequest, SecretUse, most_nanodollars, refused
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.status import LockStatus


def dry_run(call: Call) -> Response:
    """What would become of a request of the caller's key, now."""
    payload = call.body(DryRunRequest).request
    request = requests.decode(payload)
    call.concerns(subject=f"playbook {request.playbook}" if request.playbook else "")
    key = store.load(call.ports.records, store.key_key(call.key.key_id), Key)
    digest = hashlib.sha256(payload).hexdigest()
    judged = judging.judge(call.ports, call.deployment, request, call.key.key_id, key, digest)
    match judged.decision:
        case Refusal() as refusal:
            found = _refused(call.ports.records, request, call.key.key_id, judged, refusal)
            outcome, message = refusal.code.value, refusal.message
        case Known(execution=execution):
            found = _allowed(request, judged, execution, _own_locks(call.ports.records, execution), is_known=True)
            outcome, message = "ok", "it was accepted before"
        case Accepted(execution=execution, locks=joined):
            found = _allowed(request, judged, execution, _places(call.ports.records, request, joined))
            outcome, message = "ok", "it would be accepted"
    call.ports.records.commit([call.audit("dry-run", outcome, message=message)])
    return answer(found, audited=True)


def _allowed(
    request: RunRequest, judged: Judged, execution: Execution, locks: tuple[LockStatus, ...], *, is_known: bool = False
) -> DryRunAnswer:
    rate = execution.rate
    # Of one that was accepted before, a secret may be gone by now.
    chosen = [judged.facts.secrets[name] for name in request.secrets if name in judged.facts.secrets]
    return DryRunAnswer(
        allowed=True,
        resolved=outbox.resolved(execution),
        secrets=tuple(SecretUse(name=secret.name, env_name=secret.env_name) for secret in chosen),
        locks=locks,
        waits=any(lock.position for lock in locks),
        rate=rate,
        most_nanodollars=None if rate is None else most_nanodollars(rate, execution.timeout_seconds),
        is_known=is_known,
    )


def _refused(records: Records, request: RunRequest, key_id: str, judged: Judged, refusal: Refusal) -> DryRunAnswer:
    """With all that is known of it where a held lock alone is in the way: then it would be accepted if it waited. Of what is
    refused for another rule nothing more is said, for it may be nothing that the caller may know."""
    why = refused(refusal.code, refusal.message, refusal.hint)
    if refusal.code is ErrorCode.LOCK_HELD:
        waiting = msgspec.structs.replace(request, if_locked="wait")
        decision = admission.admit(waiting, key_id, judged.facts)
        if isinstance(decision, Accepted):
            found = _allowed(request, judged, decision.execution, _places(records, request, decision.locks))
            return msgspec.structs.replace(found, allowed=False, refused=why, waits=False)
    return DryRunAnswer(allowed=False, refused=why)


def _places(records: Records, request: RunRequest, joined: dict[str, LockRecord]) -> tuple[LockStatus, ...]:
    """The places that it would have in its locks' queues, and who is before it."""
    return tuple(
        queues.place_in(records, LockStatus(name=name), joined[name], request.request_id) for name in request.locks
    )


def _own_locks(records: Records, execution: Execution) -> tuple[LockStatus, ...]:
    return () if execution.is_terminal else queues.waiting_locks(records, execution)


ROUTES = (route("POST", "/dry-run", Action.KNOW_SELF, dry_run),)
