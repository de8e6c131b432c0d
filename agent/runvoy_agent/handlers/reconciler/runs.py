"""What the reconciler mends of executions that are not over: pushes, ends and stops that were lost, clocks that ran out, and
tasks that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import NamedTuple

import msgspec

from runvoy_agent.core import launches, lifecycle
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import commits, messages, outbox, pushes, store
from runvoy_agent.handlers.documents.messages import EndEvent, EndMessage
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.handlers.executions import kills
from runvoy_agent.handlers.locks import releases
from runvoy_agent.handlers.quotas import places
from runvoy_agent.handlers.quotas.places import Waiting
from runvoy_agent.handlers.reconciler.careful_launcher import Unanswered
from runvoy_agent.ports import Attempt, Ports, Put, TaskState
from runvoy_protocol import object_keys
from runvoy_protocol.states import State

PUSH_AGAIN_AFTER = timedelta(seconds=30)
LOOK_AFTER = timedelta(minutes=1)
GONE_AFTER = timedelta(minutes=10)
GONE_LOOKS_APART = timedelta(minutes=2)  # longer than a listing leaves out a task that is there: no two at one omission
GONE_LOOKS_WITHIN = timedelta(minutes=5)  # since an older look it may have been back unseen: no looks at two omissions
DEADLINE_GRACE = timedelta(seconds=150)
"""After a deadline the runner has its grace (90 s at most) to end the command, and a minute to say so. After its result it has
nothing more to do: for so long a task may take to be seen stopped."""

_LOADED = 100


def repair_active(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    """All that is not over. What of it may have a task is looked at together first, and then one by one what that did not find:
    of a task that is missing only a look of its own says so.
    """
    to_look_at: list[Execution] = []
    waiting: dict[str, Waiting] = {}
    for execution in _active(ports):
        _note_waiting(waiting, execution)
        if execution.state is State.QUEUED:
            yield from _repair_queued(ports, execution, starting_up)
        elif execution.waits_for_place:
            if lifecycle.expire_for_room(execution, ports.clock.now()) is not None:
                yield from _left_if_unanswered(_end_waiting(ports, execution.execution_id))
        elif not _is_quiet(ports, execution, starting_up):
            continue
        elif lifecycle.waits_for_room(execution) and ports.launcher.relaunch_window is not None:
            # The record knows the answer. Thousands may wait, and ECS answers some twenty calls a second: a round that looked
            # at each would end there, before it came to the locks, the audit and the inbox.
            look = _Look(TaskState("missing"), ports.clock.now())
            yield from _left_if_unanswered(_repair_looked_at(ports, execution, look, starting_up))
        else:
            to_look_at.append(execution)
    for owner, found in waiting.items():
        if found.key_ids:
            yield from places.repair(ports, owner, found)
    began = ports.clock.now()
    seen = ports.launcher.survey([_attempt(execution) for execution in to_look_at]) if to_look_at else {}
    unseen: list[Execution] = []
    for execution in to_look_at:
        task = seen.get(_attempt(execution))
        if task is None:
            unseen.append(execution)
        else:
            yield from _left_if_unanswered(_repair_looked_at(ports, execution, _Look(task, began), starting_up))
    # Those that were missed before come first, for their second look has its time; of the rest each round begins elsewhere, so
    # that it is nobody's fate to be left for the next one each time.
    unseen.sort(key=lambda execution: (execution.missing_since is None, ports.clock.random(4)))
    for execution in unseen:
        yield from _left_if_unanswered(_repair_alone(ports, execution.execution_id, starting_up))


def _note_waiting(waiting: dict[str, Waiting], execution: Execution) -> None:
    if not lifecycle.waits_for_room(execution):
        return
    found = waiting.setdefault(execution.owner, Waiting())
    if execution.waits_for_place:
        found.key_ids.add(execution.key_id)
    else:
        found.for_room += 1


def _active(ports: Ports) -> Iterator[Execution]:
    for shard in range(store.SHARDS):
        records = store.partition_records(ports.records, store.INDEX_ACTIVE, store.shard_partition("", shard))
        while page := list(islice(records, _LOADED)):
            # The index may be behind: decide on the records themselves.
            known = (msgspec.json.decode(record.body, type=Execution).execution_id for record in page)
            for current in store.load_executions(ports.records, known).values():
                if current.document is not None and current.document.is_active:
                    yield current.document


def _attempt(execution: Execution) -> Attempt:
    return execution.execution_id, execution.attempt


def _is_quiet(ports: Ports, execution: Execution, starting_up: bool) -> bool:
    """Whether so long nothing was heard of it that something may have been lost."""
    patience = PUSH_AGAIN_AFTER if execution.state is State.TERMINATING else LOOK_AFTER
    return starting_up or ports.clock.now() - execution.updated_at >= patience


def _left_if_unanswered(repairs: Iterator[Repair]) -> Iterator[Repair]:
    """One execution that the platform says nothing of is left for the next round, which all others need not wait for."""
    try:
        yield from repairs
    except Unanswered:
        return  # counted and logged where it was asked


def _repair_queued(ports: Ports, execution: Execution, starting_up: bool) -> Iterator[Repair]:
    now = ports.clock.now()
    if lifecycle.expire_in_queue(execution, now) is not None:
        yield from _end_in_queue(ports, execution.execution_id)
    elif execution.granted and (starting_up or now - execution.updated_at > PUSH_AGAIN_AFTER):
        _push(ports, execution)
        yield Repair(execution.execution_id, "it may start and was not pushed", "pushed it again")


def _repair_alone(ports: Ports, execution_id: str, starting_up: bool) -> Iterator[Repair]:
    execution = store.load_execution(ports.records, execution_id).document
    if execution is None or not execution.is_active or not _is_quiet(ports, execution, starting_up):
        return  # something was heard of it while others were looked at
    began = ports.clock.now()
    look = _Look(ports.launcher.describe(execution_id, execution.attempt), began)
    yield from _repair_looked_at(ports, execution, look, starting_up)


class _Look(NamedTuple):
    """What a look at a task saw, and when it began: whoever looks may be held up for minutes before the answer is acted on, and it
    says nothing of those."""

    task: TaskState
    at: datetime


def _repair_looked_at(ports: Ports, execution: Execution, look: _Look, starting_up: bool) -> Iterator[Repair]:
    task = look.task
    if task.phase != "missing" and execution.missing_since is not None:
        _note(ports, execution.execution_id, partial(lifecycle.note_look, now=ports.clock.now(), missing=False))
    if task.phase == "stopped":
        _send_end(ports, execution, "stopped", task)
        yield Repair(execution.execution_id, "its task stopped and nobody was told", "told it again")
    elif task.phase == "missing" and execution.state is State.STARTING:
        yield from _repair_unlaunched(ports, execution, look.at, starting_up)
    elif task.phase == "missing":
        yield from _repair_missing(ports, execution, look.at, starting_up)
    elif execution.is_terminal:
        yield from _stop_what_outlives_its_end(ports, execution, task)
    else:
        yield from _repair_unended(ports, execution, look)


def _repair_unended(ports: Ports, execution: Execution, look: _Look) -> Iterator[Repair]:
    """It has a task, and is not at its end: told to end again, or held to its clocks."""
    began = _may_have_begun(ports, execution)
    if began:
        # Before any clock is looked at: it began in time, and would be ended for not having begun.
        _send_end(ports, execution, "started")
        yield Repair(execution.execution_id, "its command began and nobody was told", "told it again")
    if execution.state is State.TERMINATING:
        if not look.task.stopping:
            ports.launcher.stop(execution.execution_id, execution.attempt)  # told again until it is seen stopped
    elif not look.task.supervised and not began:
        yield from _terminate_expired(ports, execution, look.at)


def _may_have_begun(ports: Ports, execution: Execution) -> bool:
    """Whether there is a word on its start that nobody has handled. The command may write what its runner may: one that proved nothing
    holds off no clock. Only who handles it can tell, for it takes the deployment's secret."""
    if execution.started_at is not None:
        return False
    word = ports.outbox.get(object_keys.started(execution.execution_id))
    return word is not None and word.etag != execution.unproven_start


