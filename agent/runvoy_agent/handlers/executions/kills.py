"""Having an execution end: by a user's wish, or because a clock of the deployment ran out.

The commit comes first, so that whoever dies before the task was told leaves a record from which the reconciler tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from runvoy_agent.core import lifecycle, projection
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import commits, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.executions.reads import find_readable
from runvoy_agent.handlers.locks import releases
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_agent.ports import Check, Ports, Put
from runvoy_protocol.control import ExecutionAnswer
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.states import State


def serve_kill(call: Call) -> Response:
    """DELETE executions/{id}: the execution as it stands then. One that has ended is left as it is."""
    execution_id = call.groups["execution_id"]
    found = find_readable(call, execution_id)
    if found is None or found.document is None:
        raise RunvoyError(
            ErrorCode.CONFLICT, f"the request {execution_id} is not decided yet", "Try again in a moment."
        )
    if not call.member.owns(found.document.owner, found.document.key_id):
        call.check_others()
    was_new = kill(call, execution_id)
    current = store.load_execution(call.ports.records, execution_id)
    if current.document is None:
        raise LookupError(f"execution {execution_id} has vanished")
    status = projection.project(current.document, current.version)
    return answer(ExecutionAnswer(state="admitted", status=status), audited=was_new)


def kill(call: Call, execution_id: str) -> bool:
    """End an execution by the caller's wish; whether that was new. Nothing is ended by one who was revoked meanwhile."""
    return end(
        call.ports,
        execution_id,
        lambda execution: lifecycle.kill(execution, call.ports.clock.now(), call.user.name),
        lambda changed: call.audit("kill", changed.state.value, execution_id=execution_id, message=changed.message),
        call.hold,
    )


def end(
    ports: Ports,
    execution_id: str,
    change: Callable[[Execution], Execution | None],
    audit: Callable[[Execution], Put],
    hold: Callable[[], Sequence[Check]] = tuple,
) -> bool:
    """Commit what `change` makes of the execution, with its `audit` record, and have its task stopped, if it has one;
    whether that was new. `hold` gives what else the commit depends on, anew for each try.

    A task that was told before is told again: the first telling may have been lost. So is one that goes on though its execution
    has ended: nothing else of it can be ended any more.
    """
    current, changed = commits.with_retries(ports.clock, lambda: _commit(ports, execution_id, change, audit, hold))
    stands = changed or current
    if stands is not None and _has_task_to_end(ports, stands, audit):
        ports.launcher.stop(execution_id, stands.attempt)
    return changed is not None


def _has_task_to_end(ports: Ports, execution: Execution, audit: Callable[[Execution], Put]) -> bool:
    if execution.is_terminal:
        return execution.is_active
    return execution.state is State.TERMINATING and not end_unlaunched(ports, execution, audit)


def end_unlaunched(ports: Ports, execution: Execution, audit: Callable[[Execution], Put]) -> bool:
    """End at once what is to be stopped and has no task, nor a launch under way, as when it waited for room; whether that
    is so. Its locks are free then."""
    if execution.launches or ports.launcher.describe(execution.execution_id, execution.attempt).phase != "missing":
        return False
    change = partial(lifecycle.end_unlaunched, now=ports.clock.now())
    _, ended = commits.with_retries(ports.clock, lambda: _commit(ports, execution.execution_id, change, audit, tuple))
    return ended is not None


def _commit(
    ports: Ports,
    execution_id: str,
    change: Callable[[Execution], Execution | None],
    audit: Callable[[Execution], Put],
    hold: Callable[[], Sequence[Check]],
) -> tuple[Execution | None, Execution | None]:
    checks = hold()
    current: Loaded[Execution] = store.load_execution(ports.records, execution_id)
    changed = None if current.document is None else change(current.document)
    if changed is None:
        return current.document, None
    freed = releases.change_and_release(ports, current, changed, audit(changed), checks)
    releases.announce(ports, freed)
    return current.document, changed
