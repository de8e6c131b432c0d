"""The signed request of an execution is checked again: kept, signed, recorded and launched as one and the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import call, code_of, ok
from tests.unit.proving import prove_request, tamper

from runvoy_agent.core.model import Execution, StoredRequest
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.local.objects import FolderObjects
from runvoy_protocol import batches, object_keys, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.evidence import PIECE_BYTES
from runvoy_protocol.members import Role
from runvoy_protocol.requests import RunRequest

if TYPE_CHECKING:
    from tests.unit.conftest import World


def submitted(world: World, **fields: Any) -> RunRequest:
    request = world.request(command=("terraform", "apply"), locks=("prod",), labels={"team": "data"}, **fields)
    assert world.submit(request).outcome == "accepted"
    return request


def failed(world: World, execution_id: str) -> set[str]:
    proof = prove_request(world, execution_id)
    assert proof.holds == all(check.holds for check in proof.checks)
    return {check.name for check in proof.checks if not check.holds}


def change_record(world: World, execution_id: str, **fields: Any) -> None:
    current = store.load_execution(world.records, execution_id)
    assert current.document is not None
    changed = msgspec.json.encode(msgspec.structs.replace(current.document, **fields))
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", changed, store.execution_key(execution_id))


def test_an_untouched_one_holds(world: World) -> None:
    request = submitted(world)
    proof = prove_request(world, request.request_id)
    assert proof.holds, proof.checks
    names = [check.name for check in proof.checks]
    assert names[:8] == ["kept", "digest", "audit", "key", "signature", "id", "deployment", "launched"]
    assert {"command", "image", "locks", "secrets", "timeout", "labels", "name"} < set(names)


def test_a_short_and_a_long_command_hold(world: World) -> None:
    for command in ("echo hello", "x" * 9000, ("sh", "-c", "y" * 9000, "z"), ("a" * 5000,), ("a", *["b" * 100] * 100)):
        request = world.request(command=command)
        world.submit(request)
        assert not failed(world, request.request_id), command


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("command", ("terraform", "destroy"), "command"),
        ("command", "terraform apply", "command"),
        ("image", "evil:latest", "image"),
        ("locks", (), "locks"),
        ("secrets", ("prod-key",), "secrets"),
        ("timeout_seconds", 5, "timeout"),
        ("labels", {}, "labels"),
        ("name", "other", "name"),
    ],
)
def test_a_record_that_says_something_else_is_found(world: World, field: str, value: object, check: str) -> None:
    execution_id = submitted(world).request_id
    change_record(world, execution_id, **{field: value})
    assert failed(world, execution_id) == {check}


def test_another_owner_is_found(world: World) -> None:
    request = submitted(world)
    world.add_user("bob", Role.DEVELOPER)
    change_record(world, request.request_id, owner="bob")
    assert failed(world, request.request_id) == {"key", "audit"}


def test_an_object_that_was_replaced_is_found(world: World) -> None:
    request = submitted(world)
    other = msgspec.structs.replace(request, command=("terraform", "destroy"))
    raw = requests.seal_request(other, world.signing_key)
    object_key = object_keys.request(world.signing_key.key_id, request.request_id)
    folder = world.folder / "inbox" / "requests" / world.signing_key.key_id
    (folder / request.request_id).unlink()  # its version is a second link to it
    (folder / request.request_id).write_bytes(raw)
    assert not failed(world, request.request_id), "the version that was admitted is still kept"
    for version in folder.glob(f".{request.request_id}@*"):
        version.unlink()
    # Signed by the right key, and yet not what was admitted.
    assert failed(world, request.request_id) == {"digest", "audit", "launched", "command"}
    change_record(world, request.request_id, object_sha256=hashlib.sha256(raw).hexdigest())
    assert "audit" in failed(world, request.request_id)
    assert world.inbox.get(object_key) is not None


def test_bytes_that_nobody_signed_are_found(world: World) -> None:
    request = submitted(world)
    folder = world.folder / "inbox" / "requests" / world.signing_key.key_id
    path = folder / request.request_id  # and with it its version, the same file
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    assert {"digest", "audit", "signature"} <= failed(world, request.request_id)


def test_an_object_that_is_gone_is_told(world: World) -> None:
    request = submitted(world)
    folder = world.folder / "inbox" / "requests" / world.signing_key.key_id
    for path in [folder / request.request_id, *folder.glob(".*@*")]:
        path.unlink()
    assert failed(world, request.request_id) == {"kept"}


def test_what_was_launched_instead_is_found(world: World) -> None:
    request = submitted(world)
    other = requests.encode(msgspec.structs.replace(request, command=("rm", "-rf", "/")))
    stored = msgspec.json.encode(StoredRequest(execution_id=request.request_id, payload=other))
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", stored, store.request_key(request.request_id))
    assert failed(world, request.request_id) == {"launched"}
    tamper(world, "DELETE FROM records WHERE key = ?", store.request_key(request.request_id))
    assert failed(world, request.request_id) == {"launched"}


def test_a_key_of_another_is_found(world: World) -> None:
    request = submitted(world)
    other = world.add_user("bob", Role.DEVELOPER)
    key = world.records.get(store.key_key(world.signing_key.key_id))
    bobs = world.records.get(store.key_key(other.key_id))
    assert key is not None
    assert bobs is not None
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", bobs.body, key.key)
    world.signing_key, admins = world.add_user("eve", Role.ADMIN), world.signing_key
    assert admins.key_id != world.signing_key.key_id
    assert {"key", "signature"} <= failed(world, request.request_id)


def test_a_batch_is_checked_as_a_whole(world: World) -> None:
    members = [world.request(command=("echo", str(number))) for number in range(5)]
    batch_id = world.clock.new_id()
    batched = tuple(BatchedRequest(one.request_id, requests.encode(one)) for one in members)
    raw = batches.seal_batch(Batch(1, batch_id, batched), world.signing_key)
    delivery = world.upload_raw(raw, object_keys.batch(world.signing_key.key_id, batch_id))
    from runvoy_agent.handlers import inbox

    inbox.handle(world.ports, world.deployment, messages.encode(delivery))
    for message in world.messages("inbox"):
        inbox.handle(world.ports, world.deployment, message.body)
    proof = prove_request(world, members[3].request_id)
    assert proof.holds, proof.checks
    assert (proof.batch_id, proof.object_key) == (batch_id, delivery.object_key)
    change_record(world, members[3].request_id, command=("echo", "4"))
    assert failed(world, members[3].request_id) == {"command"}


def test_a_large_object_comes_in_pieces(world: World) -> None:
    request = submitted(world)
    current = store.load_execution(world.records, request.request_id)
    assert isinstance(current.document, Execution)
    raw = bytes(range(256)) * (PIECE_BYTES // 256) + b"the end"
    object_key = object_keys.request(world.signing_key.key_id, request.request_id)
    world.inbox.put(object_key, raw, content_type="")
    change_record(
        world,
        request.request_id,
        object_sha256=hashlib.sha256(raw).hexdigest(),
        object_version=FolderObjects.version_of(raw),
    )
    assert "digest" not in failed(world, request.request_id)


def test_what_there_is_not(world: World) -> None:
    for path in ("/audit/evidence/x", f"/audit/evidence/{world.clock.new_id()}"):
        assert code_of(call(world, "GET", path)) is ErrorCode.NOT_FOUND
    request = submitted(world)
    for offset in ("x", "-1", "000000000001x", "1000000000000"):
        path = f"/audit/evidence/{request.request_id}?offset={offset}"
        assert code_of(call(world, "GET", path)) is ErrorCode.INVALID_REQUEST


# -- the story of one execution


def story(world: World, execution_id: str) -> list[str]:
    page = ok(world, "GET", f"/trace/{execution_id}")
    return [entry["action"] for entry in page["entries"]] + [step["what"] for step in page.get("steps", ())]


def test_the_whole_story_is_told(world: World) -> None:
    first, second = submitted(world), submitted(world)
    world.start(first.request_id)
    world.clock.move(seconds=1)
    world.leave_started(first.request_id)
    world.tell(first.request_id, "started", 1)
    call(world, "DELETE", f"/executions/{first.request_id}")
    world.leave_result(first.request_id, exit_code=3)
    world.tell(first.request_id, "result", 1)
    world.tell(first.request_id, "stopped", 1)
    told = story(world, first.request_id)
    assert {"admit", "start", "started", "kill", "result", "stopped"} <= set(told)
    assert {"joined-locks", "locks-granted", "pushed", "launched", "command-began", "command-ended", "released"} <= set(
        told
    )
    waiting = ok(world, "GET", f"/trace/{second.request_id}")
    granted = [step for step in waiting["steps"] if step["what"] == "locks-granted"]
    assert [step["about"] for step in granted] == ["prod with fence 2"]


def test_an_owner_sees_the_story_and_not_who_looked(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    request = world.request()
    world.submit(request, dave)
    call(world, "GET", f"/executions/{request.request_id}")
    call(world, "GET", f"/executions/{request.request_id}", None, dave)
    entries = ok(world, "GET", f"/trace/{request.request_id}", None, dave)["entries"]
    assert [(entry["actor"], entry["action"]) for entry in entries] == [("dave", "admit"), ("dave", "show-execution")]
    assert not any(entry.get("source") for entry in entries)
    seen_by_admin = ok(world, "GET", f"/trace/{request.request_id}")["entries"]
    assert [entry["actor"] for entry in seen_by_admin] == ["dave", "ada", "dave", "dave"]


def test_a_long_story_comes_in_pages(world: World) -> None:
    request = submitted(world)
    for _ in range(450):
        world.records.commit([store.audit(world.clock, "ada", "show-execution", "ok", execution_id=request.request_id)])
        world.clock.move(milliseconds=1)
    seen: list[str] = []
    after, pages = "", 0
    while True:
        page = ok(world, "GET", f"/trace/{request.request_id}{after}")
        assert ("steps" in page) == (pages == 0)
        seen += [entry["event_id"] for entry in page["entries"]]
        pages += 1
        if "after" not in page:
            break
        after = f"?after={page['after']}"
    assert (pages, len(seen), len(set(seen)), seen) == (3, len(seen), len(seen), sorted(seen))
    assert len(seen) >= 451


def test_a_refused_request_has_a_story_for_admins(world: World) -> None:
    dave = world.add_user("dave", Role.VIEWER)
    request = world.request()
    world.submit(request, dave)
    told = ok(world, "GET", f"/trace/{request.request_id}")
    assert [(entry["action"], entry["outcome"]) for entry in told["entries"]] == [("admit", "FORBIDDEN")]
    assert code_of(call(world, "GET", "/trace/x")) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "GET", f"/trace/{world.clock.new_id()}")) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "GET", f"/trace/{request.request_id}?after=x")) is ErrorCode.INVALID_REQUEST
