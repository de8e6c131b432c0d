"""What was removed, changed, added or moved in a sealed audit is found and named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.proving import DAY, busy, chain, found, head, head_of, prove_day, seal_all, tamper

from runvoy_agent.handlers.documents import store
from runvoy_protocol import seals as protocol
from runvoy_protocol.seals import Seal

if TYPE_CHECKING:
    from tests.unit.conftest import World


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
