"""Batches on real local ports: verified once, taken apart, each request admitted on its own; nothing lost, nothing twice."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.calls import call, ok, watch
from tests.unit.conftest import START, World

from runvoy_agent.core.batches import RANGE_SIZE
from runvoy_agent.core.model import Key
from runvoy_agent.handlers import inbox
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import StoredObject, Unavailable
from runvoy_protocol import batches, codec, ids, keys, object_keys, receipts, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.control import StatusesAnswer
from runvoy_protocol.envelope import PayloadType, seal
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest


def batched(request: RunRequest) -> BatchedRequest:
    return BatchedRequest(request.request_id, requests.encode(request))


class Batches:
    """Uploads and handles batches, as a queue would deliver them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def upload(
        self, made: Sequence[BatchedRequest], signing_key: keys.SigningKey | None = None, batch_id: str = ""
    ) -> InboxDelivery:
        signing_key = signing_key or self.world.signing_key
        batch_id = batch_id or self.world.clock.new_id()
        raw = batches.seal_batch(Batch(1, batch_id, tuple(made)), signing_key)
        return self.world.upload_raw(raw, object_keys.batch(signing_key.key_id, batch_id))

    def handle(self, delivery: InboxDelivery) -> None:
        inbox.handle(self.world.ports, self.world.deployment, messages.encode(delivery))

    def sent(self) -> list[InboxDelivery]:
        """What is due in the inbox queue."""
        return [msgspec.json.decode(one.body, type=InboxDelivery) for one in self.world.messages("inbox")]

    def run(self, delivery: InboxDelivery) -> None:
        """Handle a batch and all of its ranges."""
        self.handle(delivery)
        for part in self.sent():
            self.handle(part)

    def receipt(self, delivery: InboxDelivery, request_id: str) -> Receipt | None:
        """The answer to one request of the batch, or to the batch as a whole by its own id."""
        stored = self.world.inbox.get(delivery.object_key, delivery.version)
        assert stored is not None
        key_id = delivery.object_key.split("/")[1]
        found = self.world.outbox.get(object_keys.receipt(key_id, request_id, hashlib.sha256(stored.data).hexdigest()))
        return None if found is None else receipts.decode(found.data)

    def outcome(self, delivery: InboxDelivery, request_id: str) -> str:
        receipt = self.receipt(delivery, request_id)
        if receipt is None:
            return "none"
        return receipt.outcome if receipt.code is None else receipt.code.value


@pytest.fixture
def at(world: World) -> Batches:
    return Batches(world)


def batch_id_of(delivery: InboxDelivery) -> str:
    place = object_keys.parse_batch(delivery.object_key)
    assert place is not None
    return place.batch_id


def make(world: World, count: int, **fields: object) -> list[RunRequest]:
    return [world.request(command=("echo", str(number)), **fields) for number in range(count)]


def test_a_batch_is_taken_apart_into_ranges_and_each_request_is_admitted(world: World, at: Batches) -> None:
    made = make(world, 2 * RANGE_SIZE + 1)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    assert at.outcome(delivery, batch_id_of(delivery)) == "accepted"
    parts = at.sent()
    assert [(part.range.start, part.range.stop) for part in parts if part.range] == [(0, 250), (250, 500), (500, 501)]
    assert {part.version for part in parts} == {delivery.version}
    for part in parts:
        at.handle(part)
    assert {at.outcome(delivery, one.request_id) for one in made} == {"accepted"}
    assert all(world.execution(one.request_id).bulk for one in made)
    pushed = [json.loads(one.body)["execution_id"] for one in world.messages("bulk")]
    assert pushed == [one.request_id for one in made]
    assert world.messages("starts") == [], "a batch's run went where people's runs are pushed"


