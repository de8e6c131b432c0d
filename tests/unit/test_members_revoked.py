"""Whoever is revoked starts nothing, admits nothing and changes nothing from that commit on, whatever was under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import WatchedRecords, add_key, audit_of, call, ok, set_user, user_of, watch
from tests.unit.cases import BY_CALL, CASES, Scene, scene

from runvoy_agent.core.model import DiscardedValue, Execution, Key
from runvoy_agent.handlers.documents import store
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.ports import Check, Launched, NoCapacity, Put, TaskState, Write
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World

SUBMITTERS = 3
RUNS_BEFORE = 6


def executions_in(writes: Any) -> list[Execution]:
    return [
        msgspec.json.decode(write.item.body, type=Execution)
        for write in writes
        if isinstance(write, Put) and write.key.startswith("execution#")
    ]


class Storm:
    """Threads that submit and start with one key until they are told to stop; then everything is delivered again, late and
    twice, and started once more."""

    def __init__(self, world: World, signing_key: SigningKey) -> None:
        world.clock = SystemClock()  # type: ignore[assignment]
        world.deployment = world.deployment._replace(created_at=world.clock.now() - timedelta(days=1))
        self.world = world
        self.key = signing_key
        self.watched = watch(world)
        world.ports = world.ports._replace(clock=world.clock)
        self.enough = threading.Event()
        self.stop = threading.Event()
        self.deliveries: list[Any] = []
        self.errors: list[BaseException] = []

    def rage(self, revoke: Callable[[], object]) -> None:
        threads = [threading.Thread(target=self._submit) for _ in range(SUBMITTERS)]
        for thread in threads:
            thread.start()
        try:
            assert self.enough.wait(60)
            revoke()
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        assert not self.errors, self.errors
        self._again()

    def _submit(self) -> None:
        try:
            left_after_stop = 3  # some come after, whenever the revocation was
            while not self.stop.is_set() or left_after_stop:
                left_after_stop -= self.stop.is_set()
                request = self.world.request()
                delivery = self.world.upload(request, self.key)
                self.deliveries.append(delivery)
                self.world.deliver(delivery)
                self.world.start(request.request_id)
                if len(self.deliveries) >= RUNS_BEFORE * SUBMITTERS:
                    self.enough.set()
        except Exception as error:  # noqa: BLE001 - it is raised in the test's own thread
            self.errors.append(error)
            self.enough.set()

    def _again(self) -> None:
        late = [self.world.upload(self.world.request(), self.key) for _ in range(3)]
        for delivery in (*reversed(self.deliveries), *self.deliveries, *late, *late):
            self.world.deliver(delivery)
            self.world.start(delivery.object_key.rpartition("/")[2])
        self.world.reconcile(starting_up=True)
        for execution_id in self.world.pushed():
            self.world.start(execution_id)

    def judge(self, is_revocation: Callable[[Write], bool]) -> None:
        """Of the commits after the revocation none admits or starts anything of the key."""
        commits = self.watched.commits
        (revoked_at,) = [number for number, writes in enumerate(commits) if any(map(is_revocation, writes))]
        before = [one for writes in commits[:revoked_at] for one in executions_in(writes)]
        after = [one for writes in commits[revoked_at:] for one in executions_in(writes)]
        known = {one.execution_id for one in before}
        started = {one.execution_id for one in before if one.state is State.STARTING}
        assert len(started) >= RUNS_BEFORE
        for one in after:
            assert one.execution_id in known, "it was admitted after the revocation"
            assert one.state is not State.STARTING or one.execution_id in started, "it was started after the revocation"
        launched = {launch.execution_id for launch in self.world.launcher.launches}
        assert launched <= started
        # What was accepted and not started is told so.
        for one in {one.execution_id: one for one in (*before, *after)}.values():
            ended = self.world.execution(one.execution_id)
            if one.execution_id not in started:
                assert (ended.state, ended.reason) == (State.STOPPED, Reason.REVOKED)


def changed(prefix: str, name: str) -> Callable[[Write], bool]:
    return lambda write: isinstance(write, Put) and write.key == f"{prefix}#{name}" and write.version > 0


@pytest.mark.parametrize("how", ["key", "user", "role"])
def test_revoked_in_the_middle_of_a_storm(world: World, how: str) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    storm = Storm(world, dave)
    version = user_of(world, "dave")[1]
    calls: dict[str, Callable[[], object]] = {
        "key": lambda: ok(world, "DELETE", f"/keys/{dave.key_id}"),
        "user": lambda: ok(world, "POST", "/users/dave/revoke", {"version": version}),
        "role": lambda: ok(world, "POST", "/users/dave/role", {"role": "viewer", "version": version}),
    }
    storm.rage(calls[how])
    storm.judge(changed("key", dave.key_id) if how == "key" else changed("user", "dave"))


def test_a_key_that_expires_in_the_middle_of_a_storm(world: World) -> None:
    world.add_user("dave", Role.DEVELOPER)
    dave = SigningKey(b"d" * 32)
    storm = Storm(world, dave)
    expires_at = world.clock.now() + timedelta(seconds=1.5)
    key = Key(key_id=dave.key_id, public_key=dave.public_key, user="dave", created_at=expires_at, expires_at=expires_at)
    world.records.commit([store.put_new(store.key_key(dave.key_id), key)])

    def wait() -> None:
        while world.clock.now() <= expires_at:
            world.clock.sleep(0.05)

    storm.rage(wait)
    found = [one for writes in storm.watched.commits for one in executions_in(writes)]
    assert any(one.state is State.STARTING for one in found)
    for one in found:
        assert one.admitted_at < expires_at
        assert one.starting_at is None or one.starting_at < expires_at
    for delivery in storm.deliveries[-3:]:
        assert world.deliver(delivery).outcome == "refused"


def test_what_waits_for_room_does_not_start_once_its_key_is_revoked(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    world.launcher.outcome = NoCapacity("full")
    request = world.request(locks=("db",))
    world.submit(request, dave)
    world.start(request.request_id)
    assert world.execution(request.request_id).reason is Reason.CAPACITY
    world.revoke(dave)
    world.launcher.outcome = Launched("task")
    launches = len(world.launcher.launches)
    for _ in range(2):
        world.start(request.request_id)
    assert len(world.launcher.launches) == launches
    # It has no task, and no launch of it is under way: it ends at once, and its lock is free.
    ended = world.execution(request.request_id)
    assert (ended.state, ended.reason, ended.is_active) == (State.STOPPED, Reason.REVOKED, False)
    told = [(one.action, one.outcome) for one in audit_of(world) if one.actor == "dave"]
    assert told[-2:] == [("start", "TERMINATING"), ("start", "STOPPED")]
    assert store.load_lock(world.records, "db").document.queue == ()


def test_a_kill_of_what_waits_for_room_frees_its_locks_at_once(world: World) -> None:
    world.launcher.outcome = NoCapacity("full")
    request = world.request(locks=("db",))
    world.submit(request)
    world.start(request.request_id)
    assert world.execution(request.request_id).launches == 0
    assert call(world, "DELETE", f"/executions/{request.request_id}").status == 200
    ended = world.execution(request.request_id)
    assert (ended.state, ended.reason, ended.is_active) == (State.STOPPED, Reason.KILLED, False)
    assert store.load_lock(world.records, "db").document.queue == ()
    world.launcher.outcome = Launched("task")
    world.start(request.request_id)
    assert world.launcher.tasks == {}


def test_what_runs_goes_on_when_its_key_is_revoked(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    request = world.request()
    world.submit(request, dave)
    world.start(request.request_id)
    world.revoke(dave)
    for world.launcher.gaps in (0, 1, 2):  # the same push, late; and looks that miss its task
        world.start(request.request_id)
    assert world.execution(request.request_id).state is State.STARTING
    assert world.launcher.stops == []


# -- a caller who is revoked in the middle of their call

OF_THE_CALL_ITSELF = ("audit#", "nonce#", "minute#", "key_use#", "grantee#", "discarded_value#")
HARMLESS = {"POST /health/reconcile"}
"""A round of the reconciler is the deployment's own, and comes every minute anyway."""
CHANGING = [name for name, route in BY_CALL.items() if route.single_use and name not in HARMLESS]
A_VIEWER_MAY = {"POST /keys", "POST /keys/claims", "POST /keys/rotate", "POST /grants/outbox"}


