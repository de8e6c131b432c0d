"""What events make of an execution: early, late, twice and in any order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import msgspec
import pytest

from runvoy_agent.core import launches, lifecycle, projection, waiting
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
    status = projection.project(ended, 3)
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
        # Only the started event is a moment at which it was known to run.
        ends.add(msgspec.json.encode(msgspec.structs.replace(execution, running_since=None)))
    assert len(ends) == 1
    final = msgspec.json.decode(ends.pop(), type=Execution)
    assert (final.state, final.exit_code, final.stopped_at) == (State.FAILED, 4, NOW)


def test_terminal_states_never_change() -> None:
    ended = lifecycle.settle(starting(), make_result("exited", 0), NOW)
    assert ended is not None
    assert lifecycle.settle(ended, make_result("killed", 143, 15), NOW) is None
    assert lifecycle.settle_lost(ended, NOW, "gone") is None
    assert lifecycle.note_unlaunched(ended, NOW, "no", refused=True) is None
    assert lifecycle.begin_launch(ended, NOW) is None
    assert lifecycle.begin_start(ended, NOW) is None
    assert lifecycle.note_unlaunched(ended, NOW, "full", refused=False) is None


def test_a_refusal_ends_it_only_if_no_other_launch_may_be_under_way() -> None:
    one = starting()
    two = lifecycle.begin_launch(one, NOW)
    assert two is not None
    assert (one.launches, two.launches, two.state) == (1, 2, State.STARTING)
    refused = lifecycle.note_unlaunched(two, NOW, "no", refused=True)
    assert refused is not None
    assert (refused.state, refused.launches, refused.is_active) == (State.STARTING, 1, True)
    ended = lifecycle.note_unlaunched(refused, NOW, "no", refused=True)
    assert ended is not None
    assert (ended.state, ended.reason, ended.message) == (State.FAILED, Reason.LAUNCH_FAILED, "no")
    assert (ended.launches, ended.stopped_at, ended.ended_at) == (0, NOW, NOW)


def test_want_of_room_shows_and_its_launch_counts_no_longer() -> None:
    later = NOW + timedelta(seconds=9)
    two = lifecycle.begin_launch(starting(), NOW)
    assert two is not None
    full = lifecycle.note_unlaunched(two, later, "full", refused=False)
    assert full is not None
    assert (full.state, full.reason, full.message) == (State.STARTING, Reason.CAPACITY, "full")
    assert (full.starting_at, full.launches) == (later, 1)


@pytest.mark.parametrize("refused", [True, False])
def test_what_was_killed_ends_when_its_last_launch_came_to_nothing(refused: bool) -> None:
    two = lifecycle.begin_launch(starting(), NOW)
    assert two is not None
    killed = lifecycle.kill(two, NOW, "ada")
    assert killed is not None
    assert lifecycle.begin_launch(killed, NOW) is None
    waits = lifecycle.note_unlaunched(killed, NOW, "no", refused=refused)
    assert waits is not None
    assert (waits.state, waits.launches) == (State.TERMINATING, 1)
    ended = lifecycle.note_unlaunched(waits, NOW, "no", refused=refused)
    assert ended is not None
    assert (ended.state, ended.reason, ended.message) == (State.STOPPED, Reason.KILLED, "killed by ada")
    assert (ended.launches, ended.stopped_at) == (0, NOW)


def test_forgotten_launches_count_for_nothing_and_never_below() -> None:
    forgotten = launches.forget_launches(starting())
    assert forgotten is not None
    assert forgotten.launches == 0
    assert launches.forget_launches(forgotten) is None
    full = lifecycle.note_unlaunched(forgotten, NOW, "full", refused=False)
    assert full is not None
    assert full.launches == 0


def test_a_launch_that_came_to_nothing_changes_nothing_once_it_runs() -> None:
    running = lifecycle.note_started(starting(), STARTED, NOW)
    assert running is not None
    assert lifecycle.note_unlaunched(running, NOW, "no", refused=True) is None


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


SPOT = "Your Spot Task was interrupted."


def test_what_the_platform_ended_by_itself_is_no_users_kill() -> None:
    """Spot and maintenance send the runner the same signal as a kill does."""
    running = lifecycle.note_started(starting(), STARTED, NOW)
    assert running is not None
    interrupted = lifecycle.settle(running, make_result("killed", 143, 15), NOW)
    assert interrupted is not None
    assert (interrupted.state, interrupted.reason) == (State.STOPPED, Reason.KILLED)
    told = lifecycle.note_task_end(interrupted, None, None, SPOT)
    assert SPOT in told.message
    assert lifecycle.note_task_end(told, None, None, SPOT).message == told.message
    explanation = projection.project(told, 1).explanation
    assert explanation is not None
    assert explanation.reason == "interrupted"
    assert SPOT in explanation.words
    killed = lifecycle.kill(running, NOW, "ada")
    assert killed is not None
    asked = lifecycle.settle(killed, make_result("killed", 143, 15), NOW)
    assert asked is not None
    explanation = projection.project(lifecycle.note_task_end(asked, None, None, "runvoy was asked"), 1).explanation
    assert explanation is not None
    assert (explanation.reason, "asked" in explanation.words) == ("killed", False)


def test_what_was_killed_is_killed_whatever_the_platforms_exit_code() -> None:
    killed = lifecycle.kill(starting(), NOW, "ada")
    assert killed is not None
    ended = lifecycle.settle_lost(killed, NOW, "no result", 0)
    assert ended is not None
    assert (ended.state, ended.reason) == (State.STOPPED, Reason.KILLED)


def test_what_for_certain_never_began_has_failed() -> None:
    ended = lifecycle.settle_unbegun(starting(), NOW, "no payload")
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == (State.FAILED, Reason.LAUNCH_FAILED, None)
    assert ended.is_active, "its locks wait for the commit that saw its task stopped"
    assert lifecycle.settle_unbegun(ended, NOW, "again") is None
    killed = lifecycle.kill(starting(), NOW, "ada")
    assert killed is not None
    stopped = lifecycle.settle_unbegun(killed, NOW, "no payload")
    assert stopped is not None
    assert (stopped.state, stopped.reason) == (State.STOPPED, Reason.KILLED)


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
    shown = msgspec.json.decode(msgspec.json.encode(projection.project(starting(), 2)))
    kept = {
        "cpu",
        "memory_mib",
        "granted",
        "granted_at",
        "missing_since",
        "launches",
        "stopped_at",
        "updated_at",
        "content_digest",
        "object_sha256",
        "secrets",
        "fixed_secrets",
    }
    kept |= {
        "queue_timeout_seconds",
        "bulk",
        "batch_id",
        "object_version",
        "counted",
        "placed",
        "running_since",
        "unproven_start",
        "counted_from",
        "for_place",
        "limited",
        "max_log_mib",
        "rate",
        "pull_started_at",
        "task_stopped_at",
    }
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


def test_the_beginning_clears_why_it_waited_and_nothing_else() -> None:
    waiting = lifecycle.note_unlaunched(starting(), NOW, "full", refused=False)
    assert waiting is not None
    began = lifecycle.note_started(waiting, STARTED, NOW + timedelta(seconds=1))
    assert began is not None
    assert (began.state, began.reason) == (State.RUNNING, None)
    assert began.started_at == NOW + timedelta(milliseconds=100)
    killed = lifecycle.kill(starting(), NOW, "ada")
    assert killed is not None
    late = lifecycle.note_started(killed, STARTED, NOW + timedelta(seconds=1))
    assert late is not None
    assert (late.state, late.reason) == (State.TERMINATING, Reason.KILLED)
    assert lifecycle.note_started(QUEUED, STARTED, NOW) is None


def test_the_start_clock_runs_out_after_a_quarter_of_an_hour() -> None:
    assert lifecycle.expire_start(starting(), NOW + timedelta(minutes=15, milliseconds=-1)) is None
    expired = lifecycle.expire_start(starting(), NOW + timedelta(minutes=15))
    assert expired is not None
    assert (expired.state, expired.reason) == (State.TERMINATING, Reason.START)
    assert "900 s" in expired.message
    assert lifecycle.expire_start(expired, NOW + timedelta(hours=1)) is None


def test_a_deadlines_backstop_waits_for_its_grace() -> None:
    began = lifecycle.note_started(starting(), STARTED, NOW + timedelta(seconds=1))
    assert began is not None
    grace = timedelta(seconds=150)
    end = NOW + timedelta(seconds=1) + timedelta(seconds=60) + grace
    assert lifecycle.expire_run(began, end - timedelta(milliseconds=1), grace) is None
    expired = lifecycle.expire_run(began, end, grace)
    assert expired is not None
    assert (expired.state, expired.reason) == (State.TERMINATING, Reason.DEADLINE)
    assert lifecycle.expire_run(starting(), end, grace) is None


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_runner_s_clock_that_is_off_ends_nothing_early_and_changes_no_duration(minutes: int) -> None:
    """It waited for an hour before it was launched, and its command began a second after that."""
    waited = msgspec.structs.replace(QUEUED, admitted_at=NOW - timedelta(hours=1))
    launched = lifecycle.begin_start(waited, NOW)
    assert launched is not None
    off_ms = minutes * 60_000
    told = msgspec.structs.replace(STARTED, started_at_ms=NOW_MS + 1000 + off_ms)
    began = lifecycle.note_started(launched, told, NOW + timedelta(seconds=2))
    assert began is not None
    grace = timedelta(seconds=150)
    end = NOW + timedelta(seconds=62) + grace
    assert lifecycle.expire_run(began, end - timedelta(milliseconds=1), grace) is None
    assert lifecycle.expire_run(began, end, grace) is not None
    result = msgspec.structs.replace(
        make_result("exited", 0), started_at_ms=NOW_MS + 1000 + off_ms, ended_at_ms=NOW_MS + 31_000 + off_ms
    )
    for execution in (began, launched):
        ended = lifecycle.settle(execution, result, NOW + timedelta(minutes=11))
        assert ended is not None
        assert ended.started_at is not None
        assert ended.ended_at is not None
        assert ended.ended_at - ended.started_at == timedelta(seconds=30)
        assert ended.started_at >= NOW


@pytest.mark.parametrize("ended_at_ms", [0, NOW_MS - 3_600_000, 253_402_300_799_999])
def test_no_run_ends_before_it_began_or_after_it_was_told(ended_at_ms: int) -> None:
    began = lifecycle.note_started(starting(), STARTED, NOW + timedelta(seconds=1))
    assert began is not None
    result = msgspec.structs.replace(make_result("exited", 0), ended_at_ms=ended_at_ms)
    told_at = NOW + timedelta(seconds=5)
    ended = lifecycle.settle(began, result, told_at)
    assert ended is not None
    assert began.started_at is not None
    assert ended.ended_at in (began.started_at, told_at)


def test_a_queue_timeout_passes_at_its_last_second() -> None:
    patient = msgspec.structs.replace(QUEUED, queue_timeout_seconds=30)
    assert lifecycle.expire_in_queue(patient, NOW + timedelta(seconds=30, milliseconds=-1)) is None
    expired = lifecycle.expire_in_queue(patient, NOW + timedelta(seconds=30))
    assert expired is not None
    assert (expired.state, expired.reason, expired.is_active) == (State.TIMED_OUT, Reason.QUEUE, False)
    assert lifecycle.expire_in_queue(QUEUED, NOW + timedelta(days=9)) is None


def test_a_long_message_is_cut_and_one_of_just_the_length_is_not() -> None:
    for length in (1000, 1001):
        ended = lifecycle.settle_lost(starting(), NOW, "m" * length)
        assert ended is not None
        assert ended.message == "m" * 1000 + ("…" if length > 1000 else "")


def test_a_look_changes_nothing_but_itself() -> None:
    missed = lifecycle.note_look(starting(), NOW, missing=True)
    assert missed is not None
    assert missed == msgspec.structs.replace(starting(), missing_since=NOW)
    assert lifecycle.note_look(missed, LATER, missing=True) == msgspec.structs.replace(starting(), missing_since=LATER)
    assert lifecycle.note_look(missed, NOW, missing=False) == starting()
    assert lifecycle.note_look(starting(), NOW, missing=False) is None


def test_what_runs_and_has_no_beginning_has_no_deadline_either() -> None:
    began = lifecycle.note_started(starting(), STARTED, NOW + timedelta(seconds=1))
    assert began is not None
    older = msgspec.structs.replace(began, running_since=None)
    assert lifecycle.expire_run(older, NOW + timedelta(seconds=61), timedelta(0)) is not None
    restored = msgspec.structs.replace(older, started_at=None)
    assert lifecycle.expire_run(restored, NOW + timedelta(days=9), timedelta(0)) is None


@pytest.mark.parametrize("state", State)
def test_what_clients_see_ends_with_the_execution(state: State) -> None:
    execution = msgspec.structs.replace(starting(), state=state)
    assert projection.project(execution, 2).is_terminal is execution.is_terminal


LATER = NOW + timedelta(seconds=9)


def in_state(state: State, **fields: object) -> Execution:
    return msgspec.structs.replace(starting(), state=state, **fields)


@pytest.mark.parametrize("state", State)
def test_a_launch_that_was_not_made_counts_no_longer(state: State) -> None:
    called_off = launches.call_off_launch(in_state(state, launches=2))
    if state in (State.STARTING, State.TERMINATING):
        assert called_off == in_state(state, launches=1)
    else:
        assert called_off is None
    assert launches.call_off_launch(in_state(state, launches=0)) is None


@pytest.mark.parametrize("reason", [Reason.CAPACITY, Reason.LOCK])
def test_a_launch_that_was_not_made_waits_for_room_no_longer(reason: Reason) -> None:
    called_off = launches.call_off_launch(in_state(State.STARTING, launches=1, reason=reason, message="said"))
    assert called_off is not None
    assert (called_off.reason, called_off.message) == ((None, "") if reason is Reason.CAPACITY else (reason, "said"))


@pytest.mark.parametrize(
    ("waited", "delay"), [(0, 5), (100, 5), (101, 5.05), (599, 29.95), (600, 30), (601, 30), (10**6, 30)]
)
def test_the_longer_it_waited_for_room_the_rarer_it_is_tried(waited: int, delay: float) -> None:
    assert waiting.capacity_delay(QUEUED, NOW + timedelta(seconds=waited)) == timedelta(seconds=delay)


@pytest.mark.parametrize("state", State)
def test_only_what_is_starting_is_launched_again_or_withdrawn(state: State) -> None:
    execution, waiting = in_state(state), in_state(state, launches=0)
    launched, withdrawn = lifecycle.begin_launch(execution, LATER), lifecycle.withdraw(waiting, LATER, "gone")
    assert lifecycle.withdraw(execution, LATER, "gone") is None, "a launch of it may have gone through"
    if state is not State.STARTING:
        assert (launched, withdrawn) == (None, None)
        return
    assert launched == in_state(state, launches=2, updated_at=LATER)
    wanted = in_state(State.TERMINATING, launches=0, reason=Reason.REVOKED, message="gone", updated_at=LATER)
    assert withdrawn == wanted


def test_what_was_to_be_stopped_ends_unless_a_launch_may_be_under_way() -> None:
    stopping = in_state(State.TERMINATING, launches=0, reason=Reason.REVOKED, message="why")
    ended = lifecycle.end_unlaunched(stopping, LATER)
    assert ended is not None
    assert (ended.state, ended.reason, ended.message) == (State.STOPPED, Reason.REVOKED, "why")
    assert (ended.ended_at, ended.stopped_at) == (LATER, LATER)
    for change in ({"launches": 1}, {"started_at": NOW}, {"state": State.STARTING}, {"state": State.RUNNING}):
        assert lifecycle.end_unlaunched(msgspec.structs.replace(stopping, **change), LATER) is None
