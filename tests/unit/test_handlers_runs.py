"""The way of a request through the handlers, each of which may be run again at any point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.calls import ok

from runvoy_agent.core.model import User
from runvoy_agent.handlers.documents import outbox, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.ports import (
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    NoCapacity,
    NotLaunched,
    TaskState,
    Unavailable,
    Write,
)
from runvoy_protocol import envelope, object_keys, requests
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World


def test_a_run_from_upload_to_end(world: World) -> None:
    request = world.request(command=("echo", "hi"), env={"A": "1"}, timeout_seconds=9)
    receipt = world.submit(request)
    assert receipt.outcome == "accepted"
    execution_id = request.request_id
    assert world.pushed() == [execution_id]
    assert world.status(execution_id).state is State.QUEUED

    world.start(execution_id)
    [launch] = world.launcher.launches
    payload = json.loads(launch.payload)
    assert payload["command"] == ["echo", "hi"]
    assert payload["env"] == {"A": "1", "RUNVOY_EXECUTION_ID": execution_id}
    assert payload["timeout_seconds"] == 9
    assert world.status(execution_id).state is State.STARTING

    world.leave_started(execution_id)
    world.tell(execution_id, "started")
    assert world.status(execution_id).state is State.RUNNING

    world.leave_result(execution_id, exit_code=3)
    world.tell(execution_id, "result")
    ended = world.status(execution_id)
    assert (ended.state, ended.exit_code, ended.reason) == (State.FAILED, 3, Reason.EXIT)
    assert world.execution(execution_id).is_active, "its task was not seen stopped yet"

    world.tell(execution_id, "stopped", 1)
    assert not world.execution(execution_id).is_active


def test_every_step_may_be_delivered_twice(world: World) -> None:
    request = world.request()
    delivery = world.upload(request)
    assert world.deliver(delivery) == world.deliver(delivery)
    assert set(world.pushed()) == {request.request_id}
    for _ in range(2):
        world.start(request.request_id)
    assert len(set(world.launcher.launches)) == 1, "a launch was repeated with other values"
    world.leave_result(request.request_id)
    for event in ("result", "started", "stopped", "result", "stopped"):
        world.tell(request.request_id, event)  # type: ignore[arg-type]
    assert world.status(request.request_id).state is State.SUCCEEDED
    world.launcher.launches.clear()
    world.start(request.request_id)
    assert not world.launcher.launches, "an ended execution was launched"


def test_the_same_request_signed_anew_gets_the_same_execution(world: World) -> None:
    request = world.request()
    first = world.submit(request)
    world.clock.move(hours=2)
    now = world.clock.now()
    again = msgspec.structs.replace(request, issued_at=now, expires_at=now + timedelta(minutes=5))
    second = world.submit(again)
    assert (first.outcome, second.outcome) == ("accepted", "accepted")
    assert first.at == second.at
    assert first.object_sha256 != second.object_sha256


def test_other_content_under_the_id_is_refused_and_the_first_goes_on(world: World) -> None:
    request = world.request()
    world.submit(request)
    before = world.execution(request.request_id)
    receipt = world.submit(msgspec.structs.replace(request, command=("rm",)))
    assert receipt.code is ErrorCode.ID_CONFLICT
    assert world.execution(request.request_id) == before
    assert world.status(request.request_id).command == ("true",)


def test_nobody_can_squat_anothers_id(world: World) -> None:
    mallory = world.add_user("mallory", Role.DEVELOPER)
    request = world.request()
    refused = world.submit(msgspec.structs.replace(request, deployment_id="elsewhere"), mallory)
    assert refused.code is ErrorCode.WRONG_DEPLOYMENT
    assert world.submit(request).outcome == "accepted"
    assert world.submit(request, mallory).code is ErrorCode.ID_CONFLICT
    assert world.execution(request.request_id).owner == "ada"


def test_an_object_that_was_refused_stays_refused(world: World) -> None:
    dave = world.add_user("dave", Role.VIEWER)
    delivery = world.upload(world.request(), dave)
    assert world.deliver(delivery).code is ErrorCode.FORBIDDEN
    user = store.load(world.records, store.user_key("dave"), User)
    assert user.document is not None
    world.records.commit([store.put(user, msgspec.structs.replace(user.document, role=Role.DEVELOPER))])
    assert world.deliver(delivery).code is ErrorCode.FORBIDDEN


def _tampered(world: World, how: str) -> tuple[bytes, str]:
    request = world.request()
    raw = requests.seal_request(request, world.signing_key)
    object_key = object_keys.request(world.signing_key.key_id, request.request_id)
    payload = requests.encode(request)
    match how:
        case "flipped":
            raw = raw[:-1] + bytes([raw[-1] ^ 1])
        case "truncated":
            raw = raw[: len(raw) // 2]
        case "trailing":
            raw += b"\xc0"
        case "oversized":
            raw += bytes(300_000)
        case "nested":
            raw = b"\x91" * 100_000
        case "empty":
            raw = b"\xc0"
        case "other key":
            raw = envelope.seal(PayloadType.RUN_REQUEST, payload, SigningKey(b"x" * 32))
        case "other purpose":
            raw = envelope.seal(PayloadType.CONTROL, payload, world.signing_key)
        case "foreign id":
            object_key = object_keys.request(world.signing_key.key_id, world.clock.new_id())
        case "not canonical":
            raw = envelope.seal(PayloadType.RUN_REQUEST, payload + b"\xc0", world.signing_key)
    return raw, object_key


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("flipped", ErrorCode.SIGNATURE_INVALID),
        ("truncated", ErrorCode.INVALID_REQUEST),
        ("trailing", ErrorCode.INVALID_REQUEST),
        ("oversized", ErrorCode.TOO_LARGE),
        ("nested", ErrorCode.INVALID_REQUEST),
        ("empty", ErrorCode.INVALID_REQUEST),
        ("other key", ErrorCode.SIGNATURE_INVALID),
        ("other purpose", ErrorCode.INVALID_REQUEST),
        ("foreign id", ErrorCode.SIGNATURE_INVALID),
        ("not canonical", ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_tampered_object_is_refused_with_a_receipt(world: World, how: str, code: ErrorCode) -> None:
    raw, object_key = _tampered(world, how)
    receipt = world.deliver(world.upload_raw(raw, object_key))
    assert receipt.code is code, receipt
    assert receipt.hint
    assert not world.pushed()


def test_an_unknown_key_is_told_so(world: World) -> None:
    assert world.submit(world.request(), SigningKey(b"z" * 32)).code is ErrorCode.KEY_UNKNOWN


def test_what_is_no_request_is_left_alone(world: World) -> None:
    delivery = world.upload_raw(b"x", "requests/nobody/nothing")
    with pytest.raises(AssertionError, match="no receipt"):
        world.deliver(delivery)


def test_the_delivered_version_is_judged_not_the_newest(world: World) -> None:
    request = world.request()
    first = world.upload(request)
    world.upload(msgspec.structs.replace(request, command=("false",)))
    assert world.deliver(first).outcome == "accepted"
    assert world.execution(request.request_id).command == ("true",)


def test_a_revoked_keys_queued_work_does_not_start(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    request = world.request()
    assert world.submit(request, dave).outcome == "accepted"
    world.revoke(dave)
    world.start(request.request_id)
    assert not world.launcher.launches
    shown = world.status(request.request_id)
    assert (shown.state, shown.reason) == (State.STOPPED, Reason.REVOKED)


def test_no_capacity_is_tried_again_with_the_same_values(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    shown = world.status(request.request_id)
    assert (shown.state, shown.reason, shown.message) == (State.STARTING, Reason.CAPACITY, "full")
    assert world.queue.counts()["starts"].delayed == 1
    world.clock.move(minutes=9)
    world.start(request.request_id)
    assert len(set(world.launcher.launches)) == 1


def test_a_launch_that_cannot_work_ends_the_execution_and_frees_its_lock(world: World) -> None:
    first, second = world.request(locks=("db",)), world.request(locks=("db",))
    world.submit(first)
    world.submit(second)
    assert world.pushed() == [first.request_id]
    world.launcher.outcome = LaunchRefused("no such image")
    world.start(first.request_id)
    shown = world.status(first.request_id)
    assert (shown.state, shown.reason, shown.message) == (State.FAILED, Reason.LAUNCH_FAILED, "no such image")
    assert world.pushed() == [second.request_id]


@pytest.mark.parametrize("is_certain", [True, False])
def test_what_is_killed_while_it_is_launched_ends_when_that_started_nothing(world: World, is_certain: bool) -> None:
    """The word to stop ended the runner before it had begun: nobody will ever tell of its end."""
    first, second = world.request(locks=("db",)), world.request(locks=("db",))
    world.submit(first)
    world.submit(second)

    def meanwhile(_launch: Launch) -> None:
        ok(world, "DELETE", f"/executions/{first.request_id}")
        raise NotLaunched("the runner ended with -15") if is_certain else Unavailable("no answer")

    world.launcher.meanwhile = meanwhile
    with pytest.raises(Unavailable):
        world.start(first.request_id)
    assert world.status(first.request_id).state is State.TERMINATING
    world.pushed()
    world.start(first.request_id)  # as the queue delivers it again
    shown = world.status(first.request_id)
    if is_certain:
        assert (shown.state, shown.reason) == (State.STOPPED, Reason.KILLED)
        assert world.pushed()[-1:] == [second.request_id]
    else:
        assert shown.state is State.TERMINATING, "its task may be there"


def test_a_launch_that_started_nothing_is_made_again(world: World) -> None:
    request = world.request()
    world.submit(request)

    def meanwhile(_launch: Launch) -> None:
        raise NotLaunched("no more processes")

    world.launcher.meanwhile = meanwhile
    with pytest.raises(NotLaunched):
        world.start(request.request_id)
    assert world.execution(request.request_id).launches == 0
    world.launcher.meanwhile = lambda _launch: None
    world.start(request.request_id)
    assert (world.status(request.request_id).state, len(world.launcher.launches)) == (State.STARTING, 2)


def test_locks_pass_on_only_when_the_task_is_seen_stopped(world: World) -> None:
    first, second = world.request(locks=("db",)), world.request(locks=("db",))
    world.submit(first)
    world.submit(second)
    assert world.pushed() == [first.request_id]
    assert world.status(second.request_id).reason is Reason.LOCK
    world.start(second.request_id)
    assert not world.launcher.launches, "a waiter was launched"
    world.start(first.request_id)
    world.leave_result(first.request_id)
    world.tell(first.request_id, "result")
    assert world.pushed() == [], "the result released the lock while the task lived"
    world.tell(first.request_id, "stopped", 1)
    assert world.pushed() == [second.request_id]
    world.start(second.request_id)
    env = json.loads(world.launcher.launches[-1].payload)["env"]
    assert (env["RUNVOY_LOCK_FENCE"], env["RUNVOY_LOCK_FENCES"]) == ("2", "db=2")


def test_a_queue_timeout_ends_what_waits(world: World) -> None:
    first, second = world.request(locks=("db",)), world.request(locks=("db",), queue_timeout_seconds=30)
    world.submit(first)
    world.submit(second)
    world.clock.move(seconds=31)
    world.start(second.request_id)
    shown = world.status(second.request_id)
    assert (shown.state, shown.reason) == (State.TIMED_OUT, Reason.QUEUE)
    world.start(first.request_id)
    world.leave_result(first.request_id)
    world.tell(first.request_id, "stopped", 1)
    assert second.request_id not in world.pushed()


def test_a_deadline_is_timed_out_whichever_event_comes_first(world: World) -> None:
    for order in (("result", "stopped"), ("stopped", "result")):
        request = world.request()
        world.submit(request)
        world.start(request.request_id)
        world.leave_result(request.request_id, outcome="timed_out", exit_code=0)
        for event in order:
            world.tell(request.request_id, event)  # type: ignore[arg-type]
        assert world.status(request.request_id).state is State.TIMED_OUT


def test_a_result_the_command_forged_counts_for_nothing(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    forged = json.dumps({"body": "{}", "mac": hashlib.sha256(b"").hexdigest()}).encode()
    world.outbox.put(object_keys.result(request.request_id), forged, content_type="")
    world.tell(request.request_id, "result")
    assert world.status(request.request_id).state is State.STARTING
    world.tell(request.request_id, "stopped", 1)
    assert world.status(request.request_id).state is State.UNKNOWN


def test_status_never_goes_back(world: World) -> None:
    request = world.request()
    world.submit(request)
    early = world.execution(request.request_id)
    world.start(request.request_id)
    outbox.publish_status(world.ports, early, 1)
    assert world.status(request.request_id).state is State.STARTING


def _deliver_while(world: World, delivery: InboxDelivery, meanwhile: Callable[[], object]) -> Receipt:
    """Handle a delivery that is held up just before its commit, while something else happens."""
    records = world.records
    commit = records.commit
    held_up = [meanwhile]

    def late(writes: Sequence[Write]) -> None:
        if held_up:
            held_up.pop()()
        commit(writes)

    records.commit = late  # type: ignore[method-assign]
    try:
        return world.deliver(delivery)
    finally:
        records.commit = commit  # type: ignore[method-assign]


def test_a_delivery_held_up_while_another_was_accepted_gives_the_same_answer(world: World) -> None:
    holder = world.request(locks=("db",))
    world.submit(holder)
    world.start(holder.request_id)
    request = world.request(locks=("db",), if_locked="fail")
    delivery = world.upload(request)

    def accept_it() -> None:
        world.leave_result(holder.request_id)
        world.tell(holder.request_id, "stopped", 1)
        assert world.deliver(delivery).outcome == "accepted"

    assert _deliver_while(world, delivery, accept_it).outcome == "accepted"
    assert world.execution(request.request_id).granted


def test_a_start_that_died_before_it_told_is_told_by_the_next_delivery(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.leave_result(request.request_id)
    world.tell(request.request_id, "result")
    world.outbox.delete(object_keys.status(request.request_id))
    world.start(request.request_id)
    assert world.status(request.request_id).state is State.SUCCEEDED


# -- the reconciler: each repair after the thing was broken


def test_a_refusal_beside_a_launch_that_goes_through_ends_nothing(world: World) -> None:
    first, second = world.request(locks=("db",)), world.request(locks=("db",))
    world.submit(first)
    world.submit(second)
    assert world.pushed() == [first.request_id]
    launch = world.launcher.start

    def refuse_late(launched: Launch) -> LaunchRefused:
        world.launcher.start = launch_after  # type: ignore[method-assign,assignment]
        world.start(first.request_id)  # the other delivery comes between this launch and its answer
        return LaunchRefused("no")

    def launch_after(launched: Launch) -> LaunchOutcome:
        held_up.append(launched)  # it reaches the platform when all else is done
        return Launched("task")

    held_up: list[Launch] = []
    world.launcher.start = refuse_late  # type: ignore[method-assign,assignment]
    world.start(first.request_id)
    assert world.pushed() == [], "its lock was passed on beside a launch that may go through"
    assert world.status(first.request_id).state is State.STARTING
    launch(*held_up)
    world.leave_result(first.request_id)
    world.tell(first.request_id, "stopped", 1)
    assert world.status(first.request_id).state is State.SUCCEEDED
    assert world.pushed() == [second.request_id]


@pytest.mark.parametrize("starting_up", [True, False])
def test_a_launch_that_died_holds_up_a_refusal_for_a_while_only(world: World, starting_up: bool) -> None:
    world.launcher.relaunch_window = None
    request = world.request()
    world.submit(request)
    launch = world.launcher.start

    def die(launched: Launch) -> LaunchOutcome:
        raise Unavailable("the handler died of it")

    world.launcher.start = die  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable):
        world.start(request.request_id)
    world.launcher.start = launch  # type: ignore[method-assign]
    world.launcher.outcome = LaunchRefused("no")
    world.start(request.request_id)
    assert world.status(request.request_id).state is State.STARTING, "the other one may have gone through"
    if not starting_up:
        world.clock.move(minutes=11)
    assert len(world.reconcile(starting_up=starting_up)) == 1
    world.start(request.request_id)
    assert world.status(request.request_id).reason is Reason.LAUNCH_FAILED


def test_where_a_launch_may_always_be_repeated_it_is(world: World) -> None:
    world.launcher.relaunch_window = None
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.launcher.tasks.clear()
    world.pushed()
    world.clock.move(hours=9)
    assert [repair.subject for repair in world.reconcile(starting_up=True)] == [request.request_id]
    assert world.pushed() == [request.request_id]
    world.start(request.request_id)
    assert world.launcher.tasks[request.request_id].phase == "running"


def test_a_status_that_fell_behind_long_ago_is_written(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.reconcile()
    world.leave_result(request.request_id)
    world.tell(request.request_id, "stopped", 1)
    world.outbox.delete(object_keys.status(request.request_id))
    world.clock.move(hours=30)
    assert request.request_id in {repair.subject for repair in world.reconcile(starting_up=True)}
    assert world.status(request.request_id).state is State.SUCCEEDED


def test_a_lost_push_is_made_again(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.pushed()
    assert world.reconcile() == [], "a push that may still come was repeated"
    world.clock.move(seconds=31)
    [repair] = world.reconcile()
    assert repair.subject == request.request_id
    assert world.pushed() == [request.request_id]


def test_a_launch_that_died_after_its_commit_is_made_again_in_time_and_looked_for_after(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.launcher.tasks.clear()  # the launch never reached the platform
    world.pushed()
    assert world.reconcile(starting_up=True)
    assert world.pushed() == [request.request_id]
    world.clock.move(minutes=13)
    assert world.reconcile() == [], "one look was believed"
    world.clock.move(minutes=2)
    assert world.reconcile()
    assert world.pushed() == [], "it was launched again after the time in which that is safe"
    [message] = world.messages("ends")
    assert json.loads(message.body)["event"] == "stopped"
    world.tell(request.request_id, "stopped", 1)
    shown = world.status(request.request_id)
    assert (shown.state, shown.reason) == (State.UNKNOWN, Reason.LOST)


def test_one_look_that_misses_a_living_task_ends_nothing(world: World) -> None:
    request = world.request(locks=("db",), timeout_seconds=36_000)
    world.submit(request)
    world.start(request.request_id)
    world.leave_started(request.request_id)
    world.tell(request.request_id, "started")
    for _ in range(3):
        world.clock.move(minutes=20)
        task = world.launcher.tasks.pop(request.request_id)  # the listing leaves it out, once
        assert world.reconcile() == []
        world.launcher.tasks[request.request_id] = task
        world.clock.move(minutes=3)
        assert world.reconcile() == []
    assert world.messages("ends") == []
    assert world.status(request.request_id).state is State.RUNNING


def test_a_stop_nobody_told_of_is_told(world: World) -> None:
    request = world.request(locks=("db",))
    world.submit(request)
    world.start(request.request_id)
    world.launcher.tasks[request.request_id] = TaskState("stopped")
    world.clock.move(minutes=2)
    assert [repair.subject for repair in world.reconcile()] == [request.request_id]
    world.leave_result(request.request_id)
    world.tell(request.request_id, "stopped", 1)
    assert world.status(request.request_id).state is State.SUCCEEDED
    assert world.reconcile() == []


def test_a_status_behind_its_record_is_written(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.outbox.delete(object_keys.status(request.request_id))
    assert [repair.subject for repair in world.reconcile()] == [request.request_id]
    assert world.status(request.request_id).state is State.QUEUED


def test_a_queue_timeout_longer_than_a_delay_is_the_reconcilers(world: World) -> None:
    first, second = world.request(locks=("db",)), world.request(locks=("db",), queue_timeout_seconds=3600)
    world.submit(first)
    world.start(first.request_id)
    world.submit(second)
    world.clock.move(minutes=61)
    assert second.request_id in {repair.subject for repair in world.reconcile()}
    assert world.status(second.request_id).state is State.TIMED_OUT


def test_a_receipt_for_a_clock_that_is_off_tells_the_time(world: World) -> None:
    ahead = world.clock.now() + timedelta(minutes=10)
    request = world.request(issued_at=ahead, expires_at=ahead + timedelta(minutes=15))
    receipt = world.submit(request)
    assert receipt.code is ErrorCode.CLOCK_SKEW
    assert datetime.fromisoformat(receipt.details["server_time"]) == world.clock.now()
    world.clock.move(hours=1)
    assert world.submit(request) == receipt


def test_a_receipt_for_a_clock_that_is_behind_tells_the_time(world: World) -> None:
    behind = world.clock.now() - timedelta(hours=2)
    receipt = world.submit(world.request(issued_at=behind, expires_at=behind + timedelta(minutes=15)))
    assert receipt.code is ErrorCode.REQUEST_EXPIRED
    assert datetime.fromisoformat(receipt.details["server_time"]) == world.clock.now()
