"""An execution may start: check again, fix the parameters, launch. At most once.

The commit to STARTING comes before the launch, so whoever dies in between leaves a record that says so; the same attempt
may then be launched again, for the launcher starts one task per attempt whatever happens.

Two deliveries of one push may both launch, and the platform may refuse the one and take the other. So launches are counted
in the record before they are made, and a refusal ends the execution only if no other launch may be under way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from runvoy_agent.core import access, launches, lifecycle, quotas, waiting
from runvoy_agent.core.model import DefaultQuotas, Execution, FixedSecret, Key, User
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import commits, outbox, pushes, store
from runvoy_agent.handlers.documents.messages import StartMessage
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.executions import kills, run_grants
from runvoy_agent.handlers.locks import releases
from runvoy_agent.handlers.quotas import counts, places
from runvoy_agent.handlers.quotas.counts import Number
from runvoy_agent.handlers.resources import secret_values
from runvoy_agent.ports import (
    Check,
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    NoCapacity,
    NotLaunched,
    Ports,
    Put,
    Unavailable,
)
from runvoy_protocol import git_sources
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.run_objects import GitCheckout, RunnerPayload, execution_key
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.starts")


class _Begun(NamedTuple):
    """The execution as it stands now, and what this delivery is to do with it."""

    current: Loaded[Execution]
    launch: bool  # launch it: this launch is counted in its record already
    refused: str | None = None  # have it end: why it may not run any more
    overdue: bool = False  # have it end: it waited for room for longer than it may


def handle(ports: Ports, deployment: Deployment, body: bytes) -> None:
    """Handle one push. Duplicates, and pushes for what started or ended long ago, change nothing."""
    message = msgspec.json.decode(body, type=StartMessage)
    begun = commits.with_retries(ports.clock, lambda: _begin(ports, message))
    if begun is None or begun.current.document is None:
        return
    # Whatever its state: the delivery that committed it may have died before it told anyone.
    outbox.publish_status(ports, begun.current.document, begun.current.version)
    if begun.refused is not None:
        _withdraw(ports, begun.current.document, begun.refused)
    elif begun.overdue:
        _end(ports, begun.current.document, lambda current: lifecycle.expire_for_room(current, ports.clock.now()))
    elif begun.launch:
        _launch(ports, deployment, begun.current.document)
    was_woken = begun.current.document.for_place
    if was_woken and (begun.refused is not None or begun.overdue or not begun.current.document.waits_for_place):
        places.wake(ports, begun.current.document.owner, 1)  # the place that it was pushed for is the next one's


def _begin(ports: Ports, message: StartMessage) -> _Begun | None:
    """Commit QUEUED → STARTING (or the refusal), or one more launch of what is STARTING. None where nothing is left to be told or
    done: it has no record, or has ended here and that was announced."""
    current = store.load_execution(ports.records, message.execution_id)
    execution = current.document
    if execution is None:
        log.warning("a push names execution %.64s, which has no record", message.execution_id)
        return None
    now = ports.clock.now()
    if waiting.is_superseded(execution, message.tried_at) and lifecycle.expire_for_room(execution, now) is None:
        # Each push that finds no room sends one: without this, two of an execution would be two for as long as it waits.
        return _Begun(current, launch=False)
    if execution.state is State.QUEUED:
        return _begin_first(ports, current, execution, now)
    if execution.state is State.STARTING:
        return _begin_again(ports, current, execution)
    if execution.state is State.TERMINATING:
        # It was told to end while an earlier delivery launched it: if that started nothing, nobody else tells of its end.
        is_over = kills.end_unlaunched(ports, execution, lambda changed: _audit(ports, changed))
        return None if is_over else _Begun(current, launch=False)
    return _Begun(current, launch=False)


def _begin_first(ports: Ports, current: Loaded[Execution], execution: Execution, now: datetime) -> _Begun | None:
    """What is queued: STARTING, if it was granted and may start; else its end, or its wait for a place."""
    expired = lifecycle.expire_in_queue(execution, now)
    if expired is not None:
        releases.announce(ports, _end_unstarted(ports, current, expired))
        return None
    if not execution.granted:
        return _Begun(current, launch=False)
    rights = _rights(ports, execution)
    if rights.refused is not None:
        changed = lifecycle.refuse_start(execution, now, rights.refused)
    elif rights.no_place is not None:
        changed = lifecycle.wait_for_place(
            execution, now, rights.no_place, rights.secrets, max_log_mib=rights.max_log_mib
        )
    else:
        limited = rights.max_running is not None
        changed = lifecycle.begin_start(execution, now, rights.secrets, max_log_mib=rights.max_log_mib, limited=limited)
    if changed is None:
        return _Begun(current, launch=False)
    if changed.state is not State.STARTING:
        releases.announce(ports, _end_unstarted(ports, current, changed))
        return None
    # The Checks make a revocation that committed first win against this start, of a right to a secret too.
    counted = counts.changes(execution, changed, max_running=rights.max_running)
    held = rights.held_by(changed)
    ports.records.commit([store.put(current, changed), *held, *counted, _audit(ports, changed)])
    return _Begun(Loaded(current.key, changed, current.version + 1), launch=changed.placed)


def _begin_again(ports: Ports, current: Loaded[Execution], execution: Execution) -> _Begun:
    """An earlier delivery committed STARTING: it may have died before its launch, or be at it."""
    now = ports.clock.now()
    window = ports.launcher.relaunch_window
    is_late = window is not None and execution.starting_at is not None and now > execution.starting_at + window
    if is_late and not lifecycle.waits_for_room(execution):
        # Too late to launch and be sure: from here the reconciler looks at the task, and never runs it.
        log.warning("execution %s was not launched in time; it is left to the reconciler", execution.execution_id)
        return _Begun(current, launch=False)
    if lifecycle.expire_for_room(execution, now) is not None:
        return _Begun(current, launch=False, overdue=True)
    rights = _rights(ports, execution)
    if rights.refused is not None:
        return _Begun(current, launch=False, refused=rights.refused)
    if rights.no_place is not None and lifecycle.waits_for_room(execution) and not execution.placed:
        changed = lifecycle.wait_for_place(execution, now, rights.no_place)
    else:
        changed = lifecycle.begin_launch(execution, now, limited=rights.max_running is not None)
    if changed is None:
        return _Begun(current, launch=False)
    # What an older version started has no place and may have a task: held to the limit, each try would end in a conflict.
    most = rights.max_running if lifecycle.waits_for_room(execution) else None
    counted = counts.changes(execution, changed, max_running=most)
    ports.records.commit([store.put(current, changed), *rights.held_by(changed), *counted])
    return _Begun(Loaded(current.key, changed, current.version + 1), launch=changed.placed)


class _Rights(NamedTuple):
    """Whether an execution may start now, and with what."""

    refused: str | None  # why it may not, now or ever
    checks: tuple[Check, ...] = ()  # hold a commit to what was judged
    secrets: tuple[FixedSecret, ...] = ()  # what it gets
    no_place: str | None = None  # why it has to wait for others of its owner's to end
    max_running: int | None = None  # how many of its owner's may run at once
    running: Number | None = None  # how many do
    max_log_mib: int | None = None

    def held_by(self, changed: Execution) -> tuple[Check, ...]:
        """What the commit of `changed` depends on. A commit that begins to wait for a place depends on there being none:
        whoever frees one before it cannot know that somebody waits, and whoever frees one after it finds that out."""
        if self.running is None or not changed.waits_for_place:
            return self.checks
        return (*self.checks, self.running.check)


def _rights(ports: Ports, execution: Execution) -> _Rights:
    """Whether its key and user may still run it, and use an unregistered image if it has one; whether its owner has a place for
    it; and the values of its secrets, unless it is fixed to some already."""
    key_key, user_key = store.key_key(execution.key_id), store.user_key(execution.owner)
    running_key = counts.running_key(execution.owner)
    known = store.Several(ports.records, [key_key, user_key, running_key, store.DEFAULT_QUOTAS_KEY])
    key, user = known.document(key_key, Key), known.document(user_key, User)
    try:
        member = access.check_key(key.document, user.document, ports.clock.now())
        access.check_allowed(member, access.Action.RUN)
        if execution.image is not None and execution.image_name is None:
            access.check_allowed(member, access.Action.MANAGE_IMAGES)  # who may run any image
        secrets: tuple[FixedSecret, ...] = ()
        secret_checks: tuple[Check, ...] = ()
        if execution.state is State.QUEUED:
            secrets, secret_checks = secret_values.fix(ports.records, execution, member.user)
    except RunvoyError as error:
        return _Rights(error.message)
    default = known.document(store.DEFAULT_QUOTAS_KEY, DefaultQuotas).document
    limit, log_limit = quotas.running_limit(member.user, default), quotas.log_limit(member.user, default)
    running = counts.number_in(known, running_key)
    no_place = quotas.why_no_place(member.user, running.value, limit)
    return _Rights(None, (key.check, user.check, *secret_checks), secrets, no_place, limit, running, log_limit)


def _withdraw(ports: Ports, execution: Execution, refused: str) -> None:
    """Have it end, for it lost its right to run while it waited for room. One that was launched meanwhile goes on: it was
    launched while it might. Whether it was is told by the count in its record, not by a look at the platform, which may miss a
    task."""
    _end(ports, execution, lambda current: lifecycle.withdraw(current, ports.clock.now(), refused))


def _end(ports: Ports, execution: Execution, change: Callable[[Execution], Execution | None]) -> None:
    kills.end(ports, execution.execution_id, change, lambda changed: _audit(ports, changed))


def _end_unstarted(ports: Ports, current: Loaded[Execution], changed: Execution) -> releases.Freed:
    return releases.change_and_release(ports, current, changed, _audit(ports, changed))


def _audit(ports: Ports, execution: Execution) -> Put:
    # With which secrets it started; of any other decision, the reason.
    used = ", ".join(fixed.name for fixed in execution.fixed_secrets)
    message = f"with the secrets {used}" if used and execution.state is State.STARTING else execution.message
    return store.audit(
        ports.clock,
        execution.owner,
        "start",
        execution.state.value,
        execution_id=execution.execution_id,
        key_id=execution.key_id,
        message=message,
    )


def _launch(ports: Ports, deployment: Deployment, execution: Execution) -> None:
    outcome = _start_task(ports, deployment, execution)
    match outcome:
        case Launched():
            return  # and stays counted: from here on no refusal of another launch ends it
        case NoCapacity(message=message):
            waits = commits.with_retries(
                ports.clock, lambda: _note_unlaunched(ports, execution, message, refused=False)
            )
            if waits is not None:
                _push_later(ports, waits)
        case LaunchRefused(message=message):
            commits.with_retries(ports.clock, lambda: _note_unlaunched(ports, execution, message, refused=True))


def _push_later(ports: Ports, execution: Execution) -> None:
    """A new message, not a redelivery: waiting for room is no failure, and must not end as a dead letter."""
    delay = waiting.capacity_delay(execution, ports.clock.now())
    pushes.push(ports.queue, execution, delay_seconds=delay.total_seconds())


def _start_task(ports: Ports, deployment: Deployment, execution: Execution) -> LaunchOutcome:
    """Launch with the values that the run is fixed to. Where one is gone nothing can be started, now or later."""
    try:
        values = secret_values.read(ports, execution)
    except Unavailable:
        # Counted, and not made: what stays counted could not be refused for good.
        commits.with_retries(ports.clock, lambda: _call_off(ports, execution))
        raise
    if isinstance(values, LaunchRefused):
        return values
    try:
        return ports.launcher.start(_launch_of(ports, deployment, execution, values))
    except NotLaunched:
        # As above; and what was told to end at this moment would wait for a task that was never there.
        commits.with_retries(ports.clock, lambda: _call_off(ports, execution))
        raise


def _call_off(ports: Ports, launched: Execution) -> None:
    current = _of_that_attempt(ports, launched)
    changed = None if current.document is None else launches.call_off_launch(current.document)
    if changed is not None:
        ports.records.commit([store.put(current, changed)])


def _of_that_attempt(ports: Ports, launched: Execution) -> Loaded[Execution]:
    """The execution as it is now; without a document if another attempt has begun: what is known of this launch is not about
    that."""
    current = store.load_execution(ports.records, launched.execution_id)
    is_that = current.document is not None and current.document.attempt == launched.attempt
    return current if is_that else current._replace(document=None)


def _note_unlaunched(ports: Ports, launched: Execution, message: str, *, refused: bool) -> Execution | None:
    """Commit that this launch started nothing, as the platform says; the execution, if it is to be tried again."""
    current = _of_that_attempt(ports, launched)
    if current.document is None:
        return None
    changed = lifecycle.note_unlaunched(current.document, ports.clock.now(), message, refused=refused)
    if changed is None:
        return None
    if not changed.is_terminal:
        ports.records.commit([store.put(current, changed), *counts.changes(current.document, changed)])
        outbox.publish_status(ports, changed, current.version + 1)
        return changed if changed.state is State.STARTING else None
    try:
        # Looked at as well: a launch that was forgotten as over may have gone through after all.
        task = ports.launcher.describe(launched.execution_id, launched.attempt)
    except Unavailable:
        # What stays counted could not be refused when this comes again, nor ended without waiting till it may be taken for lost.
        _call_off(ports, launched)
        raise
    if task.phase == "missing":
        releases.announce(ports, _end_unstarted(ports, current, changed))
    return None


def _launch_of(ports: Ports, deployment: Deployment, execution: Execution, secrets: Mapping[str, bytes]) -> Launch:
    """The launch of an attempt, made of what was stored and of nothing else: repeated, it is the same."""
    request = secret_values.stored_request(ports.records, execution.execution_id)
    payload = RunnerPayload(
        execution_id=execution.execution_id,
        attempt=execution.attempt,
        execution_key=execution_key(deployment.secret, execution.execution_id, execution.attempt).hex(),
        command=request.command,
        timeout_seconds=execution.timeout_seconds,
        env={**request.env, **_context_env(execution)},
        secrets={name: value for name, value in secrets.items() if name not in git_sources.CREDENTIALS},
        grant=run_grants.first_grant(ports, deployment, execution.execution_id),
        git=_checkout(request),
        git_credentials={name: value for name, value in secrets.items() if name in git_sources.CREDENTIALS},
        max_log_bytes=_log_bytes(execution),
    )
    return Launch(
        execution_id=execution.execution_id,
        attempt=execution.attempt,
        isolation=execution.isolation,
        image=execution.image,
        cpu=execution.cpu,
        memory_mib=execution.memory_mib,
        payload=msgspec.json.encode(payload),
        platform=execution.platform,
        task_role=execution.task_role,
    )


def _log_bytes(execution: Execution) -> int:
    """0 is no bound, as of what older versions started. They let a quota of nothing be set, too."""
    return 0 if execution.max_log_mib is None else max(1, execution.max_log_mib) * 1024 * 1024


def _checkout(request: RunRequest) -> GitCheckout | None:
    git = request.git
    if git is None:
        return None
    return GitCheckout(repo=git.repo, ref=git.ref, path=git.path, depth=git_sources.depth(request.env))


def _context_env(execution: Execution) -> dict[str, str]:
    """What a command is told of its own run. With several locks the fence is that of the first, as they were named; each
    lock has its own as RUNVOY_LOCK_FENCES, `name=number` by spaces."""
    env = {"RUNVOY_EXECUTION_ID": execution.execution_id}
    fences = [(lock.name, lock.fence) for lock in execution.locks if lock.fence is not None]
    if fences:
        env["RUNVOY_LOCK_FENCE"] = str(fences[0][1])
        env["RUNVOY_LOCK_FENCES"] = " ".join(f"{name}={fence}" for name, fence in fences)
    return env
