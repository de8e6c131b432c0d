"""The table of states, exit codes, errors and receipts."""

import pickle
from datetime import UTC, datetime

import msgspec
import pytest

from runvoy_protocol import receipts, status
from runvoy_protocol.errors import ERRORS, ErrorCode, RunvoyError
from runvoy_protocol.states import TERMINAL, TRANSITIONS, Reason, State, can_follow

AT = datetime(2026, 2, 3, tzinfo=UTC)


def test_the_table_names_every_state():
    assert TRANSITIONS.keys() == set(State)
    assert all(follower in State for followers in TRANSITIONS.values() for follower in followers)


def test_terminal_states_never_change():
    assert {state for state in State if not TRANSITIONS[state]} == TERMINAL
    assert not any(can_follow(state, wanted) for state in TERMINAL for wanted in State)


def reachable(start):
    seen, waiting = set(), [start]
    while waiting:
        for follower in TRANSITIONS[waiting.pop()] - seen:
            seen.add(follower)
            waiting.append(follower)
    return seen


def test_every_state_can_be_reached_and_leads_to_an_end():
    assert reachable(State.QUEUED) == set(State) - {State.QUEUED}
    for state in set(State) - TERMINAL:
        assert TRANSITIONS[state] & TERMINAL, f"{state} cannot end in one step"


def test_no_state_can_come_twice():
    assert all(state not in reachable(state) for state in State)


def test_an_end_may_be_told_before_the_beginning():
    """Events come early: once there may be a task, every end can follow directly."""
    for state in (State.STARTING, State.RUNNING, State.TERMINATING):
        assert all(can_follow(state, end) for end in TERMINAL)


def test_what_never_started_neither_succeeded_nor_vanished():
    assert not can_follow(State.QUEUED, State.SUCCEEDED)
    assert not can_follow(State.QUEUED, State.UNKNOWN)
    assert not can_follow(State.QUEUED, State.RUNNING)


def make_status(state, **fields):
    return status.ExecutionStatus(
        execution_id="x",
        record_version=1,
        state=state,
        owner="o",
        key_id="k",
        command="c",
        isolation="process",
        timeout_seconds=1,
        issued_at=AT,
        admitted_at=AT,
        **fields,
    )


def test_a_command_s_own_exit_code_is_passed_on():
    for code in range(1, 256):
        ended = make_status(State.FAILED, reason=Reason.EXIT, exit_code=code)
        assert (status.exit_code_of(ended), status.decided_by(ended)) == (code, "command")


@pytest.mark.parametrize(
    ("state", "exit_code", "expected", "decided_by"),
    [
        (State.SUCCEEDED, 0, 0, "command"),
        (State.STOPPED, None, 123, "runvoy"),
        (State.STOPPED, 143, 123, "runvoy"),
        (State.TIMED_OUT, 0, 124, "runvoy"),
        (State.UNKNOWN, None, 125, "runvoy"),
        (State.UNKNOWN, 0, 125, "runvoy"),
        (State.FAILED, None, 125, "runvoy"),
        (State.FAILED, 0, 125, "runvoy"),
        (State.FAILED, 256, 125, "runvoy"),
        (State.FAILED, -1, 125, "runvoy"),
    ],
)
def test_what_did_not_succeed_never_exits_0(state, exit_code, expected, decided_by):
    ended = make_status(state, exit_code=exit_code)
    assert status.exit_code_of(ended) == expected
    assert status.decided_by(ended) == decided_by
    assert (expected == 0) == (state is State.SUCCEEDED)


def test_every_code_is_specified():
    assert ERRORS.keys() == set(ErrorCode)
    for code, spec in ERRORS.items():
        assert code.value == code.name
        assert spec.meaning.endswith(".")
        assert spec.hint.endswith(".")
        assert spec.exit_code in status.EXIT_CODES_OF_RUNVOY


def test_exit_codes_of_errors():
    assert ERRORS[ErrorCode.LOCK_HELD].exit_code == status.EXIT_LOCK_HELD
    failed = {code for code, spec in ERRORS.items() if spec.exit_code == status.EXIT_FAILED}
    assert failed == {ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE, ErrorCode.CAPACITY, ErrorCode.INTERNAL}


def test_an_error_survives_a_process_boundary():
    error = RunvoyError(ErrorCode.CLOCK_SKEW, "message", "hint", {"server_time": "x"})
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == "CLOCK_SKEW: message"


def test_an_error_without_a_hint_takes_its_code_s():
    assert RunvoyError(ErrorCode.NOT_FOUND, "x").hint == ERRORS[ErrorCode.NOT_FOUND].hint


def make_receipt(**fields):
    return receipts.Receipt(execution_id="x", key_id="k", object_sha256="d", at=AT, **fields)


def test_a_receipt_is_accepted_or_carries_its_error():
    assert make_receipt(outcome="accepted").error() is None
    refused = make_receipt(outcome="refused", code=ErrorCode.CLOCK_SKEW, message="m", hint="h", details={"a": "b"})
    error = refused.error()
    assert (error.code, error.message, error.hint, error.details) == (ErrorCode.CLOCK_SKEW, "m", "h", {"a": "b"})
    assert make_receipt(outcome="refused").error().code is ErrorCode.INTERNAL


@pytest.mark.parametrize("decode", [receipts.decode, status.decode])
@pytest.mark.parametrize("raw", [b"", b"{}", b"null", b"[]", b'{"outcome":"maybe"}', b"\xff"])
def test_what_is_none_of_the_outbox_s_objects_is_not_read(decode, raw):
    with pytest.raises(msgspec.MsgspecError):
        decode(raw)


def test_fields_of_a_later_version_are_passed_over():
    raw = msgspec.json.decode(status.encode(make_status(State.RUNNING))) | {"not_yet": 1}
    assert status.decode(msgspec.json.encode(raw)) == make_status(State.RUNNING)