def _stop_what_outlives_its_end(ports: Ports, execution: Execution, task: TaskState) -> Iterator[Repair]:
    """Its result is there and its task goes on, with its locks: its runner hangs, or the command wrote the result itself. No clock
    of it runs any more."""
    if not task.stopping and ports.clock.now() >= execution.updated_at + DEADLINE_GRACE:
        ports.launcher.stop(execution.execution_id, execution.attempt)
        yield Repair(execution.execution_id, "it ended and its task goes on", "had it stopped")


def _repair_unlaunched(ports: Ports, execution: Execution, looked_at: datetime, starting_up: bool) -> Iterator[Repair]:
    """STARTING without a task: its push was lost between the commit and the launch, or it is still being launched."""
    begun = execution.starting_at or execution.updated_at
    waited = ports.clock.now() - begun
    window = ports.launcher.relaunch_window
    if window is not None and waited >= window and not lifecycle.waits_for_room(execution):
        yield from _repair_missing(ports, execution, looked_at, starting_up)
    elif lifecycle.expire_for_room(execution, ports.clock.now()) is not None:
        yield from _end_waiting(ports, execution.execution_id)
    elif starting_up or waited > LOOK_AFTER:
        _forget_launches(ports, execution, starting_up)
        _push(ports, execution)
        yield Repair(execution.execution_id, "it was to be launched and has no task", "pushed it again")


