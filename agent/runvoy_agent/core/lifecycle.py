"""What events make of an execution. Every function returns the changed execution, or None when nothing changes: events
that come early, late or twice are normal."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core import told_times
from runvoy_agent.core.model import Execution, FixedSecret
from runvoy_protocol.explanations import ENDED_FROM_OUTSIDE
from runvoy_protocol.run_objects import RunResult, RunStarted
from runvoy_protocol.states import Reason, State, can_follow
from runvoy_protocol.status import GitStatus

_OUTCOMES: dict[str, tuple[State, Reason]] = {
    "exited": (State.FAILED, Reason.EXIT),
    "signalled": (State.FAILED, Reason.SIGNAL),
    "exec_failed": (State.FAILED, Reason.EXEC_FAILED),
    "setup_failed": (State.FAILED, Reason.SETUP_FAILED),
    "timed_out": (State.TIMED_OUT, Reason.DEADLINE),
    "killed": (State.STOPPED, Reason.KILLED),
}
_EXPIRED = frozenset({Reason.QUEUE, Reason.START, Reason.DEADLINE})
_OUT_OF_MEMORY = "OutOfMemory"  # ECS: "OutOfMemoryError: Container killed due to memory usage"
MAX_MESSAGE_CHARACTERS = 1000
START_TIMEOUT = timedelta(minutes=15)
"""Bounds pulling an image and booting, from the launch to the command's first moment."""


def begin_start(
    execution: Execution,
    now: datetime,
    secrets: tuple[FixedSecret, ...] = (),
    *,
    max_log_mib: int | None = None,
    limited: bool = False,
) -> Execution | None:
    """QUEUED and granted → STARTING: the commit after which, and only after which, the task may be launched. From it on
    the run is fixed to these secrets' values and to what its log may hold. `limited`: its owner's running ones are limited."""
    if execution.state is not State.QUEUED or not execution.granted:
        return None
    return _changed(
        execution,
        now,
        state=State.STARTING,
        attempt=1,
        launches=1,
        starting_at=now,
        reason=None,
        message="",
        fixed_secrets=secrets,
        placed=True,
        limited=limited,
        max_log_mib=max_log_mib,
    )


def wait_for_place(
    execution: Execution,
    now: datetime,
    message: str,
    secrets: tuple[FixedSecret, ...] = (),
    *,
    max_log_mib: int | None = None,
) -> Execution | None:
    """It might start, but its owner has as many running as they may. It goes to STARTING and waits there, as if the platform
    had no room, until it is pushed because there is a place. None if it waits for one already."""
    if execution.waits_for_place:
        return None
    waiting = execution
    if not waits_for_room(execution):
        begun = begin_start(execution, now, secrets, max_log_mib=max_log_mib)
        if begun is None:
            return None
        waiting = msgspec.structs.replace(begun, launches=0, placed=False)
    reason, message = Reason.CAPACITY, _short(message)
    return _changed(waiting, now, for_place=True, starting_at=now, reason=reason, message=message)


def begin_launch(execution: Execution, now: datetime, *, limited: bool = False) -> Execution | None:
    """One more launch of an attempt that may have been launched before. It is counted before it is made, so that whoever dies
    while making it leaves a count that says so. What waited for room has no task yet: its start clock begins anew."""
    if execution.state is not State.STARTING:
        return None
    starting_at = now if waits_for_room(execution) else execution.starting_at
    return _changed(
        execution,
        now,
        launches=execution.launches + 1,
        starting_at=starting_at,
        placed=True,
        for_place=False,
        limited=limited,
    )


def waits_for_room(execution: Execution) -> bool:
    """Whether each of its launches came to nothing for want of room: no task of it is there, however long it waits."""
    return execution.state is State.STARTING and execution.reason is Reason.CAPACITY and not execution.launches


def note_unlaunched(execution: Execution, now: datetime, message: str, *, refused: bool) -> Execution | None:
    """One of its launches came to nothing: the platform had no room, or `refused` it.

    Without room it waits, and shows why, until the launch is tried again. What is refused, or was killed meanwhile, ends; but not
    while another of its launches may be under way, for that one may go through.
    """
    if execution.state not in (State.STARTING, State.TERMINATING):
        return None
    others = max(0, execution.launches - 1)
    if execution.state is State.STARTING and not refused:
        return _changed(
            execution,
            now,
            launches=others,
            placed=execution.placed and others > 0,
            starting_at=now,
            reason=Reason.CAPACITY,
            message=_short(message),
        )
    if others:
        return _changed(execution, now, launches=others)
    if refused and execution.state is State.STARTING:
        ended = _end(execution, now, State.FAILED, Reason.LAUNCH_FAILED, message)
    else:
        ended = settle_lost(execution, now, execution.message)
    return None if ended is None else msgspec.structs.replace(ended, launches=0, stopped_at=now)


