"""The audit is sealed minute by minute, and what is removed, changed, added or moved afterwards is found and named."""

from __future__ import annotations

import json
import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.calls import audit_of, call, code_of, watch
from tests.unit.proving import DAY, found, head_of, prove_day, seal_all, tamper

from runvoy_agent.core.model import AuditEvent, AuditHead
from runvoy_agent.handlers import reconcile, seals, store
from runvoy_agent.ports import Put
from runvoy_protocol import seals as protocol
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.seals import Seal

if TYPE_CHECKING:
    from tests.unit.conftest import World


def busy(world: World, calls: int = 6, minutes: float = 0.5) -> list[AuditEvent]:
    """Calls over some minutes; the records they left."""
    for _ in range(calls):
        assert call(world, "GET", "/whoami").status == 200
        world.clock.move(minutes=minutes)
    return audit_of(world)


def head(world: World) -> AuditHead:
    document = store.load(world.records, store.AUDIT_HEAD_KEY, AuditHead).document
    assert document is not None
    return document


def chain(world: World) -> list[Seal]:
    found = [store.load(world.records, store.seal_key(n), Seal).document for n in range(1, head(world).number + 1)]
    return [one for one in found if one is not None]


def sealed_ids(world: World) -> list[str]:
    return [leaf.event_id for seal in chain(world) for leaf in protocol.unpack(seal)]


# -- what is sealed, and when


def test_each_minute_is_sealed_once_it_is_old_enough(world: World) -> None:
    for _ in range(30):
        call(world, "GET", "/whoami")
        world.clock.move(minutes=1)
        world.reconcile()
    young = store.stamp((world.clock.now() - seals.SEAL_AFTER).replace(second=0))
    old = [event.event_id for event in audit_of(world) if store.stamp(event.at) < young]
    assert sealed_ids(world) == old
    assert len(old) == 20
    assert [seal.count for seal in chain(world)] == [1] * 20
    assert prove_day(world).findings == ()


def test_the_chain_links_each_seal_to_the_one_before(world: World) -> None:
    busy(world)
    seal_all(world)
    busy(world)
    seal_all(world)
    links = chain(world)
    assert len(links) > 1
    assert [seal.previous for seal in links] == [protocol.GENESIS, *(protocol.hash_of(seal) for seal in links[:-1])]
    assert [seal.begins for seal in links[1:]] == [seal.ends for seal in links[:-1]]
    assert head(world).hash == protocol.hash_of(links[-1])


def test_nothing_happened_and_nothing_is_written_but_a_mark_now_and_then(world: World) -> None:
    busy(world, calls=1)
    world.clock.move(minutes=12)
    world.reconcile()
    watched = watch(world)
    world.clock.move(days=3)
    for _ in range(60):
        world.clock.move(minutes=1)
        reconcile.handle(world.ports)
    written = [put.key for put in watched.puts()]
    assert not [key for key in written if key.startswith("seal#")]
    assert 6 <= written.count(store.AUDIT_HEAD_KEY) <= 14


def test_a_reconciler_that_was_away_catches_up_in_bounded_rounds(world: World) -> None:
    world.reconcile()
    for day in range(30):
        call(world, "GET", "/whoami")
        world.clock.move(days=1, minutes=day)
    before = {event.event_id for event in audit_of(world)}
    watched = watch(world)
    rounds = 0
    while not sealed_ids_or_none(world) >= before:
        reconcile.handle(world.ports)
        rounds += 1
        made = [key for key in (put.key for put in watched.puts()) if key.startswith("seal#")]
        assert len(made) <= rounds * seals.MOST_SEALS
        world.clock.move(minutes=1)
        assert rounds < 10
    assert rounds > 1
    assert all(prove_day(world, world.clock.now() - day * DAY).holds for day in range(32))


def sealed_ids_or_none(world: World) -> set[str]:
    loaded = store.load(world.records, store.AUDIT_HEAD_KEY, AuditHead)
    return set() if loaded.document is None else set(sealed_ids(world))


