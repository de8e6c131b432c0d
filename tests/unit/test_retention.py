"""What ended long ago is forgotten, objects first and records last; what waits or runs, and the audit, never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.calls import audit_of, call, code_of, watch
from tests.unit.proving import prove_day, seal_all

from runvoy_agent.handlers import retention
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.retention import Removing, Swept
from runvoy_agent.local.durable import cut_log
from runvoy_protocol import ids, object_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role
from runvoy_protocol.requests import RunRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.conftest import World

    from runvoy_agent.ports import ObjectInfo, Ports
    from runvoy_protocol.receipts import Receipt

KEEP = timedelta(days=30)


def ended(world: World, **fields: object) -> RunRequest:
    request = world.request(**fields)
    assert world.submit(request).outcome == "accepted"
    end(world, request.request_id)
    return request


def end(world: World, execution_id: str) -> None:
    world.start(execution_id)
    world.leave_started(execution_id)
    world.leave_result(execution_id)
    world.outbox.put(object_keys.log_chunk(execution_id, 1), b"x" * 1000, content_type="")
    world.tell(execution_id, "result", 1)
    world.tell(execution_id, "stopped", 1)
    assert not world.execution(execution_id).is_active


def sweep(world: World, *, dry_run: bool = False, keep: timedelta = KEEP, most: int = 1000) -> Swept:
    removing = Removing(world.inbox.remove, world.outbox.remove)
    since = world.deployment.created_at
    found = retention.sweep(world.ports, since, keep, removing, dry_run=dry_run, most=most)
    return found._replace(oldest_left=None)


def files(world: World) -> set[str]:
    """Every file of the buckets."""
    found = set()
    for bucket in ("inbox", "outbox"):
        for path in (world.folder / bucket).rglob("*"):
            name = path.relative_to(world.folder)
            if path.is_file() and name.parts[1] != ".locks":
                found.add(str(name))
    return found


def test_what_ended_long_ago_is_forgotten_whole(world: World) -> None:
    before = files(world)
    old = ended(world)
    made = files(world) - before
    assert len(made) >= 7
    world.clock.move(days=31)
    young = ended(world)
    found = sweep(world)
    assert (found.executions, found.more) == (1, False)
    assert found.bytes > 1000
    assert not files(world) & made
    assert not list((world.folder / "outbox").rglob(f"*{old.request_id}*"))
    for key in (store.execution_key(old.request_id), store.request_key(old.request_id)):
        assert world.records.get(key) is None
    assert world.execution(young.request_id)
    assert world.inbox.get(object_keys.request(world.signing_key.key_id, young.request_id)) is not None
    assert sweep(world) == Swept()


def test_a_dry_run_says_the_same_and_removes_nothing(world: World) -> None:
    for _ in range(3):
        ended(world)
    world.clock.move(days=31)
    before = files(world)
    told = sweep(world, dry_run=True)
    assert files(world) == before
    assert told.executions == 3
    assert sweep(world) == told


def test_what_waits_or_runs_stays_however_old_it_is(world: World) -> None:
    running, waiting = world.request(locks=("a",)), world.request(locks=("a",))
    for request in (running, waiting):
        world.submit(request)
    world.start(running.request_id)
    lost = world.request()
    world.submit(lost)
    world.start(lost.request_id)
    world.leave_result(lost.request_id)
    world.tell(lost.request_id, "result", 1)  # it ended; its task was never seen stopped
    assert world.execution(lost.request_id).is_terminal
    world.clock.move(days=900)
    assert sweep(world).executions == 0
    for request in (running, waiting, lost):
        assert world.execution(request.request_id)
        assert world.inbox.get(object_keys.request(world.signing_key.key_id, request.request_id)) is not None


def test_what_began_long_ago_and_ended_lately_stays(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.clock.move(days=100)
    end(world, request.request_id)
    world.clock.move(days=29)
    assert sweep(world).executions == 0
    world.clock.move(days=2)
    assert sweep(world).executions == 1


def test_members_images_secrets_locks_and_the_audit_stay(world: World) -> None:
    call(world, "POST", "/images", {"reference": "tools:1"})
    call(world, "POST", "/secrets", {"name": "s", "env_name": "S", "value": "aHVudGVyMjI="})
    world.add_user("dave", Role.DEVELOPER)
    ended(world, locks=("prod",))
    day = world.clock.now()
    kept = seal_all(world)
    events = audit_of(world)
    world.clock.move(days=400)
    assert sweep(world).executions == 1
    assert [event.event_id for event in audit_of(world)][: len(events)] == [event.event_id for event in events]
    assert prove_day(world, day, kept).holds
    for key in ("image#tools:1", "secret#s", "user#dave", "lock#prod", store.seal_key(1)):
        assert world.records.get(key) is not None, key


def test_a_refused_request_and_its_receipt_go_when_they_are_old(world: World) -> None:
    dave = world.add_user("dave", Role.VIEWER)
    request = world.request()
    assert world.submit(request, dave).outcome == "refused"
    assert sweep(world).requests == 0
    world.clock.time = max(world.clock.time, datetime.now(UTC)) + timedelta(
        days=100
    )  # the files' times are the real clock's
    assert sweep(world).requests == 1
    assert not [name for name in files(world) if request.request_id in name]


@pytest.mark.parametrize("at", range(12))
def test_a_death_in_the_middle_leaves_what_the_next_sweep_finds(world: World, at: int) -> None:
    for _ in range(2):
        ended(world)
    world.clock.move(days=31)
    removed = 0

    class Killed(BaseException):
        pass

    def dying(remove: object) -> object:
        def die(object_key: str) -> None:
            nonlocal removed
            if removed == at:
                raise Killed
            removed += 1
            remove(object_key)  # type: ignore[operator]

        return die

    removing = Removing(dying(world.inbox.remove), dying(world.outbox.remove))  # type: ignore[arg-type]
    try:
        retention.sweep(world.ports, world.deployment.created_at, KEEP, removing)
    except Killed:
        assert sweep(world).executions >= 1
    assert sweep(world) == Swept()
    assert not [name for name in files(world) if "/.tmp/" not in name]


def test_the_reconciler_does_not_bring_back_what_is_being_forgotten(world: World) -> None:
    request = ended(world)
    world.clock.move(days=31)
    sweep(world)
    assert world.reconcile() == []
    assert world.outbox.get(object_keys.status(request.request_id)) is None


def test_a_sweep_is_bounded_and_goes_on(world: World) -> None:
    for _ in range(7):
        ended(world)
    world.clock.move(days=31)
    counts = [sweep(world, most=3) for _ in range(4)]
    assert [(one.executions, one.more) for one in counts] == [(3, True), (3, True), (1, False), (0, False)]


def test_a_keep_of_less_than_a_day_is_refused(world: World) -> None:
    with pytest.raises(RunvoyError) as caught:
        sweep(world, keep=timedelta(hours=23))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_without_buckets_to_remove_from_records_go_alone(world: World) -> None:
    request = ended(world)
    world.clock.move(days=31)
    before = files(world)
    found = retention.sweep(world.ports, world.deployment.created_at, KEEP)
    assert (found.executions, found.objects) == (1, 0)
    assert files(world) == before
    assert world.records.get(store.execution_key(request.request_id)) is None
    assert code_of(call(world, "GET", f"/audit/evidence/{request.request_id}")) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("who", ["ada", "eve"])
@pytest.mark.parametrize("has_time", [True, False])
def test_an_id_is_taken_for_as_long_as_there_is_something_of_its_execution(
    world: World, who: str, has_time: bool
) -> None:
    """Who used it again would be told of the first one's end, and given its log."""
    eve = world.add_user("eve", Role.DEVELOPER)
    made = {} if has_time else {"request_id": ids.uuid8(b"nightly of ada's")}
    first = ended(world, **made)
    world.clock.move(days=31)
    assert retention.sweep(world.ports, world.deployment.created_at, KEEP).executions == 1
    asked = Asked(world.ports)
    world.ports = world.ports._replace(outbox=asked)

    def again() -> Receipt:
        request = world.request(request_id=first.request_id, command=("echo", "again"))
        return world.submit(request, {"ada": world.signing_key, "eve": eve}[who])

    refused = again()
    assert refused.code is ErrorCode.ID_CONFLICT
    assert "ada" not in refused.message
    assert world.records.get(store.execution_key(first.request_id)) is None
    for info in world.outbox.list(object_keys.execution_prefix(first.request_id)):
        world.outbox.remove(info.key)  # as a bucket's rules do
    world.clock.move(seconds=1)  # another object: what was refused stays so
    assert again().outcome == "accepted"
    assert world.status(first.request_id).command == ("echo", "again")
    asked.prefixes.clear()
    assert world.submit(world.request()).outcome == "accepted"
    assert asked.prefixes == [], "what was made lately is not looked for"