def before_call(watched: WatchedRecords, at: int, act: Callable[[], object]) -> list[int]:
    """Have `act` done before the records are asked for the `at`-th time; then the list holds how many commits came before."""
    commits_before: list[int] = []

    def on_call(number: int) -> None:
        if number == at:
            act()
            commits_before.append(len(watched.commits))

    watched.on_call = on_call
    return commits_before


def revoke_key(scene: Scene) -> None:
    scene.world.revoke(scene.key)


def demote(scene: Scene) -> None:
    set_user(scene.world, scene.name, role=Role.VIEWER)


@pytest.mark.parametrize(
    ("name", "lose"),
    [(name, revoke_key) for name in CHANGING] + [(name, demote) for name in CHANGING if name not in A_VIEWER_MAY],
)
def test_a_caller_revoked_in_the_middle_of_a_call_changes_nothing_after(
    world: World, name: str, lose: Callable[[Scene], None]
) -> None:
    """Before every single operation that the call asks of the records."""
    whole = world.ports
    at = 0
    while True:
        at += 1
        world.ports = whole
        caller = scene(world, Role.ADMIN, limited=False, whose="own" if name == "POST /keys" else "other")
        method, path, body = CASES[name](caller)
        watched = watch(world)
        commits_before = before_call(watched, at, partial(lose, caller))
        call(world, method, path, body, caller.key)
        if not commits_before:
            break
        after = [put.key for put in watched.puts(commits_before[0])]
        assert not [key for key in after if not key.startswith(OF_THE_CALL_ITSELF)], (at, watched.calls)
        # A value that was put for a secret that did not come to be is gone with the call.
        assert not list(store.of_kind(world.records, store.KIND_DISCARDED_VALUE, DiscardedValue))
    assert at > 6


