"""Revoking a user and all that they have under way: also what no index shows at that moment."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import add_key, audit_of, ok
from tests.unit.test_recounts import lag

from runvoy_agent.core.model import StopAll
from runvoy_agent.handlers import reconcile
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.reconciler import stop_alls
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from tests.unit.conftest import World


@pytest.fixture
def bob(world: World) -> SigningKey:
    return world.add_user("bob", Role.DEVELOPER)


def run_by(world: World, signing_key: SigningKey) -> str:
    request = world.request()
    world.submit(request, signing_key)
    world.start(request.request_id)
    return request.request_id


def state_of(world: World, execution_id: str) -> State:
    found = store.load_execution(world.records, execution_id).document
    assert found is not None
    return found.state


def revoke(world: World, version: int = 1) -> list[str]:
    return list(ok(world, "POST", "/users/bob/revoke", {"version": version, "stop_all": True}).get("killed", []))


def wishes(world: World) -> list[StopAll]:
    return [wish for wish, _ in store.of_kind(world.records, store.KIND_STOP_ALL, StopAll)]


def test_what_no_index_shows_yet_is_stopped_when_one_does(world: World, bob: SigningKey) -> None:
    lagging = lag(world)
    shown, hidden, others = run_by(world, bob), run_by(world, bob), run_by(world, world.signing_key)
    lagging.hidden.add(hidden)
    assert revoke(world) == [shown]
    assert world.reconcile() == []
    lagging.hidden.clear()
    world.clock.move(seconds=20)
    [repair] = world.reconcile()
    assert (repair.subject, repair.action) == (hidden, "had it stopped")
    assert [state_of(world, one) for one in (shown, hidden, others)] == [
        State.TERMINATING,
        State.TERMINATING,
        State.STARTING,
    ]
    assert world.launcher.stops == [shown, hidden]
    [told] = [event for event in audit_of(world) if event.actor == "reconciler"]
    assert (told.action, told.execution_id) == ("kill", hidden)
    assert told.message == "killed by ada, who revoked bob and had all of theirs stopped"


def test_the_wish_stands_for_longer_than_indexes_lag_and_no_longer(world: World, bob: SigningKey) -> None:
    lag(world)
    run_by(world, bob)
    revoke(world)
    world.clock.move(minutes=9)
    world.reconcile()
    assert [wish.user for wish in wishes(world)] == ["bob"]
    world.clock.move(minutes=2)
    world.reconcile()
    assert wishes(world) == []


def test_it_can_be_wished_for_who_is_revoked_already(world: World, bob: SigningKey) -> None:
    lagging = lag(world)
    hidden = run_by(world, bob)
    lagging.hidden.add(hidden)
    ok(world, "POST", "/users/bob/revoke", {"version": 1})
    assert wishes(world) == []
    assert revoke(world, version=2) == []
    assert revoke(world, version=2) == [], "and wished once more"
    lagging.hidden.clear()
    assert [repair.subject for repair in world.reconcile()] == [hidden]


def test_what_a_user_runs_who_came_back_is_not_meant(world: World, bob: SigningKey) -> None:
    lagging = lag(world)
    hidden = run_by(world, bob)
    lagging.hidden.add(hidden)
    revoke(world)
    ok(world, "POST", "/users", {"name": "bob", "role": "developer"})
    anew = run_by(world, add_key(world, "bob"))
    lagging.hidden.clear()
    assert [repair.subject for repair in world.reconcile()] == [hidden]
    assert state_of(world, anew) is State.STARTING


def test_a_platform_that_does_not_answer_leaves_it_on_record(world: World, bob: SigningKey) -> None:
    lagging = lag(world)
    hidden = run_by(world, bob)
    lagging.hidden.add(hidden)
    revoke(world)
    lagging.hidden.clear()
    world.launcher.busy = 1
    round_ = reconcile.handle(world.ports)
    assert (round_.left, [repair.subject for repair in round_.repairs]) == (1, [hidden])
    assert state_of(world, hidden) is State.TERMINATING
    assert hidden not in world.launcher.stops
    world.clock.move(minutes=1)
    world.reconcile()
    assert hidden in world.launcher.stops


def test_a_round_stops_for_so_long_only_and_the_next_goes_on(world: World, bob: SigningKey) -> None:
    """Or thousands of them, which wait, would hold up the locks, the audit and the inbox."""
    lagging = lag(world)
    theirs = [run_by(world, bob) for _ in range(6)]
    lagging.hidden.update(theirs)
    revoke(world)
    lagging.hidden.clear()
    world.clock.tick = stop_alls.LONGEST / 3
    first = list(stop_alls.stop_the_rest(world.ports))
    assert 0 < len(first) < 5
    world.clock.tick = timedelta(hours=1)
    second = list(stop_alls.stop_the_rest(world.ports))
    assert (len(second), wishes(world)[0].user) == (1, "bob"), "one at least, however long it takes"
    world.clock.tick = timedelta(0)
    last = list(stop_alls.stop_the_rest(world.ports))
    assert sorted(repair.subject for repair in (*first, *second, *last)) == sorted(theirs)
    assert wishes(world) == []
