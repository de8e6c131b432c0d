"""Listing an inbox that holds years: a bounded part in each round, and whatever is uploaded meanwhile is found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from runvoy_agent.core.model import InboxGrantee
from runvoy_agent.core.progress import Reconciled
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.reconciler import inbox_sweeps, lost_uploads
from runvoy_agent.handlers.reconciler.inbox_sweeps import Budget
from runvoy_protocol import ids, object_keys
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

SMALL = Budget(pages=2, page=5, reads=3)


@pytest.fixture(autouse=True)
def granted(world: World) -> None:
    world.clock.time = datetime.now(UTC).replace(microsecond=0)  # files carry the machine's time
    _grant(world, world.signing_key)


def _grant(world: World, signing_key: SigningKey) -> None:
    grantee = store.load(world.records, store.grantee_key(signing_key.key_id), InboxGrantee)
    noted = InboxGrantee(key_id=signing_key.key_id, granted_at=world.clock.now())
    world.records.commit([store.put(grantee, noted)])


def _odd(number: int) -> str:
    return f"{number:012x}80008000000000000001"


def _upload(world: World, request_id: str, signing_key: SigningKey | None = None) -> str:
    return world.upload(world.request(request_id=request_id), signing_key).object_key


def _found(world: World, budget: Budget = SMALL, *, starting_up: bool = False) -> list[str]:
    return [repair.subject for repair in world.reconcile(budget=budget, starting_up=starting_up)]


def _keep_long(world: World, request_ids: Sequence[str]) -> None:
    """Requests that were answered long ago; they are listed, and not read."""
    for request_id in request_ids:
        world.inbox.put(object_keys.request(world.signing_key.key_id, request_id), b"answered", content_type="")
    world.clock.move(hours=30)
    _grant(world, world.signing_key)
    world.reconcile()  # all of it, by the budget of a deployment
    world.clock.move(minutes=30)
    assert world.reconcile() == []
    for _ in world.messages("inbox"):
        pass


def _mark(world: World) -> Reconciled:
    mark = store.load(world.records, store.RECONCILED_INBOX_KEY, Reconciled).document
    assert mark is not None
    return mark


def test_a_round_lists_no_more_for_what_was_kept_for_years(world: World) -> None:
    made = [world.clock.now() - timedelta(hours=number) for number in range(2, 62)]
    _keep_long(world, [ids.uuid7(at, bytes(10)) for at in made])
    listed: list[int] = []
    original = world.inbox.list

    def counted(prefix: str, **limits: Any) -> Any:
        found = original(prefix, **limits)
        listed.append(len(found))
        return found

    world.inbox.list = counted  # type: ignore[method-assign]
    world.clock.move(minutes=10)
    rounds = []
    for _ in range(20):
        assert _found(world) == []
        rounds.append(sum(listed))
        listed.clear()
        world.clock.move(minutes=1)
    assert max(rounds) == SMALL.pages * SMALL.page
    assert sum(rounds[:10]) == 60, "and by and by all of it"
    assert rounds[6:10] == [0, 0, 0, 0], "then it rests"
    assert sum(rounds) == 120


def test_a_sweep_that_takes_for_hours_makes_haste(world: World) -> None:
    _keep_long(world, [_odd(number) for number in range(70)])
    world.clock.move(minutes=10)
    assert _found(world) == []
    world.clock.move(hours=6)
    assert _found(world) == []
    assert _mark(world).sweeps["odd"].reached.endswith(_odd(19))
    world.clock.move(minutes=1)
    assert _found(world) == []
    assert _mark(world).sweeps["odd"].reached == ""


def test_an_upload_is_found_whether_it_comes_before_or_behind_where_a_sweep_is(world: World) -> None:
    _keep_long(world, [_odd(number) for number in range(10, 50)])
    world.clock.move(minutes=10)
    assert _found(world) == []
    assert _mark(world).sweeps["odd"].reached.endswith(_odd(19))
    _upload_now(world, _odd(1))
    _upload_now(world, _odd(99))
    found = []
    for _ in range(12):
        world.clock.move(minutes=1)
        found += _found(world)
    assert [key[-32:] for key in dict.fromkeys(found)] == [_odd(99), _odd(1)], "by this sweep, and by the next"


def _upload_now(world: World, request_id: str, signing_key: SigningKey | None = None) -> str:
    """As written at the clock's time and not at the machine's."""
    object_key = _upload(world, request_id, signing_key)
    seconds = world.clock.now().timestamp()
    os.utime(world.folder / "inbox" / object_key, (seconds, seconds))
    return object_key


def test_a_round_reads_no_more_than_it_may(world: World) -> None:
    sent = [_upload(world, _odd(number)) for number in range(8)]
    assert [_found(world) for _ in range(3)] == [sent[:3], sent[3:6], sent[6:]], "each once"


def test_a_round_whose_reads_take_long_leaves_a_mark_before_its_time_is_over(world: World) -> None:
    """A function is ended after five minutes: a round that read on would begin anew where it did, for ever."""
    sent = [_upload(world, _odd(number)) for number in range(8)]
    get = world.inbox.get

    def slow(object_key: str, version: str | None = None) -> Any:
        world.clock.move(seconds=15)
        return get(object_key, version)

    world.inbox.get = slow  # type: ignore[method-assign]
    budget = Budget(pages=2, page=10, reads=100)
    assert [_found(world, budget) for _ in range(3)] == [sent[:3], sent[3:6], sent[6:]]


def test_a_round_whose_listing_takes_long_reads_one_object_at_least(world: World) -> None:
    sent = [_upload(world, _odd(number)) for number in range(2)]
    listing = world.inbox.list

    def slow(prefix: str, **limits: Any) -> Any:
        world.clock.move(minutes=1)
        return listing(prefix, **limits)

    world.inbox.list = slow  # type: ignore[method-assign]
    assert [_found(world) for _ in range(2)] == [sent[:1], sent[1:]]


def test_a_sweep_goes_from_one_key_to_the_next(world: World) -> None:
    others = [world.add_user(f"dev{number}", Role.DEVELOPER) for number in range(7)]
    for other in others:
        _grant(world, other)
    everybody = sorted([world.signing_key, *others], key=lambda one: one.key_id)
    sent = [_upload(world, _odd(1), one) for one in everybody]
    rounds = [_found(world) for _ in range(3)]
    assert rounds == [sent[:3], sent[3:6], sent[6:]]


def _first_and_other(world: World) -> tuple[SigningKey, SigningKey]:
    """Two keys in the order in which a sweep comes to them; nothing was ever sent by either."""
    first, other = sorted([world.signing_key, world.add_user("bob", Role.DEVELOPER)], key=lambda one: one.key_id)
    _grant(world, other)
    _grant(world, first)
    assert _found(world) == []
    return first, other


def _rounds(world: World, minutes: int) -> list[list[str]]:
    """What each of the next rounds finds, one a minute."""
    found = []
    for _ in range(minutes):
        world.clock.move(minutes=1)
        found.append(_found(world))
    return found


def test_a_key_that_sends_many_holds_up_the_sweep_of_no_other(world: World) -> None:
    first, other = _first_and_other(world)
    flood = {_upload_now(world, _odd(number), first) for number in range(60)}
    early = _upload_now(world, _odd(1), other)
    [found] = _rounds(world, 10)[9:]
    assert early in found, "the sweep leaves the one behind"
    assert set(_mark(world).sweeps) == {"recent", "odd", "times", f"odd/{first.key_id}"}
    # And what comes while that one's own sweep is under way is found by the next of the others.
    late = _upload_now(world, _odd(2), other)
    rounds = _rounds(world, 10)
    assert late in rounds[-1]
    assert len({one for found in rounds for one in found} & flood) < len(flood) - 3
    assert _mark(world).sweeps[f"odd/{first.key_id}"].reached


def test_a_key_that_sends_many_is_swept_whole_and_joins_the_others_again(world: World) -> None:
    first, other = _first_and_other(world)
    flood = {_upload_now(world, _odd(number), first) for number in range(10, 50)}
    rounds = _rounds(world, 14)
    assert _mark(world).sweeps[f"odd/{first.key_id}"].reached
    behind, before = _upload_now(world, _odd(1), first), _upload_now(world, _odd(90), first)
    others = _upload_now(world, _odd(7), other)
    rounds += _rounds(world, 60)
    assert {one for found in rounds for one in found} == flood | {behind, before, others}
    for _ in range(25):  # by the budget of a deployment, of which it does not take much
        world.clock.move(minutes=1)
        world.reconcile()
    assert set(_mark(world).sweeps) == {"recent", "odd", "times"}


def test_a_key_joins_the_others_no_sooner_than_it_has_caught_up(world: World) -> None:
    """Their sweeps began several times while its own was under way, and what they read was written later each time."""
    first, _ = _first_and_other(world)
    for number in range(100, 490):  # its own sweep is through right before the next of the others begins
        world.inbox.put(object_keys.request(first.key_id, _odd(number)), b"answered", content_type="")
    world.clock.move(hours=30)
    world.reconcile()  # all of it, by the budget of a deployment
    world.clock.move(minutes=30)
    for signing_key in (world.signing_key, first):
        _grant(world, signing_key)
    _rounds(world, 12)
    behind = _upload_now(world, _odd(1), first)
    assert not [found for found in _rounds(world, 28) if behind in found], "its own sweep has passed it by"
    assert [found for found in _rounds(world, 20) if behind in found]


def test_what_one_key_leaves_unanswered_takes_nobody_elses_place_among_what_is_remembered(world: World) -> None:
    first, other = _first_and_other(world)
    flood = {_upload_now(world, _odd(number), first) for number in range(lost_uploads.REMEMBERED_OF_A_KEY + 30)}
    others = _upload_now(world, _odd(7), other)
    budget = Budget(pages=100, page=5, reads=400)
    world.clock.move(minutes=10)
    assert set(_found(world, budget)) == {*flood, others}
    assert others in _mark(world).unanswered
    assert len(_mark(world).unanswered) == lost_uploads.REMEMBERED_OF_A_KEY + 1
    sweep = _mark(world).sweeps["odd"]
    assert sweep.next_since == sweep.since, "what is not remembered is found by the next sweep"


def test_keys_apart_do_not_wait_for_all_others(world: World) -> None:
    """As many as there are may take all that a round may do."""
    first, _ = _first_and_other(world)
    everybody = [world.add_user(f"dev{number}", Role.DEVELOPER) for number in range(6)]
    for one in everybody:
        _grant(world, one)
    flood = {_upload_now(world, _odd(number), first) for number in range(20)}
    for one in everybody:
        for number in range(10):
            _upload_now(world, _odd(number), one)
    rounds = _rounds(world, 40)
    when = [number for number, found in enumerate(rounds) if flood & set(found)]
    assert len(when) > 6
    assert {one for found in rounds for one in found} >= flood


@pytest.mark.parametrize(
    "request_id",
    [
        "00000000000080008000000000000001",
        "ffffffffffff80008000000000000001",
        "01a00000000080008000000000000001",
        ids.uuid7(datetime(2024, 12, 31, tzinfo=UTC), bytes(10)),
        ids.uuid7(datetime(2025, 1, 1, tzinfo=UTC), bytes(10)),
        ids.uuid7(datetime(2025, 1, 1, tzinfo=UTC), bytes([0] * 9 + [1])),
        ids.uuid7(datetime(2099, 12, 31, tzinfo=UTC), bytes(10)),
        ids.uuid7(datetime(2100, 1, 1, tzinfo=UTC), bytes(10)),
        ids.uuid7(datetime(2100, 1, 1, tzinfo=UTC), bytes([0] * 9 + [1])),
        "ffffffffffff70008000000000000001",
    ],
)
def test_whatever_its_id_begins_with_an_upload_is_found_once(world: World, request_id: str) -> None:
    assert _found(world) == []
    object_key = _upload(world, request_id)
    world.clock.move(minutes=10)
    assert _found(world) == [object_key]


@pytest.mark.parametrize("minutes", [-75, -71, -69, 0, 9, 11, 20])
def test_an_id_of_about_the_time_of_writing_is_found_by_one_look_or_the_other(world: World, minutes: int) -> None:
    assert _found(world) == []
    object_key = _upload(world, ids.uuid7(world.clock.now() + timedelta(minutes=minutes), bytes(10)))
    found = []
    for _ in range(10):
        world.clock.move(minutes=1)
        found += _found(world)
    assert object_key in found


def test_a_batch_whose_id_tells_no_time_is_found(world: World) -> None:
    assert _found(world) == []
    object_key = object_keys.batch(world.signing_key.key_id, _odd(7))
    world.upload_raw(b"no batch", object_key)
    world.clock.move(minutes=10)
    assert _found(world) == [object_key]


def test_what_a_sweep_found_and_nobody_remembers_is_found_by_the_next(world: World) -> None:
    """More than are remembered, found by rounds that list a part each."""
    assert _found(world) == []
    count = lost_uploads.REMEMBERED_OF_A_KEY + 20
    sent = {_upload(world, _odd(number)) for number in range(count)}
    world.clock.move(minutes=10)
    budget = Budget(pages=100, page=5, reads=50)
    found: list[str] = []
    for _ in range(9):
        found += _found(world, budget)
        world.clock.move(minutes=1)
    assert set(found) == sent
    again: list[str] = []
    world.clock.move(minutes=5)
    for _ in range(9):
        again += _found(world, budget)
        world.clock.move(minutes=1)
    assert set(again) == sent


def test_a_start_does_not_wait_for_all_to_be_listed(world: World) -> None:
    sent = [_upload(world, _odd(number)) for number in range(8)]
    assert _found(world, starting_up=True) == sent[:3]
    assert _found(world, starting_up=True) == [*sent[:3], *sent[3:6]]
    assert _found(world) == sent[6:]


def test_an_upload_under_an_id_that_is_remembered_is_looked_for_by_its_own_time(world: World) -> None:
    """Another upload of an id that was never answered is young again."""
    object_key = _upload(world, _odd(1))
    assert _found(world) == [object_key]
    world.clock.move(hours=23, minutes=55)
    _grant(world, world.signing_key)
    _upload_now(world, _odd(1))
    assert object_key in _found(world)
    world.clock.move(minutes=20)
    assert object_key in _found(world)


def test_the_stretches_leave_nothing_out() -> None:
    """Where one of a key's ranges ends another begins."""
    key_id = "a" * 32
    odd, times = (list(inbox_sweeps._bounds(stretch, key_id)) for stretch in (inbox_sweeps.ODD, inbox_sweeps.TIMES))
    assert [odd[0][1], times[0][1]] == [times[0][0], odd[1][0]]
    assert (odd[0][0], odd[1][1]) == (object_keys.inbox_prefix(key_id), None)
