"""What was signed and what it was answered: told of every execution, of what was refused, and to whom."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import add_key, audit_of, call, code_of, ok
from tests.unit.conftest import START
from tests.unit.proving import tamper

from runvoy_agent.core.model import Refusal
from runvoy_agent.handlers import inbox, retention
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.retention import Removing
from runvoy_protocol import batches, object_keys, receipts, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.requests import GitSource, RunRequest
from runvoy_protocol.signed_requests import SignedRequestAnswer, to_signed_request

if TYPE_CHECKING:
    from tests.unit.conftest import World


def shown(world: World, execution_id: str, signing_key: SigningKey | None = None) -> SignedRequestAnswer:
    answer = ok(world, "GET", f"/executions/{execution_id}/request", None, signing_key)
    return msgspec.convert(answer, SignedRequestAnswer)


def refused(world: World, execution_id: str, signing_key: SigningKey) -> ErrorCode:
    return code_of(call(world, "GET", f"/executions/{execution_id}/request", None, signing_key))


def submit_batch(world: World, made: list[BatchedRequest]) -> str:
    batch_id = world.clock.new_id()
    raw = batches.seal_batch(Batch(1, batch_id, tuple(made)), world.signing_key)
    delivery = world.upload_raw(raw, object_keys.batch(world.signing_key.key_id, batch_id))
    inbox.handle(world.ports, world.deployment, messages.encode(delivery))
    for message in world.messages("inbox"):
        inbox.handle(world.ports, world.deployment, message.body)
    return batch_id


def batched(request: RunRequest) -> BatchedRequest:
    return BatchedRequest(request.request_id, requests.encode(request))


def whole_request(world: World, **fields: Any) -> RunRequest:
    ok(world, "POST", "/secrets", {"name": "db", "env_name": "DB_PASSWORD", "value": "aHVudGVyMjI="})
    values: dict[str, Any] = {
        "command": ("sh", "-c", "x" * 5000),
        "env": {"STAGE": "prod", "EMPTY": "", "LINES": "one\ntwo"},
        "secrets": ("db",),
        "locks": ("prod/db", "dns"),
        "if_locked": "fail",
        "timeout_seconds": 90,
        "queue_timeout_seconds": 5,
        "git": GitSource("https://example.com/infra.git", "main", "deploy"),
        "playbook": "deploy",
        "labels": {"team": "data"},
        "name": "deploy prod",
        "isolation": "process",
    }
    return world.request(**(values | fields))


def test_every_field_is_told_as_it_was_signed_and_secrets_by_their_names(world: World) -> None:
    request = whole_request(world)
    receipt = world.submit(request)
    assert receipt.outcome == "accepted", receipt
    answer = shown(world, request.request_id)
    assert answer.request == to_signed_request(request)
    assert answer.request.env == request.env
    assert answer.request.command == request.command, "a status cuts it; here it is whole"
    assert (answer.state, answer.key_id, answer.batch_id) == ("admitted", world.signing_key.key_id, None)
    assert answer.content_digest == requests.content_digest(request).hex()
    assert answer.object_sha256 == receipt.object_sha256
    assert answer.receipt == receipt
    raw = json.dumps(ok(world, "GET", f"/executions/{request.request_id}/request"))
    assert "hunter22" not in raw
    assert "aHVudGVyMjI" not in raw


def test_it_does_not_change_as_the_run_goes_on_and_needs_no_object_of_the_inbox(world: World) -> None:
    request = whole_request(world, git=None, locks=())
    world.submit(request)
    before = shown(world, request.request_id)
    world.start(request.request_id)
    world.inbox.delete(object_keys.request(world.signing_key.key_id, request.request_id))
    assert shown(world, request.request_id) == before


def test_of_a_batch_each_member_has_its_own(world: World) -> None:
    made = [world.request(command=("echo", str(number)), env={"N": str(number)}) for number in range(3)]
    late = world.request(issued_at=START.replace(year=2020), expires_at=START.replace(year=2020, minute=10))
    garbage = BatchedRequest(world.clock.new_id(), b"\xff\xff")
    batch_id = submit_batch(world, [*map(batched, made), batched(late), garbage])
    for request in made:
        answer = shown(world, request.request_id)
        assert (answer.request, answer.batch_id) == (to_signed_request(request), batch_id)
        assert answer.receipt is not None
        assert answer.receipt.outcome == "accepted"
    answer = shown(world, late.request_id)
    assert (answer.state, answer.request, answer.batch_id) == ("refused", to_signed_request(late), batch_id)
    assert answer.receipt is not None
    assert answer.receipt.code is ErrorCode.REQUEST_EXPIRED
    answer = shown(world, garbage.request_id)
    assert answer.request is None
    assert "run request" in answer.missing


def test_a_refused_one_has_its_request_and_why(world: World) -> None:
    request = world.request(secrets=("nobody-s",), env={"A": "1"}, cpu=512, memory_mib=1024)
    receipt = world.submit(request)
    answer = shown(world, request.request_id)
    assert (answer.state, answer.receipt, answer.request) == ("refused", receipt, to_signed_request(request))
    assert answer.content_digest == requests.content_digest(request).hex()


def test_one_that_is_not_decided_is_told_without_a_receipt(world: World) -> None:
    request = world.request()
    world.upload(request)
    answer = shown(world, request.request_id)
    assert (answer.state, answer.receipt, answer.request) == ("pending", None, to_signed_request(request))


def test_what_nobody_signed_is_not_told_as_a_request(world: World) -> None:
    request = world.request()
    stranger = SigningKey(b"\x09" * 32)
    raw = requests.seal_request(request, stranger)
    world.deliver(world.upload_raw(raw, object_keys.request(world.signing_key.key_id, request.request_id)))
    answer = shown(world, request.request_id)
    assert answer.receipt is not None
    assert answer.receipt.code is ErrorCode.SIGNATURE_INVALID
    assert answer.request is None
    assert "not signed by key" in answer.missing


def test_who_sees_it(world: World) -> None:
    owner = world.add_user("dora", Role.DEVELOPER)
    request = world.request(env={"TOKEN": "s3cret"}, labels={"team": "data"})
    world.submit(request, owner)
    other_key = add_key(world, "dora")
    for signing_key in (owner, other_key, world.add_user("oz", Role.OPERATOR), world.signing_key):
        assert shown(world, request.request_id, signing_key).request == to_signed_request(request)
    limits = KeyLimits(labels={"team": "data"})
    assert refused(world, request.request_id, add_key(world, "dora", limits)) is ErrorCode.NOT_FOUND
    assert refused(world, request.request_id, world.add_user("dan", Role.DEVELOPER)) is ErrorCode.NOT_FOUND
    viewer = world.add_user("vic", Role.VIEWER)
    response = call(world, "GET", f"/executions/{request.request_id}/request", None, viewer)
    assert code_of(response) is ErrorCode.FORBIDDEN
    assert b"operator" in response.body, "the refusal names the roles that may"
    assert b"s3cret" not in response.body
    asked = [(event.actor, event.outcome) for event in audit_of(world) if event.action == "show-request"]
    assert asked[-1] == ("vic", "FORBIDDEN"), "who looked is on record"


def test_a_refusal_is_told_to_the_key_that_was_refused_alone(world: World) -> None:
    owner = world.add_user("dora", Role.DEVELOPER)
    request = world.request(secrets=("nobody-s",))
    world.submit(request, owner)
    assert shown(world, request.request_id, owner).state == "refused"
    assert refused(world, request.request_id, world.signing_key) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("bad", ["x", "0" * 32, "%00", "a" * 500])
def test_what_is_no_execution_is_not_found(world: World, bad: str) -> None:
    assert refused(world, bad, world.signing_key) is ErrorCode.NOT_FOUND


def test_a_refused_member_s_request_that_is_gone_is_said_to_be(world: World) -> None:
    late = world.request(issued_at=START.replace(year=2020), expires_at=START.replace(year=2020, minute=10))
    batch_id = submit_batch(world, [batched(late)])
    other = batches.seal_batch(Batch(1, batch_id, (batched(world.request()),)), world.signing_key)
    object_key = object_keys.batch(world.signing_key.key_id, batch_id)
    world.inbox.put(object_key, other, content_type="")
    assert shown(world, late.request_id).request is None, "what lies there now is another batch"
    world.inbox.delete(object_key)
    answer = shown(world, late.request_id)
    assert answer.receipt is not None
    assert (answer.request, answer.missing) == (None, "the object that it came in is not kept any more")


def test_a_refusal_of_before_batches_were_noted_says_what_is_missing(world: World) -> None:
    late = world.request(issued_at=START.replace(year=2020), expires_at=START.replace(year=2020, minute=10))
    submit_batch(world, [batched(late)])
    sha256 = shown(world, late.request_id).object_sha256
    record_key = store.refusal_key(world.signing_key.key_id, late.request_id, sha256)
    found = store.load(world.records, record_key, Refusal).document
    assert found is not None
    older = msgspec.json.encode(msgspec.structs.replace(found, batch_id=None))
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", older, record_key)
    answer = shown(world, late.request_id)
    assert (answer.request, answer.batch_id) == (None, None)
    assert "not kept any more" in answer.missing


def test_a_batch_that_is_refused_as_a_whole_is_no_request(world: World) -> None:
    raw = batches.seal_batch(Batch(1, batch_id := world.clock.new_id(), (batched(world.request()),)), world.signing_key)
    damaged = raw[:-1] + bytes([raw[-1] ^ 1])
    object_key = object_keys.batch(world.signing_key.key_id, batch_id)
    inbox.handle(world.ports, world.deployment, messages.encode(world.upload_raw(damaged, object_key)))
    answer = shown(world, batch_id)
    assert (answer.state, answer.request) == ("refused", None)
    assert answer.missing


def test_what_was_forgotten_is_not_found_and_nothing_of_it_is_told(world: World) -> None:
    request = whole_request(world, git=None, locks=())
    world.submit(request)
    world.start(request.request_id)
    world.leave_result(request.request_id)
    world.tell(request.request_id, "result")
    world.tell(request.request_id, "stopped")
    world.clock.move(days=40)
    removing = Removing(world.inbox.delete, world.outbox.delete)
    retention.sweep(world.ports, START, timedelta(days=30), removing)
    assert refused(world, request.request_id, world.signing_key) is ErrorCode.NOT_FOUND


def test_the_receipt_is_the_one_that_the_outbox_has(world: World) -> None:
    request = whole_request(world, git=None)
    world.submit(request)
    answer = shown(world, request.request_id)
    stored = world.outbox.get(object_keys.receipt(world.signing_key.key_id, request.request_id, answer.object_sha256))
    assert stored is not None
    assert receipts.decode(stored.data) == answer.receipt
    kept = world.inbox.get(object_keys.request(world.signing_key.key_id, request.request_id))
    assert kept is not None
    assert hashlib.sha256(kept.data).hexdigest() == answer.object_sha256