def _forget_launches(ports: Ports, execution: Execution, starting_up: bool) -> bool:
    """Where a launch may be repeated for ever: nobody is still at one after a start, or after so long, and one who died of it
    left a count behind that would let nothing end. Whether that is so."""
    waited = ports.clock.now() - (execution.starting_at or execution.updated_at)
    if ports.launcher.relaunch_window is not None or not (starting_up or waited > GONE_AFTER):
        return False
    _note(ports, execution.execution_id, launches.forget_launches)
    return True


def _repair_missing(ports: Ports, execution: Execution, looked_at: datetime, starting_up: bool) -> Iterator[Repair]:
    """The platform knows no task of it. Two looks are to say so before that is believed, for it frees locks: see GONE_LOOKS_…
    The second counts from when it began, the first from when its answer is noted: so they are no less apart than they seem."""
    now = ports.clock.now()
    # Of what has no launch counted there is no task, and never was, so there is no second look to wait for: whoever was to have it
    # stopped could not look, or died of it.
    is_wished = execution.state is State.TERMINATING
    if is_wished and (not execution.launches or _forget_launches(ports, execution, starting_up)):
        current = store.load_execution(ports.records, execution.execution_id).document
        if current is not None and kills.end_unlaunched(ports, current, partial(_expiry, ports)):
            yield Repair(execution.execution_id, "it was to be stopped and was never launched", "ended it")
            return
    if looked_at < (execution.starting_at or execution.updated_at) + GONE_AFTER:
        return
    if execution.missing_since is None or now > execution.missing_since + GONE_LOOKS_WITHIN:
        _note(ports, execution.execution_id, partial(lifecycle.note_look, now=now, missing=True))
    elif looked_at >= execution.missing_since + GONE_LOOKS_APART:
        _send_end(ports, execution, "stopped")
        yield Repair(execution.execution_id, "the platform knows no task of it", "settled it")


def _note(ports: Ports, execution_id: str, change: Callable[[Execution], Execution | None]) -> None:
    """Commit what `change` makes of the execution, if anything."""

    def attempt() -> None:
        current = store.load_execution(ports.records, execution_id)
        noted = None if current.document is None else change(current.document)
        if noted is not None:
            ports.records.commit([store.put(current, noted)])
            outbox.publish_status(ports, noted, current.version + 1)

    commits.with_retries(ports.clock, attempt)


def _end_in_queue(ports: Ports, execution_id: str) -> Iterator[Repair]:
    freed = commits.with_retries(ports.clock, lambda: _expire(ports, execution_id))
    if freed is not None:
        releases.announce(ports, freed)
        yield Repair(execution_id, "its queue timeout passed", "ended it")


def _end_waiting(ports: Ports, execution_id: str) -> Iterator[Repair]:
    """What waited for room for longer than it may. Who handles its push has it end, too; but one machine takes no pushes while it
    has no room, be it what waits for a place of its owner's: its locks would be held for as long."""

    def expire(current: Execution) -> Execution | None:
        return lifecycle.expire_for_room(current, ports.clock.now())

    if kills.end(ports, execution_id, expire, partial(_expiry, ports)):
        yield Repair(execution_id, "its queue timeout passed", "ended it")


def _expire(ports: Ports, execution_id: str) -> releases.Freed | None:
    current = store.load_execution(ports.records, execution_id)
    if current.document is None:
        return None
    expired = lifecycle.expire_in_queue(current.document, ports.clock.now())
    if expired is None:
        return None
    return releases.change_and_release(ports, current, expired, _expiry(ports, expired))


def _expiry(ports: Ports, expired: Execution) -> Put:
    return store.audit(
        ports.clock,
        "reconciler",
        "expire",
        expired.state.value,
        execution_id=expired.execution_id,
        message=expired.message,
    )


def _terminate_expired(ports: Ports, execution: Execution, looked_at: datetime) -> Iterator[Repair]:
    """End what was past its clocks when it was looked at, and has nobody beside it to do so."""

    def expire(current: Execution) -> Execution | None:
        begun_late = lifecycle.expire_start(current, looked_at)
        return begun_late or lifecycle.expire_run(current, looked_at, DEADLINE_GRACE)

    if expire(execution) is not None and kills.end(ports, execution.execution_id, expire, partial(_expiry, ports)):
        yield Repair(execution.execution_id, "it is past its deadline and its runner did not end it", "had it stopped")


def _push(ports: Ports, execution: Execution) -> None:
    pushes.push(ports.queue, execution)


def _send_end(ports: Ports, execution: Execution, event: EndEvent, task: TaskState | None = None) -> None:
    message = EndMessage(
        execution_id=execution.execution_id,
        attempt=execution.attempt,
        event=event,
        exit_code=None if task is None else task.exit_code,
        message="" if task is None else task.message,
        never_began=task is not None and task.never_began,
        pull_started_at=None if task is None else task.pull_started_at,
        task_stopped_at=None if task is None else task.stopped_at,
        no_room=task is not None and task.no_room,
    )
    ports.queue.send("ends", messages.encode(message))
