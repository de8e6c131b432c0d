"""The route that tells the story of one execution, from its admission to the release of its locks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import AuditEvent, Execution
from runvoy_agent.handlers.audit import entries
from runvoy_agent.handlers.audit.entries import EVENTS
from runvoy_agent.handlers.documents import listings, store
from runvoy_agent.handlers.executions import reads
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.trace import TracePage, TraceStep

_PAGE = 200
_STORY = frozenset({"admit", "start", "started", "result", "stopped", "kill", "expire", "mend-lock", "release-lock"})
"""What changed the execution; the rest of its audit are calls that looked at it."""


def trace(call: Call) -> Response:
    """A page of the story, oldest first. Who may not read the audit sees no addresses, and no calls that only looked."""
    execution_id = call.groups["execution_id"]
    query = dict(call.request.query)
    after = listings.position_of(query.pop("after", None), EVENTS)
    listings.refuse_others(query)
    if _is_auditor(call):
        found = store.load_execution(call.ports.records, execution_id) if is_execution_id(execution_id) else None
    else:
        found = reads.find_readable(call, execution_id)
        if found is None:
            # The caller's own request of this id is not decided. Whatever else is known of the id is another's.
            return answer(TracePage(entries=()))
    page = call.ports.records.query(store.INDEX_AUDIT_EXECUTION, execution_id, after=after, limit=_PAGE)
    events = [msgspec.json.decode(record.body, type=AuditEvent) for record in page.records]
    execution = None if found is None else found.document
    if execution is None and not events and after is None:
        reads.find_readable(call, execution_id)  # NOT_FOUND, or it is not decided yet
    following = None
    if page.after is not None:
        following = f"{page.after.sort}~{events[-1].event_id}"
    return answer(
        TracePage(
            entries=tuple(_shown(call, event) for event in events if _is_seen(call, event)),
            steps=tuple(_steps(execution)) if execution is not None and after is None else (),
            after=following,
        )
    )


def _is_auditor(call: Call) -> bool:
    return call.member.may(Action.READ_AUDIT)


def _is_seen(call: Call, event: AuditEvent) -> bool:
    return _is_auditor(call) or event.action in _STORY or event.actor == call.user.name


def _shown(call: Call, event: AuditEvent) -> AuditEntry:
    entry = entries.shown(event)
    return entry if _is_auditor(call) else msgspec.structs.replace(entry, source="")


def _steps(execution: Execution) -> Iterator[TraceStep]:
    """What the record tells and no audit record does."""
    names = ", ".join(lock.name for lock in execution.locks)
    if names:
        yield _step(execution.admitted_at, "deployment", "joined-locks", f"the queues of {names}")
    if execution.granted_at is not None and names:
        fences = ", ".join(f"{lock.name} with fence {lock.fence}" for lock in execution.locks if lock.fence is not None)
        yield _step(execution.granted_at, "deployment", "locks-granted", fences)
    if execution.granted_at is not None or (execution.granted and not names):
        queue = "bulk" if execution.bulk else "starts"
        yield _step(execution.granted_at or execution.admitted_at, "deployment", "pushed", f"to the queue {queue}")
    # What waits, or waited, for room has a time of its last try as well. What an older version started has no place.
    was_launched = execution.placed or execution.launches or execution.started_at is not None
    if execution.starting_at is not None and was_launched:
        where = f"in {execution.image}" if execution.isolation == "container" else "as a process of the machine"
        again = f", {execution.launches} launches counted" if execution.launches > 1 else ""
        yield _step(execution.starting_at, "deployment", "launched", f"attempt {execution.attempt}, {where}{again}")
    if execution.started_at is not None:
        yield _step(execution.started_at, "runner", "command-began", "by the runner's clock")
    if execution.missing_since is not None:
        yield _step(execution.missing_since, "platform", "missing", "the platform knew no task of it")
    if execution.ended_at is not None:
        yield _step(execution.ended_at, "runner", "command-ended", _ending(execution))
    if execution.stopped_at is not None:
        yield _step(execution.stopped_at, "deployment", "released" if names else "over", names)


def _ending(execution: Execution) -> str:
    parts = [execution.state.value]
    if execution.exit_code is not None:
        parts.append(f"exit code {execution.exit_code}")
    if execution.signal is not None:
        parts.append(f"signal {execution.signal}")
    if execution.reason is not None:
        parts.append(f"reason {execution.reason.value}")
    return ", ".join(parts)


def _step(at: datetime, who: str, what: str, about: str) -> TraceStep:
    return TraceStep(at=at, who=who, what=what, about=about)


ROUTES: tuple[Route, ...] = (route("GET", "/trace/{execution_id}", Action.READ_OWN, trace, other=Action.READ_ANY),)
