"""Quotas: how many unfinished executions a user may have, and that their count is exact whatever happens to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.calls import audit_of, call, code_of, ok, set_user, watch
from tests.unit.test_handlers_batches import Batches, batched
from tests.unit.test_handlers_dry_run import try_out
from tests.unit.test_waiting_for_room import tell_no_room

from runvoy_agent.core import lifecycle, quotas
from runvoy_agent.core.model import DefaultQuotas, User
from runvoy_agent.handlers import reconcile
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.ports import Launched, LaunchRefused, NoCapacity
from runvoy_agent.runner import payload
from runvoy_protocol import object_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ADA = User(name="ada", role=Role.DEVELOPER, created_at=NOW)


# -- the rule


@pytest.mark.parametrize(
    ("own", "defaults", "expected"),
    [
        (None, None, quotas.MAX_UNFINISHED),
        (None, DefaultQuotas(), quotas.MAX_UNFINISHED),
        (None, DefaultQuotas(max_unfinished=7), 7),
        (3, DefaultQuotas(max_unfinished=7), 3),
        (9, DefaultQuotas(max_unfinished=7), 9),
        (0, None, 0),
    ],
)
def test_a_users_own_limit_goes_before_the_deployments(
    own: int | None, defaults: DefaultQuotas | None, expected: int
) -> None:
    assert quotas.unfinished_limit(msgspec.structs.replace(ADA, max_unfinished=own), defaults) == expected


@pytest.mark.parametrize(("unfinished", "limit", "fits"), [(0, 1, True), (1, 1, False), (2, 1, False), (0, 0, False)])
def test_one_more_fits_below_the_limit(unfinished: int, limit: int, fits: bool) -> None:
    if fits:
        quotas.check_unfinished(ADA, unfinished, limit)
        return
    with pytest.raises(RunvoyError) as caught:
        quotas.check_unfinished(ADA, unfinished, limit)
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED


def test_the_refusal_says_how_many_there_are_how_many_there_may_be_and_what_to_do() -> None:
    with pytest.raises(RunvoyError) as caught:
        quotas.check_unfinished(ADA, 100_000, 100_000)
    assert caught.value.message == "ada has 100,000 unfinished executions, and may have 100,000 at most"
    assert "runvoy kill" in caught.value.hint
    assert "runvoy quotas set --user ada --max-unfinished N" in caught.value.hint
    assert (caught.value.retryable, caught.value.exit_code) == (True, 121)


# -- in a deployment


def limit(world: World, most: int | None, name: str = "ada") -> None:
    set_user(world, name, max_unfinished=most)


def counted(world: World, name: str = "ada") -> int:
    return counts.number(world.records.get(counts.unfinished_key(name)), "").value


def accept(world: World, **fields: object) -> RunRequest:
    request = world.request(**fields)
    assert world.submit(request).outcome == "accepted"
    return request


def test_admitted_up_to_the_limit_and_again_when_one_is_over(world: World) -> None:
    limit(world, 2)
    first, _ = accept(world), accept(world)
    refused = world.submit(world.request())
    assert (refused.outcome, refused.code) == ("refused", ErrorCode.QUOTA_EXCEEDED)
    assert "ada has 2 unfinished executions, and may have 2 at most" in refused.message
    ok(world, "DELETE", f"/executions/{first.request_id}")
    assert counted(world) == 1
    accept(world)
    assert world.submit(world.request()).code is ErrorCode.QUOTA_EXCEEDED


def test_a_limit_is_for_one_user(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    limit(world, 0, "bob")
    assert world.submit(world.request(), bob).code is ErrorCode.QUOTA_EXCEEDED
    accept(world)
    assert (counted(world), counted(world, "bob")) == (1, 0)


def test_all_keys_of_a_user_count_together(world: World) -> None:
    other = world.add_user("ada", Role.ADMIN)
    limit(world, 1)
    accept(world)
    assert world.submit(world.request(), other).code is ErrorCode.QUOTA_EXCEEDED


def test_the_default_holds_for_who_has_no_limit_of_their_own(world: World) -> None:
    world.records.commit([store.put_new(store.DEFAULT_QUOTAS_KEY, DefaultQuotas(max_unfinished=1))])
    accept(world)
    assert world.submit(world.request()).code is ErrorCode.QUOTA_EXCEEDED
    limit(world, 2)
    accept(world)


def test_the_same_request_counts_once_however_often_it_comes(world: World) -> None:
    limit(world, 1)
    request = world.request()
    delivery = world.upload(request)
    again = msgspec.structs.replace(request, issued_at=request.issued_at + timedelta(seconds=1))
    assert [world.deliver(delivery).outcome for _ in range(3)] == ["accepted"] * 3
    assert world.submit(again).outcome == "accepted"
    assert counted(world) == 1


def test_what_was_refused_stays_so_and_the_same_id_may_be_sent_anew(world: World) -> None:
    limit(world, 1)
    first, request = accept(world), world.request()
    delivery = world.upload(request)
    assert world.deliver(delivery).code is ErrorCode.QUOTA_EXCEEDED
    ok(world, "DELETE", f"/executions/{first.request_id}")
    assert world.deliver(delivery).code is ErrorCode.QUOTA_EXCEEDED
    anew = msgspec.structs.replace(request, issued_at=request.issued_at + timedelta(seconds=1))
    assert world.submit(anew).outcome == "accepted"


def test_a_late_delivery_of_what_was_refused_tells_of_the_refusal_though_the_same_was_accepted_anew(
    world: World,
) -> None:
    """It looked for a refusal before there was one, and at the execution when there was one: of the other object."""
    limit(world, 1)
    first, request = accept(world), world.request()
    refused = world.upload(request)
    receipt_key = object_keys.receipt(world.signing_key.key_id, request.request_id, digest_of(world, refused))
    watched = watch(world)
    came: list[int] = []

    def meanwhile(number: int) -> None:
        if came or not watched.calls[:-1]:  # it has read that there is no refusal
            return
        came.append(number)
        assert world.deliver(refused).code is ErrorCode.QUOTA_EXCEEDED
        ok(world, "DELETE", f"/executions/{first.request_id}")
        world.outbox.delete(receipt_key)  # whoever refused it died before telling of it
        anew = msgspec.structs.replace(request, issued_at=request.issued_at + timedelta(seconds=1))
        assert world.submit(anew).outcome == "accepted"

    watched.on_call = meanwhile
    assert world.deliver(refused).code is ErrorCode.QUOTA_EXCEEDED
    assert came


def digest_of(world: World, delivery: InboxDelivery) -> str:
    stored = world.inbox.get(delivery.object_key, delivery.version)
    assert stored is not None
    return hashlib.sha256(stored.data).hexdigest()


def test_an_id_that_was_used_before_is_told_so_at_the_limit_too(world: World) -> None:
    limit(world, 1)
    first = accept(world)
    other = msgspec.structs.replace(first, command=("false",))
    assert world.submit(other).code is ErrorCode.ID_CONFLICT


def test_requests_of_a_batch_over_the_limit_are_refused_each_for_itself(world: World) -> None:
    limit(world, 3)
    at = Batches(world)
    made = [world.request() for _ in range(5)]
    delivery = at.upload([batched(one) for one in made])
    at.run(delivery)
    assert [at.outcome(delivery, one.request_id) for one in made] == ["accepted"] * 3 + ["QUOTA_EXCEEDED"] * 2
    at.run(delivery)
    assert counted(world) == 3


def test_a_dry_run_is_judged_by_the_quota_and_takes_no_place(world: World) -> None:
    limit(world, 1)
    assert try_out(world, world.request())["allowed"] is True
    assert counted(world) == 0
    accept(world)
    assert try_out(world, world.request())["refused"]["code"] == "QUOTA_EXCEEDED"


def test_many_admissions_at_once_fill_the_limit_exactly(world: World) -> None:
    limit(world, 3)
    deliveries = [world.upload(world.request()) for _ in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(world.deliver, deliveries))
    assert sorted(receipt.outcome for receipt in found) == ["accepted"] * 3 + ["refused"] * 9
    assert {receipt.code for receipt in found} == {None, ErrorCode.QUOTA_EXCEEDED}
    assert counted(world) == 3


def test_a_refusal_holds_only_if_nobody_made_room_meanwhile(world: World) -> None:
    """Between the count that it was judged by and its commit one ended: it is judged anew."""
    limit(world, 1)
    first = accept(world)
    watched = watch(world)
    ended: list[int] = []

    def end_the_first(number: int) -> None:
        if watched.calls[-1] == "commit" and not ended:
            ended.append(number)
            ok(world, "DELETE", f"/executions/{first.request_id}")

    delivery = world.upload(world.request())
    watched.on_call = end_the_first
    assert world.deliver(delivery).outcome == "accepted"
    assert ended
    assert counted(world) == 1


# -- every way to be over gives the place back, once


def end_by_result(world: World, execution_id: str) -> None:
    world.start(execution_id)
    world.leave_result(execution_id)
    world.tell(execution_id, "result")
    assert counted(world) == 1, "its task was not seen stopped"
    for _ in range(2):
        world.tell(execution_id, "stopped")


def end_by_kill_in_queue(world: World, execution_id: str) -> None:
    for _ in range(2):
        ok(world, "DELETE", f"/executions/{execution_id}")


def end_by_queue_timeout(world: World, execution_id: str) -> None:
    world.clock.move(seconds=61)
    for _ in range(2):
        world.reconcile()


def end_by_revocation(world: World, execution_id: str) -> None:
    world.revoke(world.signing_key)
    for _ in range(2):
        world.start(execution_id)


def end_by_refused_launch(world: World, execution_id: str) -> None:
    world.launcher.outcome = LaunchRefused("the platform will not")
    for _ in range(2):
        world.start(execution_id)


def end_by_loss(world: World, execution_id: str) -> None:
    world.start(execution_id)
    world.launcher.tasks.clear()
    for _ in range(6):
        world.clock.move(minutes=4)
        world.reconcile()
        for _ in world.messages("ends"):
            world.tell(execution_id, "stopped")


@pytest.mark.parametrize(
    "end",
    [
        end_by_result,
        end_by_kill_in_queue,
        end_by_queue_timeout,
        end_by_revocation,
        end_by_refused_launch,
        end_by_loss,
    ],
)
def test_what_is_over_counts_no_more(world: World, end: Callable[[World, str], None]) -> None:
    request = accept(world, queue_timeout_seconds=60)
    assert counted(world) == 1
    end(world, request.request_id)
    assert not world.execution(request.request_id).is_active
    assert counted(world) == 0


def test_what_an_older_version_admitted_never_counted(world: World) -> None:
    request = accept(world)
    current = store.load_execution(world.records, request.request_id)
    assert current.document is not None
    old = msgspec.structs.replace(current.document, counted=False)
    world.records.commit([store.put(current, old)])
    before = counted(world)
    ok(world, "DELETE", f"/executions/{request.request_id}")
    assert counted(world) == before


# -- places


def run_one(world: World, signing_key: SigningKey | None = None, **fields: object) -> str:
    request = world.request(**fields)
    assert world.submit(request, signing_key).outcome == "accepted"
    world.start(request.request_id)
    return request.request_id


def running(world: World, name: str = "ada") -> int:
    return counts.number(world.records.get(counts.running_key(name)), "").value


def launched(world: World) -> list[str]:
    return [launch.execution_id for launch in world.launcher.launches]


def test_what_is_over_a_users_places_waits_and_is_launched_when_one_is_free(world: World) -> None:
    set_user(world, "ada", max_running=1)
    first, second = run_one(world), run_one(world)
    assert launched(world) == [first]
    waiting = world.status(second)
    assert (waiting.state, waiting.reason) == (State.STARTING, Reason.CAPACITY)
    assert waiting.message == "ada has 1 running, and may have 1 at once"
    assert running(world) == 1
    world.start(second)
    assert launched(world) == [first]
    end_by_result_of(world, first)
    assert running(world) == 0
    world.start(second)
    assert launched(world) == [first, second]
    assert (world.execution(second).reason, running(world)) == (Reason.CAPACITY, 1)
    world.leave_started(second)
    world.tell(second, "started")
    assert world.execution(second).reason is None


def end_by_result_of(world: World, execution_id: str) -> None:
    world.leave_result(execution_id)
    world.tell(execution_id, "result")
    world.tell(execution_id, "stopped")


def test_a_users_places_are_nobody_elses(world: World) -> None:
    """However many of one user's wait, somebody else's starts at once."""
    bob = world.add_user("bob", Role.DEVELOPER)
    world.records.commit([store.put_new(store.DEFAULT_QUOTAS_KEY, DefaultQuotas(max_running=2))])
    mine = [run_one(world) for _ in range(5)]
    theirs = run_one(world, bob)
    assert launched(world) == [*mine[:2], theirs]


def test_a_place_without_room_is_given_back(world: World) -> None:
    world.launcher.outcome = NoCapacity("full")
    waiting = run_one(world)
    assert (running(world), world.execution(waiting).placed) == (0, False)
    world.launcher.outcome = Launched("task")
    world.start(waiting)
    assert (running(world), world.execution(waiting).placed) == (1, True)


def test_what_waits_for_a_place_can_be_killed_and_its_queue_timeout_ends_it(world: World) -> None:
    set_user(world, "ada", max_running=0)
    killed, late = run_one(world), run_one(world, queue_timeout_seconds=60)
    ok(world, "DELETE", f"/executions/{killed}")
    world.clock.move(seconds=61)
    world.start(late)
    assert [world.execution(one).state for one in (killed, late)] == [State.STOPPED, State.TIMED_OUT]
    assert (counted(world), running(world)) == (0, 0)


@pytest.mark.parametrize("window", [None, timedelta(minutes=10)])
def test_the_queue_timeout_of_what_waits_for_a_place_needs_no_push(world: World, window: timedelta | None) -> None:
    """One machine takes none while all its room is taken, as by others' runs that take hours."""
    world.launcher.relaunch_window = window
    set_user(world, "ada", max_running=0)
    late = run_one(world, queue_timeout_seconds=60, locks=("db",))
    waiter = accept(world, locks=("db",))
    world.clock.move(minutes=2)
    assert (late, "ended it") in [(repair.subject, repair.action) for repair in world.reconcile()]
    assert (world.status(late).state, world.status(late).reason) == (State.TIMED_OUT, Reason.QUEUE)
    assert world.execution(waiter.request_id).granted
    assert (counted(world), running(world)) == (1, 0)


