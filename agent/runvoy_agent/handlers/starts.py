"""An execution may start: check again, fix the parameters, launch. At most once.

The commit to STARTING comes before the launch, so whoever dies in between leaves a record that says so; the same attempt
may then be launched again, for the launcher starts one task per attempt whatever happens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from runvoy_agent.core import access, lifecycle
from runvoy_agent.core.model import Execution, FixedSecret, Key, User
from runvoy_agent.handlers import kills, messages, outbox, releases, run_grants, secret_values, store
from runvoy_agent.handlers.inbox import Deployment
from runvoy_agent.handlers.messages import StartMessage
from runvoy_agent.handlers.store import Loaded
from runvoy_agent.ports import (
    Check,
    Conflict,
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    NoCapacity,
    Ports,
    Put,
    Write,
)
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.run_objects import RunnerPayload, execution_key
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.starts")

CAPACITY_DELAY_SECONDS = 5.0


def handle(ports: Ports, deployment: Deployment, body: bytes) -> None:
    """Handle one push. Duplicates, and pushes for what started or ended long ago, change nothing."""
    message = msgspec.json.decode(body, type=StartMessage)
    begun = store.with_retries(ports.clock, lambda: _begin(ports, message.execution_id))
    if begun is None or begun.current.document is None:
        return
    current, execution = begun.current, begun.current.document
    # Whatever its state: the delivery that committed it may have died before it told anyone.
    outbox.publish_status(ports, execution, current.version)
    if execution.state is not State.STARTING:
        return
    window = ports.launcher.relaunch_window
    if window is not None and execution.starting_at is not None and ports.clock.now() > execution.starting_at + window:
        # Too late to launch and be sure: from here the reconciler looks at the task, and never runs it.
        log.warning("execution %s was not launched in time; it is left to the reconciler", execution.execution_id)
        return
    if begun.earlier and _withdraw(ports, execution):
        return
    _launch(ports, deployment, current, execution)


class _Begun(NamedTuple):
    """The execution as it stands, and whether that was so before this delivery came."""

    current: Loaded[Execution]
    earlier: bool


def _begin(ports: Ports, execution_id: str) -> _Begun | None:
    """Commit QUEUED → STARTING (or the refusal); the execution as it stands now."""
    current = store.load_execution(ports.records, execution_id)
    execution = current.document
    if execution is None:
        log.warning("a push names execution %.64s, which has no record", execution_id)
        return None
    if execution.state is not State.QUEUED:
        return _Begun(current, earlier=True)
    now = ports.clock.now()
    expired = lifecycle.expire_in_queue(execution, now)
    if expired is not None:
        releases.announce(ports, _end_unstarted(ports, current, expired))
        return None
    if not execution.granted:
        return _Begun(current, earlier=True)
    rights = _rights(ports, execution)
    if rights.refused is None:
        changed = lifecycle.begin_start(execution, now, rights.secrets)
    else:
        changed = lifecycle.refuse_start(execution, now, rights.refused)
    if changed is None:
        return _Begun(current, earlier=True)
    if changed.state is not State.STARTING:
        releases.announce(ports, _end_unstarted(ports, current, changed))
        return None
    # The Checks make a revocation that committed first win against this start, of a right to a secret too.
    writes: list[Write] = [
        store.put(current, changed),
        *rights.checks,
        _audit(ports, changed),
    ]
    ports.records.commit(writes)
    return _Begun(Loaded(current.key, changed, current.version + 1), earlier=False)


class _Rights(NamedTuple):
    """Whether an execution may start now: `refused` says why not. `checks` hold a commit to that; `secrets` are what it gets."""

    refused: str | None
    checks: tuple[Check, ...] = ()
    secrets: tuple[FixedSecret, ...] = ()


def _rights(ports: Ports, execution: Execution) -> _Rights:
    """By its key, its user, and the secrets it named. What it is fixed to already is not looked up again."""
    key = store.load(ports.records, store.key_key(execution.key_id), Key)
    user = store.load(ports.records, store.user_key(execution.owner), User)
    try:
        member = access.check_key(key.document, user.document, ports.clock.now())
        access.check_allowed(member, access.Action.RUN)
        if execution.state is not State.QUEUED:
            return _Rights(None)
        secrets, secret_checks = secret_values.fix(ports.records, execution, member.user)
    except RunvoyError as error:
        return _Rights(error.message)
    return _Rights(None, (key.check, user.check, *secret_checks), secrets)


def _withdraw(ports: Ports, execution: Execution) -> bool:
    """Have it end if it lost its right to run while it waited for room, or for another delivery of its push; whether that
    is so. What has a task goes on: it was started while it might."""
    refused = _rights(ports, execution).refused
    if refused is None or ports.launcher.describe(execution.execution_id, execution.attempt).phase != "missing":
        return False
    kills.end(
        ports,
        execution.execution_id,
        lambda current: lifecycle.withdraw(current, ports.clock.now(), refused),
        lambda changed: _audit(ports, changed),
    )
    return True


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


def _launch(ports: Ports, deployment: Deployment, current: Loaded[Execution], execution: Execution) -> None:
    outcome = _start_task(ports, deployment, execution)
    match outcome:
        case Launched():
            return
        case NoCapacity(message=message):
            noted = lifecycle.note_no_capacity(execution, ports.clock.now(), message)
            if noted is not None and not _commit_and_publish(ports, current, noted):
                store.with_retries(ports.clock, lambda: _end_unlaunched(ports, execution.execution_id, ""))
            # A new message, not a redelivery: waiting for room is no failure, and must not end as a dead letter.
            body = messages.encode(StartMessage(execution_id=execution.execution_id))
            ports.queue.send("starts", body, delay_seconds=CAPACITY_DELAY_SECONDS)
        case LaunchRefused(message=message):
            store.with_retries(ports.clock, lambda: _end_unlaunched(ports, execution.execution_id, message))


def _start_task(ports: Ports, deployment: Deployment, execution: Execution) -> LaunchOutcome:
    """Launch with the values that the run is fixed to. Where one is gone nothing can be started, now or later."""
    values = secret_values.read(ports, execution)
    if isinstance(values, LaunchRefused):
        return values
    return ports.launcher.start(_launch_of(ports, deployment, execution, values))


def _end_unlaunched(ports: Ports, execution_id: str, refusal: str) -> None:
    """The platform says that nothing was started: end what was killed meanwhile, or what the platform refuses."""
    current = store.load_execution(ports.records, execution_id)
    if current.document is None:
        return
    if ports.launcher.describe(execution_id, current.document.attempt).phase != "missing":
        return  # another delivery of the same push had better luck
    now = ports.clock.now()
    ended = lifecycle.end_unlaunched(current.document, now)
    if ended is None and refusal:
        ended = lifecycle.fail_launch(current.document, now, refusal)
    if ended is not None:
        releases.announce(ports, _end_unstarted(ports, current, ended))


def _commit_and_publish(ports: Ports, current: Loaded[Execution], changed: Execution) -> bool:
    try:
        ports.records.commit([store.put(current, changed)])
    except Conflict:
        log.info("execution %s went on meanwhile", changed.execution_id)
        return False
    outbox.publish_status(ports, changed, current.version + 1)
    return True


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
        secrets=dict(secrets),
        grant=run_grants.first_grant(ports, deployment, execution.execution_id),
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


def _context_env(execution: Execution) -> dict[str, str]:
    """What a command is told of its own run. With several locks the fence is that of the first, as they were named; each
    lock has its own as RUNVOY_LOCK_FENCES, `name=number` by spaces."""
    env = {"RUNVOY_EXECUTION_ID": execution.execution_id}
    fences = [(lock.name, lock.fence) for lock in execution.locks if lock.fence is not None]
    if fences:
        env["RUNVOY_LOCK_FENCE"] = str(fences[0][1])
        env["RUNVOY_LOCK_FENCES"] = " ".join(f"{name}={fence}" for name, fence in fences)
    return env