def test_who_was_demoted_does_not_lift_themselves_again_with_a_call_that_was_under_way(world: World) -> None:
    """A call that writes its caller's own record would hold itself to whatever is there by then."""
    eve = world.add_user("eve", Role.ADMIN)
    whole = world.ports
    at = 0
    while True:
        at += 1
        world.ports = whole
        set_user(world, "eve", role=Role.ADMIN)
        version = user_of(world, "eve")[1]
        demoted = before_call(watch(world), at, partial(set_user, world, "eve", role=Role.VIEWER))
        call(world, "POST", "/users/eve/role", {"role": "operator", "version": version + 1}, eve)
        if not demoted:
            break
        assert user_of(world, "eve")[0].role is Role.VIEWER, at
    assert at > 6


def test_the_launch_commit_depends_on_key_and_user(world: World) -> None:
    """The one commit after which a command may run names both."""
    dave = world.add_user("dave", Role.DEVELOPER)
    request = world.request()
    world.submit(request, dave)
    watched = watch(world)
    world.start(request.request_id)
    (starting,) = [writes for writes in watched.commits if executions_in(writes)]
    checked = {write.key for write in starting if isinstance(write, Check)}
    assert {store.key_key(dave.key_id), store.user_key("dave")} <= checked
    assert world.launcher.tasks[request.request_id] == TaskState("running")


def test_a_revoked_user_s_limited_and_expiring_keys_go_with_them(world: World) -> None:
    world.add_user("dave", Role.DEVELOPER)
    others = [add_key(world, "dave"), add_key(world, "dave", expires_in=timedelta(days=90))]
    ok(world, "POST", "/users/dave/revoke", {"version": user_of(world, "dave")[1]})
    assert [call(world, "GET", "/whoami", None, key).status for key in others] == [401, 401]