def test_a_bad_request_refuses_itself_and_not_the_batch(world: World, at: Batches) -> None:
    good, other = make(world, 2)
    late = world.request(issued_at=START.replace(year=2020), expires_at=START.replace(year=2020, minute=10))
    elsewhere = world.request(deployment_id="elsewhere")
    garbage = BatchedRequest(world.clock.new_id(), b"\xff\xff")
    swapped = BatchedRequest(world.clock.new_id(), requests.encode(world.request()))
    deep = BatchedRequest(world.clock.new_id(), b"\x91" * 100_000 + b"\x00")
    made = [batched(good), garbage, batched(late), swapped, batched(elsewhere), deep, batched(other)]
    delivery = at.upload(made)
    at.run(delivery)
    assert [at.outcome(delivery, one.request_id) for one in made] == [
        "accepted",
        "INVALID_REQUEST",
        "REQUEST_EXPIRED",
        "INVALID_REQUEST",
        "WRONG_DEPLOYMENT",
        "INVALID_REQUEST",
        "accepted",
    ]
    assert len(world.messages("bulk")) == 2


def test_deliveries_that_come_twice_admit_nothing_twice(world: World, at: Batches) -> None:
    made = make(world, RANGE_SIZE + 5)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    parts = at.sent()
    for part in [*parts, *parts]:
        at.handle(part)
    assert len(world.messages("bulk")) == len(made)
    at.handle(delivery)
    assert at.sent() == [], "a batch that is done was taken apart again"


def test_the_same_lines_in_another_batch_get_their_first_results(world: World, at: Batches) -> None:
    made = make(world, 3)
    at.run(at.upload([batched(one) for one in made]))
    world.messages("bulk")
    world.clock.move(minutes=3)
    now = world.clock.now()
    again = [msgspec.structs.replace(one, issued_at=now, expires_at=now.replace(hour=13)) for one in made]
    changed = msgspec.structs.replace(again[2], command=("echo", "other"))
    delivery = at.upload([batched(again[0]), batched(again[1]), batched(changed), batched(world.request())])
    at.run(delivery)
    outcomes = [at.outcome(delivery, one.request_id) for one in made]
    assert outcomes == ["accepted", "accepted", "ID_CONFLICT"]
    assert world.execution(made[0].request_id).admitted_at == START


class FailingOutbox(FolderObjects):
    """The world's outbox, which fails after some receipts."""

    def __init__(self, world: World, receipts_left: int) -> None:
        super().__init__(world.folder / "outbox", grants=world.grants)
        self._receipts_left = receipts_left

    def put(self, object_key: str, data: bytes, **options: Any) -> str:
        if object_key.startswith("receipts/"):
            if not self._receipts_left:
                raise Unavailable("the disk is full")
            self._receipts_left -= 1
        return super().put(object_key, data, **options)


def test_a_range_that_fails_at_any_request_goes_on_there(world: World, at: Batches) -> None:
    made = make(world, 6)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    [part] = at.sent()
    for receipts_left in (0, 1, 2, 0, 3):
        ports = world.ports._replace(outbox=FailingOutbox(world, receipts_left))
        begun = answered(world, at, delivery, made)
        try:
            inbox.handle(ports, world.deployment, messages.encode(part))
        except Unavailable:
            assert receipts_left == 0, "a delivery failed that had got on: five of these, and it is a dead letter"
        assert answered(world, at, delivery, made) == begun + receipts_left
        assert at.sent() == ([part] if 0 < receipts_left < 3 else [])
    pushed = [json.loads(one.body)["execution_id"] for one in world.messages("bulk")]
    assert sorted(set(pushed)) == sorted(one.request_id for one in made)
    at.handle(part)
    assert world.messages("bulk") == [], "it is not noted as done"


def answered(world: World, at: Batches, delivery: InboxDelivery, made: Sequence[RunRequest]) -> int:
    outcomes = [at.outcome(delivery, one.request_id) for one in made]
    done = outcomes.count("accepted")
    assert outcomes == ["accepted"] * done + ["none"] * (len(made) - done), "a range is admitted in order"
    return done


class Turns:
    """Deliveries of a range in a world where every look at the clock takes a second, each with so many seconds."""

    def __init__(self, world: World, seconds: float) -> None:
        self.world = world
        self.seconds = seconds
        world.clock.tick = timedelta(seconds=1)

    def handle(self, delivery: InboxDelivery) -> None:
        work_until = self.world.clock.time + timedelta(seconds=self.seconds)
        inbox.handle(self.world.ports, self.world.deployment, messages.encode(delivery), work_until)


