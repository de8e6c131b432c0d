"""Admission: what is accepted, what is refused and why, and what a repetition gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from runvoy_agent.core import admission, locks
from runvoy_agent.core.admission import (
    COMMAND_SHOWN_CHARACTERS,
    Accepted,
    Capabilities,
    Decision,
    Facts,
    Known,
    admit,
    shown_command,
    wanted_isolation,
)
from runvoy_agent.core.images import Registered
from runvoy_agent.core.model import Execution, Image, Isolation, Key, LockRecord, Refusal, User
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role
from runvoy_protocol.requests import GitSource, RunRequest
from runvoy_protocol.states import Reason, State

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
KEY_ID = "a" * 32
OTHER_KEY_ID = "b" * 32
REQUEST_ID = "019a0000000070008000000000000001"
OTHER_ID = "019a0000000070008000000000000002"
DIGEST = "0" * 64
PROCESSES = Capabilities(default_isolation="process", isolations=frozenset({"process"}))
CONTAINERS = Capabilities(default_isolation="container", isolations=frozenset({"container"}))
ALPINE = Image(
    name="alpine", reference="alpine:3", registered_by="ada", registered_at=NOW, updated_by="ada", updated_at=NOW
)
REGISTERED = Registered((ALPINE,))
KEY = Key(key_id=KEY_ID, public_key=b"k" * 32, user="ada", created_at=NOW - timedelta(days=1))
USER = User(name="ada", role=Role.DEVELOPER, created_at=NOW - timedelta(days=1))


def make_request(**fields: object) -> RunRequest:
    values: dict[str, object] = {
        "version": 1,
        "deployment_id": "here",
        "request_id": REQUEST_ID,
        "issued_at": NOW - timedelta(seconds=1),
        "expires_at": NOW + timedelta(minutes=5),
        "command": ("true",),
    }
    return RunRequest(**(values | fields))  # type: ignore[arg-type]


def decide(
    request: RunRequest,
    *,
    key: Key | None = KEY,
    user: User | None = USER,
    existing: Execution | None = None,
    queues: dict[str, tuple[str, ...]] | None = None,
    capabilities: Capabilities = PROCESSES,
    key_id: str = KEY_ID,
    images: Registered = REGISTERED,
    unfinished: int = 0,
) -> Decision:
    named = {name: LockRecord(name=name, queue=(queues or {}).get(name, ()), fence=7) for name in request.locks}
    facts = Facts("here", capabilities, NOW, DIGEST, key, user, existing, named, images, unfinished=unfinished)
    return admit(request, key_id, facts)


def accepted(request: RunRequest, **facts: object) -> Accepted:
    decision = decide(request, **facts)  # type: ignore[arg-type]
    assert isinstance(decision, Accepted), decision
    return decision


def test_accepts_a_good_request_and_lets_it_start_at_once() -> None:
    execution = accepted(make_request(name="deploy", labels={"team": "db"}, timeout_seconds=60)).execution
    assert (execution.state, execution.granted, execution.owner) == (State.QUEUED, True, "ada")
    assert (execution.name, execution.labels, execution.timeout_seconds) == ("deploy", {"team": "db"}, 60)
    assert execution.isolation == "process"


@pytest.mark.parametrize(
    ("request_fields", "facts", "code"),
    [
        ({}, {"key": None, "user": None}, ErrorCode.KEY_UNKNOWN),
        ({}, {"user": None}, ErrorCode.KEY_UNKNOWN),
        ({}, {"key": msgspec.structs.replace(KEY, revoked_at=NOW)}, ErrorCode.KEY_REVOKED),
        ({}, {"user": msgspec.structs.replace(USER, revoked_at=NOW)}, ErrorCode.KEY_REVOKED),
        ({}, {"key": msgspec.structs.replace(KEY, expires_at=NOW)}, ErrorCode.KEY_EXPIRED),
        ({}, {"user": msgspec.structs.replace(USER, role=Role.VIEWER)}, ErrorCode.FORBIDDEN),
        ({"deployment_id": "there"}, {}, ErrorCode.WRONG_DEPLOYMENT),
        ({"expires_at": NOW}, {}, ErrorCode.REQUEST_EXPIRED),
        ({"issued_at": NOW + timedelta(minutes=6), "expires_at": NOW + timedelta(minutes=9)}, {}, ErrorCode.CLOCK_SKEW),
        ({"image": "alpine"}, {}, ErrorCode.UNAVAILABLE),
        ({}, {"images": Registered((), ALPINE)}, ErrorCode.UNAVAILABLE),
        ({"image": "alpin"}, {"capabilities": CONTAINERS}, ErrorCode.IMAGE_NOT_FOUND),
        ({"image": "alpin"}, {"capabilities": CONTAINERS._replace(any_image=True)}, ErrorCode.IMAGE_NOT_FOUND),
        (
            {"image": "alpine", "cpu": 100},
            {"capabilities": CONTAINERS._replace(fargate_sizes=True)},
            ErrorCode.INVALID_REQUEST,
        ),
        ({"isolation": "container"}, {}, ErrorCode.UNAVAILABLE),
        ({"isolation": "container"}, {"capabilities": CONTAINERS}, ErrorCode.INVALID_REQUEST),
        ({"isolation": "process"}, {"capabilities": CONTAINERS}, ErrorCode.FORBIDDEN),
        ({"secrets": ("token",)}, {}, ErrorCode.SECRET_NOT_FOUND),
        (
            {"git": GitSource("/srv/x.git")},
            {"capabilities": CONTAINERS, "images": Registered((), ALPINE)},
            ErrorCode.INVALID_REQUEST,
        ),
        (
            {"git": GitSource("http://127.0.0.1:3000/x.git")},
            {"capabilities": CONTAINERS, "images": Registered((), ALPINE)},
            ErrorCode.INVALID_REQUEST,
        ),
        ({"locks": ("db",), "if_locked": "fail"}, {"queues": {"db": (OTHER_ID,)}}, ErrorCode.LOCK_HELD),
        ({}, {"unfinished": 3, "user": msgspec.structs.replace(USER, max_unfinished=3)}, ErrorCode.QUOTA_EXCEEDED),
        (
            {"locks": ("db",)},
            {"queues": {"db": tuple(f"{number:032x}" for number in range(locks.MAX_WAITERS + 1))}},
            ErrorCode.LOCK_QUEUE_FULL,
        ),
    ],
)
def test_refuses_with_a_code_and_a_hint(
    request_fields: dict[str, object], facts: dict[str, object], code: ErrorCode
) -> None:
    decision = decide(make_request(**request_fields), **facts)  # type: ignore[arg-type]
    assert isinstance(decision, Refusal), decision
    assert decision.code is code
    assert decision.message
    assert decision.hint


def test_a_request_a_little_ahead_of_the_server_is_fine() -> None:
    accepted(make_request(issued_at=NOW + timedelta(minutes=4), expires_at=NOW + timedelta(minutes=9)))


def test_the_same_id_key_and_content_is_the_same_request_even_after_it_expired() -> None:
    first = accepted(make_request()).execution
    again = make_request(issued_at=NOW - timedelta(minutes=50), expires_at=NOW - timedelta(minutes=40))
    assert decide(again, existing=first) == Known(first)


@pytest.mark.parametrize("change", [{"command": ("false",)}, {"timeout_seconds": 7}, {"env": {"A": "1"}}])
def test_other_content_under_a_used_id_is_a_conflict(change: dict[str, object]) -> None:
    first = accepted(make_request()).execution
    decision = decide(make_request(**change), existing=first)
    assert isinstance(decision, Refusal)
    assert decision.code is ErrorCode.ID_CONFLICT


def test_another_keys_id_is_a_conflict_that_tells_nothing_of_it() -> None:
    first = accepted(make_request(name="private")).execution
    decision = decide(make_request(name="private"), existing=first, key_id=OTHER_KEY_ID)
    assert isinstance(decision, Refusal)
    assert decision.code is ErrorCode.ID_CONFLICT
    assert "ada" not in decision.message
    assert "private" not in decision.message


def test_joins_every_queue_at_once_and_waits_unless_it_heads_all() -> None:
    decision = accepted(make_request(locks=("a", "b")), queues={"b": (OTHER_ID,)})
    assert decision.locks["a"].queue == (REQUEST_ID,)
    assert decision.locks["b"].queue == (OTHER_ID, REQUEST_ID)
    assert not decision.execution.granted
    assert decision.execution.reason is Reason.LOCK
    assert {lock.fence for lock in decision.locks.values()} == {7}


def test_free_locks_are_granted_with_a_fence_that_rose() -> None:
    decision = accepted(make_request(locks=("a", "b"), if_locked="fail"))
    assert decision.execution.granted
    assert [lock.fence for lock in decision.execution.locks] == [8, 8]
    assert decision.locks["a"].fence == 8


def test_an_image_is_left_out_only_when_that_was_asked_for() -> None:
    execution = accepted(make_request(image="alpine", isolation="process")).execution
    assert (execution.isolation, execution.image) == ("process", None)
    execution = accepted(make_request(image="alpine"), capabilities=CONTAINERS).execution
    assert (execution.isolation, execution.image, execution.image_name) == ("container", "alpine:3", "alpine")


def test_a_long_command_is_shortened_for_display_only() -> None:
    assert shown_command(("echo", "hi")) == ("echo", "hi")
    assert len(shown_command("x" * 5000)) == 4097
    assert sum(map(len, shown_command(("a",) * 9000))) <= 4097
    assert shown_command(("a", "b" * 5000))[1].endswith("…")


def test_a_command_of_just_the_shown_length_is_whole() -> None:
    most = COMMAND_SHOWN_CHARACTERS
    assert shown_command("x" * most) == "x" * most
    assert shown_command("x" * (most + 1)) == "x" * most + "…"
    # Words are counted with the space between them.
    assert shown_command(("a" * 9, "b" * (most - 10))) == ("a" * 9, "b" * (most - 10))
    assert shown_command(("a" * 9, "b" * (most - 9))) == ("a" * 9, "b" * (most - 10) + "…")


def test_a_clock_may_be_ahead_by_just_the_allowed_skew() -> None:
    fields = {"expires_at": NOW + timedelta(minutes=9)}
    accepted(make_request(issued_at=NOW + timedelta(minutes=5), **fields))
    late = decide(make_request(issued_at=NOW + timedelta(minutes=5, milliseconds=1), **fields))
    assert isinstance(late, Refusal)
    assert late.code is ErrorCode.CLOCK_SKEW
    assert "300 s in the future" in late.message


def test_a_request_expires_at_its_last_moment() -> None:
    accepted(make_request(expires_at=NOW + timedelta(milliseconds=1)))


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({}, False),
        ({"image": "alpine"}, True),
        ({"isolation": "container"}, True),
        ({"isolation": "process"}, False),
        ({"image": "alpine", "isolation": "process"}, False),
        ({"image": "alpine", "isolation": "container"}, True),
    ],
)
def test_who_asks_for_a_container(fields: dict[str, object], asks: bool) -> None:
    request = make_request(**fields)
    host = Capabilities("process", frozenset({"process"}))
    assert (wanted_isolation(request, host, request.image is not None) == "container") is asks


def test_a_conflict_says_whether_key_or_content_differ() -> None:
    first = accepted(make_request()).execution
    own = decide(make_request(command=("false",)), existing=first)
    others = decide(make_request(), existing=first, key_id=OTHER_KEY_ID)
    assert isinstance(own, Refusal)
    assert isinstance(others, Refusal)
    assert "used before with other content" in own.message
    assert "used before with another key" in others.message


def test_who_holds_the_lock_is_named_though_another_is_free() -> None:
    decision = decide(make_request(locks=("a", "b"), if_locked="fail"), queues={"b": (OTHER_ID, "c")})
    assert isinstance(decision, Refusal)
    assert decision.message == f"the lock 'b' is held by execution {OTHER_ID}"


def test_a_queue_takes_a_thousand_waiters_and_no_more() -> None:
    nearly = tuple(f"{number:032x}" for number in range(locks.MAX_WAITERS))
    assert len(accepted(make_request(locks=("a",)), queues={"a": nearly}).locks["a"].queue) == 1001


def test_a_size_is_kept_whatever_can_be_limited_to_it() -> None:
    size = {"cpu": 256, "memory_mib": 512}
    contained = accepted(
        make_request(image="alpine", **size), capabilities=CONTAINERS._replace(any_image=True)
    ).execution
    assert (contained.isolation, contained.image, contained.cpu, contained.memory_mib) == (
        "container",
        ALPINE.reference,
        256,
        512,
    )
    bare = accepted(make_request(**size)).execution
    assert (bare.isolation, bare.cpu, bare.memory_mib) == ("process", 256, 512)


def test_what_was_admitted_is_what_was_asked_for() -> None:
    request = make_request(
        queue_timeout_seconds=9, timeout_seconds=8, name="n", labels={"a": "b"}, locks=("l",), command="echo hi"
    )
    execution = accepted(request).execution
    assert (execution.execution_id, execution.key_id, execution.object_sha256) == (REQUEST_ID, KEY_ID, DIGEST)
    assert (execution.issued_at, execution.admitted_at, execution.updated_at) == (request.issued_at, NOW, NOW)
    assert (execution.queue_timeout_seconds, execution.timeout_seconds, execution.command) == (9, 8, "echo hi")
    assert (execution.granted_at, execution.reason) == (NOW, None)


@pytest.mark.parametrize("minutes", [6, -20])
def test_a_clock_that_is_off_is_told_the_server_s_time(minutes: int) -> None:
    issued_at = NOW + timedelta(minutes=minutes)
    off = make_request(issued_at=issued_at, expires_at=issued_at + timedelta(minutes=3))
    with pytest.raises(RunvoyError) as caught:
        admission._check_fresh(off, NOW)
    assert caught.value.details == {"server_time": NOW.isoformat()}


@pytest.mark.parametrize(
    ("fields", "images", "why"),
    [
        ({"image": "alpine"}, REGISTERED, "which its image asks for: no engine"),
        ({"isolation": "container"}, REGISTERED, "which the request asks for: no engine"),
        ({}, Registered((), ALPINE), "which its default image asks for: no engine"),
    ],
)
def test_what_asked_for_a_container_is_told(fields: dict[str, object], images: Registered, why: str) -> None:
    host: frozenset[Isolation] = frozenset({"process"})
    for isolations in (host, frozenset[Isolation]()):
        cannot = PROCESSES._replace(no_containers="no engine", isolations=isolations)
        decision = decide(make_request(**fields), capabilities=cannot, images=images)
        assert isinstance(decision, Refusal)
        assert decision.message == f"this deployment cannot run containers, {why}"
        assert ("`isolation: process`" in decision.hint) is bool(isolations)
