"""Lock queues under any order of joining and leaving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from runvoy_agent.core import locks
from runvoy_agent.core.model import Execution, ExecutionLock, LockRecord
from runvoy_protocol.states import State

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def make_execution(number: int, names: tuple[str, ...]) -> Execution:
    return Execution(
        execution_id=f"{number:032x}",
        state=State.QUEUED,
        owner="ada",
        key_id="k",
        content_digest="",
        object_sha256="",
        command="true",
        isolation="process",
        timeout_seconds=1,
        issued_at=NOW,
        admitted_at=NOW + timedelta(milliseconds=number),
        updated_at=NOW,
        granted=False,
        locks=tuple(ExecutionLock(name) for name in names),
    )


class World:
    """Locks and executions as the records would hold them, changed only through core.locks."""

    def __init__(self) -> None:
        self.locks: dict[str, LockRecord] = {}
        self.executions: dict[str, Execution] = {}
        self.running: set[str] = set()
        self.grants: dict[str, list[int]] = {}

    def admit(self, execution: Execution) -> None:
        named = {lock.name: self.locks.get(lock.name, locks.empty(lock.name)) for lock in execution.locks}
        assert locks.first_full(named) is None
        joined = locks.join(named, execution.execution_id)
        if locks.heads_all(joined, execution.execution_id):
            joined, execution = locks.grant(joined, execution, NOW)
            self._note_grant(execution)
        self.locks.update(joined)
        self.executions[execution.execution_id] = execution

    def release(self, execution_id: str) -> None:
        ended = self.executions.pop(execution_id)
        self.running.discard(execution_id)
        held = {lock.name: self.locks[lock.name] for lock in ended.locks}
        waiting = locks.heads(locks.leave(held, execution_id))
        candidates = {waiter: self.executions[waiter] for waiter in waiting}
        wanted = {lock.name for candidate in candidates.values() for lock in candidate.locks}
        others = {name: self.locks[name] for name in wanted - held.keys()}
        release = locks.release(held, others, execution_id, candidates, NOW)
        self.locks.update(release.locks)
        for granted in release.granted:
            self.executions[granted.execution_id] = granted
            self._note_grant(granted)

    def _note_grant(self, execution: Execution) -> None:
        holders = {lock.name for other in self.running for lock in self.executions[other].locks}
        assert not holders & {lock.name for lock in execution.locks}, "two executions hold one lock"
        self.running.add(execution.execution_id)
        self.executions[execution.execution_id] = execution
        for lock in execution.locks:
            assert lock.fence is not None
            self.grants.setdefault(lock.name, []).append(lock.fence)


LOCK_SETS = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)


@settings(max_examples=300, deadline=None)
@given(wanted=st.lists(LOCK_SETS, min_size=1, max_size=25), data=st.data())
def test_every_waiter_is_granted_once_in_order_and_nobody_overlaps(
    wanted: list[tuple[str, ...]], data: st.DataObject
) -> None:
    world = World()
    admitted = 0
    while admitted < len(wanted) or world.executions:
        if admitted < len(wanted) and (not world.executions or data.draw(st.booleans())):
            world.admit(make_execution(admitted, wanted[admitted]))
            admitted += 1
            continue
        # Any execution may leave: those that run when they end, those that wait when they are killed or time out.
        world.release(data.draw(st.sampled_from(sorted(world.executions))))
        stuck = [
            execution
            for execution in world.executions.values()
            if not execution.granted
            and locks.heads_all({lock.name: world.locks[lock.name] for lock in execution.locks}, execution.execution_id)
        ]
        assert not stuck, "an execution heads all its queues and was not granted"
        assert world.running or not world.executions, "somebody waits and nobody runs"
    assert all(not lock.queue for lock in world.locks.values())
    for fences in world.grants.values():
        assert fences == list(range(1, len(fences) + 1)), "a fence fell or was given twice"


def test_joining_twice_keeps_the_place() -> None:
    queue = {"a": LockRecord(name="a", queue=("x", "y"))}
    assert locks.join(queue, "x") == queue


def test_a_full_queue_is_named() -> None:
    full = LockRecord(name="a", queue=tuple(f"{number:032x}" for number in range(locks.MAX_WAITERS + 1)))
    assert locks.first_full({"a": full}) == "a"


def test_the_first_held_lock_is_one_that_another_heads() -> None:
    queues = {
        "free": LockRecord(name="free"),
        "own": LockRecord(name="own", queue=("x", "y")),
        "held": LockRecord(name="held", queue=("y", "x")),
    }
    assert locks.first_held(queues, "x") == queues["held"]
    assert locks.first_held({name: queues[name] for name in ("free", "own")}, "x") is None
