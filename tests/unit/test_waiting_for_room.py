"""Runs that the platform has no room for: they wait in STARTING, and each try that finds none sends the next push."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.calls import ok
from tests.unit.test_handlers_ends import kill

from runvoy_agent.handlers import ends, starts
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import EndMessage, StartMessage
from runvoy_agent.ports import Launch, Launched, LaunchOutcome, LaunchRefused, NoCapacity, TaskState
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


def test_the_story_of_what_waits_for_room_has_no_launch(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    assert not was_launched(world, request.request_id)
    world.launcher.outcome = Launched("task")
    world.start(request.request_id)
    assert was_launched(world, request.request_id)
    killed = world.request()
    world.submit(killed)
    world.launcher.outcome = NoCapacity("full")
    world.start(killed.request_id)
    kill(world, killed.request_id)
    assert not was_launched(world, killed.request_id)


def was_launched(world: World, execution_id: str) -> bool:
    return "launched" in {step["what"] for step in ok(world, "GET", f"/trace/{execution_id}").get("steps", ())}


# -- room that was promised, and then was not there


def tell_no_room(world: World, execution_id: str, attempt: int | None = 1) -> None:
    world.launcher.tasks.pop(execution_id, None)
    body = messages.encode(
        EndMessage(
            execution_id=execution_id,
            event="stopped",
            attempt=attempt,
            message="Capacity is unavailable at this time",
            never_began=True,
            no_room=True,
        )
    )
    ends.handle(world.ports, world.deployment, body)


def launched(world: World, **fields: object) -> str:
    request = world.request(**fields)
    world.submit(request)
    world.messages("starts")
    world.start(request.request_id)
    return request.request_id


def test_a_task_that_was_taken_and_had_no_room_is_launched_as_another_attempt(world: World) -> None:
    execution_id = launched(world, locks=("db",))
    waiter = world.request(locks=("db",))
    world.submit(waiter)
    tell_no_room(world, execution_id)
    waits = world.status(execution_id)
    assert (waits.state, waits.reason, waits.attempt) == (State.STARTING, Reason.CAPACITY, 2)
    assert "Capacity is unavailable" in waits.message
    assert world.queue.counts()["starts"].delayed == 1
    push = StartMessage(execution_id=execution_id, tried_at=world.execution(execution_id).starting_at)
    starts.handle(world.ports, world.deployment, messages.encode(push))
    assert [launch.attempt for launch in world.launcher.launches] == [1, 2]
    payloads = [msgspec.json.decode(launch.payload) for launch in world.launcher.launches]
    assert payloads[0]["execution_key"] != payloads[1]["execution_key"]
    assert payloads[0]["env"]["RUNVOY_LOCK_FENCE"] == payloads[1]["env"]["RUNVOY_LOCK_FENCE"], "it kept its lock"


def test_the_word_on_a_task_counts_for_its_attempt_alone(world: World) -> None:
    execution_id = launched(world)
    tell_no_room(world, execution_id)
    world.start(execution_id)
    before = world.execution(execution_id)
    tell_no_room(world, execution_id)
    tell_no_room(world, execution_id, attempt=None)
    after = world.execution(execution_id)
    assert (before.attempt, after.attempt) == (2, 2)


@pytest.mark.parametrize("outcome", [NoCapacity("full"), LaunchRefused("it is not allowed")])
def test_the_answer_to_a_launch_says_nothing_of_another_attempt(world: World, outcome: LaunchOutcome) -> None:
    """Its request was sent again, for the first answer was lost: the task was there, and ended for want of room meanwhile."""
    request = world.request()
    world.submit(request)

    def ends_and_is_launched_again(launch: Launch) -> None:
        if launch.attempt == 1:
            tell_no_room(world, launch.execution_id)
            world.start(launch.execution_id)
            world.launcher.tasks.clear()  # the second one's task is not listed yet
            world.launcher.outcome = outcome

    world.launcher.meanwhile = ends_and_is_launched_again
    world.start(request.request_id)
    found = world.execution(request.request_id)
    assert (found.state, found.attempt, found.launches, found.placed) == (State.STARTING, 2, 1, True)


def test_an_attempt_that_may_be_launched_still_has_no_other(world: World) -> None:
    """A launch of it that is on its way could find no task of it any more, and start one."""
    execution_id = launched(world)
    world.start(execution_id)
    assert world.execution(execution_id).launches == 2
    tell_no_room(world, execution_id)
    ended = world.status(execution_id)
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, Reason.LAUNCH_FAILED, 1)


def test_what_began_is_not_launched_again_whatever_the_platform_says(world: World) -> None:
    execution_id = launched(world)
    world.leave_started(execution_id)
    world.tell(execution_id, "started")
    tell_no_room(world, execution_id)
    assert world.status(execution_id).state is State.UNKNOWN
    assert len(world.launcher.launches) == 1


def test_a_runner_s_word_that_it_began_counts_for_more(world: World) -> None:
    execution_id = launched(world)
    world.leave_started(execution_id)  # and nobody is told
    tell_no_room(world, execution_id)
    assert world.status(execution_id).state is State.FAILED
    assert world.execution(execution_id).attempt == 1


def test_what_was_killed_is_not_launched_again(world: World) -> None:
    execution_id = launched(world)
    kill(world, execution_id)
    tell_no_room(world, execution_id)
    assert world.status(execution_id).state is State.STOPPED


def test_a_word_that_was_lost_is_told_by_the_reconciler_and_a_push_that_was_lost_sent_again(world: World) -> None:
    execution_id = launched(world)
    world.launcher.tasks[execution_id] = TaskState("stopped", never_began=True, no_room=True, message="no room")
    world.clock.move(minutes=2)
    world.reconcile()
    [word] = world.messages("ends")
    del world.launcher.tasks[execution_id]
    ends.handle(world.ports, world.deployment, word.body)
    assert world.execution(execution_id).attempt == 2
    world.clock.move(minutes=2)  # its push never comes
    world.reconcile()
    assert world.pushed() == [execution_id]


def test_the_queue_timeout_ends_what_waits_for_another_attempt(world: World) -> None:
    execution_id = launched(world, queue_timeout_seconds=60)
    tell_no_room(world, execution_id)
    world.clock.move(minutes=2)
    world.start(execution_id)
    assert (world.status(execution_id).state, world.status(execution_id).reason) == (State.TIMED_OUT, Reason.QUEUE)
    assert len(world.launcher.launches) == 1
