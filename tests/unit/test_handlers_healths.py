"""The deployment's health: its queues, dead letters put back, and how far behind the reconciler and the seals are."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import audit_of, call, code_of, ok

from runvoy_agent.handlers import healths
from runvoy_agent.handlers.control import HEALTH_PATH, handle
from runvoy_agent.handlers.routes import Request
from runvoy_agent.local.queue import LocalQueueCare, LocalQueueName, SqliteQueue
from runvoy_protocol.control import DiskHealth
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World


def bury(world: World, queue: LocalQueueName, count: int) -> None:
    for number in range(count):
        world.queue.send(queue, f"letter {number}".encode())
        for _ in range(5):
            message = world.queue.receive(queue, 0)
            assert message is not None
            world.queue.release(message.message_id)


def queues(world: World) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in ok(world, "GET", "/health/queues")["queues"]}


def test_what_waits_is_counted(world: World) -> None:
    world.queue.send("inbox", b"a")
    world.queue.send("inbox", b"b", delay_seconds=600)
    world.queue.send("starts", b"c")
    assert world.queue.receive("starts", 0) is not None
    bury(world, "ends", 2)
    found = queues(world)
    assert set(found) == {"ranges", "inbox", "starts", "bulk", "ends"}
    assert (found["inbox"]["visible"], found["inbox"]["delayed"]) == (1, 1)
    assert (found["starts"]["in_flight"], found["ends"]["dead"]) == (1, 2)
    assert isinstance(found["inbox"]["oldest_seconds"], float)
    assert "oldest_seconds" not in found["bulk"]


def test_how_far_behind_the_reconciler_and_the_seals_are(world: World) -> None:
    before = ok(world, "GET", "/health/queues")
    assert not {"reconciled_at", "audit_sealed_until"} & set(before)
    world.clock.move(minutes=30)
    world.reconcile()
    after = ok(world, "GET", "/health/queues")
    assert after["reconciled_at"].startswith("2026-05-04T12:30:00")
    assert after["audit_sealed_until"].startswith("2026-05-04T12:20:00")


def test_a_disk_without_room_is_told_to_everybody_and_how_much_there_is_to_operators(world: World) -> None:
    assert "disk" not in ok(world, "GET", "/health/queues")
    disk = {"free_bytes": 100, "total_bytes": 5000, "needed_bytes": 100}

    def status() -> str:
        request = Request("GET", HEALTH_PATH, HEALTH_PATH, {}, {}, b"", "127.0.0.1")
        return str(json.loads(handle(world.ports, world.deployment, request).body)["status"])

    world.deployment = world.deployment._replace(disk=lambda: DiskHealth(**disk))
    assert ok(world, "GET", "/health/queues")["disk"] == disk
    assert status() == "ok"
    disk["free_bytes"] = 99
    assert status() == "low-disk"


def test_dead_letters_are_put_back_and_that_is_on_record(world: World) -> None:
    bury(world, "ends", 3)
    bury(world, "inbox", 1)
    answer = ok(world, "POST", "/health/redrive", {"queue": "ends"})
    assert answer == {"queues": [{"queue": "ends", "redriven": 3, "left": 0}]}
    assert [message.body for message in world.messages("ends")] == [b"letter 0", b"letter 1", b"letter 2"]
    assert queues(world)["inbox"]["dead"] == 1
    everything = ok(world, "POST", "/health/redrive", {})
    assert {one["queue"]: one["redriven"] for one in everything["queues"] if one["redriven"]} == {"inbox": 1}
    told = [(event.actor, event.subject, event.message) for event in audit_of(world) if event.action == "redrive"]
    assert told == [("ada", "ends", "dead letters: 3 of ends"), ("ada", "all queues", "dead letters: 1 of inbox")]


def test_what_was_put_back_is_on_record_though_its_caller_is_revoked_meanwhile(world: World) -> None:
    bury(world, "ends", 1)

    class Care(LocalQueueCare):
        def redrive(self, queue: str, most: int) -> int:
            if queue == "ends":
                world.revoke(world.signing_key)
            return super().redrive(queue, most)

    world.deployment = world.deployment._replace(queues=Care(world.queue))
    world.add_user("eve", Role.ADMIN)
    ok(world, "POST", "/health/redrive", {})
    told = [(event.actor, event.outcome, event.message) for event in audit_of(world) if event.action == "redrive"]
    assert told == [("ada", "ok", "dead letters: 1 of ends")]
    assert code_of(call(world, "POST", "/health/redrive", {})) is ErrorCode.KEY_REVOKED


def test_many_dead_letters_take_several_calls(world: World) -> None:
    world.queue.close()
    connection = sqlite3.connect(world.folder / "queue.db")
    with connection:
        connection.executemany(
            "INSERT INTO messages (queue, body, sent_at, due_at, receives, died_at) VALUES ('ends', ?, 1, 1, 5, 1)",
            [(str(number).encode(),) for number in range(1200)],
        )
    connection.close()
    world.queue = SqliteQueue(world.folder / "queue.db")
    world.deployment = world.deployment._replace(queues=LocalQueueCare(world.queue))
    for redriven, left in ((1000, 200), (200, 0), (0, 0)):
        (found,) = ok(world, "POST", "/health/redrive", {"queue": "ends"})["queues"]
        assert (found["redriven"], found["left"]) == (redriven, left)


@pytest.mark.parametrize("body", [{"queue": "nobody"}, {"queue": ""}])
def test_a_queue_that_there_is_not(world: World, body: object) -> None:
    assert code_of(call(world, "POST", "/health/redrive", body)) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "POST", "/health/redrive", {"queue": 3})) is ErrorCode.INVALID_REQUEST


def test_a_deployment_without_queues_says_so(world: World) -> None:
    world.deployment = world.deployment._replace(queues=None)
    assert code_of(call(world, "GET", "/health/queues")) is ErrorCode.NOT_FOUND


def test_executions_are_counted_of_a_month_and_while_they_are_not_over(world: World) -> None:
    old, over, young = (world.request() for _ in range(3))
    for request in (old, over):
        world.submit(request)
    world.start(over.request_id)
    world.leave_result(over.request_id)
    world.tell(over.request_id, "result")
    world.tell(over.request_id, "stopped", 1)
    created_at = world.deployment.created_at
    assert healths.counts_by_state(world.records, created_at, world.clock.now()) == {"QUEUED": 1, "SUCCEEDED": 1}
    world.clock.move(days=31)
    world.submit(young := world.request(request_id=young.request_id))
    assert young.expires_at > world.clock.now()
    assert healths.counts_by_state(world.records, created_at, world.clock.now()) == {"QUEUED": 2}
