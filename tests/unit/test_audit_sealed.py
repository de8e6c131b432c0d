"""The audit is sealed minute by minute: what comes late, crashes, and others at the same time; and the routes that prove it."""

from __future__ import annotations

import json
import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import audit_of, call, code_of, watch
from tests.unit.proving import DAY, busy, chain, found, head, head_of, prove_day, seal_all, sealed_ids, tamper

from runvoy_agent.core.model import AuditEvent, AuditHead
from runvoy_agent.handlers import reconcile
from runvoy_agent.handlers.audit import seals
from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Put
from runvoy_protocol import seals as protocol
from runvoy_protocol.errors import ErrorCode

if TYPE_CHECKING:
    from tests.unit.conftest import World


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
    with caplog.at_level(logging.ERROR, logger="runvoy"):
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
    with caplog.at_level(logging.ERROR, logger="runvoy"):
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
        "/audit/seals?from=1000000000000",
        "/audit/seals?from=000000000001x",
        "/audit/seals?at=yesterday",
        "/audit/seals?from=1&leaves=perhaps",
        "/audit/seals?from=1&limit=0",
        "/audit/seals?from=1&limit=1001",
        "/audit/seals?from=1&colour=red",
        "/audit/records",
        "/audit/records?day=2026-05-04",
        f"/audit/records?day=2026-05-04&part=0&after={'0' * 1100}~x",
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