@pytest.mark.parametrize("seconds", [0, 7, 15])
def test_a_delivery_without_time_for_its_range_leaves_the_rest_to_another(
    world: World, at: Batches, seconds: float
) -> None:
    made = make(world, 12)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    turns = Turns(world, seconds)
    gains = []
    while parts := at.sent():
        [part] = parts
        before = answered(world, at, delivery, made)
        turns.handle(part)
        gains.append(answered(world, at, delivery, made) - before)
    assert sum(gains) == 12
    assert all(gains), "a delivery that gains nothing would come again for ever"
    assert (max(gains) == 1) == (seconds == 0)
    assert max(gains) < 12
    pushed = [json.loads(one.body)["execution_id"] for one in world.messages("bulk")]
    assert pushed == [one.request_id for one in made], "something was admitted again that was answered"


def test_a_range_cut_short_may_come_twice_or_be_lost(world: World, at: Batches) -> None:
    made = make(world, 9)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    [part] = at.sent()
    turns = Turns(world, 7)
    turns.handle(part)
    # It died before it was acknowledged, and what it sent is there, too.
    turns.handle(part)
    assert at.sent() == [part, part]
    reached = answered(world, at, delivery, made)
    assert 2 <= reached < 9
    # Both are lost.
    world.clock.move(minutes=1)
    assert not [repair for repair in world.reconcile() if "batch" in repair.subject], "one that gets on was called lost"
    world.clock.move(minutes=3)
    world.reconcile()
    [again] = at.sent()
    at.handle(again)
    assert at.sent() == [part]
    world.messages("bulk")
    at.handle(part)
    assert answered(world, at, delivery, made) == 9
    assert len(world.messages("bulk")) == 9 - reached, "it began anew"
    turns.handle(part)
    assert (at.sent(), world.messages("bulk")) == ([], [])


def test_a_batch_is_refused_as_a_whole(world: World, at: Batches) -> None:
    stranger = keys.SigningKey(bytes(range(32)))
    request = world.request()
    cases = {
        "KEY_UNKNOWN": at.upload([batched(request)], stranger),
        "FORBIDDEN": at.upload([batched(request)], world.add_user("eve", Role.VIEWER)),
    }
    revoked = world.add_user("bob", Role.DEVELOPER)
    world.revoke(revoked)
    cases["KEY_REVOKED"] = at.upload([batched(request)], revoked)
    other_name = object_keys.batch(world.signing_key.key_id, world.clock.new_id())
    sealed = batches.seal_batch(Batch(1, world.clock.new_id(), (batched(request),)), world.signing_key)
    cases["SIGNATURE_INVALID"] = world.upload_raw(sealed, other_name)
    broken = object_keys.batch(world.signing_key.key_id, world.clock.new_id())
    cases["INVALID_REQUEST"] = world.upload_raw(requests.seal_request(request, world.signing_key), broken)
    for code, delivery in cases.items():
        at.handle(delivery)
        at.handle(delivery)
        assert at.outcome(delivery, batch_id_of(delivery)) == code
        assert at.sent() == []
    assert store.load_execution(world.records, request.request_id).document is None


def test_a_limited_keys_requests_are_judged_one_by_one(world: World, at: Batches) -> None:
    key = store.load(world.records, store.key_key(world.signing_key.key_id), Key)
    assert key.document is not None
    limited = msgspec.structs.replace(key.document, limits=KeyLimits(labels={"team": "data"}))
    world.records.commit([store.put(key, limited)])
    good, bad = world.request(labels={"team": "data"}), world.request()
    delivery = at.upload([batched(good), batched(bad)])
    at.run(delivery)
    assert [at.outcome(delivery, one.request_id) for one in (good, bad)] == ["accepted", "FORBIDDEN"]