@pytest.mark.parametrize("hours", [-1, 1, 23])
def test_an_id_that_was_dated_ahead_is_taken_until_its_day_is_over(world: World, hours: int) -> None:
    """Its time says that it was made of late when its execution was over long ago, and what it left is there."""
    day = world.clock.now() + timedelta(days=40)
    first = ended(world, request_id=ids.uuid7(day, bytes(10)))
    world.clock.time = day + timedelta(hours=hours)
    assert retention.sweep(world.ports, world.deployment.created_at, KEEP).executions == 0
    again = world.request(request_id=first.request_id, command=("echo", "again"))
    assert world.submit(again).code is ErrorCode.ID_CONFLICT
    world.clock.time = day + timedelta(days=31)
    assert retention.sweep(world.ports, world.deployment.created_at, KEEP).executions == 1


class Asked:
    """A bucket that remembers what was listed of it."""

    def __init__(self, ports: Ports) -> None:
        self._bucket = ports.outbox
        self.prefixes: list[str] = []

    def list(
        self, prefix: str, *, after: str | None = None, up_to: str | None = None, limit: int = 1000
    ) -> Sequence[ObjectInfo]:
        self.prefixes.append(prefix)
        return self._bucket.list(prefix, after=after, up_to=up_to, limit=limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)