def test_a_minute_with_more_than_a_seal_holds_is_cut(world: World) -> None:
    for _ in range(24):
        world.records.commit([store.audit(world.clock, "ada", "x", "ok") for _ in range(100)])
    first = seal_all(world)
    counts = [seal.count for seal in chain(world)]
    assert (sum(counts), max(counts), len(counts)) == (2400, protocol.MAX_LEAVES, 3)
    assert sorted(sealed_ids(world)) == sorted(event.event_id for event in audit_of(world))[:2400]
    proof = prove_day(world, kept_hash=first)
    assert (proof.findings, proof.sealed) == ((), 2400)
    victim = protocol.unpack(chain(world)[1])[500].event_id
    tamper(world, "DELETE FROM records WHERE key = ?", store.audit_key(victim))
    assert found(prove_day(world)) == [("removed", victim)]


def test_a_seal_never_spans_two_days(world: World) -> None:
    world.clock.move(hours=11, minutes=55)
    busy(world, calls=20, minutes=1)
    yesterday = world.clock.now() - DAY
    seal_all(world)
    for seal in chain(world):
        days = {leaf_day(world, leaf.event_id) for leaf in protocol.unpack(seal)}
        assert len(days) == 1
    assert prove_day(world).holds
    assert prove_day(world, yesterday).holds


def leaf_day(world: World, event_id: str) -> str:
    event = store.load(world.records, store.audit_key(event_id), AuditEvent).document
    assert event is not None
    return store.day(event.at)


# -- late ones


def test_what_comes_after_its_minute_was_sealed_is_sealed_as_late(world: World) -> None:
    busy(world)
    late = store.audit(world.clock, "ada", "slow", "ok")
    world.clock.move(minutes=1)
    busy(world)
    seal_all(world)
    world.records.commit([late])
    world.clock.move(minutes=11)
    repairs = world.reconcile()
    assert [(one.subject, one.action) for one in repairs] == [("the audit", "sealed them as late")]
    assert chain(world)[-1].late == 1
    proof = prove_day(world)
    assert (proof.late, proof.findings) == (1, ())
    tamper(world, "DELETE FROM records WHERE key = ?", late.key)
    assert found(prove_day(world)) == [("removed", late.key.removeprefix("audit#"))]


def test_what_came_late_over_midnight_is_proven_on_its_own_day(world: World) -> None:
    world.clock.move(hours=11, minutes=50)
    late = store.audit(world.clock, "ada", "slow", "ok")
    busy(world, 3)
    yesterday = world.clock.now()
    world.clock.move(minutes=11)
    seal_all(world)
    world.records.commit([late])
    world.clock.move(minutes=11)
    assert world.reconcile()
    assert store.day(world.clock.now()) != store.day(yesterday)
    assert (prove_day(world, yesterday).late, prove_day(world, yesterday).holds) == (1, True)
    assert prove_day(world).holds


def test_what_comes_later_than_that_is_told_as_not_sealed(world: World) -> None:
    busy(world)
    late = store.audit(world.clock, "ada", "slow", "ok")
    busy(world)
    seal_all(world)
    world.clock.move(hours=2)
    busy(world)
    seal_all(world)
    world.records.commit([late])
    world.clock.move(minutes=11)
    world.reconcile()
    assert found(prove_day(world)) == [("added", late.key.removeprefix("audit#"))]


def test_a_clock_that_was_set_back_loses_nothing(world: World) -> None:
    busy(world)
    seal_all(world)
    world.clock.move(minutes=-40)
    before = {event.event_id for event in audit_of(world)}
    busy(world)
    made = {event.event_id for event in audit_of(world)} - before
    world.clock.move(minutes=12)
    world.reconcile()
    world.clock.move(minutes=60)
    seal_all(world)
    assert made <= set(sealed_ids(world))
    assert prove_day(world).holds


# -- what is found


def test_a_day_as_it_was_holds(world: World) -> None:
    events = busy(world)
    kept = seal_all(world)
    proof = prove_day(world, kept_hash=kept)
    assert (proof.holds, proof.findings) == (True, ())
    assert proof.sealed >= len(events)
    assert proof.head.hash == kept


@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_removed_record_is_named(world: World, place: int) -> None:
    victim = busy(world)[place].event_id
    seal_all(world)
    key = store.audit_key(victim)
    assert tamper(world, "DELETE FROM records WHERE key = ?", key) == 1
    tamper(world, "DELETE FROM entries WHERE key = ?", key)
    assert found(prove_day(world)) == [("removed", victim)]


