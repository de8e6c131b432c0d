"""Kill in every state, the clocks, forced releases, and what the reconciler mends of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Request
from runvoy_agent.ports import LaunchRefused, NoCapacity, TaskState
from runvoy_protocol import control
from runvoy_protocol.control import ControlCall
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import exit_code_of

if TYPE_CHECKING:
    from tests.unit.conftest import World


def call(world: World, method: str, path: str, body: object = None, signing_key: SigningKey | None = None) -> Any:
    """The answer's document, or the code of its error."""
    raw = b"" if body is None else json.dumps(body).encode()
    target = f"/api/v1{path}"
    signed = ControlCall(1, "here", method, target, control.body_digest(raw), world.clock.now(), world.clock.random(16))
    header = control.authorization(signed, signing_key or world.signing_key)
    response = world.call(Request(method, target, target, {}, {"authorization": header}, raw))
    if response.status == 200:
        return json.loads(response.body)
    error = control.parse_error(response.body)
    assert error is not None
    assert error.hint
    return error.code


def kill(world: World, execution_id: str, signing_key: SigningKey | None = None) -> Any:
    return call(world, "DELETE", f"/executions/{execution_id}", signing_key=signing_key)


def started(world: World, **fields: object) -> str:
    request = world.request(**fields)
    world.submit(request)
    world.start(request.request_id)
    return request.request_id


def running(world: World, **fields: object) -> str:
    execution_id = started(world, **fields)
    world.leave_started(execution_id)
    world.tell(execution_id, "started")
    return execution_id


def finish(world: World, execution_id: str, outcome: str = "exited", exit_code: int | None = 0) -> None:
    world.leave_result(execution_id, outcome=outcome, exit_code=exit_code)
    world.tell(execution_id, "stopped", 1)


# -- kill


def test_kill_while_queued_never_starts_it(world: World) -> None:
    request = world.request()
    world.submit(request)
    shown = kill(world, request.request_id)["status"]
    assert (shown["state"], shown["reason"], shown["message"]) == ("STOPPED", "killed", "killed by ada")
    world.start(request.request_id)
    assert not world.launcher.launches
    assert exit_code_of(world.status(request.request_id)) == 123


def test_kill_while_waiting_frees_its_place(world: World) -> None:
    first, second, third = (world.request(locks=("db",)) for _ in range(3))
    for request in (first, second, third):
        world.submit(request)
    kill(world, second.request_id)
    world.pushed()
    world.start(first.request_id)
    finish(world, first.request_id)
    assert world.pushed() == [third.request_id]


@pytest.mark.parametrize("make", [started, running])
def test_kill_of_a_task_has_it_stopped_and_ends_with_its_result(world: World, make: Any) -> None:
    execution_id = make(world)
    assert kill(world, execution_id)["status"]["state"] == "TERMINATING"
    assert world.launcher.stops == [execution_id]
    finish(world, execution_id, "killed", 143)
    shown = world.status(execution_id)
    assert (shown.state, shown.reason, exit_code_of(shown)) == (State.STOPPED, Reason.KILLED, 123)


def test_a_command_that_ended_by_itself_before_the_kill_reached_it_keeps_its_end(world: World) -> None:
    execution_id = running(world)
    kill(world, execution_id)
    finish(world, execution_id, "exited", 5)
    assert (world.status(execution_id).state, world.status(execution_id).exit_code) == (State.FAILED, 5)


def test_kill_of_what_has_ended_says_so_and_changes_nothing(world: World) -> None:
    execution_id = running(world)
    finish(world, execution_id)
    before = world.execution(execution_id)
    assert kill(world, execution_id)["status"]["state"] == "SUCCEEDED"
    assert world.execution(execution_id) == before
    assert world.launcher.stops == []


def test_kill_of_what_has_ended_and_goes_on_has_its_task_stopped(world: World) -> None:
    execution_id = running(world, locks=("db",))
    world.leave_result(execution_id)
    world.tell(execution_id, "result")
    before = world.execution(execution_id)
    assert kill(world, execution_id)["status"]["state"] == "SUCCEEDED"
    assert world.launcher.stops == [execution_id]
    assert world.execution(execution_id) == before


def test_kill_again_tells_the_task_again(world: World) -> None:
    execution_id = running(world)
    kill(world, execution_id)
    kill(world, execution_id)
    assert world.launcher.stops == [execution_id] * 2


def test_a_kill_whose_telling_was_lost_is_told_by_the_reconciler(world: World) -> None:
    execution_id = running(world)
    kill(world, execution_id)
    world.launcher.stops.clear()  # as if this process had died before it
    world.clock.move(seconds=40)
    world.reconcile()
    assert world.launcher.stops == [execution_id]


def test_a_killed_task_that_vanished_was_killed(world: World) -> None:
    execution_id = running(world)
    kill(world, execution_id)
    world.tell(execution_id, "stopped", 1)
    assert world.status(execution_id).state is State.STOPPED