def test_a_message_of_a_range_proves_nothing(world: World, at: Batches) -> None:
    made = make(world, 3)
    delivery = at.upload([batched(one) for one in made])
    at.handle(delivery)
    [part] = at.sent()
    assert part.range is not None
    for wrong in (
        msgspec.structs.replace(part.range, start=1),
        msgspec.structs.replace(part.range, stop=10_000),
        msgspec.structs.replace(part.range, object_sha256="0" * 64),
    ):
        at.handle(msgspec.structs.replace(part, range=wrong))
    assert world.messages("bulk") == []


def test_the_reconciler_finds_lost_batches_and_lost_ranges(world: World, at: Batches) -> None:
    call(world, "POST", "/grants/inbox")  # whose uploads are looked for
    made = make(world, RANGE_SIZE + 5)
    delivery = at.upload([batched(one) for one in made])
    world.clock.move(minutes=1)
    assert [repair.problem for repair in world.reconcile()] == ["no delivery of it was handled"]
    [again] = at.sent()
    assert (again.object_key, again.range) == (delivery.object_key, None)
    at.handle(again)
    first, _lost = at.sent()
    at.handle(first)
    assert world.reconcile() == [], "ranges that may be under way were called lost"
    world.messages("bulk")
    world.clock.move(minutes=3)
    assert "some of its requests were not answered" in [repair.problem for repair in world.reconcile()]
    [again] = at.sent()
    at.handle(again)
    [missing] = at.sent()
    assert missing.range is not None
    assert missing.range.start == RANGE_SIZE
    at.handle(missing)
    assert {at.outcome(delivery, one.request_id) for one in made} == {"accepted"}
    world.clock.move(minutes=3)
    assert not [repair for repair in world.reconcile() if "batch" in repair.subject]


def sent_again(world: World) -> list[str]:
    return [one.subject for one in world.reconcile() if one.problem == "some of its requests were not answered"]


def test_a_batch_that_waits_behind_another_has_lost_nothing(world: World, at: Batches) -> None:
    first, second = make(world, 3 * RANGE_SIZE), make(world, 2)
    waits = at.upload([batched(one) for one in second])
    at.handle(at.upload([batched(one) for one in first]))
    *ranges, _lost = at.sent()
    world.clock.move(seconds=1)
    at.handle(waits)
    [_lost] = at.sent()
    for part in ranges:
        world.clock.move(minutes=3)
        at.handle(part)
        assert sent_again(world) == [], "it stands behind one that gets on"
    world.clock.move(minutes=3)
    assert len(sent_again(world)) == 2, "nothing gets on: each has lost some"


def test_what_was_sent_again_is_not_sent_again_each_minute(world: World, at: Batches) -> None:
    """A queue that nobody reads keeps what is in it."""
    delivery = at.upload([batched(one) for one in make(world, RANGE_SIZE + 5)])
    at.handle(delivery)
    first, second = at.sent()
    at_minutes = []
    for minute in range(1, 65):
        world.clock.move(minutes=1)
        if sent_again(world):
            at_minutes.append(minute)
    assert at_minutes == [3, 7, 15, 31, 63]
    for _ in range(2):
        world.clock.move(minutes=61)
        assert len(sent_again(world)) == 1, "in an hour at most"
    world.messages("inbox")
    at.handle(first)  # somebody reads it, and dies
    world.clock.move(minutes=3)
    assert len(sent_again(world)) == 1, "what gets on and stops has lost some as ever"
    at.handle(second)
    world.clock.move(hours=3)
    assert sent_again(world) == []


def test_a_bulk_waiter_is_granted_on_the_bulk_queue(world: World, at: Batches) -> None:
    holder = world.request(locks=("prod",))
    world.submit(holder)
    waiter = world.request(locks=("prod",))
    at.run(at.upload([batched(waiter)]))
    assert world.messages("bulk") == []
    world.pushed()
    world.start(holder.request_id)
    world.leave_result(holder.request_id)
    world.tell(holder.request_id, "stopped", 1)
    assert world.messages("starts") == []
    assert [json.loads(one.body)["execution_id"] for one in world.messages("bulk")] == [waiter.request_id]


# -- what clients are told meanwhile