@pytest.mark.parametrize(
    ("old", "new"), [('"whoami"', '"whoamy"'), ('"ada"', '"bob"'), ('"ok"', '"OK"'), ("T12:", "T13:"), ("{", "[")]
)
def test_a_changed_record_is_named(world: World, old: str, new: str) -> None:
    victim = busy(world)[2].event_id
    seal_all(world)
    key = store.audit_key(victim)
    body = change(world, key, old, new)
    proof = prove_day(world)
    assert {one.subject for one in proof.findings} == {victim}
    assert "changed" in {one.problem for one in proof.findings}
    change(world, key, new, old)
    assert prove_day(world).holds, body


def change(world: World, key: str, old: str, new: str) -> bytes:
    stored = world.records.get(key)
    assert stored is not None
    body = stored.body.replace(old.encode(), new.encode(), 1)
    assert body != stored.body
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", body, key)
    return body


def test_an_added_record_is_named(world: World) -> None:
    busy(world)
    forged = store.audit(world.clock, "bob", "create-user", "ok")
    busy(world)
    seal_all(world)
    world.clock.move(hours=3)
    busy(world)
    seal_all(world)
    world.records.commit([forged])
    (finding,) = prove_day(world).findings
    assert (finding.problem, finding.subject) == ("added", forged.key.removeprefix("audit#"))
    assert "bob create-user ok" in finding.message


def test_records_that_changed_places_are_named(world: World) -> None:
    events = busy(world, calls=40, minutes=0.1)
    seal_all(world)
    same_shard = [event for event in events if store.shard_of(event.event_id) == store.shard_of(events[0].event_id)]
    first, second = same_shard[0], same_shard[-1]
    assert first.at != second.at
    for event, other in ((first, second), (second, first)):
        tamper(
            world,
            'UPDATE entries SET sort = ? WHERE key = ? AND "index" = ?',
            store.stamp(other.at),
            store.audit_key(event.event_id),
            store.INDEX_AUDIT,
        )
    problems = found(prove_day(world))
    assert {problem for problem, _ in problems} == {"reordered"}
    assert {subject for _, subject in problems} & {first.event_id, second.event_id}


def test_a_record_that_is_listed_on_another_day_is_named_on_both(world: World) -> None:
    victim = busy(world)[1]
    seal_all(world)
    tomorrow = victim.at + DAY
    tamper(
        world,
        'UPDATE entries SET partition = ? WHERE key = ? AND "index" = ?',
        store.shard_partition(store.day(tomorrow), store.shard_of(victim.event_id)),
        store.audit_key(victim.event_id),
        store.INDEX_AUDIT,
    )
    assert found(prove_day(world)) == [("reordered", victim.event_id)]
    assert ("reordered", victim.event_id) in found(prove_day(world, tomorrow))


def test_a_removed_seal_is_named_and_only_it(world: World) -> None:
    for _ in range(4):
        busy(world)
        seal_all(world)
    number = head(world).number // 2
    tamper(world, "DELETE FROM records WHERE key = ?", store.seal_key(number))
    assert found(prove_day(world)) == [("removed", f"seal {number}")]


def test_seals_removed_at_the_end_are_missed(world: World) -> None:
    for _ in range(3):
        busy(world)
        seal_all(world)
    number = head(world).number
    tamper(world, "DELETE FROM records WHERE key = ?", store.seal_key(number))
    assert ("removed", f"seal {number}") in found(prove_day(world))


def test_a_changed_seal_is_named(world: World) -> None:
    for _ in range(3):
        busy(world)
        seal_all(world)
    number = head(world).number - 1
    stored = store.load(world.records, store.seal_key(number), Seal).document
    assert stored is not None
    for field, value in (("count", stored.count - 1), ("ends", stored.begins), ("leaves_sha256", "0" * 64)):
        changed = msgspec.json.encode(msgspec.structs.replace(stored, **{field: value}))
        tamper(world, "UPDATE records SET body = ? WHERE key = ?", changed, store.seal_key(number))
        assert ("changed", f"seal {number}") in found(prove_day(world)), field


