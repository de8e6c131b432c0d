"""The grant of a runner: for a living attempt's own objects, by the attempt's own key, and for nobody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runvoy_agent.core import lifecycle
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Request, Response
from runvoy_protocol import control, run_objects
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.run_objects import RunGrant, RunnerPayload

if TYPE_CHECKING:
    from tests.unit.conftest import World


@pytest.fixture
def started(world: World) -> str:
    """An execution whose runner was launched on a platform where it uploads."""
    world.deployment = world.deployment._replace(runner_endpoint="https://runvoy.example")
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    return request.request_id


def call(world: World, execution_id: str, *, path: str = "", **changes: Any) -> Response:
    target = path or f"/api/v1/runs/{execution_id}/grant"
    values: dict[str, Any] = {
        "key": run_objects.execution_key(world.deployment.secret, execution_id, changes.get("attempt", 1)),
        "execution_id": execution_id,
        "attempt": 1,
        "method": "POST",
        "target": target,
        "issued_at_ms": int(world.clock.now().timestamp() * 1000),
    }
    header = run_objects.runner_authorization(**(values | changes))
    return world.call(Request("POST", target, target, {}, {"authorization": header}, b""))


def code_of(response: Response) -> ErrorCode:
    error = control.parse_error(response.body)
    assert error is not None, response
    assert error.hint
    return error.code


def test_a_payload_has_its_grant_where_runners_upload(world: World, started: str) -> None:
    payload = msgspec.json.decode(world.launcher.launches[-1].payload, type=RunnerPayload)
    assert payload.grant is not None
    assert payload.grant.key_prefix == f"executions/{started}/run/"
    assert payload.grant.renew_url == f"https://runvoy.example/api/v1/runs/{started}/grant"
    assert (payload.grant.logs.content_type, payload.grant.reports.content_type) == (
        "application/gzip",
        "application/json",
    )


def test_a_payload_has_none_where_runners_spool(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    assert "grant" not in json.loads(world.launcher.launches[-1].payload)


def test_a_living_runner_gets_a_new_grant_and_it_is_on_record(world: World, started: str) -> None:
    world.clock.move(minutes=30)
    grant = msgspec.json.decode(call(world, started).body, type=RunGrant)
    assert (grant.expires_at - world.clock.now()).total_seconds() == 55 * 60
    assert grant.key_prefix == f"executions/{started}/run/"
    found = store.partition_records(world.records, store.INDEX_AUDIT_EXECUTION, started)
    assert "renew-grant" in [json.loads(record.body)["action"] for record in found]


def test_a_call_works_once(world: World, started: str) -> None:
    assert call(world, started).status == 200
    assert code_of(call(world, started)) is ErrorCode.SIGNATURE_INVALID
    world.clock.move(seconds=1)
    assert call(world, started).status == 200


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key": bytes(32)}, ErrorCode.SIGNATURE_INVALID),
        ({"method": "GET"}, ErrorCode.SIGNATURE_INVALID),
        ({"target": "/api/v1/runs/other/grant"}, ErrorCode.SIGNATURE_INVALID),
        ({"body": b"x"}, ErrorCode.SIGNATURE_INVALID),
        ({"attempt": 2}, ErrorCode.FORBIDDEN),
        ({"issued_at_ms": 0}, ErrorCode.CLOCK_SKEW),
        ({"issued_at_ms": 10**15 - 1}, ErrorCode.CLOCK_SKEW),
    ],
)
def test_a_call_that_is_not_this_runners(world: World, started: str, changes: dict[str, Any], code: ErrorCode) -> None:
    # `target` and `method` are what was signed; what is sent stays the same.
    assert code_of(call(world, started, path=f"/api/v1/runs/{started}/grant", **changes)) is code


def test_a_runner_asks_for_its_own_run_alone(world: World, started: str) -> None:
    other = world.request()
    world.submit(other)
    world.start(other.request_id)
    target = f"/api/v1/runs/{other.request_id}/grant"
    assert code_of(call(world, started, path=target)) is ErrorCode.SIGNATURE_INVALID


def test_a_clock_that_is_off_is_told_the_time(world: World, started: str) -> None:
    response = call(world, started, issued_at_ms=1)
    error = control.parse_error(response.body)
    assert error is not None
    assert error.details["server_time"] == world.clock.now().isoformat()


def test_an_execution_nobody_knows(world: World) -> None:
    assert code_of(call(world, world.clock.new_id())) is ErrorCode.FORBIDDEN


def test_a_settled_run_gets_none(world: World, started: str) -> None:
    world.leave_result(started)
    world.tell(started, "result")
    assert code_of(call(world, started)) is ErrorCode.FORBIDDEN


def test_a_run_that_is_being_ended_still_gets_one(world: World, started: str) -> None:
    world.leave_started(started)
    world.tell(started, "started")
    current = store.load_execution(world.records, started)
    assert current.document is not None
    changed = lifecycle.kill(current.document, world.clock.now(), "ada")
    assert changed is not None
    world.records.commit([store.put(current, changed)])
    assert call(world, started).status == 200, "its last output is on the way"


@pytest.mark.parametrize(
    "header", ["", "Runvoy x", "Runvoy-Runner", "Runvoy-Runner a.b.c.d", "Runvoy-Runner " + "0" * 32]
)
def test_a_header_that_is_none(world: World, started: str, header: str) -> None:
    target = f"/api/v1/runs/{started}/grant"
    response = world.call(Request("POST", target, target, {}, {"authorization": header}, b""))
    assert code_of(response) is ErrorCode.SIGNATURE_INVALID


def test_a_runners_call_opens_nothing_else(world: World, started: str) -> None:
    for target in ("/api/v1/executions", f"/api/v1/executions/{started}", "/api/v1/grants/inbox"):
        assert code_of(call(world, started, path=target)) is ErrorCode.SIGNATURE_INVALID


def test_a_members_key_gets_no_runners_grant(world: World, started: str) -> None:
    target = f"/api/v1/runs/{started}/grant"
    signed = control.ControlCall(
        1, "here", "POST", target, control.body_digest(b""), world.clock.now(), world.clock.random(16)
    )
    header = control.authorization(signed, world.signing_key)
    response = world.call(Request("POST", target, target, {}, {"authorization": header}, b""))
    assert code_of(response) is ErrorCode.SIGNATURE_INVALID