@pytest.mark.parametrize("outcome", [NoCapacity("full"), LaunchRefused("no")])
def test_a_kill_beside_a_launch_that_did_not_happen(world: World, outcome: Any) -> None:
    request = world.request(locks=("db",))
    world.submit(request)
    launch = world.launcher.start

    def start(launched: Any) -> Any:
        kill(world, request.request_id)  # just before the platform answers
        launch(launched)
        return outcome

    world.launcher.outcome = outcome
    world.launcher.start = start  # type: ignore[method-assign,assignment]
    world.start(request.request_id)
    shown = world.status(request.request_id)
    assert (shown.state, shown.reason) == (State.STOPPED, Reason.KILLED)
    assert not world.execution(request.request_id).is_active
    assert call(world, "GET", "/locks") == {"locks": []}


def test_who_may_kill_what(world: World) -> None:
    dev, other, viewer, operator = (
        world.add_user(name, role)
        for name, role in [
            ("dev", Role.DEVELOPER),
            ("other", Role.DEVELOPER),
            ("viewer", Role.VIEWER),
            ("operator", Role.OPERATOR),
        ]
    )
    request = world.request()
    world.submit(request, dev)
    assert kill(world, request.request_id, other) is ErrorCode.NOT_FOUND
    assert kill(world, request.request_id, viewer) is ErrorCode.FORBIDDEN
    assert world.status(request.request_id).state is State.QUEUED
    assert kill(world, request.request_id, operator)["status"]["state"] == "STOPPED"
    mine = world.request()
    world.submit(mine, dev)
    assert kill(world, mine.request_id, dev)["status"]["state"] == "STOPPED"


def test_kill_of_the_undecided_and_the_unknown(world: World) -> None:
    request = world.request()
    world.upload(request)
    assert kill(world, request.request_id) is ErrorCode.CONFLICT
    assert kill(world, world.clock.new_id()) is ErrorCode.NOT_FOUND


# -- the clocks


def test_the_start_clock(world: World) -> None:
    execution_id = started(world)
    world.clock.move(seconds=lifecycle.START_TIMEOUT.total_seconds() + 1)
    assert [repair.subject for repair in world.reconcile()] == [execution_id]
    assert world.launcher.stops == [execution_id]
    finish(world, execution_id, "killed", None)
    shown = world.status(execution_id)
    assert (shown.state, shown.reason, exit_code_of(shown)) == (State.TIMED_OUT, Reason.START, 124)


def test_a_start_nobody_told_of_is_told_before_the_start_clock_is_looked_at(world: World) -> None:
    execution_id = started(world)
    world.leave_started(execution_id)  # and its event is lost
    world.clock.move(seconds=lifecycle.START_TIMEOUT.total_seconds() + 1)
    assert [repair.problem for repair in world.reconcile()] == ["its command began and nobody was told"]
    [message] = world.messages("ends")
    assert json.loads(message.body)["event"] == "started"
    assert world.launcher.stops == []
    world.tell(execution_id, "started")
    assert world.status(execution_id).state is State.RUNNING


def test_the_backstop_of_the_deadline(world: World) -> None:
    execution_id = running(world, timeout_seconds=60)
    world.clock.move(seconds=60 + 149)
    assert world.reconcile() == []
    world.clock.move(seconds=2)
    assert [repair.subject for repair in world.reconcile()] == [execution_id]
    assert world.launcher.stops == [execution_id]
    finish(world, execution_id, "killed", 137)
    assert (world.status(execution_id).state, world.status(execution_id).reason) == (State.TIMED_OUT, Reason.DEADLINE)


def test_a_runner_that_lives_keeps_its_own_deadline(world: World) -> None:
    execution_id = running(world, timeout_seconds=60)
    world.launcher.tasks[execution_id] = TaskState("running", supervised=True)
    world.clock.move(hours=9)  # the machine slept, or its clock was set
    assert world.reconcile() == []
    assert world.status(execution_id).state is State.RUNNING


def test_a_task_is_gone_when_two_looks_near_each_other_miss_it(world: World) -> None:
    execution_id = running(world, timeout_seconds=36_000)
    task = world.launcher.tasks.pop(execution_id)
    world.clock.move(minutes=11)
    assert world.reconcile() == [], "the first look"
    world.clock.move(minutes=1)
    assert world.reconcile() == [], "a listing may lag so far"
    world.launcher.tasks[execution_id] = task
    world.clock.move(minutes=1)
    assert world.reconcile() == []
    del world.launcher.tasks[execution_id]
    assert world.reconcile() == [], "a first look again, for it was there"
    world.clock.move(minutes=6)
    assert world.reconcile() == [], "and again, for nobody looked since"
    world.clock.move(minutes=2)
    assert [repair.problem for repair in world.reconcile()] == ["the platform knows no task of it"]


def test_rounds_that_are_far_apart_and_come_upon_a_gap_each_end_nothing(world: World) -> None:
    execution_id = running(world, timeout_seconds=36_000)
    for _ in range(4):
        world.clock.move(minutes=11)
        world.launcher.gaps = 1
        assert world.reconcile() == []
    assert world.execution(execution_id).state is State.RUNNING


# -- locks