def test_a_record_removed_with_its_leaf_is_found_by_the_chain(world: World) -> None:
    """Who can write the table takes the leaf out of the seal as well. The seal after it does not fit then."""
    for _ in range(3):
        busy(world)
        seal_all(world)
    number = head(world).number - 1
    seal = store.load(world.records, store.seal_key(number), Seal).document
    assert seal is not None
    forged = without_first_leaf(seal)
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", msgspec.json.encode(forged), store.seal_key(number))
    tamper(world, "DELETE FROM records WHERE key = ?", store.audit_key(protocol.unpack(seal)[0].event_id))
    assert found(prove_day(world)) == [("changed", f"seal {number}")]


def without_first_leaf(seal: Seal, previous: str | None = None) -> Seal:
    import hashlib

    packed = protocol.pack(protocol.unpack(seal)[1:])
    return msgspec.structs.replace(
        seal,
        leaves=packed,
        count=seal.count - 1,
        leaves_sha256=hashlib.sha256(packed).hexdigest(),
        previous=previous or seal.previous,
    )


def test_a_chain_that_was_made_anew_is_found_by_a_hash_kept_elsewhere(world: World) -> None:
    """Who can write everything can make the whole chain anew. Nothing in the table tells; the kept hash does."""
    for _ in range(3):
        busy(world)
        seal_all(world)
    kept = head_of(world)
    links = chain(world)
    victim = protocol.unpack(links[-2])[0].event_id
    tamper(world, "DELETE FROM entries WHERE key = ?", store.audit_key(victim))
    tamper(world, "DELETE FROM records WHERE key = ?", store.audit_key(victim))
    forged = without_first_leaf(links[-2])
    last = msgspec.structs.replace(links[-1], previous=protocol.hash_of(forged))
    for seal in (forged, last):
        tamper(
            world, "UPDATE records SET body = ? WHERE key = ?", msgspec.json.encode(seal), store.seal_key(seal.number)
        )
    new_head = msgspec.structs.replace(head(world), hash=protocol.hash_of(last))
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", msgspec.json.encode(new_head), store.AUDIT_HEAD_KEY)
    assert prove_day(world).holds
    assert found(prove_day(world, kept_hash=kept)) == [("truncated", f"head {kept}")]


def test_a_chain_that_was_cut_off_is_found_by_a_hash_kept_elsewhere(world: World) -> None:
    busy(world)
    early = seal_all(world)
    earlier_head = world.records.get(store.AUDIT_HEAD_KEY)
    assert earlier_head is not None
    busy(world)
    kept = seal_all(world)
    number = head(world).number
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", earlier_head.body, store.AUDIT_HEAD_KEY)
    for gone in range(json.loads(earlier_head.body)["number"] + 1, number + 1):
        tamper(world, "DELETE FROM records WHERE key = ?", store.seal_key(gone))
    assert prove_day(world, kept_hash=early).holds
    assert found(prove_day(world, kept_hash=kept)) == [("truncated", f"head {kept}")]


def test_a_head_kept_long_ago_still_proves_its_day(world: World) -> None:
    busy(world)
    day = world.clock.now()
    kept = seal_all(world)
    world.clock.move(days=4)
    busy(world)
    later = seal_all(world)
    assert prove_day(world, day, kept).holds
    assert prove_day(world, day, later).holds
    assert not prove_day(world, world.clock.now(), kept).holds  # that hash is older than the day


# -- crashes, and others at the same time


