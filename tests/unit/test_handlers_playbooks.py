"""Published playbooks: whose they are, when they stand, and that a key limited to one can run it, in a world of real ports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import add_key, audit_of, call, code_of, ok, set_user

from runvoy_agent.handlers.documents import store
from runvoy_protocol import playbooks
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.instants import Instant
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.playbooks import CompiledPlaybook, Parameter

if TYPE_CHECKING:
    from tests.unit.conftest import World

RESTART = CompiledPlaybook(
    name="restart",
    command="# playbook restart\ntrue",
    source="laptop:~/shop",
    parameters=(Parameter(name="service", enum=("api", "web"), required=True),),
)
DEPLOY = CompiledPlaybook(name="deploy", command="# playbook deploy\ntrue")


def body(*entries: CompiledPlaybook, version: int = 0) -> Any:
    return {"playbooks": msgspec.to_builtins(entries), "version": version}


def publish(world: World, *entries: CompiledPlaybook, version: int = 0, key: SigningKey | None = None) -> Any:
    return ok(world, "PUT", "/playbooks", body(*entries, version=version), key)


def names(world: World, key: SigningKey | None = None) -> list[str]:
    return [one["playbook"]["name"] for one in ok(world, "GET", "/playbooks", None, key)["playbooks"]]


def test_what_was_published_is_answered_by_name_with_when_and_by_which_key(world: World) -> None:
    assert ok(world, "GET", "/playbooks") == {"playbooks": [], "version": 0}
    made = publish(world, RESTART, DEPLOY)
    assert made == ok(world, "GET", "/playbooks")
    assert [one["playbook"]["name"] for one in made["playbooks"]] == ["deploy", "restart"]
    restart = made["playbooks"][1]
    assert msgspec.convert(restart["playbook"], CompiledPlaybook) == RESTART
    assert restart["digest"] == playbooks.pin(RESTART).digest
    assert restart["key_id"] == world.signing_key.key_id
    assert msgspec.convert(restart["published_at"], type=Instant) == world.clock.now()


def test_one_that_stays_the_same_keeps_its_time_and_its_key(world: World) -> None:
    first = publish(world, RESTART, DEPLOY)
    other = add_key(world, "ada")
    world.clock.move(hours=1)
    changed = msgspec.structs.replace(DEPLOY, description="to production")
    second = publish(world, RESTART, changed, version=first["version"], key=other)
    assert second["playbooks"][1] == first["playbooks"][1]
    assert second["playbooks"][0]["key_id"] == other.key_id
    assert second["playbooks"][0]["published_at"] > first["playbooks"][0]["published_at"]


def test_what_is_left_out_is_gone_and_the_audit_says_what_became_of_each(world: World) -> None:
    first = publish(world, RESTART, DEPLOY)
    changed = msgspec.structs.replace(DEPLOY, timeout_seconds=5)
    publish(world, changed, msgspec.structs.replace(RESTART, name="new"), version=first["version"])
    assert names(world) == ["deploy", "new"]
    told = [event.message for event in audit_of(world) if event.action == "publish-playbooks"]
    assert told == ["added deploy, restart", "added new; changed deploy; removed restart"]


def test_who_saw_another_version_is_told_and_the_same_again_is_no_change(world: World) -> None:
    first = publish(world, RESTART)
    assert code_of(call(world, "PUT", "/playbooks", body(DEPLOY))) is ErrorCode.CONFLICT
    assert publish(world, RESTART) == first  # as after an answer that was lost
    assert names(world) == ["restart"]


def test_each_user_has_their_own(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    publish(world, RESTART)
    publish(world, DEPLOY, key=bob)
    assert (names(world), names(world, bob)) == (["restart"], ["deploy"])


def test_what_a_key_published_goes_with_the_key(world: World) -> None:
    stolen = add_key(world, "ada")
    first = publish(world, RESTART, key=stolen)
    second = publish(world, RESTART, DEPLOY, version=first["version"])
    world.revoke(stolen)
    assert names(world) == ["deploy"]
    # Publishing the very same anew makes it the word of the key that does.
    third = publish(world, RESTART, DEPLOY, version=second["version"])
    assert {one["key_id"] for one in third["playbooks"]} == {world.signing_key.key_id}
    assert names(world) == ["deploy", "restart"]


def test_nothing_of_an_earlier_life_of_a_user_stands(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    publish(world, RESTART, key=bob)
    set_user(world, "bob", life=1, lives_ended_at=(world.clock.now(),))
    assert names(world, add_key(world, "bob")) == []


def test_a_limited_key_writes_nothing_and_sees_what_it_may_run(world: World) -> None:
    publish(world, RESTART, DEPLOY)
    by_label = add_key(world, "ada", KeyLimits(labels={"team": "data"}))
    pinned = add_key(world, "ada", KeyLimits(playbooks=(playbooks.pin(RESTART),)))
    stale = playbooks.pin(msgspec.structs.replace(DEPLOY, command="# playbook deploy\nfalse"))
    outdated = add_key(world, "ada", KeyLimits(playbooks=(stale,)))
    for key in (by_label, pinned, outdated):
        assert code_of(call(world, "PUT", "/playbooks", body(version=1), key)) is ErrorCode.FORBIDDEN
    assert (names(world, by_label), names(world, pinned), names(world, outdated)) == (
        ["deploy", "restart"],
        ["restart"],
        [],
    )


def test_a_key_limited_to_a_playbook_runs_what_is_made_of_the_published_one(world: World) -> None:
    publish(world, RESTART)
    key = add_key(world, "ada", KeyLimits(playbooks=(playbooks.pin(RESTART),)))
    [answered] = ok(world, "GET", "/playbooks", None, key)["playbooks"]
    found = msgspec.convert(answered["playbook"], CompiledPlaybook)
    made = playbooks.to_request(found, {"service": "web"})
    own = {"deployment_id": "here", "request_id": world.clock.new_id(), "issued_at": world.clock.now()}
    request = world.request(**(msgspec.structs.asdict(made) | own | {"expires_at": world.request().expires_at}))
    assert world.submit(request, key).outcome == "accepted"


def many(count: int, size: int) -> list[CompiledPlaybook]:
    return [CompiledPlaybook(name=f"p{number:03}", command=f"# {'x' * size}") for number in range(count)]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        (many(playbooks.MAX_PUBLISHED, 10), None),
        (many(playbooks.MAX_PUBLISHED + 1, 10), ErrorCode.TOO_LARGE),
        (many(1, playbooks.MAX_PLAYBOOK_BYTES - 100), None),
        (many(1, playbooks.MAX_PLAYBOOK_BYTES), ErrorCode.TOO_LARGE),
        (many(3, playbooks.MAX_PUBLISHED_BYTES // 3 - 100), None),
        (many(3, playbooks.MAX_PUBLISHED_BYTES // 3), ErrorCode.TOO_LARGE),
        ([DEPLOY, DEPLOY], ErrorCode.INVALID_REQUEST),
    ],
)
def test_how_much_one_may_publish(world: World, entries: list[CompiledPlaybook], code: ErrorCode | None) -> None:
    response = call(world, "PUT", "/playbooks", body(*entries))
    if code is None:
        assert response.status == 200, response
        assert len(json.loads(call(world, "GET", "/playbooks").body)["playbooks"]) == len(entries)
    else:
        assert code_of(response) is code
        assert names(world) == []


def test_the_largest_set_is_a_record_of_less_than_300_kib(world: World) -> None:
    """tests/contract has every store keep one of that size."""
    publish(world, *many(playbooks.MAX_PUBLISHED, playbooks.MAX_PUBLISHED_BYTES // playbooks.MAX_PUBLISHED - 50))
    stored = world.records.get(store.playbooks_key("ada"))
    assert stored is not None
    assert playbooks.MAX_PUBLISHED_BYTES < len(stored.body) < 300 * 1024


@pytest.mark.parametrize("wrong", [{}, {"playbooks": []}, {"playbooks": [{"name": "x"}], "version": 0}, [], "x"])
def test_a_body_that_is_none(world: World, wrong: object) -> None:
    assert code_of(call(world, "PUT", "/playbooks", wrong)) is ErrorCode.INVALID_REQUEST
