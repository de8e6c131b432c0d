"""The audit of calls, and when keys were used. What changes something has its record in the very commit that changes it;
this is for the rest: reads, refusals, failures, and calls of nobody known."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from runvoy_agent.core.model import Key, KeyUse, MinuteNote
from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Conflict, Ports
from runvoy_protocol.errors import RunvoyError

if TYPE_CHECKING:
    from runvoy_agent.handlers.routes import Call, Request, Route

log = logging.getLogger("runvoy.audit")

USE_IS_EXACT_TO = timedelta(minutes=1)
_MINUTE_KEPT = timedelta(hours=1)


def note_call(call: Call, route: Route | None, outcome: str, message: str = "") -> None:
    """Record a call that left no record of its own, before it is answered: what cannot be recorded is not told."""
    action = route.name if route is not None else _address(call.request)
    call.ports.records.commit([call.audit(action, outcome, message=message)])


def note_refused(ports: Ports, request: Request, error: RunvoyError, key: Key | None = None) -> None:
    """Record that a call was refused before anybody was let in. `key` is the one that signed it, if a registered one did."""
    code = error.code.value
    note_once_a_minute(
        ports,
        request,
        _address(request),
        code,
        what=code if key is None else f"{code}#{key.key_id}",
        key=key,
        message=error.message,
    )


def note_once_a_minute(
    ports: Ports, request: Request, action: str, outcome: str, *, what: str, key: Key | None, message: str = ""
) -> None:
    """Record something that its sender can repeat at will: the first `what` in each minute stands for them all."""
    now = ports.clock.now()
    minute = store.minute_key(what, store.stamp(now.replace(second=0, microsecond=0)))
    if ports.records.get(minute) is not None:
        return
    first = store.put_new(minute, MinuteNote(at=now), expires_at=now + _MINUTE_KEPT)
    audit = store.audit(
        ports.clock,
        "" if key is None else key.user,
        action,
        outcome,
        key_id=None if key is None else key.key_id,
        source=request.source,
        message=message,
    )
    try:
        ports.records.commit([first, audit])
    except Conflict:
        log.info("another %s of this minute was recorded first", what)


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


def _address(request: Request) -> str:
    return f"{request.method[:16]} {request.path}"