def launch_again(execution: Execution, now: datetime, message: str) -> Execution | None:
    """The platform took its one launch, and then ended the task for want of room before anything began. It waits for room, as if
    the launch had been answered so; the next launch is another attempt, since this one has a task. None if it began after all, is
    to end, or if another launch of this attempt may be under way."""
    if execution.state is not State.STARTING or execution.started_at is not None or execution.launches != 1:
        return None
    return _changed(
        execution,
        now,
        attempt=execution.attempt + 1,
        launches=0,
        placed=False,
        starting_at=now,
        missing_since=None,
        reason=Reason.CAPACITY,
        message=_short(message),
    )


def end_unlaunched(execution: Execution, now: datetime) -> Execution | None:
    """TERMINATING, and no launch is under way or went through: nothing was started and nothing will be, so it ends at once."""
    if execution.state is not State.TERMINATING or execution.launches or execution.started_at is not None:
        return None
    ended = settle_lost(execution, now, execution.message)
    return None if ended is None else msgspec.structs.replace(ended, stopped_at=now)


def note_started(execution: Execution, started: RunStarted, now: datetime) -> Execution | None:
    """The command began: STARTING → RUNNING. A later state stays as it is, and learns when the command began."""
    if execution.started_at is not None or execution.state is State.QUEUED:
        return None
    begins = execution.state is State.STARTING
    return _changed(
        execution,
        now,
        state=State.RUNNING if begins else execution.state,
        reason=None if begins else execution.reason,
        running_since=now if begins else None,
        started_at=told_times.instant(started.started_at_ms, execution, now),
        git=_with_commit(execution, started.git_commit),
    )


def note_unproven_start(execution: Execution, etag: str) -> Execution | None:
    """What lies in the place of started.json was not made by its runner, or is of an earlier attempt. Remembered by its etag, so
    that the reconciler does not judge the same object in every round."""
    if execution.started_at is not None or execution.unproven_start == etag:
        return None
    return msgspec.structs.replace(execution, unproven_start=etag)


def settle(execution: Execution, result: RunResult, now: datetime) -> Execution | None:
    """Its runner told how it ended. That settles it, whatever was thought of it before, unless it has ended."""
    state, reason = _OUTCOMES[result.outcome]
    if result.outcome == "killed" and execution.reason in _EXPIRED:
        state, reason = State.TIMED_OUT, execution.reason
    if result.outcome == "exited" and result.exit_code == 0:
        state = State.SUCCEEDED
    if not can_follow(execution.state, state):
        return None
    # Every wish that it end is committed before its task is told: where none is, a stop of the platform's own came first.
    is_unasked = result.outcome == "killed" and execution.state is not State.TERMINATING
    started_at = execution.started_at
    if started_at is None and result.started_at_ms is not None:
        started_at = told_times.instant(result.started_at_ms, execution, now)
    return _changed(
        execution,
        now,
        state=state,
        reason=reason,
        message=ENDED_FROM_OUTSIDE if is_unasked else _short(result.message),
        started_at=started_at,
        ended_at=told_times.ended_at(result, execution, started_at, now),
        exit_code=result.exit_code,
        signal=result.signal,
        lines=result.lines,
        chunks=result.chunks,
        lost_bytes=result.lost_bytes,
        git=_with_commit(execution, result.git_commit),
    )


def _with_commit(execution: Execution, commit: str | None) -> GitStatus | None:
    """The runner's word on what it checked out: the first one stays."""
    if execution.git is None or commit is None or execution.git.commit is not None:
        return execution.git
    return msgspec.structs.replace(execution.git, commit=commit)


def settle_lost(execution: Execution, now: datetime, message: str, exit_code: int | None = None) -> Execution | None:
    """Its task is gone and left no result. If runvoy had asked for the end, it ended as asked; else as the command's exit code
    says, where the platform reports one (`exit_code`); else UNKNOWN."""
    if execution.state is State.TERMINATING:
        return _end_as_wished(execution, now, message)
    if exit_code is None:
        return _end(execution, now, State.UNKNOWN, Reason.LOST, message)
    if exit_code == 0:
        ended = _end(execution, now, State.SUCCEEDED, None, message)
    else:
        ended = _end(execution, now, State.FAILED, Reason.EXIT, message)
    return None if ended is None else msgspec.structs.replace(ended, exit_code=exit_code)


def settle_unbegun(execution: Execution, now: datetime, message: str) -> Execution | None:
    """Its task stopped, and the platform knows that the command was never started."""
    if execution.state is State.TERMINATING:
        return _end_as_wished(execution, now, message)
    return _end(execution, now, State.FAILED, Reason.LAUNCH_FAILED, message)


def _end_as_wished(execution: Execution, now: datetime, message: str) -> Execution | None:
    state = State.TIMED_OUT if execution.reason in _EXPIRED else State.STOPPED
    return _end(execution, now, state, execution.reason or Reason.KILLED, message)


def note_stopped(execution: Execution, now: datetime) -> Execution | None:
    """Its task was seen stopped: it is no longer active, and its locks are to be released in the same commit."""
    if execution.stopped_at is not None or not execution.is_terminal:
        return None
    return _changed(execution, now, stopped_at=now)


