"""The routes about the deployment's own health: queues, dead letters, and a round of the reconciler on request. `GET health`,
which anybody may ask, is answered by the control handler."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import AuditHead, Execution
from runvoy_agent.core.progress import Reconciled
from runvoy_agent.handlers import reconcile
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import QueueCare, Records
from runvoy_protocol import seals
from runvoy_protocol.control import (
    QueueHealth,
    QueuesAnswer,
    ReconcileAnswer,
    RedriveAnswer,
    Redriven,
    RedriveRequest,
    RepairAnswer,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError

COUNTED_BACK = timedelta(days=30)

MOST_REDRIVEN = 1000
"""Of each queue, in one call."""


def show_queues(call: Call) -> Response:
    """How many messages wait in which queue, how far behind the reconciler and the audit's seals are, and how much room is left."""
    records = call.ports.records
    reconciled = store.load(records, store.RECONCILED_KEY, Reconciled).document
    head = store.load(records, store.AUDIT_HEAD_KEY, AuditHead).document
    return answer(
        QueuesAnswer(
            queues=tuple(QueueHealth(**state._asdict()) for state in _queues(call).states()),
            reconciled_at=None if reconciled is None else reconciled.at,
            audit_sealed_until=None if head is None else seals.time_of(head.scanned_to),
            disk=None if call.deployment.disk is None else call.deployment.disk(),
        )
    )


def counts_by_state(records: Records, created_at: datetime, now: datetime) -> dict[str, int]:
    """How many executions there are in which state: of those admitted in the last COUNTED_BACK, and whatever is not over. To count
    all of a deployment of years would be to read all of it."""
    since = max(created_at, now - COUNTED_BACK)
    states = Counter(one.state.value for one in all_executions.active(records) if one.admitted_at < since)
    for record in all_executions.since(records, since, now):
        execution = msgspec.json.decode(record.body, type=Execution)
        if execution.admitted_at >= since:
            states[execution.state.value] += 1
    return dict(states)


def redrive(call: Call) -> Response:
    """Give dead letters another try: those of one queue, or of all."""
    wanted = call.body(RedriveRequest).queue
    call.concerns(subject=wanted or "all queues")
    queues = _queues(call)
    names = [state.name for state in queues.states()]
    if wanted is not None and wanted not in names:
        raise RunvoyError(
            ErrorCode.NOT_FOUND, f"there is no queue {wanted[:64]!r}", f"The queues are {', '.join(names)}."
        )
    call.hold()
    moved = {name: queues.redrive(name, MOST_REDRIVEN) for name in names if wanted in (None, name)}
    left = {state.name: state.dead for state in queues.states()}
    told = ", ".join(f"{count} of {name}" for name, count in moved.items() if count)
    # Done, and so on record, even if the caller was revoked meanwhile.
    call.ports.records.commit([call.audit("redrive", message=f"dead letters: {told or 'none'}")])
    found = tuple(Redriven(queue=name, redriven=count, left=left[name]) for name, count in moved.items())
    return answer(RedriveAnswer(queues=found), audited=True)


def _reconcile(call: Call) -> Response:
    """One round of the reconciler, now; what it found and did."""
    done = reconcile.handle(call.ports)
    repairs = tuple(RepairAnswer(**repair._asdict()) for repair in done.repairs)
    return answer(ReconcileAnswer(repairs=repairs, left=done.left))


def _queues(call: Call) -> QueueCare:
    if call.deployment.queues is None:
        raise RunvoyError(ErrorCode.NOT_FOUND, "this deployment's queues cannot be looked at")
    return call.deployment.queues


ROUTES: tuple[Route, ...] = (
    route("POST", "/health/reconcile", Action.RECONCILE, _reconcile, single_use=True),
    route("GET", "/health/queues", Action.SEE_STACK, show_queues),
    route("POST", "/health/redrive", Action.RECONCILE, redrive, single_use=True),
)
