"""The route that reads the audit. What writes it stands with what it tells of (see audit/notes.py and documents/store.audit)."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import AuditEvent
from runvoy_agent.handlers.documents import listings, store
from runvoy_agent.handlers.documents.listings import Kind, Span
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Position
from runvoy_protocol.audit import REFUSED, AuditEntry, AuditPage
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id

EVENTS = Kind(AuditEvent, lambda event: event.at, lambda event: event.event_id, store.audit_key)
_CODES = frozenset(code.value for code in ErrorCode)
# Actions that change nothing but leave to read or to upload (`tests/unit/test_audit.py` holds them to the routes).
READS = frozenset(
    {
        *("whoami", "list-executions", "show-execution", "show-executions", "show-request", "trace", "dry-run"),
        *("grant-inbox", "grant-outbox", "grant-logs", "renew-grant"),
        *("list-locks", "show-lock", "list-users", "show-user", "list-quotas", "list-keys", "show-cost"),
        *("list-images", "show-image", "list-playbooks", "list-secrets", "show-secret", "reveal-secret"),
        *("read-audit", "audit-head", "list-seals", "list-records", "find-records", "show-evidence"),
        *("show-queues", "show-stack"),
    }
)
# What comes of a run's admission by itself: `runvoy trace` tells it.
_STEPS = frozenset({"start", "started", "result", "stopped", "expire"})


def read_audit(call: Call) -> Response:
    """A page of audit records, newest first."""
    query = _Query(call)
    call.concerns(execution_id=query.execution_id)
    rows, after = listings.page(call.ports.records, EVENTS, query.span(), query.limit, query.matches)
    return answer(AuditPage(entries=tuple(shown(row.document) for row in rows), after=after))


class _Query:
    """The query of an audit call, checked."""

    def __init__(self, call: Call) -> None:
        query = dict(call.request.query)
        self.limit = listings.limit_of(query.pop("limit", None))
        self.after = listings.position_of(query.pop("after", None), EVENTS)
        self.since = listings.instant_of("since", query.pop("since", None))
        self.until = listings.instant_of("until", query.pop("until", None))
        self.execution_id = query.pop("execution", None)
        user = query.pop("user", None)
        self.user = None if user is None else user.strip().lower()
        self.action = query.pop("action", None)
        outcome = query.pop("outcome", None)
        changes = query.pop("changes", "no")
        self.changes_alone = changes == "yes"
        self.outcomes = _CODES if outcome == REFUSED else frozenset(() if outcome is None else (outcome,))
        listings.refuse_others(query)
        if changes not in ("yes", "no"):
            raise RunvoyError(ErrorCode.INVALID_REQUEST, "changes is yes or no")
        if self.execution_id is not None and not is_execution_id(self.execution_id):
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{self.execution_id[:64]!r} is no execution id")
        self._oldest = max(call.deployment.created_at, self.since or call.deployment.created_at)
        self._newest = call.ports.clock.now() + listings.CLOCKS_APART

    def span(self) -> Span:
        newest, after = self._newest, self.after
        if self.until is not None and self.until < newest:
            newest = self.until
            before = Position(store.stamp(self.until + timedelta(milliseconds=1)), "")
            after = before if after is None else min(after, before)
        execution_id = self.execution_id
        if execution_id is None:
            return Span(_of_day, self._oldest, newest, after)
        return Span(lambda _: [(store.INDEX_AUDIT_EXECUTION, execution_id)], None, newest, after)

    def matches(self, event: AuditEvent) -> bool:
        if self.user is not None and event.actor.lower() != self.user:
            return False
        if self.action is not None and event.action != self.action:
            return False
        if self.changes_alone and (event.action in READS | _STEPS or event.outcome in _CODES):
            return False
        if self.outcomes and event.outcome not in self.outcomes:
            return False
        if self.since is not None and event.at < self.since:
            return False
        return self.until is None or event.at < self.until


def _of_day(of_day: str) -> list[tuple[str, str]]:
    return [(store.INDEX_AUDIT, store.shard_partition(of_day, shard)) for shard in range(store.SHARDS)]


def shown(event: AuditEvent) -> AuditEntry:
    """A record of the audit as it is told."""
    return AuditEntry(**msgspec.structs.asdict(event))


ROUTES: tuple[Route, ...] = (route("GET", "/audit", Action.READ_AUDIT, read_audit),)
