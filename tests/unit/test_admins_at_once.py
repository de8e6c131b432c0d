"""Two admins at the same moment: one wins and one is told, and an admin with a key is always left."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import add_key, admins_with_a_lasting_key, call, code_of, ok, set_user, user_of
from tests.unit.cases import LIMITS

from runvoy_agent.handlers.routes import Response
from runvoy_agent.local.clock import SystemClock
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

ROUNDS = 30

Act = Callable[[], Response]


def at_once(*acts: Act) -> list[Response]:
    """What each was answered."""
    barrier = threading.Barrier(len(acts))
    answers: list[Response | None] = [None] * len(acts)

    def run(number: int, act: Act) -> None:
        barrier.wait(30)
        answers[number] = act()

    threads = [threading.Thread(target=run, args=[number, act]) for number, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [answer for answer in answers if answer is not None]


def outcomes(answers: Sequence[Response]) -> list[str]:
    return sorted("ok" if answer.status == 200 else code_of(answer).value for answer in answers)


@pytest.fixture
def busy(world: World) -> World:
    """A world whose clock can be asked from several threads."""
    world.clock = SystemClock()  # type: ignore[assignment]
    world.ports = world.ports._replace(clock=world.clock)
    return world


def test_of_two_who_edit_the_same_user_at_once_one_is_told(busy: World) -> None:
    bob = busy.add_user("bob", Role.ADMIN)
    busy.add_user("dave", Role.DEVELOPER)
    for number in range(ROUNDS):
        version = user_of(busy, "dave")[1]
        roles = ("developer", "admin") if number % 2 else ("viewer", "operator")
        first, second = ({"role": role, "version": version} for role in roles)
        answers = at_once(
            partial(call, busy, "POST", "/users/dave/role", first),
            partial(call, busy, "POST", "/users/dave/role", second, bob),
        )
        assert outcomes(answers) == ["CONFLICT", "ok"], number
        winner = next(role for role, answer in zip(roles, answers, strict=True) if answer.status == 200)
        assert user_of(busy, "dave") == (user_of(busy, "dave")[0], version + 1)
        assert user_of(busy, "dave")[0].role == winner


def test_of_two_who_create_the_same_user_at_once_one_is_told(busy: World) -> None:
    bob = busy.add_user("bob", Role.ADMIN)
    for number in range(ROUNDS):
        answers = at_once(
            partial(call, busy, "POST", "/users", {"name": f"new{number}", "role": "viewer"}),
            partial(call, busy, "POST", "/users", {"name": f"new{number}", "role": "admin"}, bob),
        )
        assert outcomes(answers) == ["CONFLICT", "ok"]


def test_one_revokes_and_one_changes_the_role(busy: World) -> None:
    bob = busy.add_user("bob", Role.ADMIN)
    for number in range(ROUNDS):
        busy.add_user(name := f"dave{number}", Role.DEVELOPER)
        answers = at_once(
            partial(call, busy, "POST", f"/users/{name}/role", {"role": "viewer", "version": 1}),
            partial(call, busy, "POST", f"/users/{name}/revoke", {"version": 1}, bob),
        )
        assert outcomes(answers) == ["CONFLICT", "ok"]


def demote(world: World, who: SigningKey, whom: str) -> Act:
    version = user_of(world, whom)[1]
    return lambda: call(world, "POST", f"/users/{whom}/role", {"role": "viewer", "version": version}, who)


def revoke(world: World, who: SigningKey, whom: str) -> Act:
    version = user_of(world, whom)[1]
    return lambda: call(world, "POST", f"/users/{whom}/revoke", {"version": version}, who)


def revoke_key(world: World, who: SigningKey, which: SigningKey) -> Act:
    return lambda: call(world, "DELETE", f"/keys/{which.key_id}", None, who)


def against_each_other(world: World, ada: SigningKey, bob: SigningKey, number: int) -> tuple[Act, Act]:
    """Of what two admins can do to each other, and each to themselves, another pair in each round."""
    against_bob = [
        demote(world, ada, "bob"),
        revoke(world, ada, "bob"),
        revoke_key(world, ada, bob),
        demote(world, bob, "bob"),
        revoke_key(world, bob, bob),
    ]
    against_ada = [
        demote(world, bob, "ada"),
        revoke(world, bob, "ada"),
        revoke_key(world, bob, ada),
        demote(world, ada, "ada"),
        revoke_key(world, ada, ada),
    ]
    return against_bob[number % 5], against_ada[number // 5 % 5]


def test_two_admins_against_each_other_leave_one(busy: World) -> None:
    busy.revoke(busy.add_user("bob", Role.ADMIN))
    busy.revoke(busy.signing_key)
    told: Counter[str] = Counter()
    for number in range(50):
        ada, bob = add_key(busy, "ada"), add_key(busy, "bob")
        first, second = against_each_other(busy, ada, bob, number)
        told.update(outcomes(at_once(first, second)))
        assert admins_with_a_lasting_key(busy), number
        for name, key in (("ada", ada), ("bob", bob)):
            set_user(busy, name, role=Role.ADMIN, revoked_at=None)
            busy.revoke(key)
        others = {"ada", "bob"} - admins_with_a_lasting_key(busy)
        assert others == {"ada", "bob"}, "the next round begins with these two keys alone"
    assert told["ok"] >= 50
    assert told.total() == 100


def test_the_last_admin_stays(world: World) -> None:
    acts = [demote(world, world.signing_key, "ada"), revoke(world, world.signing_key, "ada")]
    acts.append(revoke_key(world, world.signing_key, world.signing_key))
    for act in acts:
        assert code_of(act()) is ErrorCode.FORBIDDEN
    # Others who could not act for long do not count: revoked, without a key, of an expiring or a limited key.
    world.add_user("gone", Role.ADMIN)
    set_user(world, "gone", revoked_at=world.clock.now())
    ok(world, "POST", "/users", {"name": "keyless", "role": "admin"})
    world.revoke(world.add_user("brief", Role.ADMIN))
    brief = add_key(world, "brief", expires_in=timedelta(days=90))
    add_key(world, "brief", LIMITS)
    for act in (*acts, demote(world, brief, "ada"), revoke(world, brief, "ada")):
        assert code_of(act()) is ErrorCode.FORBIDDEN
    assert code_of(revoke_key(world, brief, world.signing_key)()) is ErrorCode.FORBIDDEN
    world.add_user("bob", Role.ADMIN)
    assert demote(world, world.signing_key, "ada")().status == 200
    assert admins_with_a_lasting_key(world) == {"bob"}


def test_an_admin_s_last_lasting_key_is_replaced_not_revoked(world: World) -> None:
    second = add_key(world, "ada")
    assert revoke_key(world, world.signing_key, world.signing_key)().status == 200
    assert code_of(revoke_key(world, second, second)()) is ErrorCode.FORBIDDEN
    limited = add_key(world, "ada", LIMITS)
    assert revoke_key(world, second, limited)().status == 200


def test_an_admin_who_revokes_themselves_stops_their_own_too(world: World) -> None:
    bob = world.add_user("bob", Role.ADMIN)
    request = world.request()
    world.submit(request, bob)
    world.start(request.request_id)
    answered = ok(world, "POST", "/users/bob/revoke", {"version": 1, "stop_all": True}, bob)
    assert answered["killed"] == [request.request_id]
    assert call(world, "GET", "/whoami", None, bob).status == 401
