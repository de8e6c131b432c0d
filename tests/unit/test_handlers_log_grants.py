"""Reads of many logs by one call: of those that have ended and that the caller may read, and nothing is told of others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import call, ok, signed

from runvoy_protocol import object_keys
from runvoy_protocol.control import MAX_LOG_GRANTS, MSGPACK, LogGrant, LogGrantsAnswer, LogGrantsRequest
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World


def ended(world: World, chunk: bytes = b"x", signing_key: SigningKey | None = None) -> str:
    request = world.request()
    one = request.request_id
    world.submit(request, signing_key)
    world.start(one)
    world.outbox.put(object_keys.log_chunk(one, 1), chunk, content_type="")
    world.leave_result(one)
    world.tell(one, "result")
    world.tell(one, "stopped", 1)
    return one


def granted(world: World, ids: list[str], signing_key: SigningKey | None = None) -> list[dict[str, Any]]:
    found = ok(world, "POST", "/grants/logs", {"execution_ids": ids}, signing_key)["executions"]
    assert [one["execution_id"] for one in found] == [one[:64] for one in ids[: len(found)]]
    return found  # type: ignore[no-any-return]


def inlining(world: World, most: int) -> None:
    world.deployment = world.deployment._replace(inline_log_bytes=most)


def test_reads_of_all_that_ended_and_of_no_other(world: World) -> None:
    done, running, nobody = ended(world), world.request(), world.clock.new_id()
    world.submit(running)
    world.start(running.request_id)
    found = granted(world, [done, running.request_id, nobody, "../no id", "x" * 5000])
    assert ["chunk_urls" in one for one in found] == [True, False, False, False, False]
    (url,) = found[0]["chunk_urls"]
    assert f"/{object_keys.log_chunk(done, 1)}?" in url


def test_each_execution_is_judged_by_its_owner(world: World) -> None:
    bob, eve, auditor = (
        world.add_user(name, role) for name, role in (("b", Role.DEVELOPER), ("e", Role.DEVELOPER), ("v", Role.VIEWER))
    )
    bobs, eves = ended(world, signing_key=bob), ended(world, signing_key=eve)
    for inline in (0, 100):
        inlining(world, inline)
        own = [len(one) > 1 for one in granted(world, [bobs, eves], bob)]
        assert own == [True, False]
        assert [len(one) > 1 for one in granted(world, [bobs, eves], auditor)] == [True, True]


def test_what_is_not_the_callers_looks_like_what_is_not_there(world: World) -> None:
    inlining(world, 100)
    bob = world.add_user("bob", Role.DEVELOPER)
    others, nobody = ended(world), world.clock.new_id()
    first, second = granted(world, [others, nobody], bob)
    assert first.keys() == second.keys() == {"execution_id"}


@pytest.mark.parametrize(("most", "is_inline"), [(0, False), (9, False), (10, True), (11, True)])
def test_a_small_log_is_handed_out_itself(world: World, most: int, is_inline: bool) -> None:
    inlining(world, most)
    (found,) = granted(world, [ended(world, b"0123456789")])
    assert ("chunks" in found, "chunk_urls" in found) == (is_inline, not is_inline)


def test_a_chunk_that_is_not_there_yet_is_to_be_read(world: World) -> None:
    inlining(world, 100)
    one = ended(world)
    world.outbox.delete(object_keys.log_chunk(one, 1))
    (found,) = granted(world, [one])
    assert len(found["chunk_urls"]) == 1


def test_an_answer_has_bounds(world: World) -> None:
    inlining(world, 1024 * 1024)
    ids = [ended(world, bytes(1024 * 1024)) for _ in range(5)]
    found = granted(world, ids)
    assert [one["execution_id"] for one in found] == ids[:4], "the rest is to be asked for again"
    assert all("chunks" in one for one in found)


def test_a_log_that_is_not_handed_out_is_not_read(world: World) -> None:
    inlining(world, 1024 * 1024)
    one = ended(world)
    (path,) = (path for path in world.folder.rglob("run/logs/*") if one in path.parts)
    os.truncate(path, 1 << 40)  # no memory holds it
    (found,) = granted(world, [one])
    assert len(found["chunk_urls"]) == 1


def test_chunks_are_answered_as_msgpack_to_who_takes_it(world: World) -> None:
    inlining(world, 100)
    one = ended(world, b"\x1f\x8b")
    body = msgspec.json.encode(LogGrantsRequest(execution_ids=(one,)))
    for accept, kind in (("text/html, application/msgpack;q=0.9", MSGPACK), ("*/*", "application/json")):
        request = signed(world, "POST", "/api/v1/grants/logs", body)
        response = world.call(request._replace(headers={**request.headers, "accept": accept}))
        assert (response.status, response.content_type) == (200, kind)
        decode = msgspec.msgpack.decode if kind == MSGPACK else msgspec.json.decode
        assert decode(response.body, type=LogGrantsAnswer).executions == (
            LogGrant(execution_id=one, chunks=(b"\x1f\x8b",)),
        )


def test_an_answer_without_chunks_is_json(world: World) -> None:
    """A front that hands text on has no other to hand on where none are handed out."""
    request = signed(world, "POST", "/api/v1/grants/logs", b'{"execution_ids": ["%s"]}' % ended(world).encode())
    response = world.call(request._replace(headers={**request.headers, "accept": MSGPACK}))
    assert (response.status, response.content_type) == (200, "application/json")


def test_each_execution_granted_is_in_the_audit(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    mine, others = ended(world, signing_key=bob), ended(world)
    granted(world, [mine, others], bob)
    entries = ok(world, "GET", "/audit?user=bob")["entries"]
    about = [entry.get("execution_id") for entry in entries if entry["action"] == "grant-logs"]
    assert about.count(mine) == 1
    assert others not in about
    assert len(about) == 2, "and one for the call"


@pytest.mark.parametrize(
    "body",
    [{}, {"execution_ids": []}, {"execution_ids": "x"}, {"execution_ids": ["a", "a"]}, [], None]
    + [{"execution_ids": [str(number) for number in range(MAX_LOG_GRANTS + 1)]}],
)
def test_what_is_asked_wrongly_is_refused(world: World, body: object) -> None:
    assert call(world, "POST", "/grants/logs", body).status == 400


def test_the_call_works_once_and_with_its_own_body_alone(world: World) -> None:
    body = b'{"execution_ids": ["%s"]}' % ended(world).encode()
    request = signed(world, "POST", "/api/v1/grants/logs", body)
    assert world.call(request._replace(body=body.replace(b'"]', b'", "a"]'))).status == 401
    assert world.call(request).status == 200
    assert world.call(request).status == 401