@pytest.mark.parametrize("with_objects", [True, False])
def test_what_was_signed_once_runs_once_though_all_of_it_was_forgotten(world: World, with_objects: bool) -> None:
    """The very object again, as a dead letter that is redriven, or as somebody has kept it."""
    request = world.request()
    object_key = object_keys.request(world.signing_key.key_id, request.request_id)
    assert world.submit(request).outcome == "accepted"
    stored = world.inbox.get(object_key)
    assert stored is not None
    end(world, request.request_id)
    world.clock.move(days=31)
    removing = Removing(world.inbox.remove, world.outbox.remove) if with_objects else None
    assert retention.sweep(world.ports, world.deployment.created_at, KEEP, removing).executions == 1
    launched = len(world.launcher.launches)
    receipt = world.deliver(world.upload_raw(stored.data, object_key))
    # Where its receipt is kept, that is its answer still.
    assert (receipt.outcome, receipt.code) == (
        ("refused", ErrorCode.REQUEST_EXPIRED) if with_objects else ("accepted", None)
    )
    assert world.records.get(store.execution_key(request.request_id)) is None
    assert world.pushed() == [request.request_id]  # the first admission's
    world.start(request.request_id)
    assert len(world.launcher.launches) == launched


def test_the_reconciler_s_sweep_is_a_day_s_and_goes_on_from_where_it_was(world: World) -> None:
    def keep_up() -> Swept | None:
        return retention.keep_up(world.ports, world.deployment.created_at, KEEP)

    stays = world.request()
    world.submit(stays)
    gone = ended(world)
    assert keep_up() is not None
    world.clock.move(hours=23)
    assert keep_up() is None
    world.clock.move(days=40)
    first = keep_up()
    assert first is not None
    assert (first.executions, first.more) == (1, False)
    assert world.records.get(store.execution_key(gone.request_id)) is None
    assert world.execution(stays.request_id)
    watched = watch(world)
    world.clock.move(days=600)
    assert keep_up() is not None
    assert keep_up() is None
    days = {call.split()[-1][:10] for call in watched.calls if call.startswith("query day")}
    assert min(days) == store.day(world.execution(stays.request_id).admitted_at)
    end(world, stays.request_id)
    world.clock.move(days=31)
    last = keep_up()
    assert last is not None
    assert last.executions == 1


def test_a_log_is_cut_at_a_line(tmp_path: Path) -> None:
    log = tmp_path / "stack.log"
    assert cut_log(log, 100) == 0
    lines = [f"line {number}\n" for number in range(1000)]
    log.write_text("".join(lines))
    with log.open("a") as writer:
        size = log.stat().st_size
        went = cut_log(log, 100)
        writer.write("after\n")
    left = log.read_text().splitlines(keepends=True)
    assert left == [*lines[-len(left) + 1 :], "after\n"]
    assert size - went == sum(map(len, left)) - len("after\n") <= 100
    assert cut_log(log, 1000) == 0
