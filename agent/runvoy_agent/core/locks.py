"""Lock queues: joining, leaving and granting.

A request joins the queues of all its locks in one commit and is granted when it heads every one of them. Because joining
is atomic, two requests stand in the same order in every queue they share: no deadlock, no starvation.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from runvoy_agent.core.model import Execution, ExecutionLock, LockRecord
from runvoy_protocol.states import State

MAX_WAITERS = 1000

Locks = Mapping[str, LockRecord]


def first_full(locks: Locks) -> str | None:
    """The name of a lock that may have no more waiters; None if there is none. Its queue holds its holder as well."""
    return next((name for name, lock in locks.items() if len(lock.queue) > MAX_WAITERS), None)


def join(locks: Locks, execution_id: str) -> dict[str, LockRecord]:
    """The locks with the execution at the end of each queue; one that it stands in already is as it was."""
    return {
        name: lock if execution_id in lock.queue else msgspec.structs.replace(lock, queue=(*lock.queue, execution_id))
        for name, lock in locks.items()
    }


def heads_all(locks: Locks, execution_id: str) -> bool:
    """Whether the execution stands at the head of every queue; true without locks."""
    return all(lock.queue[:1] == (execution_id,) for lock in locks.values())


def first_held(locks: Locks, execution_id: str) -> LockRecord | None:
    """A lock whose queue another execution heads; None if there is none."""
    return next((lock for lock in locks.values() if lock.queue and lock.queue[0] != execution_id), None)


def grant(locks: Locks, execution: Execution, now: datetime) -> tuple[dict[str, LockRecord], Execution]:
    """Raise every fence and note it in the execution, which must head all the queues."""
    raised = {name: msgspec.structs.replace(lock, fence=lock.fence + 1) for name, lock in locks.items()}
    fenced = tuple(ExecutionLock(lock.name, raised[lock.name].fence) for lock in execution.locks)
    return raised, msgspec.structs.replace(execution, granted=True, granted_at=now, locks=fenced, reason=None)


def leave(locks: Locks, execution_id: str) -> dict[str, LockRecord]:
    """The locks without the execution in their queues."""
    return {
        name: msgspec.structs.replace(lock, queue=tuple(waiter for waiter in lock.queue if waiter != execution_id))
        for name, lock in locks.items()
    }


def heads(locks: Locks) -> list[str]:
    """Who heads a queue: those who may be free to start."""
    return sorted({lock.queue[0] for lock in locks.values() if lock.queue})


class Release(NamedTuple):
    """What a release changes. `locks` are all that changed; `granted` are the executions that may start now."""

    locks: dict[str, LockRecord]
    granted: list[Execution]


def release(
    held: Locks, others: Locks, execution_id: str, candidates: Mapping[str, Execution], now: datetime
) -> Release:
    """Take the execution out of `held` and grant whoever heads all of its locks then.

    `candidates` are the executions of `heads` once it has left; `others` are the locks they wait for beside `held`. The commit must
    write or Check every lock given here: a release that reads a lock another release is changing would otherwise find it
    still held, the other likewise, and nobody would wake the waiter.
    """
    locks = {**others, **leave(held, execution_id)}
    changed = {name: locks[name] for name in held}
    granted = []
    for candidate in sorted(candidates.values(), key=lambda waiting: (waiting.admitted_at, waiting.execution_id)):
        wanted = {lock.name: locks[lock.name] for lock in candidate.locks}
        if candidate.state is State.QUEUED and not candidate.granted and heads_all(wanted, candidate.execution_id):
            raised, started = grant(wanted, candidate, now)
            locks.update(raised)
            changed.update(raised)
            granted.append(started)
    return Release(changed, granted)


def empty(name: str) -> LockRecord:
    """A lock nobody has asked for yet."""
    return LockRecord(name=name)
