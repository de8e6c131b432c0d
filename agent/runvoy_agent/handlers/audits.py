"""The audit of calls, and when keys were used. What changes something has its record in the very commit that changes it;
this is for the rest: reads, refusals, and calls of nobody known."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from runvoy_agent.core.model import AnonymousRefusals, KeyUse
from runvoy_agent.handlers import store
from runvoy_agent.ports import Conflict, Ports
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.ids import is_execution_id

if TYPE_CHECKING:
    from runvoy_agent.handlers.routes import Call, Request, Route

log = logging.getLogger("runvoy.audit")

USE_IS_EXACT_TO = timedelta(minutes=1)
_ANONYMOUS_KEPT = timedelta(hours=1)


def note_call(call: Call, route: Route | None, outcome: str, message: str = "") -> None:
    """Record a call that left no record of its own, before it is answered: what cannot be recorded is not told."""
    action = f"{route.method} {route.path}" if route is not None else f"{call.request.method} {call.request.path[:200]}"
    parts = dict(call.groups)
    execution_id = parts.pop("execution_id", "")
    known_id = execution_id if is_execution_id(execution_id) else None
    subject = " ".join(parts.values())[:512]
    call.ports.records.commit([call.audit(action, outcome, subject=subject, execution_id=known_id, message=message)])


def note_anonymous(ports: Ports, request: Request, error: RunvoyError) -> None:
    """Record that a call of nobody known was refused: the first of its kind in each minute stands for them all, for
    anybody can make as many as they like."""
    now = ports.clock.now()
    minute = now.replace(second=0, microsecond=0)
    key = store.anonymous_key(error.code.value, store.stamp(minute))
    if ports.records.get(key) is not None:
        return
    first = store.put_new(key, AnonymousRefusals(at=now), expires_at=now + _ANONYMOUS_KEPT)
    action = f"{request.method} {request.path[:200]}"
    audit = store.audit(ports.clock, "", action, error.code.value, source=request.source, message=error.message[:500])
    try:
        ports.records.commit([first, audit])
    except Conflict:
        log.info("another refusal of this minute was recorded first")


def note_use(ports: Ports, key_id: str) -> None:
    """Keep when a key was used, to the minute."""
    now = ports.clock.now()
    current = store.load(ports.records, store.key_use_key(key_id), KeyUse)
    if current.document is not None and now - current.document.used_at < USE_IS_EXACT_TO:
        return
    try:
        ports.records.commit([store.put(current, KeyUse(key_id=key_id, used_at=now))])
    except Conflict:
        log.info("the key %s was used twice at once; either note will do", key_id)
