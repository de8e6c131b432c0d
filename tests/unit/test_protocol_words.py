"""Words and numbers that are stored, sent or matched on: old records, old clients and scripts hold to them.

A word may be added; one that is here may not change, and a limit that changes makes another protocol.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

import pytest

from runvoy_agent.core import admission, lifecycle, locks
from runvoy_agent.core.access import Action
from runvoy_protocol import (
    codec,
    control,
    envelope,
    errors,
    exit_codes,
    git_sources,
    keys,
    logs,
    object_keys,
    requests,
    run_objects,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role
from runvoy_protocol.states import TERMINAL, Reason, State

WORDS: dict[type[StrEnum], str] = {
    State: "QUEUED STARTING RUNNING TERMINATING SUCCEEDED FAILED STOPPED TIMED_OUT UNKNOWN",
    Reason: "exit signal exec_failed deadline queue start killed revoked launch_failed setup_failed lost lock capacity",
    Role: "admin operator developer viewer",
    Action: "know-self run read-own read-any read-requests kill-own kill-any read-locks release-locks reconcile see-stack",
    ErrorCode: (
        "INVALID_REQUEST SIGNATURE_INVALID KEY_UNKNOWN KEY_REVOKED KEY_EXPIRED REQUEST_EXPIRED CLOCK_SKEW "
        "WRONG_DEPLOYMENT FORBIDDEN IMAGE_NOT_FOUND SECRET_NOT_FOUND SECRET_EXISTS LOCK_HELD LOCK_QUEUE_FULL "
        "ID_CONFLICT CONFLICT TOO_LARGE QUOTA_EXCEEDED NOT_FOUND UNAVAILABLE CAPACITY INTERNAL"
    ),
}


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_a_word_stays_and_is_its_members_name(kind: type[StrEnum]) -> None:
    words = WORDS[kind].split()
    assert [kind[word.upper().replace("-", "_")].value for word in words] == words


def test_the_kinds_of_envelope_stay() -> None:
    kinds = {kind.name: kind.value for kind in envelope.PayloadType}
    expected = {
        "RUN_REQUEST": "run-request",
        "BATCH": "batch",
        "CONTROL": "control",
        "CLAIM": "claim",
    }
    whole = {name: f"application/vnd.runvoy.{word}.v1+msgpack" for name, word in expected.items()}
    assert kinds == {name: whole[name] for name in kinds}
    assert kinds.keys() >= {"RUN_REQUEST", "CONTROL"}


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        (git_sources.CREDENTIALS[:2], ("RUNVOY_GIT_TOKEN", "RUNVOY_GIT_SSH_KEY")),
        (git_sources.CREDENTIALS[2:], ("RUNVOY_GIT_KNOWN_HOSTS", "RUNVOY_GIT_CERTIFICATES")),
        (git_sources.DEPTH, "GIT_DEPTH"),
        (git_sources.DEFAULT_DEPTH, 1),
        (git_sources.MAX_DEPTH, 1_000_000),
        (git_sources.MAX_REPO_LENGTH, 2048),
        (git_sources.MAX_REF_LENGTH, 256),
        (git_sources.MAX_PATH_LENGTH, 1024),
        (run_objects.GIT_SECONDS, 600),
        (codec.MAX_DEPTH, 16),
        (codec.MAX_ENVELOPE_BYTES, 262_144),
        (codec.MAX_BATCH_BYTES, 8_388_608),
        (envelope.MAX_SIGNATURES, 8),
        (control.API_PREFIX, "/api/v1"),
        (control.AUTHORIZATION_SCHEME, "Runvoy"),
        (control.MAX_AUTHORIZATION_BYTES, 4_096),
        (control.MAX_BODY_BYTES, 360_448),
        (control.CALL_LIFETIME, timedelta(minutes=1)),
        (control.CHUNKS_PER_GRANT, 64),
        (keys.API_KEY_LENGTH, 53),
        (logs.MAX_CHUNK_BYTES, 33_554_432),
        (logs.MAX_LINE_NUMBER, 9_007_199_254_740_991),
        (logs.MAX_TIME_MS, 253_370_764_799_999),
        (requests.MAX_LIFETIME, timedelta(hours=1)),
        (requests.MAX_CLOCK_SKEW, timedelta(minutes=5)),
        (requests.MAX_LOCKS, 8),
        (requests.MAX_SECRETS, 64),
        (requests.MAX_LABELS, 32),
        (requests.MAX_ARGUMENT_BYTES, 131_072),
        (requests.MAX_ENV_VALUE_BYTES, 130_048),
        (requests.MAX_TIMEOUT_SECONDS, 604_800),
        (requests.DEFAULT_TIMEOUT_SECONDS, 600),
        (requests.RESERVED_ENV_PREFIXES, ("RUNVOY_", "ECS_", "AWS_CONTAINER_")),
        (run_objects.MAX_RUN_OBJECT_BYTES, 65_536),
        (run_objects.GRACE_SECONDS, 30),
        (locks.MAX_WAITERS, 1_000),
        (admission.COMMAND_SHOWN_CHARACTERS, 4_096),
        (lifecycle.MAX_MESSAGE_CHARACTERS, 1_000),
        (lifecycle.START_TIMEOUT, timedelta(minutes=15)),
    ],
)
def test_a_limit_stays(limit: object, value: object) -> None:
    assert limit == value


def test_a_chunks_number_has_eight_digits() -> None:
    assert object_keys.log_chunk("e", 7) == "executions/e/run/logs/00000007"


def test_the_exit_codes_of_runvoy_stay() -> None:
    names = {
        120: "gave up waiting",
        121: "refused",
        122: "lock held",
        123: "killed",
        124: "timed out",
        125: "runvoy or the platform failed",
    }
    assert names == exit_codes.EXIT_CODES_OF_RUNVOY


FAILED = {ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE, ErrorCode.CAPACITY, ErrorCode.INTERNAL}
RETRYABLE = FAILED | {
    ErrorCode.CLOCK_SKEW,
    ErrorCode.LOCK_HELD,
    ErrorCode.LOCK_QUEUE_FULL,
    ErrorCode.QUOTA_EXCEEDED,
}


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_says_its_exit_code_and_whether_to_try_again(code: ErrorCode) -> None:
    error = RunvoyError(code, "what happened")
    assert error.exit_code == (122 if code is ErrorCode.LOCK_HELD else 125 if code in FAILED else 121)
    assert error.retryable is (code in RETRYABLE)
    assert error.hint == errors.ERRORS[code].hint != ""
    assert str(error) == f"{code.value}: what happened"


def test_an_errors_own_hint_and_details_go_before() -> None:
    error = RunvoyError(ErrorCode.INTERNAL, "m", "h", {"a": 1})
    assert (error.hint, error.details) == ("h", {"a": 1})
    assert RunvoyError(ErrorCode.INTERNAL, "m").details == {}


@pytest.mark.parametrize("state", State)
def test_the_ends_are_five(state: State) -> None:
    ends = {State.SUCCEEDED, State.FAILED, State.STOPPED, State.TIMED_OUT, State.UNKNOWN}
    assert (state in TERMINAL) is (state in ends)
