"""Why an execution waits, or how it failed: the cause for programs, the words for people, and what to do about it."""

from __future__ import annotations

import itertools
import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from runvoy_protocol.explanations import SIGNALS, Cause, explain, explained
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, LockStatus

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ID = "01890a5dac96774bbcceb302099a8057"


def status(state: State, reason: Reason | None = None, **fields: Any) -> ExecutionStatus:
    values: dict[str, Any] = {
        "execution_id": ID,
        "record_version": 1,
        "owner": "ada",
        "key_id": "k",
        "command": "true",
        "isolation": "container",
        "timeout_seconds": 90,
        "issued_at": NOW,
        "admitted_at": NOW,
    }
    return ExecutionStatus(state=state, reason=reason, **(values | fields))


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED])
def test_what_goes_well_needs_no_explanation(state: State) -> None:
    assert explain(status(state, exit_code=0 if state is State.SUCCEEDED else None)) is None


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        (LockStatus(name="db"), "it waits for the lock db"),
        (LockStatus(name="db", position=2), "it waits for the lock db, 2nd in line"),
        (
            LockStatus(name="db", position=1, holder="h", holder_owner="bob", held_since=NOW),
            "it waits for the lock db, next in line, held by h of bob since 2026-05-04 12:00:00 UTC",
        ),
        (
            LockStatus(name="db", position=3, holder="h", holder_owner="bob"),
            "it waits for the lock db, 3rd in line behind h of bob, which waits too",
        ),
        (LockStatus(name="db", position=0), "it waits for the lock db, first in line, and for its other locks"),
    ],
)
def test_why_it_waits_for_a_lock(lock: LockStatus, words: str) -> None:
    why = explain(status(State.QUEUED, Reason.LOCK, locks=(lock,)))
    assert why is not None
    assert (why.reason, why.words) == (Cause.LOCK, words)
    assert f"`runvoy locks show {lock.name}`" in why.hint


def test_locks_that_it_is_the_head_of_do_not_stand_in_its_way() -> None:
    locks = (LockStatus(name="a", position=0), LockStatus(name="b", position=1), LockStatus(name="c", position=2))
    why = explain(status(State.QUEUED, Reason.LOCK, locks=locks))
    assert why is not None
    assert why.words == "it waits for the locks b, next in line; c, 2nd in line"


@pytest.mark.parametrize(
    ("found", "cause", "part"),
    [
        (status(State.QUEUED), Cause.TURN, "its turn"),
        (status(State.STARTING), Cause.LAUNCH, "has not begun"),
        (status(State.STARTING, Reason.CAPACITY, message="Fargate has no room"), Cause.CAPACITY, "Fargate has no room"),
        (status(State.TERMINATING, Reason.KILLED, message="killed by bob"), Cause.STOPPING, "killed by bob"),
        (status(State.FAILED, Reason.EXIT, exit_code=3), Cause.EXIT, "exited with code 3"),
        (status(State.FAILED, Reason.EXEC_FAILED, exit_code=126), Cause.NOT_EXECUTABLE, "126 (found, but"),
        (status(State.FAILED, Reason.EXEC_FAILED, exit_code=127), Cause.COMMAND_NOT_FOUND, "127 (command not found)"),
        (status(State.FAILED, Reason.EXIT, exit_code=143), Cause.SIGNAL, "143 (as after SIGTERM)"),
        (status(State.FAILED, Reason.SIGNAL, exit_code=139, signal=11), Cause.SIGNAL, "killed by SIGSEGV"),
        (
            status(
                State.FAILED,
                Reason.SIGNAL,
                exit_code=137,
                signal=9,
                message="it ran out of memory: the limit was reached",
            ),
            Cause.OUT_OF_MEMORY,
            "ran out of memory",
        ),
        (
            status(State.FAILED, Reason.EXIT, exit_code=137, message="OutOfMemoryError: Container killed"),
            Cause.OUT_OF_MEMORY,
            "137 (as after SIGKILL)",
        ),
        (
            status(State.FAILED, Reason.LAUNCH_FAILED, message="CannotPullContainerError: pull image manifest"),
            Cause.IMAGE_PULL,
            "CannotPullContainerError",
        ),
        (
            status(State.FAILED, Reason.SETUP_FAILED, message="its container is STOPPED: its image may lack a /bin/sh"),
            Cause.NO_SHELL,
            "/bin/sh",
        ),
        (status(State.FAILED, Reason.SETUP_FAILED, message="disk full"), Cause.SETUP_FAILED, "disk full"),
        (status(State.FAILED, Reason.LAUNCH_FAILED, message="no such role"), Cause.LAUNCH_FAILED, "no such role"),
        (status(State.TIMED_OUT, Reason.DEADLINE), Cause.DEADLINE, "timed out after 90 s"),
        (status(State.TIMED_OUT, Reason.QUEUE, message="not within 5 s"), Cause.QUEUE_TIMEOUT, "never started"),
        (status(State.TIMED_OUT, Reason.START), Cause.START_TIMEOUT, "did not begin in time"),
        (status(State.STOPPED, Reason.KILLED, message="killed by bob"), Cause.KILLED, "killed by bob"),
        (status(State.STOPPED, Reason.KILLED, message="killed"), Cause.KILLED, "the command was killed"),
        (status(State.STOPPED, Reason.REVOKED, message="the key was revoked"), Cause.REVOKED, "the key was revoked"),
        (status(State.UNKNOWN, Reason.LOST), Cause.LOST, "nobody knows how the command ended"),
    ],
)
def test_every_other_explanation(found: ExecutionStatus, cause: Cause, part: str) -> None:
    why = explain(found)
    assert why is not None
    assert why.reason == cause
    assert part in why.words


def test_sigkill_that_nobody_sent_hints_at_memory() -> None:
    why = explain(status(State.FAILED, Reason.SIGNAL, exit_code=137, signal=9))
    assert why is not None
    assert "`memory`" in why.hint
    other = explain(status(State.FAILED, Reason.SIGNAL, exit_code=139, signal=11))
    assert other is not None
    assert not other.hint


@pytest.mark.parametrize("state", State)
def test_whatever_comes_together_is_explained(state: State) -> None:
    for reason, exit_code in itertools.product([None, *Reason], [None, 0, 1, 126, 255, 256]):
        found = explained(status(state, reason, exit_code=exit_code))
        assert (found.explanation is None) == (state in (State.RUNNING, State.SUCCEEDED)), (reason, exit_code)
        assert explained(found) == found, (reason, exit_code)


def test_signals_have_the_names_that_posix_gives_them() -> None:
    assert {number: signal.Signals(number).name for number in SIGNALS} == SIGNALS