def ask(world: World, execution_ids: Sequence[str], signing_key: keys.SigningKey | None = None) -> list[str]:
    response = call(world, "POST", "/executions/statuses", {"execution_ids": list(execution_ids)}, signing_key)
    assert response.status == 200, response.body
    found = msgspec.json.decode(response.body, type=StatusesAnswer).executions
    return [one.state if one.status is None else one.status.state.value for one in found]


def test_many_executions_are_told_in_one_call(world: World, at: Batches) -> None:
    good = world.request()
    bad = world.request(deployment_id="elsewhere")
    delivery = at.upload([batched(good), batched(bad)])
    at.handle(delivery)
    nobody = world.clock.new_id()
    ids_asked = (good.request_id, bad.request_id, nobody, "no id")
    assert ask(world, ids_asked) == ["pending", "pending", "unknown", "unknown"]
    for part in at.sent():
        at.handle(part)
    assert ask(world, ids_asked) == ["QUEUED", "refused", "unknown", "unknown"]
    other = world.add_user("bob", Role.DEVELOPER)
    assert ask(world, ids_asked, other) == ["unknown"] * 4
    single = call(world, "GET", f"/executions/{bad.request_id}")
    assert json.loads(single.body)["state"] == "refused"


def test_many_executions_are_read_in_one_call(world: World, at: Batches) -> None:
    made = make(world, 20)
    at.run(at.upload([batched(one) for one in made]))
    watched = watch(world)
    execution_ids = [one.request_id for one in made]
    assert ask(world, [execution_ids[3], *execution_ids]) == ["QUEUED"] * 21
    reads = [one for one in watched.calls if "execution#" in one or one.startswith("get_many")]
    assert reads == ["get_many 21"]


class CountedInbox(FolderObjects):
    """The inbox's folder, and how often a batch was read from it."""

    batches_read = 0

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        self.batches_read += object_key.endswith(".batch")
        return super().get(object_key, version)


def test_a_batch_under_way_is_unpacked_once_for_all_that_are_asked_for(world: World, at: Batches) -> None:
    """And not for each of them: 500 strange ids beside a batch of 8 MiB were half a minute of work for one call."""
    at.handle(at.upload([batched(world.request())]))
    counted = CountedInbox(world.folder / "inbox", versioned=True)
    world.ports = world.ports._replace(inbox=counted)
    assert ask(world, [world.clock.new_id() for _ in range(20)]) == ["unknown"] * 20
    assert counted.batches_read == 1


def test_too_many_are_refused_and_a_call_is_one_record(world: World) -> None:
    assert call(world, "POST", "/executions/statuses", {"execution_ids": []}).status == 400
    assert call(world, "POST", "/executions/statuses", {"execution_ids": ["x"] * 501}).status == 400
    before = len(ok(world, "GET", "/audit")["entries"])
    assert ask(world, [world.clock.new_id() for _ in range(500)]) == ["unknown"] * 500
    events = ok(world, "GET", "/audit")["entries"]
    assert len(events) == before + 2  # this call, and the look at the audit before it
    assert ("show-executions", "500 executions") in [(one["action"], one.get("subject")) for one in events]


# -- the protocol


def sealed_raw(raw: bytes, signing_key: keys.SigningKey) -> bytes:
    return seal(PayloadType.BATCH, gzip.compress(raw), signing_key)


def refusal_of(raw: bytes, signing_key: keys.SigningKey) -> ErrorCode:
    with pytest.raises(RunvoyError) as caught:
        batches.open_batch(raw, signing_key.key_id, signing_key.public_key)
    return caught.value.code


