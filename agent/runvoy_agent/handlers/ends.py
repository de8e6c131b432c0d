"""Something of a run was seen: its start, its result, or its task stopping. Each may come first, late or twice."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TypeVar

import msgspec

from runvoy_agent.core import lifecycle, waiting
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import commits, outbox, pushes, store
from runvoy_agent.handlers.documents.messages import EndMessage
from runvoy_agent.handlers.locks import releases
from runvoy_agent.ports import Ports, Put, StoredObject
from runvoy_protocol import object_keys, run_objects
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.run_objects import RunResult, RunStarted

log = logging.getLogger("runvoy.ends")

B = TypeVar("B", RunStarted, RunResult)


def handle(ports: Ports, deployment: Deployment, body: bytes) -> None:
    """Handle one event; what it changed was announced when this returns."""
    message = msgspec.json.decode(body, type=EndMessage)
    changed = commits.with_retries(ports.clock, lambda: _apply(ports, deployment, message))
    if changed is not None and message.no_room and lifecycle.waits_for_room(changed):
        # Whoever dies before this leaves what waits for room without a push, and the reconciler sends one.
        delay = waiting.capacity_delay(changed, ports.clock.now())
        pushes.push(ports.queue, changed, delay_seconds=delay.total_seconds())


def _apply(ports: Ports, deployment: Deployment, message: EndMessage) -> Execution | None:
    """The execution as this event changed it; None if it did not."""
    current = store.load_execution(ports.records, message.execution_id)
    execution = current.document
    if execution is None or (message.attempt is not None and message.attempt != execution.attempt):
        log.warning("ignored %s of execution %.64s, which is not under way", message.event, message.execution_id)
        return None
    changed = _after(ports, deployment, execution, message)
    if changed is None:
        # Perhaps another delivery committed this and died before it told anyone.
        outbox.publish_status(ports, execution, current.version)
        return None
    freed = releases.change_and_release(ports, current, changed, _audit(ports, changed, message))
    releases.announce(ports, freed)
    return changed


def _after(ports: Ports, deployment: Deployment, execution: Execution, message: EndMessage) -> Execution | None:
    now = ports.clock.now()
    if message.event == "started":
        return _with_start(ports, deployment, execution, now)
    # The runner's own result goes first even when the platform's word came first: a deadline is TIMED_OUT in either order.
    result = _read(ports, deployment, execution, RunResult, object_keys.result(execution.execution_id))
    settled = None if result is None else lifecycle.settle(execution, result, now)
    if message.event == "result":
        return settled
    again = None if settled is not None else _launched_again(ports, deployment, execution, message)
    if again is not None:
        return again
    ended = settled or execution
    if not ended.is_terminal:
        said = f": {message.message}" if message.message else ""
        if message.never_began and ended.started_at is None:  # its own signed word that it began counts for more
            ended = lifecycle.settle_unbegun(ended, now, f"the command was not started{said}") or ended
        else:
            lost = f"its runner ended without leaving a result{said}"
            ended = lifecycle.settle_lost(ended, now, lost, message.exit_code) or ended
    stopped = lifecycle.note_stopped(ended, now)
    if stopped is None:
        return settled
    return lifecycle.note_task_end(stopped, message.pull_started_at, message.task_stopped_at, message.message)


def _with_start(ports: Ports, deployment: Deployment, execution: Execution, now: datetime) -> Execution | None:
    object_key = object_keys.started(execution.execution_id)
    word = ports.outbox.get(object_key)  # once: what is noted as unproven is what was judged
    if word is None:
        return None
    started = _opened(deployment, execution, RunStarted, object_key, word)
    if started is None:
        return lifecycle.note_unproven_start(execution, word.etag)
    return lifecycle.note_started(execution, started, now)


def _launched_again(
    ports: Ports, deployment: Deployment, execution: Execution, message: EndMessage
) -> Execution | None:
    """The execution as it waits for another attempt, if the platform had no room for this one's task, and no runner says
    otherwise."""
    if not message.no_room or message.attempt != execution.attempt:
        return None
    if _read(ports, deployment, execution, RunStarted, object_keys.started(execution.execution_id)) is not None:
        return None
    return lifecycle.launch_again(execution, ports.clock.now(), message.message)


def _read(ports: Ports, deployment: Deployment, execution: Execution, schema: type[B], object_key: str) -> B | None:
    """What the runner left, if it is there and proves to be this attempt's own."""
    stored = ports.outbox.get(object_key)
    return None if stored is None else _opened(deployment, execution, schema, object_key, stored)


def _opened(
    deployment: Deployment, execution: Execution, schema: type[B], object_key: str, stored: StoredObject
) -> B | None:
    key = run_objects.execution_key(deployment.secret, execution.execution_id, execution.attempt)
    try:
        return run_objects.open_signed(stored.data, schema, key, execution.execution_id, execution.attempt)
    except RunvoyError as error:
        log.warning("ignored %s: %s", object_key, error)
        return None


def _audit(ports: Ports, changed: Execution, message: EndMessage) -> Put:
    return store.audit(
        ports.clock,
        "platform" if message.event == "stopped" else "runner",
        message.event,
        changed.state.value,
        execution_id=changed.execution_id,
        message=changed.message,
    )
