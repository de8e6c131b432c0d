"""Trying a request out: the same verdict as in earnest, and nothing left behind but the audit's line."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.calls import add_key, audit_of, call, code_of, ok, signed, watch

from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.cost import Pricing
from runvoy_protocol import requests
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.requests import RunRequest

if TYPE_CHECKING:
    from tests.unit.conftest import World


def try_out(world: World, request: RunRequest, key: SigningKey | None = None) -> dict[str, Any]:
    body = {"request": base64.b64encode(requests.encode(request)).decode()}
    found: dict[str, Any] = ok(world, "POST", "/dry-run", body, key)
    return found


def left_behind(world: World) -> dict[str, Any]:
    """Everything that a request could leave."""
    return {
        "execution_ids": [one["execution_id"] for one in ok(world, "GET", "/executions")["executions"]],
        "locks": ok(world, "GET", "/locks"),
        "inbox": [info.key for info in world.inbox.list("")],
        "outbox": [info.key for info in world.outbox.list("")],
        "pushed": world.pushed(),
    }


def with_containers(world: World) -> None:
    both = Capabilities("process", frozenset({"process", "container"}), fargate_sizes=True)
    world.deployment = world.deployment._replace(capabilities=both, pricing=Pricing("us-east-1"))


def test_what_would_be_accepted(world: World) -> None:
    with_containers(world)
    ok(world, "POST", "/images", {"reference": "docker.io/library/tools:1", "name": "tools", "cpu": 1024})
    ok(world, "POST", "/secrets", {"name": "db", "env_name": "DB_PASSWORD", "value": "aHVudGVyMjI="})
    request = world.request(image="tools", secrets=("db",), locks=("prod",), timeout_seconds=7200)
    before = left_behind(world)
    found = try_out(world, request)
    assert found["allowed"] is True
    assert found["resolved"] == {
        "owner": "ada",
        "isolation": "container",
        "timeout_seconds": 7200,
        "image": "docker.io/library/tools:1",
        "image_name": "tools",
        "cpu": 1024,
        "memory_mib": 2048,
        "locks": ["prod"],
    }
    assert found["secrets"] == [{"name": "db", "env_name": "DB_PASSWORD"}]
    assert found["locks"] == [{"name": "prod", "position": 0}]
    hourly = 32_380_000 + 2 * 3_560_000
    assert (found["rate"]["nanodollars_per_hour"], found["most_nanodollars"]) == (hourly, 2 * hourly)
    assert "waits" not in found
    assert left_behind(world) == before
    assert world.submit(request).outcome == "accepted"


def test_the_audit_s_line_is_all_that_is_written(world: World) -> None:
    try_out(world, world.request())  # the key's use is noted to the minute, whatever it does
    watched = watch(world)
    try_out(world, world.request(locks=("a",), playbook="deploy"))
    assert [put.key.partition("#")[0] for put in watched.puts()] == ["audit"]
    line = audit_of(world)[-1]
    assert (line.actor, line.action, line.outcome, line.subject) == ("ada", "dry-run", "ok", "playbook deploy")
    assert line.execution_id is None


def test_a_held_lock_is_shown_with_who_holds_it(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    holder = world.request(locks=("prod",))
    world.submit(holder, bob)
    since = world.clock.now()
    world.submit(world.request(locks=("prod",)), bob)
    world.clock.move(minutes=5)
    found = try_out(world, world.request(locks=("prod", "free")))
    assert (found["allowed"], found["waits"]) == (True, True)
    held, free = found["locks"]
    assert (held["position"], held["holder"], held["holder_owner"]) == (2, holder.request_id, "bob")
    assert held["held_since"] == since.isoformat().replace("+00:00", "Z")
    assert free == {"name": "free", "position": 0}

    refused = try_out(world, world.request(locks=("prod", "free"), if_locked="fail"))
    assert (refused["allowed"], refused["refused"]["code"]) == (False, "LOCK_HELD")
    assert refused["locks"] == found["locks"]
    assert refused["resolved"]["owner"] == "ada"
    assert "waits" not in refused


def refused_requests(world: World) -> list[tuple[RunRequest, SigningKey | None]]:
    viewer = world.add_user("eve", Role.VIEWER)
    world.add_user("bob", Role.DEVELOPER)
    limited = add_key(world, "bob", KeyLimits(locks=("mine",)))
    taken = world.request(command=("first",))
    world.submit(taken)
    return [
        (world.request(), viewer),
        (world.request(locks=("other",)), limited),
        (world.request(image="nothing"), None),
        (world.request(isolation="container"), None),
        (world.request(secrets=("nothing",)), None),
        (world.request(deployment_id="elsewhere"), None),
        (world.request(request_id=taken.request_id), None),
        (world.request(), None),  # too late, by then
    ]


def test_the_verdict_is_the_one_that_it_gets_in_earnest(world: World) -> None:
    codes = set()
    tried_out = refused_requests(world)
    for request, key in tried_out:
        if request is tried_out[-1][0]:
            world.clock.move(minutes=20)
        tried = try_out(world, request, key)
        receipt = world.submit(request, key)
        assert tried["allowed"] is False
        why = tried["refused"]
        assert (why["code"], why["message"], why["hint"]) == (receipt.code, receipt.message, receipt.hint)
        assert why["rule"]
        assert tried.keys() == {"allowed", "refused"}  # and nothing else of what the caller may perhaps not know
        assert audit_of(world)[-2].outcome == receipt.code
        codes.add(why["code"])
    assert codes == {
        "FORBIDDEN",
        "IMAGE_NOT_FOUND",
        "UNAVAILABLE",
        "SECRET_NOT_FOUND",
        "WRONG_DEPLOYMENT",
        "ID_CONFLICT",
        "REQUEST_EXPIRED",
    }


def test_a_request_that_was_accepted_before_would_be_again(world: World) -> None:
    request = world.request(locks=("prod",))
    world.submit(request)
    found = try_out(world, request)
    assert (found["allowed"], found["is_known"]) == (True, True)
    assert found["locks"] == [{"name": "prod", "fence": 1, "position": 0}]


def test_a_price_that_is_not_known_is_not_guessed(world: World) -> None:
    world.deployment = world.deployment._replace(pricing=Pricing("mars-north-1"))
    found = try_out(world, world.request())
    assert found["rate"]["nanodollars_per_hour"] is None
    assert "most_nanodollars" not in found


@pytest.mark.parametrize("body", [b"", b"{}", b'{"request": 7}', b'{"request": "!"}', b'{"request": ""}', b"[]"])
def test_what_is_no_request_is_refused(world: World, body: bytes) -> None:
    assert code_of(world.call(signed(world, "POST", "/api/v1/dry-run", body))) is ErrorCode.INVALID_REQUEST


def test_a_request_that_no_deployment_takes_is_an_error(world: World) -> None:
    request = world.request(locks=("a",) * 2)
    body = {"request": base64.b64encode(requests.encode(request)).decode()}
    assert code_of(call(world, "POST", "/dry-run", body)) is ErrorCode.INVALID_REQUEST


def test_the_largest_request_can_be_tried_out(world: World) -> None:
    large = world.request(env={"A": "x" * 120_000, "B": "y" * 120_000})
    assert try_out(world, large)["allowed"] is True
    assert world.submit(large).outcome == "accepted"