def note_task_end(
    execution: Execution, began: datetime | None, stopped: datetime | None, message: str = ""
) -> Execution:
    """What the platform tells of a task that stopped: since when and until when it charges for it, as far as it says. Its
    `message` is kept where the runner cannot know it: that a failed command was killed for want of memory, and why one was
    ended that nobody had asked to end."""
    ran_out = execution.state is State.FAILED and _OUT_OF_MEMORY in message and _OUT_OF_MEMORY not in execution.message
    adds = ran_out or execution.message == ENDED_FROM_OUTSIDE
    return msgspec.structs.replace(
        execution,
        message=_short("; ".join(filter(None, (execution.message, message)))) if adds else execution.message,
        pull_started_at=began or execution.pull_started_at,
        task_stopped_at=stopped or execution.task_stopped_at,
    )


def note_look(execution: Execution, now: datetime, *, missing: bool) -> Execution | None:
    """The reconciler looked for its task. The time of a look that did not find it (`missing`) is kept until one finds it."""
    if not missing and execution.missing_since is None:
        return None
    return msgspec.structs.replace(execution, missing_since=now if missing else None)


def refuse_start(execution: Execution, now: datetime, message: str) -> Execution | None:
    """Its key or user lost the right to run, or to a secret it needs, before it was started."""
    return _never_started(execution, now, State.STOPPED, Reason.REVOKED, message)


def withdraw(execution: Execution, now: datetime, message: str) -> Execution | None:
    """Its key or user lost the right to run after STARTING, and no launch is under way or went through: none is made."""
    if execution.state is not State.STARTING or execution.launches:
        return None
    return _terminate(execution, now, Reason.REVOKED, message)


def expire_in_queue(execution: Execution, now: datetime) -> Execution | None:
    """Its queue timeout passed before it was started."""
    if not _is_overdue(execution, now):
        return None
    return _never_started(execution, now, State.TIMED_OUT, Reason.QUEUE, _overdue(execution))


def expire_for_room(execution: Execution, now: datetime) -> Execution | None:
    """Its queue timeout passed while it waited for room, with its locks: it is not launched any more."""
    if not waits_for_room(execution) or not _is_overdue(execution, now):
        return None
    return _terminate(execution, now, Reason.QUEUE, _overdue(execution))


def _is_overdue(execution: Execution, now: datetime) -> bool:
    seconds = execution.queue_timeout_seconds
    return seconds is not None and now >= execution.admitted_at + timedelta(seconds=seconds)


def _overdue(execution: Execution) -> str:
    return f"it was not started within {execution.queue_timeout_seconds} s"


def kill(execution: Execution, now: datetime, who: str) -> Execution | None:
    """A user's wish that it end: what has no task ends at once, the task of what has one is to be stopped."""
    message = f"killed by {who}"
    if execution.state is State.QUEUED:
        return _never_started(execution, now, State.STOPPED, Reason.KILLED, message)
    return _terminate(execution, now, Reason.KILLED, message)


def expire_start(execution: Execution, now: datetime) -> Execution | None:
    """The start clock: it was launched and did not begin in time."""
    begun = execution.starting_at
    if execution.state is not State.STARTING or begun is None or now < begun + START_TIMEOUT:
        return None
    message = f"it did not begin within {START_TIMEOUT.total_seconds():.0f} s of its launch"
    return _terminate(execution, now, Reason.START, message)


def expire_run(execution: Execution, now: datetime, grace: timedelta) -> Execution | None:
    """The backstop of the deadline: the runner enforces it, and only a runner that fails to is late by `grace`. It counts from
    when the deployment learned of the start, since the runner's clock may be behind; older versions did not keep that."""
    since = execution.running_since or execution.started_at
    if execution.state is not State.RUNNING or since is None:
        return None
    if now < since + timedelta(seconds=execution.timeout_seconds) + grace:
        return None
    return _terminate(execution, now, Reason.DEADLINE, f"its timeout of {execution.timeout_seconds} s passed")


def _terminate(execution: Execution, now: datetime, reason: Reason, message: str) -> Execution | None:
    """→ TERMINATING, where the state allows it: its task is to be told after this commit."""
    if not can_follow(execution.state, State.TERMINATING):
        return None
    return _changed(execution, now, state=State.TERMINATING, reason=reason, message=_short(message))


def _never_started(execution: Execution, now: datetime, state: State, reason: Reason, message: str) -> Execution | None:
    if execution.state is not State.QUEUED:
        return None
    ended = _end(execution, now, state, reason, message)
    return None if ended is None else msgspec.structs.replace(ended, stopped_at=now)


def _end(execution: Execution, now: datetime, state: State, reason: Reason | None, message: str) -> Execution | None:
    if not can_follow(execution.state, state):
        return None
    return _changed(execution, now, state=state, reason=reason, message=_short(message), ended_at=now)


def _changed(execution: Execution, now: datetime, **fields: object) -> Execution:
    # A clock that was set back must not make updated_at fall: windows over it overlap by time.
    return msgspec.structs.replace(execution, updated_at=max(now, execution.updated_at), **fields)


def _short(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARACTERS else message[:MAX_MESSAGE_CHARACTERS] + "…"