def test_two_reconcilers_at_once_make_one_chain(world: World) -> None:
    busy(world, calls=12, minutes=1)
    world.clock.move(minutes=12)
    threads = [threading.Thread(target=seals.seal, args=(world.ports,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = sealed_ids(world)
    assert len(ids) == len(set(ids)) >= 12
    assert prove_day(world).holds


class Killed(BaseException):
    """The process ends here."""


def test_a_crash_at_any_operation_of_sealing_changes_nothing_of_the_chain(world: World) -> None:
    """Before each operation, one after the other; and the next round goes on as if nothing had been."""
    deaths = 0
    for number in range(1, 200):
        busy(world, calls=2, minutes=6)
        world.clock.move(minutes=12)
        watched = watch(world)

        def die(operation: int, at: int = number) -> None:
            if operation == at:
                raise Killed

        watched.on_call = die
        try:
            seals.seal(world.ports)
        except Killed:
            deaths += 1
        finally:
            world.ports = world.ports._replace(records=world.records)
        seals.seal(world.ports)
        if len(watched.calls) < number:
            break
    assert deaths > 30
    ids = sealed_ids(world)
    assert len(ids) == len(set(ids))
    for days in range(3):
        assert prove_day(world, world.clock.now() - days * DAY).holds


def test_without_its_head_the_chain_is_not_begun_anew(world: World, caplog: pytest.LogCaptureFixture) -> None:
    busy(world)
    seal_all(world)
    tamper(world, "DELETE FROM records WHERE key = ?", store.AUDIT_HEAD_KEY)
    before = chain_length(world)
    busy(world)
    with caplog.at_level(logging.ERROR):
        world.clock.move(minutes=12)
        world.reconcile()
    assert chain_length(world) == before
    assert "the audit's head is gone" in caplog.text
    assert prove_day(world).sealed == 0


def chain_length(world: World) -> int:
    number = 0
    while world.records.get(store.seal_key(number + 1)) is not None:
        number += 1
    return number


def test_an_unreadable_record_does_not_hold_up_the_others(world: World) -> None:
    events = busy(world)
    key = store.audit_key(events[1].event_id)
    tamper(world, "UPDATE records SET body = ? WHERE key = ?", b"\xff not json", key)
    tamper(
        world,
        "UPDATE records SET body = replace(body, '2026', '2126') WHERE key = ?",
        store.audit_key(events[2].event_id),
    )
    seal_all(world)
    assert {event.event_id for event in events} <= set(sealed_ids(world))
    # It was changed before it was sealed: that no seal tells, but it is no record, and that shows.
    assert ("changed", events[1].event_id) in found(prove_day(world))


def test_a_damaged_seal_does_not_stop_the_reconciler(world: World, caplog: pytest.LogCaptureFixture) -> None:
    busy(world)
    seal_all(world)
    tamper(world, "UPDATE records SET body = '[]' WHERE key = ?", store.seal_key(1))
    busy(world)
    before = head(world).number
    with caplog.at_level(logging.ERROR):
        seal_all(world)
    assert head(world).number > before
    assert "seal 1 of the audit was changed" in caplog.text


# -- the routes


@pytest.mark.parametrize(
    "path",
    [
        "/audit/seals",
        "/audit/seals?from=1&at=2026-05-04T00:00:00.000",
        "/audit/seals?from=x",
        "/audit/seals?from=-1",
        "/audit/seals?at=yesterday",
        "/audit/seals?from=1&leaves=perhaps",
        "/audit/seals?from=1&limit=0",
        "/audit/seals?from=1&limit=1001",
        "/audit/seals?from=1&colour=red",
        "/audit/records",
        "/audit/records?day=2026-05-04",
        "/audit/records?day=2026-05-04&part=16",
        "/audit/records?day=2026-5-4&part=1",
        "/audit/records?day=today&part=1",
        "/audit/records?day=2026-05-04&part=%C2%B2",
    ],
)
def test_bad_questions_are_refused(world: World, path: str) -> None:
    assert code_of(call(world, "GET", path)) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("body", [{}, {"event_ids": []}, {"event_ids": ["x"]}, {"event_ids": ["0" * 32] * 501}])
def test_bad_ids_are_refused(world: World, body: object) -> None:
    assert code_of(call(world, "POST", "/audit/records", body)) is ErrorCode.INVALID_REQUEST


def test_an_empty_deployment_has_a_head(world: World) -> None:
    assert head_of(world) == protocol.GENESIS
    proof = prove_day(world)
    assert (proof.holds, proof.seals, proof.sealed) == (True, 0, 0)


def test_a_far_number_costs_nothing(world: World) -> None:
    busy(world)
    seal_all(world)
    assert json.loads(call(world, "GET", "/audit/seals?from=999999999999").body)["seals"] == []


def test_seals_and_head_are_written_together(world: World) -> None:
    watched = watch(world)
    busy(world)
    world.clock.move(minutes=12)
    seals.seal(world.ports)
    for writes in watched.commits:
        keys = {write.key for write in writes if isinstance(write, Put)}
        made = [key for key in keys if key.startswith("seal#")]
        assert not made or keys == {*made, store.AUDIT_HEAD_KEY}
    assert timedelta(0) < seals.SEAL_AFTER