def test_a_platform_that_does_not_answer_about_what_is_overdue_ends_no_round(world: World) -> None:
    set_user(world, "ada", max_running=0)
    late = run_one(world, queue_timeout_seconds=60)
    world.clock.move(minutes=2)
    world.launcher.busy = 1
    assert reconcile.handle(world.ports).left == 1
    assert world.execution(late).state is State.TERMINATING
    world.clock.move(minutes=1)
    world.reconcile()
    assert world.execution(late).state is State.TIMED_OUT
    assert counted(world) == 0


def test_a_task_that_ended_for_want_of_room_gives_its_place_to_the_owner_s_next(world: World) -> None:
    set_user(world, "ada", max_running=1)
    first, second = run_one(world), run_one(world)
    tell_no_room(world, first)
    assert (world.execution(first).attempt, world.execution(first).placed, running(world)) == (2, False, 0)
    world.start(second)
    assert running(world) == 1
    world.start(first)
    assert (launched(world), running(world)) == ([first, second], 1)
    end_by_result_of(world, second)
    world.start(first)
    assert (launched(world), running(world)) == ([first, second, first], 1)


def test_what_an_older_version_started_is_launched_again_though_there_is_no_place(world: World) -> None:
    """It may have a task, and its push is there already: held to the limit it could only fail, time after time."""
    set_user(world, "ada", max_running=1)
    first, old = run_one(world), accept(world).request_id
    current = store.load_execution(world.records, old)
    assert current.document is not None
    started = lifecycle.begin_start(current.document, world.clock.now())
    assert started is not None
    world.records.commit([store.put(current, msgspec.structs.replace(started, placed=False))])
    world.start(old)
    assert (launched(world), running(world)) == ([first, old], 2)
    end_by_result_of(world, old)
    assert running(world) == 1


