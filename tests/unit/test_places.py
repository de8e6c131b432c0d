"""Waiting for a place of one's owner's: what waits does nothing, and is pushed when there is a place."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import ok, set_user, user_of, watch
from tests.unit.test_handlers_batches import Batches, batched
from tests.unit.test_quotas import accept, end_by_result_of, launched, run_one, running

from runvoy_agent.core import quotas
from runvoy_agent.core.model import DefaultQuotas
from runvoy_agent.handlers import starts
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import StartMessage
from runvoy_agent.ports import Launched, LaunchRefused, NoCapacity
from runvoy_protocol.members import Role
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World


def wait(world: World, *, places: int = 1, others: int = 2) -> list[str]:
    """As many as there are places run, and others wait, the first of them first."""
    set_user(world, "ada", max_running=places)
    made = []
    for _ in range(places + others):
        made.append(run_one(world))
        world.clock.move(seconds=1)
    assert launched(world) == made[:places]
    settle(world)
    return made


def settle(world: World) -> None:
    """What was pushed so far is done."""
    world.pushed()
    world.messages("bulk")


def delayed(world: World) -> int:
    assert world.deployment.queues is not None
    return sum(state.delayed for state in world.deployment.queues.states())


@pytest.mark.parametrize(
    ("running_now", "own", "default", "expected"),
    [
        (0, 3, None, 3),
        (2, 3, None, 1),
        (3, 3, None, 0),
        (5, 3, None, 0),
        (5, None, None, 20),
        (5, None, 7, 2),
        (0, 99, 7, 20),
    ],
)
def test_free_places(world: World, running_now: int, own: int | None, default: int | None, expected: int) -> None:
    set_user(world, "ada", max_running=own)
    user, _ = user_of(world, "ada")
    assert quotas.free_places(user, running_now, DefaultQuotas(max_running=default), 20) == expected


def test_who_waits_has_no_push_and_writes_nothing_however_often_it_is_tried(world: World) -> None:
    _, first, _ = wait(world)
    assert delayed(world) == 0
    before = store.load_execution(world.records, first)
    watched = watch(world)
    for _ in range(3):
        world.start(first)
    assert not watched.commits
    assert store.load_execution(world.records, first) == before
    assert (world.pushed(), delayed(world)) == ([], 0)


def test_an_end_has_the_first_that_waits_pushed(world: World) -> None:
    runs, first, second = wait(world)
    end_by_result_of(world, runs)
    assert world.pushed() == [first]
    world.start(first)
    assert (launched(world), world.pushed()) == ([runs, first], [])
    end_by_result_of(world, first)
    assert world.pushed() == [second]


def test_two_ends_have_two_pushed(world: World) -> None:
    one, other, first, second, _ = wait(world, places=2, others=3)
    end_by_result_of(world, one)
    end_by_result_of(world, other)
    assert world.pushed() == [first, first, second], "the first had not been started yet when the second place was free"
    world.start(first)
    world.start(first)
    world.start(second)
    assert launched(world)[2:] in ([first, second], [first, first, second])
    assert running(world) == 2


def test_a_kill_before_the_task_and_a_refused_launch_have_the_next_pushed(world: World) -> None:
    set_user(world, "ada", max_running=1)
    world.launcher.meanwhile = lambda _launch: None
    world.launcher.outcome = LaunchRefused("the platform will not")
    first = accept(world).request_id
    waits = accept(world).request_id
    settle(world)

    def second_waits(_launch: object) -> None:
        world.start(waits)

    world.launcher.meanwhile = second_waits
    world.start(first)
    assert world.execution(first).state is State.FAILED
    assert world.pushed() == [waits]


def test_one_of_a_batch_comes_after_single_ones(world: World) -> None:
    set_user(world, "ada", max_running=1)
    runs = run_one(world)
    at = Batches(world)
    in_batch = world.request()
    at.run(at.upload([batched(in_batch)]))
    world.start(in_batch.request_id)
    world.clock.move(seconds=1)
    single = run_one(world)
    settle(world)
    end_by_result_of(world, runs)
    assert (world.pushed(), world.messages("bulk")) == ([single], [])
    world.start(single)
    end_by_result_of(world, single)
    assert (world.pushed(), len(world.messages("bulk"))) == ([], 1)


def test_who_begins_to_wait_as_a_place_is_freed_gets_it(world: World) -> None:
    """Its commit holds to the number that it was judged by: whoever freed the place could not know of it."""
    set_user(world, "ada", max_running=1)
    runs, late = run_one(world), accept(world).request_id
    settle(world)
    watched = watch(world)
    ended: list[str] = []

    def free_the_place(_number: int) -> None:
        if watched.calls[-1] == "commit" and not ended:
            ended.append(runs)
            end_by_result_of(world, runs)

    watched.on_call = free_the_place
    world.start(late)
    assert launched(world) == [runs, late]


def test_what_was_pushed_and_may_not_run_any_more_leaves_its_place_to_the_next(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    other = world.add_user("bob", Role.DEVELOPER)
    set_user(world, "bob", max_running=1)
    runs, revoked = run_one(world, bob), run_one(world, bob)
    world.clock.move(seconds=1)
    good = run_one(world, other)
    settle(world)
    end_by_result_of(world, runs)
    assert world.pushed() == [revoked]
    world.revoke(bob)
    world.start(revoked)
    assert (world.execution(revoked).reason, world.pushed()) == (Reason.REVOKED, [good])


def test_what_may_not_run_any_more_ends_though_no_place_is_free(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    set_user(world, "bob", max_running=0)
    waits = run_one(world, bob)
    settle(world)
    world.revoke(bob)
    assert [repair.problem for repair in world.reconcile()] == ["it waits for a place, and may not run any more"]
    assert world.pushed() == [waits]
    world.start(waits)
    assert world.execution(waits).state is State.STOPPED


def test_a_lost_push_is_made_again_by_the_next_round(world: World) -> None:
    runs, first, second = wait(world)
    end_by_result_of(world, runs)
    assert world.pushed() == [first]  # and lost
    assert [(one.subject, one.problem) for one in world.reconcile()] == [(first, "a place of its owner's was free")]
    assert world.pushed() == [first]
    assert world.execution(second).waits_for_place


def test_a_round_finds_nothing_to_do_while_all_places_are_taken(world: World) -> None:
    _, first, second = wait(world)
    world.clock.move(minutes=10)
    world.reconcile()
    watched = watch(world)
    looks = len(world.launcher.looks)
    world.clock.move(minutes=1)
    subjects = {repair.subject for repair in world.reconcile()}
    assert not subjects & {first, second}
    assert (world.pushed(), len(world.launcher.looks) - looks) == ([], 0)
    assert not any(write.key.startswith("execution#") for writes in watched.commits for write in writes)


def for_room(world: World, count: int) -> list[str]:
    """So many that the platform has no room for: each takes a place when it is tried, and gives it back."""
    world.launcher.outcome = NoCapacity("full")
    made = [accept(world).request_id for _ in range(count)]
    for execution_id in made:
        world.start(execution_id)
        assert world.execution(execution_id).reason is Reason.CAPACITY
    settle(world)
    world.launcher.outcome = Launched("task")
    return made


def test_who_waits_for_room_counts_for_a_place_that_it_will_take(world: World) -> None:
    one, other, first, second = wait(world, places=2)
    end_by_result_of(world, one)
    end_by_result_of(world, other)
    for_room(world, 1)
    assert [repair.subject for repair in world.reconcile() if repair.subject in (first, second)] == [first]


def test_what_waits_for_room_for_ever_keeps_nobody_from_a_free_place(world: World) -> None:
    runs, first, second = wait(world)
    end_by_result_of(world, runs)
    for_room(world, 3)
    settle(world)
    world.reconcile()
    assert world.pushed() == [first]
    world.start(first)
    assert launched(world)[-1] == first
    world.reconcile()
    assert world.pushed() == []
    end_by_result_of(world, first)
    assert world.pushed() == [second]


def test_a_raised_limit_has_as_many_pushed(world: World) -> None:
    _, *waiting = wait(world, others=4)
    _, version = user_of(world, "ada")
    ok(world, "PUT", "/users/ada/quotas", {"version": version, "quotas": {"max_running": 3}})
    assert world.pushed() == waiting[:2]


def test_a_raised_default_is_seen_by_the_next_round(world: World) -> None:
    world.records.commit([store.put_new(store.DEFAULT_QUOTAS_KEY, DefaultQuotas(max_running=1))])
    run_one(world)
    waiting = [run_one(world), run_one(world)]
    settle(world)
    ok(world, "PUT", "/quotas", {"version": 1, "quotas": {}})
    world.reconcile()
    assert sorted(world.pushed()) == sorted(waiting)


def test_a_queue_timeout_ends_it_to_the_second(world: World) -> None:
    """By the push that its admission left for that moment, which names an earlier try."""
    set_user(world, "ada", max_running=0)
    late = run_one(world, queue_timeout_seconds=60)
    world.clock.move(seconds=61)
    message = StartMessage(execution_id=late, tried_at=world.execution(late).admitted_at - timedelta(seconds=1))
    starts.handle(world.ports, world.deployment, messages.encode(message))
    assert (world.execution(late).state, world.execution(late).reason) == (State.TIMED_OUT, Reason.QUEUE)


def test_an_end_without_a_limit_reads_nothing_more(world: World) -> None:
    free = calls_of_an_end(world)
    set_user(world, "ada", max_running=5)
    limited = calls_of_an_end(world)
    assert limited - free == Counter({"query": 1})


def calls_of_an_end(world: World) -> Counter[str]:
    one = run_one(world)
    world.leave_result(one)
    world.tell(one, "result")
    whole = world.ports
    watched = watch(world)
    world.tell(one, "stopped")
    world.ports = whole
    return Counter(called.split()[0] for called in watched.calls)
