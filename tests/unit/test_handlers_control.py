"""The control API: who calls, may they, and what they are told."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.calls import call, code_of, signed

from runvoy_agent.core.access import Action
from runvoy_agent.handlers import control as control_handler
from runvoy_agent.handlers.routes import Call, Request, Response, route
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World


def test_health_needs_no_signature(world: World) -> None:
    response = world.call(Request("GET", "/api/v1/health", "/api/v1/health", {}, {}, b""))
    assert response.status == 200
    assert json.loads(response.body)["deployment_id"] == "here"


def test_whoami(world: World) -> None:
    shown = json.loads(call(world, "GET", "/whoami").body)
    assert (shown["user"], shown["role"], shown["key_id"]) == ("ada", "admin", world.signing_key.key_id)


def test_an_unsigned_call_gets_nothing_done(world: World) -> None:
    for header in ({}, {"authorization": "Bearer x"}, {"authorization": "Runvoy"}, {"authorization": "Runvoy !!"}):
        for one in control_handler.ROUTES:
            path = one.path.format(execution_id="0" * 32, name="db", key_id="a" * 32)
            response = world.call(Request(one.method, path, path, {}, header, b""))
            assert code_of(response) is ErrorCode.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"method": "DELETE"}, ErrorCode.SIGNATURE_INVALID),
        ({"target": "/api/v1/executions"}, ErrorCode.SIGNATURE_INVALID),
        ({"body": b"{}"}, ErrorCode.SIGNATURE_INVALID),
    ],
)
def test_a_signature_is_for_one_method_address_and_body(world: World, sent: dict[str, Any], code: ErrorCode) -> None:
    assert code_of(world.call(signed(world, "GET", "/api/v1/whoami")._replace(**sent))) is code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"deployment_id": "there"}, ErrorCode.WRONG_DEPLOYMENT),
        ({"nonce": b"short"}, ErrorCode.INVALID_REQUEST),
        ({"version": 2}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_call_that_says_the_wrong_thing(world: World, fields: dict[str, Any], code: ErrorCode) -> None:
    assert code_of(world.call(signed(world, "GET", "/api/v1/whoami", **fields))) is code


@pytest.mark.parametrize("seconds", [-61, 61, 10**8])
def test_a_clock_that_is_off_is_told_the_time(world: World, seconds: int) -> None:
    request = signed(world, "GET", "/api/v1/whoami", issued_at=world.clock.now() + timedelta(seconds=seconds))
    response = world.call(request)
    error = control.parse_error(response.body)
    assert error is not None
    assert error.code is ErrorCode.CLOCK_SKEW
    assert error.details["server_time"] == world.clock.now().isoformat()


def test_keys_that_are_unknown_or_revoked(world: World) -> None:
    assert code_of(call(world, "GET", "/whoami", signing_key=SigningKey(b"q" * 32))) is ErrorCode.KEY_UNKNOWN
    dave = world.add_user("dave", Role.DEVELOPER)
    world.revoke(dave)
    assert code_of(call(world, "GET", "/whoami", signing_key=dave)) is ErrorCode.KEY_REVOKED


def test_a_minting_call_works_once(world: World) -> None:
    request = signed(world, "POST", "/api/v1/grants/inbox")
    assert world.call(request).status == 200
    assert code_of(world.call(request)) is ErrorCode.SIGNATURE_INVALID


def test_unknown_routes_and_big_bodies(world: World) -> None:
    assert code_of(call(world, "GET", "/nothing")) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "PUT", "/whoami")) is ErrorCode.NOT_FOUND
    big = b"x" * (control.MAX_BODY_BYTES + 1)
    assert code_of(world.call(signed(world, "POST", "/api/v1/grants/outbox", big))) is ErrorCode.TOO_LARGE


# -- executions


def grant_outbox(world: World, execution_id: str, signing_key: SigningKey | None = None, **fields: Any) -> Any:
    response = call(world, "POST", "/grants/outbox", {"execution_id": execution_id, **fields}, signing_key)
    return json.loads(response.body) if response.status == 200 else code_of(response)


def test_an_execution_is_pending_then_admitted(world: World) -> None:
    request = world.request()
    assert grant_outbox(world, request.request_id) is ErrorCode.NOT_FOUND
    delivery = world.upload(request)
    pending = grant_outbox(world, request.request_id, object_sha256="0" * 64)
    assert pending["state"] == "pending"
    assert "/receipts/" in pending["receipt_url"]
    assert "status_url" not in pending
    world.deliver(delivery)
    admitted = grant_outbox(world, request.request_id, from_chunk=65)
    assert admitted["state"] == "admitted"
    assert len(admitted["chunk_urls"]) == 64
    assert "/logs/00000065?" in admitted["chunk_urls"][0]
    shown = json.loads(call(world, "GET", f"/executions/{request.request_id}").body)
    assert shown["status"]["state"] == "QUEUED"


def test_a_refused_one_says_why_to_its_sender_alone(world: World) -> None:
    request = world.request(deployment_id="elsewhere")
    world.submit(request)
    shown = grant_outbox(world, request.request_id)
    assert (shown["state"], shown["receipt"]["code"]) == ("refused", "WRONG_DEPLOYMENT")
    dave = world.add_user("dave", Role.ADMIN)
    assert grant_outbox(world, request.request_id, dave) is ErrorCode.NOT_FOUND


def test_a_second_try_after_a_refusal_is_pending_again(world: World) -> None:
    request = world.request(deployment_id="elsewhere")
    world.submit(request)
    world.upload(world.request(request_id=request.request_id))
    assert grant_outbox(world, request.request_id)["state"] == "pending"


def test_another_request_under_a_used_id_is_pending_until_it_is_judged(world: World) -> None:
    request = world.request()
    world.submit(request)
    other = world.request(request_id=request.request_id, command=("other",))
    delivery = world.upload(other)
    stored = world.inbox.get(delivery.object_key, delivery.version)
    assert stored is not None
    digest = hashlib.sha256(stored.data).hexdigest()
    assert grant_outbox(world, request.request_id, object_sha256=digest)["state"] == "pending"
    world.deliver(delivery)
    shown = grant_outbox(world, request.request_id, object_sha256=digest)
    assert (shown["state"], shown["receipt"]["code"]) == ("refused", "ID_CONFLICT")


def test_a_deeply_nested_body_is_malformed(world: World) -> None:
    body = b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}"
    assert code_of(world.call(signed(world, "POST", "/api/v1/grants/outbox", body))) is ErrorCode.INVALID_REQUEST


def test_a_route_that_knows_no_right_to_others_things_lets_nobody_have_them(world: World) -> None:
    def take_somebody_elses(call: Call) -> Response:
        call.check_others()
        raise AssertionError("it let them")

    routes = [route("GET", "/theirs", Action.KNOW_SELF, take_somebody_elses)]
    answered = control_handler.handle(world.ports, world.deployment, signed(world, "GET", "/api/v1/theirs"), routes)
    assert code_of(answered) is ErrorCode.FORBIDDEN


def test_members_read_what_their_role_lets_them(world: World) -> None:
    dev, other, viewer = (
        world.add_user(*who) for who in [("dev", Role.DEVELOPER), ("o", Role.DEVELOPER), ("v", Role.VIEWER)]
    )
    request = world.request()
    world.submit(request, dev)
    assert grant_outbox(world, request.request_id, dev)["state"] == "admitted"
    assert grant_outbox(world, request.request_id, viewer)["state"] == "admitted"
    assert grant_outbox(world, request.request_id)["state"] == "admitted"
    assert grant_outbox(world, request.request_id, other) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "GET", "/executions?owner=dev", signing_key=other)) is ErrorCode.FORBIDDEN
    assert json.loads(call(world, "GET", "/executions", signing_key=other).body)["executions"] == []


def test_a_conflicting_id_is_refused_not_shown(world: World) -> None:
    dev = world.add_user("dev", Role.ADMIN)
    request = world.request()
    world.submit(request)
    receipt = world.submit(request, dev)
    shown = grant_outbox(world, request.request_id, dev, object_sha256=receipt.object_sha256)
    assert (shown["state"], shown["receipt"]["code"]) == ("refused", "ID_CONFLICT")


@pytest.mark.parametrize(
    "body",
    [{}, {"execution_id": 3}, {"execution_id": "x"}, {"execution_id": "0" * 32, "from_chunk": 0}, [], "x"],
)
def test_malformed_grant_requests(world: World, body: object) -> None:
    assert call(world, "POST", "/grants/outbox", body).status in (400, 404)


def listed(world: World, query: str = "", signing_key: SigningKey | None = None) -> tuple[list[str], str | None]:
    response = call(world, "GET", f"/executions{query}", signing_key=signing_key)
    assert response.status == 200, response
    page = json.loads(response.body)
    return [execution["execution_id"] for execution in page["executions"]], page.get("after")


def test_listing_pages_newest_first_over_days_without_gap_or_repeat(world: World) -> None:
    dev = world.add_user("dev", Role.DEVELOPER)
    made = []
    for number in range(45):
        request = world.request(labels={"n": str(number % 2)})
        world.submit(request, dev if number % 3 == 0 else None)
        made.append(request.request_id)
        if number % 4 == 0:
            world.clock.move(hours=5)
    made.reverse()
    seen: list[str] = []
    after = None
    while True:
        page, after = listed(world, "?limit=7" + (f"&after={after}" if after else ""))
        seen += page
        if after is None:
            break
    assert sorted(seen) == sorted(made)
    # Those of one instant have no order of their own.
    times = [world.execution(execution_id).admitted_at for execution_id in seen]
    assert times == sorted(times, reverse=True)
    assert len(listed(world, "?owner=dev")[0]) == 15
    assert len(listed(world, "?limit=200", dev)[0]) == 15
    assert len(listed(world, "?label=n%3D1")[0]) == 22
    assert len(listed(world, "?status=queued,running")[0]) == 45
    assert listed(world, "?status=FAILED") == ([], None)


@pytest.mark.parametrize(
    "query",
    [
        "?after=9999-12-31~",
        "?after=2026-13-01T00~00000000000070008000000000000000",
        f"?after=2026-01-01T00{'0' * 1000}~00000000000070008000000000000000",  # no place in an index is so long
        "?limit=0",
        "?limit=x",
        "?limit=9999",
        "?status=NO",
        "?updated_since=x",
        "?colour=red",
        "?after=!",
    ],
)
def test_bad_filters_are_named(world: World, query: str) -> None:
    assert code_of(call(world, "GET", f"/executions{query}")) is ErrorCode.INVALID_REQUEST


def test_far_dates_cost_nothing(world: World) -> None:
    world.submit(world.request())
    far = "after=9999-12-31T00:00:00.000~" + "f" * 12 + "7" + "f" * 3 + "8" + "f" * 15
    assert len(listed(world, f"?{far}")[0]) == 1
    assert len(listed(world, "?updated_since=0001-01-01T00:00:00%2B14:00")[0]) == 1
    assert listed(world, "?updated_since=9999-12-31T23:59:59-14:00")[0] == []


def test_every_code_has_an_http_status() -> None:
    assert set(control_handler.HTTP_STATUS) == set(ErrorCode)
