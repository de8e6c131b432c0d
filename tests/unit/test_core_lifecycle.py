"""What events make of an execution: early, late, twice and in any order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import msgspec
import pytest

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution
from runvoy_protocol.run_objects import RunResult, RunStarted
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, decided_by, exit_code_of

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
QUEUED = Execution(
    execution_id="e",
    state=State.QUEUED,
    owner="ada",
    key_id="k",
    content_digest="",
    object_sha256="",
    command="true",
    isolation="process",
    timeout_seconds=60,
    issued_at=NOW,
    admitted_at=NOW,
    updated_at=NOW,
    granted=True,
)
STARTED = RunStarted(execution_id="e", attempt=1, started_at_ms=NOW_MS + 100, pid=7)


def make_result(outcome: str, exit_code: int | None = 0, signal: int | None = None) -> RunResult:
    return RunResult(
        execution_id="e",
        attempt=1,
        outcome=outcome,  # type: ignore[arg-type]
        exit_code=exit_code,
        signal=signal,
        message="",
        started_at_ms=NOW_MS + 100,
        ended_at_ms=NOW_MS + 900,
        lines=3,
        chunks=1,
        lost_bytes=0,
    )


def starting() -> Execution:
    changed = lifecycle.begin_start(QUEUED, NOW)
    assert changed is not None
    return changed


@pytest.mark.parametrize(
    ("result", "state", "reason", "exit_code", "decider"),
    [
        (make_result("exited", 0), State.SUCCEEDED, Reason.EXIT, 0, "command"),
        (make_result("exited", 7), State.FAILED, Reason.EXIT, 7, "command"),
        (make_result("exited", 124), State.FAILED, Reason.EXIT, 124, "command"),
        (make_result("signalled", 137, 9), State.FAILED, Reason.SIGNAL, 137, "command"),
        (make_result("exec_failed", 127), State.FAILED, Reason.EXEC_FAILED, 127, "command"),
        (make_result("setup_failed", None), State.FAILED, Reason.SETUP_FAILED, 125, "runvoy"),
        (make_result("timed_out", 0), State.TIMED_OUT, Reason.DEADLINE, 124, "runvoy"),
        (make_result("timed_out", None), State.TIMED_OUT, Reason.DEADLINE, 124, "runvoy"),
        (make_result("killed", 143, 15), State.STOPPED, Reason.KILLED, 123, "runvoy"),
    ],
)
def test_a_result_decides_state_reason_and_exit_code(
    result: RunResult, state: State, reason: Reason, exit_code: int, decider: str
) -> None:
    ended = lifecycle.settle(starting(), result, NOW + timedelta(seconds=1))
    assert ended is not None
    assert (ended.state, ended.reason, ended.is_active) == (state, reason, True)
    status = lifecycle.project(ended, 3)
    assert (exit_code_of(status), decided_by(status)) == (exit_code, decider)
    assert status.ended_at == NOW + timedelta(milliseconds=900)


def test_events_in_any_order_and_twice_end_the_same() -> None:
    result = make_result("exited", 4)

    def apply(execution: Execution, event: str) -> Execution:
        if event == "started":
            return lifecycle.note_started(execution, STARTED, NOW) or execution
        if event == "result":
            return lifecycle.settle(execution, result, NOW) or execution
        settled = lifecycle.settle(execution, result, NOW) or execution
        return lifecycle.note_stopped(settled, NOW) or settled

    ends = set()
    for order in permutations(["started", "result", "stopped", "started", "result", "stopped"]):
        execution = starting()
        for event in order:
            execution = apply(execution, event)
        ends.add(msgspec.json.encode(execution))
    assert len(ends) == 1
    final = msgspec.json.decode(ends.pop(), type=Execution)
    assert (final.state, final.exit_code, final.stopped_at) == (State.FAILED, 4, NOW)


def test_terminal_states_never_change() -> None:
    ended = lifecycle.settle(starting(), make_result("exited", 0), NOW)
    assert ended is not None
    assert lifecycle.settle(ended, make_result("killed", 143, 15), NOW) is None
    assert lifecycle.settle_lost(ended, NOW, "gone") is None
    assert lifecycle.fail_launch(ended, NOW, "no") is None
    assert lifecycle.begin_start(ended, NOW) is None
    assert lifecycle.note_no_capacity(ended, NOW, "full") is None


def test_a_vanished_task_is_unknown_and_keeps_its_locks_until_seen_stopped() -> None:
    lost = lifecycle.settle_lost(starting(), NOW, "no result")
    assert lost is not None
    assert (lost.state, lost.reason, lost.is_active) == (State.UNKNOWN, Reason.LOST, True)
    stopped = lifecycle.note_stopped(lost, NOW)
    assert stopped is not None
    assert not stopped.is_active


@pytest.mark.parametrize(("exit_code", "state", "reason"), [(0, State.SUCCEEDED, None), (7, State.FAILED, Reason.EXIT)])
def test_without_a_result_the_platforms_exit_code_tells_the_end(
    exit_code: int, state: State, reason: Reason | None
) -> None:
    ended = lifecycle.settle_lost(starting(), NOW, "no result", exit_code)
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == (state, reason, exit_code)


def test_what_was_killed_is_killed_whatever_the_platforms_exit_code() -> None:
    killed = lifecycle.kill(starting(), NOW, "ada")
    assert killed is not None
    ended = lifecycle.settle_lost(killed, NOW, "no result", 0)
    assert ended is not None
    assert (ended.state, ended.reason) == (State.STOPPED, Reason.KILLED)


def test_only_what_has_ended_can_be_noted_as_stopped() -> None:
    assert lifecycle.note_stopped(starting(), NOW) is None


def test_nothing_starts_that_was_not_granted() -> None:
    assert lifecycle.begin_start(msgspec.structs.replace(QUEUED, granted=False), NOW) is None


def test_what_never_started_ends_without_a_task() -> None:
    revoked = lifecycle.refuse_start(QUEUED, NOW, "the key was revoked")
    assert revoked is not None
    assert (revoked.state, revoked.reason, revoked.is_active) == (State.STOPPED, Reason.REVOKED, False)
    waiting = msgspec.structs.replace(QUEUED, queue_timeout_seconds=5)
    assert lifecycle.expire_in_queue(waiting, NOW + timedelta(seconds=4)) is None
    expired = lifecycle.expire_in_queue(waiting, NOW + timedelta(seconds=5))
    assert expired is not None
    assert (expired.state, expired.reason, expired.is_active) == (State.TIMED_OUT, Reason.QUEUE, False)
    assert lifecycle.expire_in_queue(QUEUED, NOW + timedelta(days=1)) is None
    assert lifecycle.expire_in_queue(starting(), NOW + timedelta(days=1)) is None


def test_a_clock_set_back_does_not_turn_back_updated_at() -> None:
    changed = lifecycle.note_started(starting(), STARTED, NOW - timedelta(hours=1))
    assert changed is not None
    assert changed.updated_at == NOW


def test_status_says_all_that_the_record_knows() -> None:
    shown = msgspec.json.decode(msgspec.json.encode(lifecycle.project(starting(), 2)))
    kept = {
        "cpu",
        "memory_mib",
        "granted",
        "granted_at",
        "missing_since",
        "stopped_at",
        "updated_at",
        "content_digest",
        "object_sha256",
    }
    kept |= {"queue_timeout_seconds"}
    for field in Execution.__struct_fields__:
        if field not in kept:
            assert field in {"labels", "locks"} or field in ExecutionStatus.__struct_fields__, field
    assert shown["state"] == "STARTING"


def test_times_that_a_run_tells_lie_within_its_life() -> None:
    later = NOW + timedelta(seconds=5)
    far = msgspec.structs.replace(STARTED, started_at_ms=32_503_680_000_000)
    changed = lifecycle.note_started(starting(), far, later)
    assert changed is not None
    assert changed.started_at == later
    early = msgspec.structs.replace(make_result("exited", 0), started_at_ms=0, ended_at_ms=0)
    ended = lifecycle.settle(starting(), early, later)
    assert ended is not None
    assert (ended.started_at, ended.ended_at) == (NOW, NOW)