def test_a_raised_limit_holds_at_the_next_try(world: World) -> None:
    set_user(world, "ada", max_running=0)
    waiting = run_one(world)
    set_user(world, "ada", max_running=1)
    world.start(waiting)
    assert launched(world) == [waiting]


def test_what_a_log_keeps_is_fixed_when_a_run_starts(world: World) -> None:
    default = accept(world).request_id
    world.start(default)
    world.records.commit([store.put_new(store.DEFAULT_QUOTAS_KEY, DefaultQuotas(max_log_mib=7))])
    run_one(world)
    set_user(world, "ada", max_log_mib=0)  # an older version let it be set
    run_one(world)
    told = [json.loads(launch.payload)["max_log_bytes"] for launch in world.launcher.launches]
    assert told == [quotas.MAX_LOG_MIB * 1024 * 1024, 7 * 1024 * 1024, 1024 * 1024]
    world.start(default)
    assert json.loads(world.launcher.launches[-1].payload)["max_log_bytes"] == told[0], "the same launch again"
    assert payload.parse(world.launcher.launches[0].payload).max_log_bytes == told[0]


def test_what_an_older_version_started_has_no_bound(world: World) -> None:
    set_user(world, "ada", max_running=0)
    waiting = run_one(world)
    current = store.load_execution(world.records, waiting)
    assert current.document is not None
    world.records.commit([store.put(current, msgspec.structs.replace(current.document, max_log_mib=None))])
    set_user(world, "ada", max_running=1)
    world.start(waiting)
    assert "max_log_bytes" not in json.loads(world.launcher.launches[0].payload)


