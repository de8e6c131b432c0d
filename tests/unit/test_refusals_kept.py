"""How long the record of a refusal is kept, and that nothing that was refused is accepted when it is gone."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from runvoy_agent.core.model import Refusal
from runvoy_agent.core.retention import REFUSALS_KEPT, refusal_forgotten_at
from runvoy_agent.handlers import inbox
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.ports import Message
from runvoy_protocol import batches, object_keys, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import Role
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest

if TYPE_CHECKING:
    from tests.unit.conftest import World

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires_at", "until"),
    [
        (None, NOW),
        (NOW - timedelta(days=400), NOW),
        (NOW + timedelta(hours=1), NOW + timedelta(hours=1)),
        (NOW + timedelta(days=90), NOW + timedelta(days=90)),
    ],
    ids=["could not be read", "expired long ago", "fresh", "dated ahead"],
)
def test_a_refusal_is_kept_beyond_the_last_moment_at_which_its_request_is_fresh(
    expires_at: datetime | None, until: datetime
) -> None:
    assert refusal_forgotten_at(NOW, expires_at) == until + REFUSALS_KEPT


def test_the_end_of_time_is_no_error() -> None:
    assert refusal_forgotten_at(NOW, datetime.max.replace(tzinfo=UTC)) > NOW + timedelta(days=365_000)


def is_kept(world: World, receipt: Receipt) -> bool:
    key = store.refusal_key(receipt.key_id, receipt.execution_id, receipt.object_sha256)
    return store.load(world.records, key, Refusal).document is not None


def pass_days(world: World, days: float) -> None:
    world.clock.move(days=days)
    world.records.purge_expired(world.clock.now())


def held_back(world: World) -> tuple[RunRequest, InboxDelivery, Receipt]:
    """A request that was refused because its lock was held, which it is no more."""
    holder = world.request(locks=("db",))
    world.submit(holder)
    request = world.request(locks=("db",), if_locked="fail")
    delivery = world.upload(request)
    receipt = world.deliver(delivery)
    assert receipt.code is ErrorCode.LOCK_HELD
    world.start(holder.request_id)
    world.leave_result(holder.request_id)
    world.tell(holder.request_id, "result")
    world.tell(holder.request_id, "stopped", 1)
    return request, delivery, receipt


def test_what_was_refused_stays_refused_and_its_receipt_the_same(world: World) -> None:
    request, delivery, receipt = held_back(world)
    for days in (0, 0.1, 1.8):
        pass_days(world, days)
        assert (world.deliver(delivery), is_kept(world, receipt)) == (receipt, True)
    pass_days(world, 1)
    assert not is_kept(world, receipt), "it is kept for ever"
    # Judged anew, it is too late for it; who asks is told what was told first.
    assert world.deliver(delivery) == receipt
    assert store.load_execution(world.records, request.request_id).document is None


def test_a_request_dated_ahead_is_not_accepted_when_its_time_has_come(world: World) -> None:
    ahead = world.clock.now() + timedelta(days=30)
    request = world.request(issued_at=ahead, expires_at=ahead + timedelta(hours=1))
    delivery = world.upload(request)
    receipt = world.deliver(delivery)
    assert receipt.code is ErrorCode.CLOCK_SKEW
    pass_days(world, 30.01)
    assert world.deliver(delivery) == receipt
    assert store.load_execution(world.records, request.request_id).document is None
    pass_days(world, 3)
    assert not is_kept(world, receipt)


def test_the_same_request_signed_anew_is_one_of_its_own(world: World) -> None:
    request, delivery, receipt = held_back(world)
    now = world.clock.now() + timedelta(seconds=1)
    again = msgspec.structs.replace(request, issued_at=now, expires_at=now + timedelta(minutes=15))
    assert world.submit(again).outcome == "accepted"
    pass_days(world, 3)
    pushed = len(world.pushed())
    # Its record is forgotten; its id has an execution of the same content by now, and that is the only one.
    assert world.deliver(delivery) == receipt
    assert world.execution(request.request_id).object_sha256 != receipt.object_sha256
    assert pushed
    assert len(world.launcher.launches) == 1, "only the lock's holder was launched"


def test_refusals_of_batches_and_of_what_is_in_them_go_too(world: World) -> None:
    bad = world.request(deployment_id="elsewhere")
    batched = (BatchedRequest(bad.request_id, requests.encode(bad)),)
    refused: list[str] = []
    for signing_key in (world.signing_key, world.add_user("eve", Role.VIEWER)):
        batch_id, key_id = world.clock.new_id(), signing_key.key_id
        raw = batches.seal_batch(Batch(1, batch_id, batched), signing_key)
        arrival = messages.encode(world.upload_raw(raw, object_keys.batch(key_id, batch_id)))
        for body in (arrival, *(one.body for one in handled(world, arrival))):
            inbox.handle(world.ports, world.deployment, body)
        request_id = bad.request_id if signing_key is world.signing_key else batch_id
        refused.append(store.refusal_key(key_id, request_id, hashlib.sha256(raw).hexdigest()))
    kept = [store.load(world.records, key, Refusal).document for key in refused]
    assert [one and one.code for one in kept] == [ErrorCode.WRONG_DEPLOYMENT, ErrorCode.FORBIDDEN]
    pass_days(world, 3)
    assert [store.load(world.records, key, Refusal).document for key in refused] == [None, None]


def handled(world: World, body: bytes) -> list[Message]:
    inbox.handle(world.ports, world.deployment, body)
    return world.messages("inbox")