def test_what_is_no_batch_is_refused_whole(world: World) -> None:
    key, one = world.signing_key, batched(world.request())
    batch_id = world.clock.new_id()
    assert refusal_of(sealed_raw(bytes(9 * 1024 * 1024), key), key) is ErrorCode.TOO_LARGE
    assert refusal_of(sealed_raw(b"\x91" * 100_000, key), key) is ErrorCode.INVALID_REQUEST
    assert refusal_of(sealed_raw(batches.encode(Batch(1, batch_id, (one, one))), key), key) is ErrorCode.INVALID_REQUEST
    assert refusal_of(sealed_raw(batches.encode(Batch(1, batch_id, ())), key), key) is ErrorCode.INVALID_REQUEST
    own = BatchedRequest(batch_id, one.payload)
    assert refusal_of(sealed_raw(batches.encode(Batch(1, batch_id, (own,))), key), key) is ErrorCode.INVALID_REQUEST
    assert refusal_of(sealed_raw(batches.encode(Batch(2, batch_id, (one,))), key), key) is ErrorCode.INVALID_REQUEST
    whole = batches.encode(Batch(1, batch_id, (one,)))
    assert refusal_of(sealed_raw(whole + b"\x00", key), key) is ErrorCode.INVALID_REQUEST
    many = tuple(
        BatchedRequest(ids.uuid7(START.replace(year=2027), number.to_bytes(10, "big")), b"") for number in range(10_001)
    )
    assert refusal_of(sealed_raw(batches.encode(Batch(1, batch_id, many)), key), key) is ErrorCode.TOO_LARGE
    most = batches.seal_batch(Batch(1, batch_id, many[:-1]), key)
    assert len(batches.open_batch(most, key.key_id, key.public_key).requests) == 10_000


def test_portions_hold_what_a_batch_can(world: World) -> None:
    small = [BatchedRequest(world.clock.new_id(), b"x") for _ in range(10_001)]
    assert [len(portion) for portion in batches.portions(small)] == [10_000, 1]
    large = [BatchedRequest(world.clock.new_id(), bytes(200_000)) for _ in range(50)]
    cut = list(batches.portions(large))
    assert [one for portion in cut for one in portion] == large
    assert len(cut) == 2
    for portion in cut:
        batch = Batch(1, world.clock.new_id(), tuple(portion))
        assert len(codec.encode(batch)) <= batches.MAX_BYTES
        batches.seal_batch(batch, world.signing_key)


def test_a_batch_of_just_the_size_is_sealed_and_one_byte_more_is_not(world: World) -> None:
    def of(last: int) -> Batch:
        made = [world.request(env={"A": "x" * 120_000, "B": "x" * 120_000}) for _ in range(34)]
        made.append(world.request(env={"A": "x" * last, "B": "x" * 120_000}))
        return Batch(1, world.clock.new_id(), tuple(batched(one) for one in made))

    room = batches.MAX_BYTES - len(batches.encode(of(66_000)))
    assert 0 < room < 50_000, "lengths from 65,536 on are written alike"
    exact = of(66_000 + room)
    assert len(batches.encode(exact)) == batches.MAX_BYTES
    assert batches.seal_batch(exact, world.signing_key)
    with pytest.raises(RunvoyError) as refused:
        batches.seal_batch(of(66_001 + room), world.signing_key)
    assert refused.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("how", ["single", "in a batch", "as a batch"])
def test_what_is_undecided_under_an_id_shows_nothing_of_another_s_execution_of_that_id(
    world: World, at: Batches, how: str
) -> None:
    """Whoever sends a request under an id that they saw, in a lock's queue, say, is not told of its execution meanwhile."""
    theirs = world.request(locks=("db",), command=("deploy",))
    assert world.submit(theirs).outcome == "accepted"
    bob = world.add_user("bob", Role.DEVELOPER)
    squatting = world.request(request_id=theirs.request_id)
    if how == "single":
        world.upload(squatting, bob)
    elif how == "in a batch":
        at.handle(at.upload([batched(squatting)], bob))  # taken apart, and its range not done
    else:
        at.run(at.upload([batched(world.request())], bob, batch_id=theirs.request_id))
    for path in ("/trace/{}", "/executions/{}"):
        response = call(world, "GET", path.format(theirs.request_id), signing_key=bob)
        assert b"ada" not in response.body, path
        assert b"db" not in response.body, path
    assert call(world, "DELETE", f"/executions/{theirs.request_id}", signing_key=bob).status == 409
    assert ask(world, [theirs.request_id], bob) == ["pending"]
