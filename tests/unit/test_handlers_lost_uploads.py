"""Uploads that nobody was told of, or that nobody answered: the reconciler finds them, however late it comes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runvoy_agent.core.model import InboxGrantee
from runvoy_agent.core.progress import Reconciled
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.reconciler import lost_uploads
from runvoy_agent.handlers.reconciler.inbox_sweeps import Budget
from runvoy_agent.ports import Page, StoredObject, Unavailable
from runvoy_protocol import ids, object_keys
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World


def test_a_lost_delivery_is_made_again(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    request = world.request()
    world.upload(request)  # and nobody is told
    [repair] = world.reconcile()
    assert request.request_id in repair.subject
    [message] = world.messages("inbox")
    delivery = msgspec.json.decode(message.body, type=InboxDelivery)
    assert world.deliver(delivery).outcome == "accepted"
    assert world.reconcile() == []


def _grant_uploads(world: World, signing_key: SigningKey | None = None) -> None:
    key_id = (signing_key or world.signing_key).key_id
    before = store.load(world.records, store.grantee_key(key_id), InboxGrantee)
    world.records.commit([store.put(before, InboxGrantee(key_id=key_id, granted_at=world.clock.now()))])


def test_an_upload_is_lost_though_another_of_its_id_was_answered(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)  # files carry the machine's time
    _grant_uploads(world)
    request = world.request(expires_at=world.clock.now() + timedelta(seconds=1))
    world.clock.move(seconds=2)
    assert world.submit(request).code is ErrorCode.REQUEST_EXPIRED
    world.upload(msgspec.structs.replace(request, expires_at=world.clock.now() + timedelta(minutes=5)))
    assert len(world.reconcile()) == 1


def test_an_upload_accepted_without_a_receipt_gets_one(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    request = world.request()
    receipt = world.submit(request)
    place = object_keys.receipt(receipt.key_id, receipt.execution_id, receipt.object_sha256)
    world.outbox.delete(place)
    [repair] = world.reconcile()
    assert request.request_id in repair.subject


@pytest.mark.parametrize(
    "request_id",
    [
        "00000000000080008000000000000001",
        "ffffffffffff80008000000000000001",
        ids.uuid7(datetime(2025, 1, 1, tzinfo=UTC), bytes(10)),
    ],
    ids=["made of a text", "made of another text", "made long ago"],
)
def test_an_upload_whose_id_says_no_time_of_late_is_found_when_all_is_listed(world: World, request_id: str) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    assert world.reconcile() == []
    world.upload(world.request(request_id=request_id))
    assert world.reconcile() == []
    world.clock.move(minutes=9)
    assert world.reconcile() == []
    world.clock.move(minutes=1)
    assert [request_id in repair.subject for repair in world.reconcile()] == [True]
    world.clock.move(minutes=1)
    assert world.reconcile() == []
    assert [request_id in repair.subject for repair in world.reconcile(starting_up=True)] == [True]


def test_what_was_answered_is_read_again_for_some_minutes_only(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    read: list[str] = []
    get = world.inbox.get

    def counted(object_key: str, version: str | None = None) -> StoredObject | None:
        read.append(object_key)
        return get(object_key, version)

    world.submit(world.request())
    world.inbox.get = counted  # type: ignore[method-assign]
    for _ in range(60):
        world.reconcile()
        world.clock.move(minutes=1)
    assert len(read) <= 13, "an answered upload is read in every round"


def test_an_upload_is_looked_for_until_it_is_answered_for_a_day(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    delivery = world.upload(world.request())
    # Its deliveries are lost, one after the other, and its request has expired long ago.
    for hours in (0, 1, 3, 8, 11):
        world.clock.move(hours=hours)
        assert delivery.object_key in _delivered(world)
    assert world.deliver(delivery).code is ErrorCode.REQUEST_EXPIRED
    world.clock.move(minutes=10)
    assert _delivered(world) == set()


def test_an_upload_that_nobody_answers_for_a_day_is_left_to_the_dead_letters(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    world.upload(world.request())
    world.clock.move(hours=23)
    assert len(_delivered(world)) == 1
    world.clock.move(hours=1, minutes=1)
    assert _delivered(world) == set()
    assert _mark(world).unanswered == {}


def test_a_reconciler_that_was_away_finds_what_was_uploaded_meanwhile(world: World) -> None:
    """Here by a key whose grant had nearly ended, in a request whose id holds no time."""
    world.clock.time = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=55)
    _grant_uploads(world)
    world.reconcile()
    world.clock.move(minutes=55)
    early = world.upload(world.request(request_id="00000000000080008000000000000001"))
    world.clock.move(hours=6)
    rounds = 0
    while not (found := _delivered(world)):
        rounds += 1
        world.clock.move(minutes=1)
        assert rounds < 10, "a day is looked through in slices, each by the round after the last one"
    assert found == {early.object_key}


def test_a_reconciler_that_was_away_catches_up_and_is_done(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    world.reconcile()
    sent = []
    for number in range(20):
        sent.append(_upload_made_now(world, number))
        world.clock.move(hours=1)
        _grant_uploads(world)
    world.clock.move(hours=1)
    rounds = []
    for _ in range(10):
        rounds.append(sorted(_delivered(world, Budget(pages=2, page=5, reads=3))))
        world.clock.move(minutes=1)
    assert rounds == [*[sent[at : at + 3] for at in range(0, 20, 3)], [], [], []]
    assert _mark(world).sweeps["recent"].reached == ""
    world.clock.move(minutes=10)
    assert _delivered(world) == set(sent), "what was found is remembered"


def _upload_made_now(world: World, number: int, signing_key: SigningKey | None = None) -> str:
    """Something that is no request, written at the clock's time and not at the machine's."""
    made = ids.uuid7(world.clock.now(), number.to_bytes(10, "big"))
    object_key = object_keys.request((signing_key or world.signing_key).key_id, made)
    world.upload_raw(b"no request", object_key)
    seconds = world.clock.now().timestamp()
    os.utime(world.folder / "inbox" / object_key, (seconds, seconds))
    return object_key


def test_a_flood_of_recent_uploads_holds_up_no_round_and_nobody_else(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    other = world.add_user("bob", Role.DEVELOPER)
    for signing_key in (world.signing_key, other):
        _grant_uploads(world, signing_key)
    flood = {_upload_made_now(world, number) for number in range(40)}
    others = {_upload_made_now(world, number, other) for number in range(2)}
    get = world.inbox.get

    def slow(object_key: str, version: str | None = None) -> StoredObject | None:
        world.clock.move(seconds=10)
        return get(object_key, version)

    world.inbox.get = slow  # type: ignore[method-assign]
    took, found = [], []
    for _ in range(20):
        began = world.clock.now()
        found.append(_delivered(world))
        took.append(world.clock.now() - began)
    assert max(took) <= timedelta(seconds=90), "as long as looks and a sweep may take, and a read more for each"
    assert found[0] & flood
    assert set().union(*found) == flood | others, "and it gets on"
    assert len(_mark(world).unanswered) == 42


def test_a_round_that_begins_while_another_looks_at_the_inbox_does_the_rest(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    assert _delivered(world) == set()
    uploaded = _upload_made_now(world, 1)
    waiting = world.request()
    world.submit(waiting)  # and its push is lost
    inner: list[list[str]] = []
    get = world.inbox.get

    def slow(object_key: str, version: str | None = None) -> StoredObject | None:
        world.clock.move(minutes=1)
        if not inner:
            inner.append([repair.subject for repair in world.reconcile()])
        return get(object_key, version)

    world.inbox.get = slow  # type: ignore[method-assign]
    assert uploaded in {repair.subject for repair in world.reconcile()}
    assert inner == [[waiting.request_id]]
    assert _mark(world).busy_until is None
    assert _mark(world).at == _mark(world).listed_at


def test_a_look_that_failed_or_died_keeps_no_other_waiting_for_long(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    assert _delivered(world) == set()
    uploaded = _upload_made_now(world, 1)
    get = world.inbox.get

    def failing(error: BaseException) -> Any:
        def fail(object_key: str, version: str | None = None) -> StoredObject | None:
            raise error

        return fail

    world.inbox.get = failing(Unavailable("the bucket is away"))  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        _delivered(world)
    assert _mark(world).busy_until is None
    world.inbox.get = failing(SystemExit())  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        _delivered(world)
    world.inbox.get = get  # type: ignore[method-assign]
    assert _delivered(world) == set()
    world.clock.move(minutes=5)
    assert _delivered(world) == {uploaded}


def _be_busy(world: World, lasts: timedelta) -> None:
    """A round marked the inbox as looked at by it, for so long."""
    mark = store.load(world.records, store.RECONCILED_INBOX_KEY, Reconciled)
    busy = msgspec.structs.replace(_mark(world), busy_until=world.clock.now() + lasts)
    world.records.commit([store.put(mark, busy)])


def test_a_start_waits_for_no_look_of_before(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    assert _delivered(world) == set()
    _be_busy(world, timedelta(minutes=5))
    uploaded = _upload_made_now(world, 1)
    assert [repair.subject for repair in world.reconcile(starting_up=True)] == [uploaded]


def test_a_look_that_is_busy_for_longer_than_any_can_be_was_marked_by_a_clock_that_is_set_right(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    assert _delivered(world) == set()
    _be_busy(world, timedelta(days=1))
    uploaded = _upload_made_now(world, 1)
    assert _delivered(world) == {uploaded}


def test_of_what_is_new_each_key_has_its_share(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    other = world.add_user("bob", Role.DEVELOPER)
    for signing_key in (world.signing_key, other):
        _grant_uploads(world, signing_key)
    few = Budget(pages=1, page=5, reads=1)
    flood = {_upload_made_now(world, number) for number in range(lost_uploads.NEW_OF_A_KEY + 5)}
    [others] = [_upload_made_now(world, 0, other)]
    found = _delivered(world, few)
    assert others in found
    assert len(found & flood) in (lost_uploads.NEW_OF_A_KEY, lost_uploads.NEW_OF_A_KEY + 1)


def test_a_first_look_reads_all_of_a_day(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    delivery = world.upload(world.request())
    world.clock.move(hours=2)
    assert _delivered(world) == {delivery.object_key}


def test_a_mark_of_before_goes_on_from_the_last_listing(world: World) -> None:
    """Marks that were stored by earlier versions say when all was listed, and no more."""
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    at = world.clock.now() - timedelta(minutes=1)
    mark = store.load(world.records, store.RECONCILED_INBOX_KEY, Reconciled)
    world.records.commit([store.put(mark, Reconciled(at=at, listed_at=at))])
    delivery = world.upload(world.request())
    world.clock.move(hours=2)
    assert _delivered(world) == {delivery.object_key}


def test_more_unanswered_uploads_than_are_remembered_are_found_again(world: World) -> None:
    """As while no delivery of any is handled for hours."""
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    world.reconcile()
    count = lost_uploads.REMEMBERED_OF_A_KEY + 3
    key_id = world.signing_key.key_id
    sent = {object_keys.request(key_id, f"{number:012x}80008000000000000001") for number in range(count)}
    deliveries = [world.upload_raw(b"no request", object_key) for object_key in sent]
    for _ in range(4):
        world.clock.move(hours=2)
        assert _delivered(world) == sent
        assert len(_mark(world).unanswered) == lost_uploads.REMEMBERED_OF_A_KEY
        world.clock.move(minutes=1)
        assert _delivered(world) == set(), "what is not answered is delivered again every ten minutes"
    for delivery in deliveries:
        world.deliver(delivery)
    world.clock.move(minutes=10)
    assert _delivered(world) == set()
    assert _mark(world).unanswered == {}


def test_what_is_remembered_has_its_time_however_long_the_round_took_before(world: World) -> None:
    """As where thousands of batches are sent again first."""
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    delivery = world.upload_raw(b"no request", object_keys.request(world.signing_key.key_id, "0" * 12 + "8000" * 5))
    world.reconcile()
    assert list(_mark(world).unanswered) == [delivery.object_key]
    world.clock.move(minutes=10)
    look = lost_uploads.Look(world.ports, _mark(world), starting_up=False)
    world.clock.move(seconds=lost_uploads.LONGEST_LOOK.total_seconds())
    assert list(look.deliver_again()) == [delivery.object_key]


def test_keys_that_were_granted_nothing_lately_are_not_read(world: World) -> None:
    """There is a record of every key that ever was granted an upload."""
    world.clock.time = datetime.now(UTC).replace(microsecond=0)
    _grant_uploads(world)
    delivery = world.upload(world.request())
    long_ago = world.clock.now() - timedelta(days=30)
    for number in range(1000):
        other = InboxGrantee(key_id=f"k{number}", granted_at=long_ago)
        world.records.commit([store.put_new(store.grantee_key(other.key_id), other)])
    world.reconcile()
    read: list[int] = []
    query = world.records.query

    def counted(index: str, partition: str, **limits: Any) -> Page:
        page = query(index, partition, **limits)
        if index == store.INDEX_GRANTEES:
            read.append(len(page.records))
        return page

    world.records.query = counted  # type: ignore[method-assign]
    world.clock.move(minutes=10)
    assert delivery.object_key in {repair.subject for repair in world.reconcile()}
    assert len(read) == store.SHARDS, "a page of each shard"


def _delivered(world: World, budget: Budget | None = None) -> set[str]:
    """The objects that a round delivers again."""
    repaired = {repair.subject for repair in world.reconcile(budget=budget)}
    deliveries = [msgspec.json.decode(message.body, type=InboxDelivery) for message in world.messages("inbox")]
    assert sorted(delivery.object_key for delivery in deliveries) == sorted(repaired), "each once"
    return repaired


def _mark(world: World) -> Reconciled:
    mark = store.load(world.records, store.RECONCILED_INBOX_KEY, Reconciled).document
    assert mark is not None
    return mark