def test_many_starts_at_once_fill_the_places_exactly(world: World) -> None:
    set_user(world, "ada", max_running=3)
    requests = [accept(world) for _ in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda request: world.start(request.request_id), requests))
    assert (len(set(launched(world))), running(world)) == (3, 3)
    assert {world.execution(one.request_id).state for one in requests} == {State.STARTING}


# -- the routes


def test_an_admin_sets_a_users_quotas_and_the_default(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    found = ok(world, "GET", "/quotas")
    assert (found["default"], found["max_unfinished"], found["version"]) == ({}, quotas.MAX_UNFINISHED, 0)
    changed = ok(world, "PUT", "/quotas", {"version": 0, "quotas": {"max_unfinished": 2, "max_running": 1}})
    assert changed == ok(world, "GET", "/quotas")
    user = ok(world, "PUT", "/users/bob/quotas", {"version": 1, "quotas": {"max_unfinished": 1}})
    assert user["quotas"] == {"max_unfinished": 1}
    run_one(world, bob)
    assert world.submit(world.request(), bob).code is ErrorCode.QUOTA_EXCEEDED
    log = {"max_log_mib": quotas.MAX_LOG_MIB}
    assert ok(world, "GET", "/quotas")["users"] == [
        {"user": "ada", "unfinished": 0, "running": 0, "max_unfinished": 2, "max_running": 1} | log,
        {"user": "bob", "unfinished": 1, "running": 1, "max_unfinished": 1, "max_running": 1}
        | {"own": {"max_unfinished": 1}}
        | log,
    ]
    assert ok(world, "GET", "/whoami", None, bob)["quota"]["unfinished"] == 1
    ok(world, "PUT", "/users/bob/quotas", {"version": user["version"], "quotas": {}})
    assert world.submit(world.request(), bob).outcome == "accepted"
    assert [(event.action, event.subject, event.message) for event in audit_of(world) if "quotas" in event.action][
        1:3
    ] == [
        ("set-default-quotas", "default", "unfinished: 2, running: 1, MiB of log: default"),
        ("list-quotas", "", ""),
    ]


@pytest.mark.parametrize("path", ["/quotas", "/users/ada/quotas"])
@pytest.mark.parametrize(
    "body",
    [
        {"version": 1, "quotas": {"max_unfinished": -1}},
        {"version": 1, "quotas": {"max_running": 10_000_001}},
        {"version": 1, "quotas": {"max_running": "3"}},
        {"version": 1, "quotas": {"max_log_mib": -1}},
        {"version": 1, "quotas": {"max_log_mib": 0}},
        {"quotas": {}},
        {"version": 1, "quotas": {"max_unfinished": 1.5}},
    ],
)
def test_what_no_quota_can_be_is_refused(world: World, path: str, body: object) -> None:
    assert code_of(call(world, "PUT", path, body)) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(("path", "current"), [("/quotas", 0), ("/users/ada/quotas", 1)])
def test_of_two_who_set_quotas_at_once_one_is_told(world: World, path: str, current: int) -> None:
    ok(world, "PUT", path, {"version": current, "quotas": {"max_running": 1}})
    assert code_of(call(world, "PUT", path, {"version": current, "quotas": {"max_running": 2}})) is ErrorCode.CONFLICT


def test_a_user_who_comes_back_has_their_quotas_and_what_is_left_counts(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    ok(world, "PUT", "/users/bob/quotas", {"version": 1, "quotas": {"max_unfinished": 5}})
    run_one(world, bob)
    ok(world, "POST", "/users/bob/revoke", {"version": 2})
    ok(world, "POST", "/users", {"name": "bob", "role": "viewer"})
    (use,) = [one for one in ok(world, "GET", "/quotas")["users"] if one["user"] == "bob"]
    assert (use["unfinished"], use["max_unfinished"]) == (1, 5)
    user = ok(world, "GET", "/users/bob")
    assert (user["role"], user.get("revoked_at")) == ("viewer", None)
