"""Runs that the platform has no room for: they wait in STARTING, and each try that finds none sends the next push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runvoy_agent.handlers import messages, starts, store
from runvoy_agent.handlers.messages import StartMessage
from runvoy_agent.ports import Launched, NoCapacity
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World


def test_what_waits_for_room_waits_however_long_the_queue_is(world: World) -> None:
    """Nothing was started for certain: the time in which a launch may be repeated is for those that may have a task."""
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    world.clock.move(minutes=40)
    world.reconcile()
    assert world.status(request.request_id).state is State.STARTING
    world.launcher.outcome = Launched("task")
    launched = len(world.launcher.launches)
    world.start(request.request_id)
    assert len(world.launcher.launches) == launched + 1
    # And it has the whole of its start clock from here on.
    world.clock.move(minutes=5)
    world.reconcile()
    assert world.status(request.request_id).state is State.STARTING


def test_pushes_of_one_that_waits_for_room_do_not_add_up(world: World) -> None:
    """The reconciler pushes again what it takes for lost in a long queue, and each push that finds no room sends one."""
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    for _ in range(5):
        world.clock.move(minutes=2)
        world.reconcile()
    pushes = world.messages("starts")
    assert len(pushes) == 1 + 5, "its submission's, and the reconciler's"
    for push in pushes:
        starts.handle(world.ports, world.deployment, push.body)
        world.clock.move(seconds=1)
    assert len(world.launcher.launches) == 2
    assert world.queue.counts()["starts"].delayed == 2, "of the two tries; that of the first is one too many, too"


def test_the_push_that_the_last_try_sent_is_the_next_try(world: World) -> None:
    """Or nothing but the reconciler would ever try again."""
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    for tries in range(2, 5):
        world.clock.move(minutes=1)
        waiting = store.load_execution(world.ports.records, request.request_id).document
        assert waiting is not None
        push = StartMessage(execution_id=request.request_id, tried_at=waiting.starting_at)
        starts.handle(world.ports, world.deployment, messages.encode(push))
        assert len(world.launcher.launches) == tries


def test_the_platform_is_asked_for_no_task_of_what_waits_for_room(world: World) -> None:
    """Its record says that there is none. A batch has thousands that wait, and ECS answers some twenty such calls a second: a round
    of the reconciler that asked for each would be out of time before it came to the locks, the audit and the inbox."""
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    world.clock.move(minutes=2)
    repairs = world.reconcile()
    assert world.launcher.looks == []
    assert [repair.action for repair in repairs if repair.subject == request.request_id] == ["pushed it again"]


def test_pushes_from_when_it_was_queued_are_no_tries_once_it_waits_for_room(world: World) -> None:
    """Of a long batch the reconciler pushes each minute what stands in the queue still."""
    request = world.request()
    world.submit(request)
    for _ in range(3):
        world.clock.move(minutes=1)
        world.reconcile()
    pushes = world.messages("starts")
    assert len(pushes) == 1 + 3
    world.launcher.outcome = NoCapacity("full")
    for push in pushes:
        starts.handle(world.ports, world.deployment, push.body)
        world.clock.move(seconds=1)
    assert len(world.launcher.launches) == 1
    assert world.queue.counts()["starts"].delayed == 1


def test_a_queue_timeout_bounds_the_wait_for_room_too(world: World) -> None:
    """It is how long to wait for locks and room. What waits for room holds its locks."""
    request = world.request(locks=("db",), queue_timeout_seconds=600)
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    world.clock.move(minutes=9)
    world.start(request.request_id)
    assert world.status(request.request_id).state is State.STARTING
    world.clock.move(minutes=2)
    launched = len(world.launcher.launches)
    world.start(request.request_id)
    assert len(world.launcher.launches) == launched
    status = world.status(request.request_id)
    assert (status.state, status.reason) == (State.TIMED_OUT, Reason.QUEUE)
    assert status.explanation is not None
    assert status.explanation.words == "the command was never started: it was not started within 600 s"
    lock = store.load_lock(world.records, "db").document
    assert lock is not None
    assert lock.queue == ()


def test_a_queue_timeout_ends_nothing_that_may_have_a_task(world: World) -> None:
    request = world.request(queue_timeout_seconds=60)
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    world.launcher.outcome = Launched("task")
    world.start(request.request_id)
    world.clock.move(minutes=2)
    world.start(request.request_id)
    assert world.status(request.request_id).state is State.STARTING
