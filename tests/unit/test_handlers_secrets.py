"""The routes about secrets: who may do what, what is told to whom, and that a value stands nowhere but in its store."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
import pytest

from runvoy_agent.core.model import AuditEvent, DiscardedValue, Key, Secret
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Request
from runvoy_protocol import control, secret_messages
from runvoy_protocol.control import ControlCall
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

VALUE = b"hunter2-hunter2"
ODD = b'two\nlines, "quotes", \xff\xfe and a \\ at the end\n'


def request_of(world: World, method: str, path: str, body: object, signing_key: SigningKey | None) -> Request:
    target = f"/api/v1{path}"
    raw = b"" if body is None else msgspec.json.encode(body)
    signed = ControlCall(
        version=1,
        deployment_id="here",
        method=method,
        target=target,
        body_sha256=control.body_digest(raw),
        issued_at=world.clock.now(),
        nonce=world.clock.random(16),
    )
    header = control.authorization(signed, signing_key or world.signing_key)
    parts = urlsplit(target)
    return Request(method, parts.path, target, dict(parse_qsl(parts.query)), {"authorization": header}, raw)


def call(world: World, method: str, path: str, body: object = None, signing_key: SigningKey | None = None) -> Any:
    """The answer, or the code of the error."""
    response = world.call(request_of(world, method, path, body, signing_key))
    if response.status == 200:
        return json.loads(response.body)
    error = control.parse_error(response.body)
    assert error is not None, response
    assert error.hint
    assert VALUE.decode() not in str(error)
    return error.code


def create(world: World, signing_key: SigningKey | None = None, **fields: Any) -> Any:
    body = {"name": "db", "env_name": "DB_PASSWORD", "value": VALUE} | fields
    return call(world, "POST", "/secrets", body, signing_key)


def value_of(world: World, name: str = "db", signing_key: SigningKey | None = None) -> Any:
    found = call(world, "POST", f"/secrets/{quote(name, safe='')}/value", signing_key=signing_key)
    return base64.b64decode(found["value"]) if isinstance(found, dict) else found


def stored_values(world: World) -> int:
    assert isinstance(world.folder, Path)
    return len(list((world.folder / "secrets").glob("*.secret")))


def discarded(world: World) -> list[DiscardedValue]:
    return [one for one, _ in store.of_kind(world.records, store.KIND_DISCARDED_VALUE, DiscardedValue)]


def audits(world: World, action: str) -> list[AuditEvent]:
    of_day = store.day(world.clock.now())
    found = [
        msgspec.json.decode(record.body, type=AuditEvent)
        for shard in range(store.SHARDS)
        for record in store.partition_records(world.records, store.INDEX_AUDIT, store.shard_partition(of_day, shard))
    ]
    return [event for event in found if event.action == action]


@pytest.mark.parametrize("value", [VALUE, ODD, b"x" * 64 * 1024, "pässwörter".encode()])
def test_what_was_created_is_had_again_to_the_byte(world: World, value: bytes) -> None:
    made = create(world, name="team/db", value=value, description="of the database")
    shown = call(world, "GET", "/secrets/team%2Fdb")
    assert made == shown
    assert (shown["env_name"], shown["owner"], shown["version"]) == ("DB_PASSWORD", "ada", 1)
    assert "value" not in shown
    assert "value_ref" not in shown
    assert call(world, "GET", "/secrets") == {"secrets": [shown]}
    assert value_of(world, "team/db") == value
    assert discarded(world) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "no name"}, ErrorCode.INVALID_REQUEST),
        ({"name": ""}, ErrorCode.INVALID_REQUEST),
        ({"env_name": "RUNVOY_X"}, ErrorCode.INVALID_REQUEST),
        ({"env_name": "AWS_CONTAINER_CREDENTIALS_FULL_URI"}, ErrorCode.INVALID_REQUEST),
        ({"env_name": "ECS_X"}, ErrorCode.INVALID_REQUEST),
        ({"env_name": "a-b"}, ErrorCode.INVALID_REQUEST),
        ({"value": b"1234567"}, ErrorCode.INVALID_REQUEST),
        ({"value": b"1234567 \n\n"}, ErrorCode.INVALID_REQUEST),
        ({"value": b""}, ErrorCode.INVALID_REQUEST),
        ({"value": b"has a \0 in it"}, ErrorCode.INVALID_REQUEST),
        ({"value": b"x" * (64 * 1024 + 1)}, ErrorCode.TOO_LARGE),
        ({"value": 3}, ErrorCode.INVALID_REQUEST),
        ({"description": "x" * 257}, ErrorCode.INVALID_REQUEST),
        ({"description": "\x1b[2J"}, ErrorCode.INVALID_REQUEST),
        ({"shared_with": ["nobody@example.com"]}, ErrorCode.INVALID_REQUEST),
        ({"shared_with": ["ada", "ada"]}, ErrorCode.INVALID_REQUEST),
        ({"shared_with": ["**"]}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_what_cannot_be_a_secret(world: World, fields: dict[str, Any], code: ErrorCode) -> None:
    assert create(world, **fields) is code
    assert call(world, "GET", "/secrets") == {"secrets": []}
    assert (stored_values(world), discarded(world)) == (0, [])


def test_a_name_is_taken_once(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world)
    assert create(world, value=b"another-value") is ErrorCode.SECRET_EXISTS
    assert create(world, bob, value=b"another-value") is ErrorCode.SECRET_EXISTS
    assert value_of(world) == VALUE
    assert stored_values(world) == 1


# Rows: whose secret it is to the caller. What they get for show, use in list, reveal, change, delete.
OK, UNKNOWN, FORBIDDEN = "ok", ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN
MATRIX = [
    (Role.ADMIN, "own", (OK, OK, OK, OK, OK)),
    (Role.ADMIN, "shared", (OK, OK, OK, OK, OK)),
    (Role.ADMIN, "other", (OK, OK, OK, OK, OK)),
    (Role.OPERATOR, "own", (OK, OK, OK, OK, OK)),
    (Role.OPERATOR, "shared", (OK, OK, OK, OK, OK)),
    (Role.OPERATOR, "other", (OK, OK, OK, OK, OK)),
    (Role.DEVELOPER, "own", (OK, OK, OK, OK, OK)),
    (Role.DEVELOPER, "shared", (OK, OK, FORBIDDEN, FORBIDDEN, FORBIDDEN)),
    (Role.DEVELOPER, "everyone", (OK, OK, FORBIDDEN, FORBIDDEN, FORBIDDEN)),
    (Role.DEVELOPER, "other", (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (Role.VIEWER, "shared", (FORBIDDEN,) * 5),
    (Role.VIEWER, "everyone", (FORBIDDEN,) * 5),
    (Role.VIEWER, "other", (FORBIDDEN,) * 5),
]


@pytest.mark.parametrize(("role", "whose", "expected"), MATRIX)
def test_who_may_do_what(world: World, role: Role, whose: str, expected: tuple[Any, ...]) -> None:
    cat = world.add_user("cat", role)
    owner = cat if whose == "own" else world.add_user("owner", Role.DEVELOPER)
    shared = {"shared": ["cat"], "everyone": ["*"]}.get(whose, [])
    create(world, owner, shared_with=shared)
    listed = call(world, "GET", "/secrets", signing_key=cat)
    names = [one["name"] for one in listed["secrets"]] if isinstance(listed, dict) else listed
    found = (
        call(world, "GET", "/secrets/db", signing_key=cat),
        {("db",): OK, (): UNKNOWN}.get(tuple(names)) if isinstance(names, list) else names,
        call(world, "POST", "/secrets/db/value", signing_key=cat),
        call(world, "PUT", "/secrets/db", {"version": 1, "description": "x"}, cat),
        call(world, "DELETE", f"/secrets/db?version={2 if expected[3] == OK else 1}", signing_key=cat),
    )
    assert tuple(OK if isinstance(one, dict) else one for one in found) == expected


def test_what_is_not_there_and_what_is_somebody_elses_sound_the_same(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world)
    told = []
    for name in ("db", "xx"):
        for method, path, body in (
            ("GET", f"/secrets/{name}", None),
            ("POST", f"/secrets/{name}/value", None),
            ("PUT", f"/secrets/{name}", {"version": 1, "description": ""}),
            ("DELETE", f"/secrets/{name}?version=1", None),
        ):
            told.append(world.call(request_of(world, method, path, body, bob)).body.replace(name.encode(), b"?"))
    assert len(set(told)) == 1


def test_a_limited_key_manages_no_secrets(world: World) -> None:
    create(world)
    robot = SigningKey(b"r" * 32)
    key = Key(
        key_id=robot.key_id,
        public_key=robot.public_key,
        user="ada",
        created_at=world.clock.now(),
        limits=KeyLimits(locks=("prod",)),
    )
    world.records.commit([store.put_new(store.key_key(robot.key_id), key)])
    for method, path, body in (
        ("GET", "/secrets", None),
        ("GET", "/secrets/db", None),
        ("POST", "/secrets/db/value", None),
        ("PUT", "/secrets/db", {"version": 1, "value": VALUE}),
        ("DELETE", "/secrets/db?version=1", None),
    ):
        assert call(world, method, path, body, robot) is ErrorCode.FORBIDDEN
    assert create(world, robot, name="other") is ErrorCode.FORBIDDEN


def test_changing_says_what_was_seen_and_keeps_the_rest(world: World) -> None:
    world.add_user("bob", Role.DEVELOPER)
    create(world, description="old", shared_with=["bob"])
    world.clock.move(minutes=1)
    renamed = call(world, "PUT", "/secrets/db", {"version": 1, "env_name": "PGPASSWORD"})
    assert (renamed["env_name"], renamed["description"], renamed["version"]) == ("PGPASSWORD", "old", 2)
    assert renamed["shared_with"] == ["bob"]
    assert renamed["updated_at"] > renamed["created_at"]
    assert value_of(world) == VALUE
    unshared = call(world, "PUT", "/secrets/db", {"version": 2, "shared_with": [], "description": ""})
    assert "shared_with" not in unshared
    assert "description" not in unshared
    changed = call(world, "PUT", "/secrets/db", {"version": 3, "value": ODD})
    assert (changed["version"], value_of(world)) == (4, ODD)
    assert call(world, "GET", "/secrets/db") == changed
    for wrong in (
        {"version": 4},
        {"version": 4, "env_name": "RUNVOY_X"},
        {"version": 4, "value": b"short"},
        {"version": 4, "shared_with": ["nobody"]},
        {"description": "no version"},
    ):
        assert call(world, "PUT", "/secrets/db", wrong) is ErrorCode.INVALID_REQUEST
    assert call(world, "PUT", "/secrets/db", {"version": 3, "value": VALUE}) is ErrorCode.CONFLICT
    assert value_of(world) == ODD


def test_a_share_with_a_user_who_left_stays_until_it_is_taken_back(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world, shared_with=["bob"])
    ada = call(world, "GET", "/users/bob")
    call(world, "POST", "/users/bob/revoke", {"version": ada["version"]})
    assert call(world, "PUT", "/secrets/db", {"version": 1, "description": "x"})["shared_with"] == ["bob"]
    assert call(world, "GET", "/secrets/db", signing_key=bob) is ErrorCode.KEY_REVOKED


@pytest.mark.parametrize("version", ["", "?version=", "?version=x", "?version=-1", "?version=" + "9" * 30])
def test_deleting_says_which_version_was_seen(world: World, version: str) -> None:
    create(world)
    assert call(world, "DELETE", f"/secrets/db{version}") is ErrorCode.INVALID_REQUEST
    assert call(world, "DELETE", "/secrets/db?version=2") is ErrorCode.CONFLICT
    assert value_of(world) == VALUE


def test_deleting_takes_the_value_away_at_once(world: World) -> None:
    create(world)
    assert call(world, "DELETE", "/secrets/db?version=1")["name"] == "db"
    assert (stored_values(world), discarded(world)) == (0, [])
    assert call(world, "GET", "/secrets/db") is ErrorCode.NOT_FOUND
    assert call(world, "DELETE", "/secrets/db?version=1") is ErrorCode.NOT_FOUND


def test_one_of_the_same_name_is_another_secret(world: World) -> None:
    """Who saw the first one cannot change the second by its version."""
    create(world)
    call(world, "DELETE", "/secrets/db?version=1")
    again = create(world, value=ODD)
    assert again == call(world, "GET", "/secrets/db")
    assert again["version"] != 1
    assert call(world, "PUT", "/secrets/db", {"version": 1, "value": VALUE}) is ErrorCode.CONFLICT
    assert call(world, "DELETE", "/secrets/db?version=1") is ErrorCode.CONFLICT
    assert value_of(world) == ODD


def test_every_reading_of_a_value_is_on_record_and_cannot_be_replayed(world: World) -> None:
    bob = world.add_user("bob", Role.OPERATOR)
    create(world)
    request = request_of(world, "POST", "/secrets/db/value", None, bob)
    assert world.call(request).status == 200
    assert world.call(request).status == 401
    told = {(event.actor, event.subject, event.outcome) for event in audits(world, "reveal-secret")}
    assert told == {("bob", "db", "ok"), ("bob", "db", "SIGNATURE_INVALID")}


def test_every_change_is_on_record_without_its_value(world: World) -> None:
    create(world, shared_with=["*"])
    call(world, "PUT", "/secrets/db", {"version": 1, "value": ODD, "env_name": "X", "shared_with": []})
    call(world, "DELETE", "/secrets/db?version=2")
    [made], [changed], [gone] = (audits(world, f"{what}-secret") for what in ("create", "update", "delete"))
    assert (made.actor, made.subject, made.message) == ("ada", "db", "sets DB_PASSWORD; shared with *")
    assert changed.message == "changed env_name, shared_with, value"
    assert gone.subject == "db"


def test_a_value_that_the_store_has_lost_is_said(world: World) -> None:
    create(world)
    secret = store.load_secret(world.records, "db").document
    assert secret is not None
    world.ports.secrets.delete(secret.value_ref)
    assert value_of(world) is ErrorCode.UNAVAILABLE
    assert call(world, "PUT", "/secrets/db", {"version": 1, "value": VALUE})["version"] == 2
    assert value_of(world) == VALUE


def test_no_repr_shows_a_value(world: World) -> None:
    create(world)
    made = secret_messages.CreateSecret(name="n", env_name="E", value=VALUE)
    changed = secret_messages.UpdateSecret(version=1, value=VALUE)
    told = secret_messages.SecretValue(name="n", env_name="E", version=1, value=VALUE)
    request = request_of(world, "PUT", "/secrets/db", {"version": 1, "value": VALUE}, None)
    shown = repr((made, changed, told, request))
    assert "hunter2" not in shown
    assert base64.b64encode(VALUE)[:12].decode() not in shown
    assert repr(secret_messages.UpdateSecret(version=1)).endswith("value=None)")


def test_a_record_refers_to_a_value_that_nobody_can_guess(world: World) -> None:
    create(world)
    create(world, name="other")
    refs = [secret.value_ref for secret, _ in store.of_kind(world.records, store.KIND_SECRET, Secret)]
    assert len(set(refs)) == 2
    assert all(len(ref) == 32 for ref in refs), "128 bits"


@pytest.mark.parametrize(
    "env_name", ["PATH", "LD_PRELOAD", "BASH_ENV", "PYTHONPATH", "NODE_OPTIONS", "GIT_SSH_COMMAND"]
)
def test_no_secret_is_a_variable_that_makes_programs_run_something(world: World, env_name: str) -> None:
    """Its owner chooses the variable, and may share it with people whose commands it would then be part of."""
    body = {"name": "db", "env_name": env_name, "value": VALUE, "shared_with": ["*"]}
    assert call(world, "POST", "/secrets", body) is ErrorCode.INVALID_REQUEST
    create(world)
    assert call(world, "PUT", "/secrets/db", {"version": 1, "env_name": env_name}) is ErrorCode.INVALID_REQUEST