def test_a_waiter_is_told_its_place_and_who_is_before_it(world: World) -> None:
    dev = world.add_user("dev", Role.DEVELOPER)
    first, second, third = (world.request(locks=("db", "web")) for _ in range(3))
    world.submit(first, dev)
    world.clock.move(seconds=5)
    world.submit(second)
    world.submit(third)
    shown = call(world, "GET", f"/executions/{third.request_id}")["status"]
    assert shown["reason"] == "lock"
    [db, web] = shown["locks"]
    assert (db["name"], db["position"], db["holder"], db["holder_owner"]) == ("db", 2, first.request_id, "dev")
    assert db["held_since"] == "2026-05-04T12:00:00Z"
    assert web["position"] == 2


def test_locks_are_listed_and_shown(world: World) -> None:
    first, second = world.request(locks=("app/db",)), world.request(locks=("app/db",))
    world.submit(first)
    world.submit(second)
    [listed] = call(world, "GET", "/locks")["locks"]
    assert (listed["name"], listed["length"], listed["fence"]) == ("app/db", 2, 1)
    shown = call(world, "GET", "/locks/app%2Fdb")
    assert [entry["execution_id"] for entry in shown["queue"]] == [first.request_id, second.request_id]
    assert "granted_at" in shown["queue"][0]
    assert "granted_at" not in shown["queue"][1]
    assert call(world, "GET", "/locks/nothing") is ErrorCode.NOT_FOUND


def test_a_forced_release_lets_the_next_in_with_a_higher_fence(world: World) -> None:
    first = running(world, locks=("db",))
    second = world.request(locks=("db",))
    world.submit(second)
    world.pushed()
    shown = call(world, "POST", "/locks/db/release", {"execution_id": first})
    assert [entry["execution_id"] for entry in shown["queue"]] == [second.request_id]
    assert shown["fence"] == 2
    assert world.pushed() == [second.request_id]
    finish(world, first)
    assert call(world, "GET", "/locks/db")["length"] == 1, "the first one's end took the second's lock"


def test_a_release_names_the_holder_and_spares_what_has_not_started(world: World) -> None:
    holder = running(world, locks=("db",))
    waiter = world.request(locks=("db",))
    world.submit(waiter)
    for wrong in (waiter.request_id, world.clock.new_id()):
        assert call(world, "POST", "/locks/db/release", {"execution_id": wrong}) is ErrorCode.CONFLICT
    finish(world, holder)
    assert call(world, "POST", "/locks/db/release", {"execution_id": waiter.request_id}) is ErrorCode.CONFLICT
    dev = world.add_user("dev", Role.DEVELOPER)
    assert call(world, "POST", "/locks/db/release", {"execution_id": holder}, dev) is ErrorCode.FORBIDDEN
    assert call(world, "POST", "/locks/db/release", [1]) is ErrorCode.INVALID_REQUEST


def _rewrite(world: World, execution_id: str, **fields: object) -> Execution:
    current = store.load_execution(world.records, execution_id)
    assert current.document is not None
    changed = msgspec.structs.replace(current.document, **fields)
    world.records.commit([store.put(current, changed)])
    return changed


def test_the_lock_of_an_execution_that_is_over_is_released(world: World) -> None:
    first = running(world, locks=("db",))
    second = world.request(locks=("db",))
    world.submit(second)
    world.pushed()
    _rewrite(world, first, state=State.FAILED, stopped_at=world.clock.now())
    assert "lock db" in {repair["subject"] for repair in call(world, "POST", "/health/reconcile")["repairs"]}
    assert world.pushed() == [second.request_id]
    assert world.execution(second.request_id).granted
    assert [repair for repair in world.reconcile() if repair.subject == "lock db"] == []


def test_a_waiter_nobody_woke_is_granted(world: World) -> None:
    request = world.request(locks=("db", "web"))
    world.submit(request)
    world.pushed()
    _rewrite(world, request.request_id, granted=False)
    assert "lock db" in {repair.subject for repair in world.reconcile()}
    assert world.pushed() == [request.request_id]
    assert world.execution(request.request_id).granted


def test_reconcile_says_what_was_wrong_and_what_was_done(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.pushed()
    world.clock.move(minutes=1)
    [repair] = call(world, "POST", "/health/reconcile")["repairs"]
    assert repair == {
        "subject": request.request_id,
        "problem": "it may start and was not pushed",
        "action": "pushed it again",
    }
    dev = world.add_user("dev", Role.DEVELOPER)
    assert call(world, "POST", "/health/reconcile", signing_key=dev) is ErrorCode.FORBIDDEN


def test_a_queue_timeout_is_kept_to_the_second(world: World) -> None:
    holder = running(world, locks=("db",))
    waiter = world.request(locks=("db",), queue_timeout_seconds=5)
    world.submit(waiter)
    assert world.queue.counts()["starts"].delayed == 1
    world.clock.time += timedelta(seconds=5)
    world.start(waiter.request_id)  # the delayed push
    shown = world.status(waiter.request_id)
    assert (shown.state, shown.reason, exit_code_of(shown)) == (State.TIMED_OUT, Reason.QUEUE, 124)
    finish(world, holder)
