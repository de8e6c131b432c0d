"""What bugs that somebody could have made change in the production code, each by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.simulation.explorer import ExploredRecords
from tests.simulation.platform import SimPlatform
from tests.simulation.ports import SimRecords

from runvoy_agent.core import access, admission, lifecycle, locks, projection, recounts, told_times
from runvoy_agent.core import batches as taking
from runvoy_agent.core.access import Member
from runvoy_agent.core.admission import Known
from runvoy_agent.core.model import Execution, Key, Refusal, TakenBatch, User
from runvoy_agent.core.progress import InboxSweep, Reconciled
from runvoy_agent.handlers import ends, inbox, reconcile, starts
from runvoy_agent.handlers.admission import batches
from runvoy_agent.handlers.documents import outbox, store
from runvoy_agent.handlers.documents.messages import StartMessage
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.executions import kills
from runvoy_agent.handlers.locks import releases
from runvoy_agent.handlers.quotas import counts, places
from runvoy_agent.handlers.reconciler import batches as unfinished_batches
from runvoy_agent.handlers.reconciler import inbox_sweeps, lost_uploads, runs
from runvoy_agent.handlers.reconciler.careful_launcher import CarefulLauncher
from runvoy_agent.handlers.reconciler.inbox_sweeps import ODD, RECENT, TIMES
from runvoy_agent.ports import Add, Attempt, Check, Ports, Put, TaskState, Write
from runvoy_protocol import object_keys, status
from runvoy_protocol.states import State

Patch = tuple[Any, str, Any]
"""An owner, the name of what it has, and what that becomes."""


def _without(prefix: str, *kinds: type[Write]) -> list[Patch]:
    """Commits that leave conditions out. A Put becomes one of whatever version is there."""
    return [(owner, "_commit", _careless_commit(owner, prefix, kinds)) for owner in (SimRecords, ExploredRecords)]


def _careless_commit(owner: Any, prefix: str, kinds: tuple[type[Write], ...]) -> Callable[..., None]:
    original = owner._commit

    def commit(self: Any, writes: Sequence[Write]) -> None:
        changed: list[Write] = []
        for write in writes:
            if not (isinstance(write, kinds) and write.key.startswith(prefix)):
                changed.append(write)
            elif isinstance(write, Put):
                row = self.rows.get(write.key)
                changed.append(write._replace(version=0 if row is None else row[1]))
        original(self, changed)

    return commit


def _release_on_result() -> list[Patch]:
    original = lifecycle.settle

    def settle(execution: Execution, result: Any, now: datetime) -> Execution | None:
        settled = original(execution, result, now)
        return settled and msgspec.structs.replace(settled, stopped_at=now)

    return [(lifecycle, "settle", settle)]


def _release_without_checks() -> list[Patch]:
    """The locks that a release only read are not in its commit. In the source, because the explorer has its own ports."""
    original = releases.release

    def release(ports: Ports, execution_id: str, names: Any, writes: Sequence[Write] = ()) -> Any:
        def commit(all_writes: Sequence[Write]) -> None:
            ports.records.commit(
                [write for write in all_writes if not (isinstance(write, Check) and write.key.startswith("lock#"))]
            )

        records = SimpleNamespace(get=ports.records.get, get_many=ports.records.get_many, commit=commit)
        return original(ports._replace(records=records), execution_id, names, writes)  # type: ignore[arg-type]

    return [(releases, "release", release)]


def _launch_before_commit() -> list[Patch]:
    original = starts.handle

    def handle(ports: Ports, deployment: Any, body: bytes) -> None:
        execution_id = msgspec.json.decode(body, type=StartMessage).execution_id
        execution = store.load_execution(ports.records, execution_id).document
        starting = execution and lifecycle.begin_start(execution, ports.clock.now())
        if starting:
            ports.launcher.start(starts._launch_of(ports, deployment, starting, {}))
        original(ports, deployment, body)

    return [(starts, "handle", handle)]


def _receipt_before_record() -> list[Patch]:
    original = inbox._record

    def record(ports: Ports, request: Any, execution: Execution, *rest: Any) -> None:
        receipt = outbox.accepted_receipt(execution, execution.object_sha256)
        outbox.publish_receipt(ports.outbox, receipt)
        original(ports, request, execution, *rest)

    return [(inbox, "_record", record)]


def _ignore_the_digest() -> list[Patch]:
    return [(admission, "_known", lambda existing, _key_id, _digest: Known(existing))]


def _blind_restart() -> list[Patch]:
    """A task that is missing is launched again, however long ago it was launched first."""

    def repair_missing(ports: Ports, execution: Execution, looked_at: datetime, *_rest: Any) -> Iterator[Any]:
        if execution.starting_at is not None and looked_at > execution.starting_at + runs.GONE_AFTER:
            deployment = SimpleNamespace(secret=b"s" * 32, runner_endpoint="")
            ports.launcher.start(starts._launch_of(ports, deployment, execution, {}))  # type: ignore[arg-type]
        yield from ()

    return [
        (runs, "_repair_missing", repair_missing),
        (SimPlatform, "relaunch_window", property(lambda _self: None)),
    ]


def _status_without_condition() -> list[Patch]:
    def publish(ports: Ports, execution: Execution, record_version: int) -> None:
        object_key = object_keys.status(execution.execution_id)
        current = ports.outbox.get(object_key)
        if current is None or outbox.shown_version(current.data) < record_version:
            encoded = status.encode(projection.project(execution, record_version))
            ports.outbox.put(object_key, encoded, content_type=outbox.JSON)

    return [(outbox, "publish_status", publish)]


class _Careless:
    """core.access as seen by a handler that does not look at revocations."""

    Action = access.Action
    check_allowed = staticmethod(access.check_allowed)

    @staticmethod
    def check_key(key: Key, user: User, _now: datetime) -> Member:
        return Member(user, key)


def _join_in_two_commits() -> list[Patch]:
    original = inbox._record

    def record(
        ports: Ports,
        request: Any,
        execution: Execution,
        source: str,
        relied_on: Any,
        named: Any,
        joined: Any,
        *rest: Any,
    ) -> None:
        first = dict(list(joined.items())[:1])
        original(ports, request, execution, source, relied_on, named, first, *rest)
        others = [store.put(named[name], lock) for name, lock in joined.items() if name not in first]
        if others:
            ports.records.commit(others)

    return [(inbox, "_record", record)]


def _release_by_time() -> list[Patch]:
    original = reconcile.handle

    def handle(ports: Ports, **options: Any) -> Any:
        for shard in range(store.SHARDS):
            partition = store.shard_partition("", shard)
            for record in store.partition_records(ports.records, store.INDEX_ACTIVE, partition):
                execution = msgspec.json.decode(record.body, type=Execution)
                begun = execution.started_at
                if begun is not None and ports.clock.now() - begun > timedelta(minutes=2):
                    names = [lock.name for lock in execution.locks]
                    releases.announce(ports, releases.release(ports, execution.execution_id, names))
        return original(ports, **options)

    return [(reconcile, "handle", handle)]


def _forget_refusals() -> list[Patch]:
    """An object that was refused is judged anew when it is delivered again."""
    original = store.loaded

    def loaded(found: Any, key: str, schema: Any) -> Any:
        return Loaded(key, None, 0) if schema is Refusal else original(found, key, schema)

    return [
        (store, "loaded", loaded),
        *_without("refusal#", Check, Put),
    ]


def _restart_fences() -> list[Patch]:
    original = locks.leave

    def leave(locks_: Any, execution_id: str) -> Any:
        return {
            name: lock if lock.queue else msgspec.structs.replace(lock, fence=0)
            for name, lock in original(locks_, execution_id).items()
        }

    return [(locks, "leave", leave)]


def _kill_forgets_the_task() -> list[Patch]:
    original = lifecycle.kill

    def kill(execution: Execution, now: datetime, who: str) -> Execution | None:
        killed = original(execution, now, who)
        if killed is None or killed.state is not State.TERMINATING:
            return killed
        return msgspec.structs.replace(killed, state=State.STOPPED, ended_at=now, stopped_at=now)

    return [(lifecycle, "kill", kill)]


def _hasty_reconciler() -> list[Patch]:
    """What a listing does not show is taken for gone at once."""

    def repair(ports: Ports, execution: Execution, *_rest: Any) -> Iterator[Any]:
        runs._send_end(ports, execution, "stopped")
        yield from ()

    names = ("_repair_unlaunched", "_repair_missing")
    return [*((runs, name, repair) for name in names), (runs, "LOOK_AFTER", timedelta(0))]


def _left_out_is_missing() -> list[Patch]:
    """What a look at many tasks does not find is taken for missing."""
    original = CarefulLauncher.survey

    def survey(self: CarefulLauncher, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        return dict.fromkeys(attempts, TaskState("missing")) | dict(original(self, attempts))

    return [(CarefulLauncher, "survey", survey)]


def _launch_again_whatever_stopped() -> list[Patch]:
    """What stopped without a result had no room, and is launched again as another attempt."""

    def after(ports: Ports, deployment: Any, execution: Execution, message: Any) -> Execution | None:
        is_end = message.event == "stopped" and message.attempt == execution.attempt
        again = lifecycle.launch_again(execution, ports.clock.now(), "") if is_end else None
        return again or original(ports, deployment, execution, message)

    original = ends._after
    return [(ends, "_after", after)]


def _launch_again_each_time() -> list[Patch]:
    """The word that a task had no room is taken for that of whichever attempt there is."""

    def apply(ports: Ports, deployment: Any, message: Any) -> Execution | None:
        current = store.load_execution(ports.records, message.execution_id).document
        if message.no_room and current is not None:
            message = msgspec.structs.replace(message, attempt=current.attempt)
        return original(ports, deployment, message)

    original = ends._apply
    return [(ends, "_apply", apply)]


def _announce_nobody() -> list[Patch]:
    """The reconciler does not push again what is granted and was not pushed."""
    return [(runs, "_push", lambda _ports, _execution: None)]


def _one_lock_is_enough() -> list[Patch]:
    def heads_all(locks_: Any, execution_id: str) -> bool:
        return not locks_ or any(lock.queue[:1] == (execution_id,) for lock in locks_.values())

    return [(locks, "heads_all", heads_all)]


def _never_look_again() -> list[Patch]:
    """The stopped event alone settles: a task that stopped unseen is not looked for."""

    def after(ports: Ports, deployment: Any, execution: Execution, message: Any) -> Execution | None:
        if message.event == "stopped":
            now = ports.clock.now()
            ended = lifecycle.settle_lost(execution, now, "stopped") or execution
            return lifecycle.note_stopped(ended, now)
        return original(ports, deployment, execution, message)

    original = ends._after
    return [(ends, "_after", after)]


def _refusals_end_all() -> list[Patch]:
    """A refused launch ends the execution, though another may be under way."""
    original = lifecycle.note_unlaunched

    def note(execution: Execution, *rest: Any, **options: Any) -> Execution | None:
        return original(msgspec.structs.replace(execution, launches=1), *rest, **options)

    return [(lifecycle, "note_unlaunched", note)]


def _uncounted_launches() -> list[Patch]:
    """A repeated launch is not counted."""

    def begin(execution: Execution, now: datetime) -> Execution | None:
        return msgspec.structs.replace(execution, updated_at=now) if execution.state is State.STARTING else None

    return [(lifecycle, "begin_launch", begin)]


def _done_before_it_is() -> list[Patch]:
    """A range is noted as done before its requests are admitted."""
    original = batches._admit_range

    def admit_range(ports: Ports, part: Any, arrived: Any, admit: Any, work_until: Any) -> bool:
        admitted: list[Any] = []
        is_done: bool = original(ports, part, arrived, admitted.append, work_until)
        for one in admitted:
            admit(one)
        return is_done

    return [(batches, "_admit_range", admit_range)]


def _done_when_cut_short() -> list[Patch]:
    """A range counts as done when a delivery of it had no time for all of its requests."""
    original = taking.note_reached

    def note(batch: TakenBatch, start: int, _position: int, now: datetime) -> TakenBatch | None:
        return original(batch, start, min(start + batch.range_size, batch.count), now)

    return [(taking, "note_reached", note)]


def _withdraw_on_a_look() -> list[Patch]:
    """What a look at the platform misses is withdrawn, whatever launches of it are counted."""
    original = lifecycle.withdraw

    def withdraw(ports: Ports, execution: Execution, refused: str) -> None:
        if ports.launcher.describe(execution.execution_id, execution.attempt).phase == "missing":
            kills.end(
                ports,
                execution.execution_id,
                lambda current: original(msgspec.structs.replace(current, launches=0), ports.clock.now(), refused),
                lambda changed: starts._audit(ports, changed),
            )

    return [(starts, "_withdraw", withdraw)]


def _withdraw_the_good() -> list[Patch]:
    """A second delivery of a start takes every key for revoked."""
    original = starts._rights

    def rights(ports: Ports, execution: Execution) -> Any:
        return original(ports, execution) if execution.state is State.QUEUED else starts._Rights("revoked")

    return [(starts, "_rights", rights)]


def _count_unbounded() -> list[Patch]:
    """The quota is looked at before the commit, and not held in it."""
    original = counts.changes
    return [(counts, "changes", lambda before, after, **_limits: original(before, after))]


def _places_stay_taken() -> list[Patch]:
    original = counts.changes

    def changes(before: Execution | None, after: Execution, **limits: Any) -> tuple[Write, ...]:
        return tuple(add for add in original(before, after, **limits) if add.amount > 0)

    return [(counts, "changes", changes)]


def _count_down_twice() -> list[Patch]:
    """An execution counts no more when it ends, and once more when it was seen stopped."""
    original = counts.changes

    def changes(before: Execution | None, after: Execution, **limits: Any) -> tuple[Write, ...]:
        if before is None or not after.is_terminal:
            return original(before, after, **limits)
        return (Add(counts.unfinished_key(after.owner), -1),)

    return [(counts, "changes", changes)]


def _through_when_cut_short() -> list[Patch]:
    """What is left of a stretch when a round has done enough is left out."""
    original = inbox_sweeps.Sweep._reach
    return [(inbox_sweeps.Sweep, "_reach", lambda self, _place: original(self, ""))]


def _sweep_since_the_end() -> list[Patch]:
    """A sweep reads what was written since the last one ended, and not since that began."""
    original = inbox_sweeps.Sweep.reached

    def reached(self: inbox_sweeps.Sweep, *, forgets_some: bool) -> InboxSweep:
        mark = original(self, forgets_some=forgets_some)
        return msgspec.structs.replace(mark, next_since=self._began)

    return [(inbox_sweeps.Sweep, "reached", reached)]


def _forget_keys_apart() -> list[Patch]:
    """What a key that took more than its share has left is forgotten."""
    original = lost_uploads.Look.reached

    def reached(self: lost_uploads.Look) -> Reconciled:
        mark = original(self)
        return msgspec.structs.replace(mark, sweeps={name: mark.sweeps[name] for name in inbox_sweeps.STRETCHES})

    return [(lost_uploads.Look, "reached", reached)]


def _place_back_on_result() -> list[Patch]:
    """A command gives its place to the next when its runner told of its end, before its task was seen stopped."""
    return [(counts, "counts_as_running", lambda execution: execution.placed and not execution.is_terminal)]


def _believe_the_indexes() -> list[Patch]:
    """What no index shows is taken for gone at once, and nobody looks whether one shows it later."""
    return [
        (recounts, "is_ripe", lambda _suspicion, _index_lag, _now: True),
        (recounts, "unknown", lambda _suspicion, _admitted: 0),
    ]


def _count_the_first_look() -> list[Patch]:
    """What changed while it was counted is taken for what it was at first."""

    def as_at_first(kind: str) -> Callable[..., recounts.Bounds]:
        def count(before: Mapping[str, recounts.Looked], _after: object) -> recounts.Bounds:
            found = sum(getattr(one, kind) for one in before.values())
            return recounts.Bounds(found, found)

        return count

    return [(recounts, kind, as_at_first(kind)) for kind in ("unfinished", "running")]


def _believe_the_runner_s_clock() -> list[Patch]:
    """The deadline's backstop counts from the start that the runner told, whenever that was."""
    original = lifecycle.expire_run

    def instant(milliseconds: int, _execution: Execution, _now: datetime) -> datetime:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)

    def expire_run(execution: Execution, now: datetime, grace: timedelta) -> Execution | None:
        return original(msgspec.structs.replace(execution, running_since=None), now, grace)

    return [(told_times, "instant", instant), (lifecycle, "expire_run", expire_run)]


def _let_go_on_what_ended() -> list[Patch]:
    return [(runs, "_stop_what_outlives_its_end", lambda _ports, _execution, _task: iter(()))]


MAKERS: dict[str, Callable[[], Sequence[Patch]]] = {
    "locks are released on the result, not when the task stopped": _release_on_result,
    "a write has no condition": lambda: _without("execution#", Put),
    "a lock's write has no condition": lambda: _without("lock#", Put),
    "no Check of a lock that was only read": _release_without_checks,
    "no Check of the key": lambda: _without("key#", Check),
    "launched before the commit": _launch_before_commit,
    "answered before the record": _receipt_before_record,
    "the content digest is ignored": _ignore_the_digest,
    "launched again blindly when its task is missing": _blind_restart,
    "status.json is written without a condition": _status_without_condition,
    "revocation is not looked at when starting": lambda: [(starts, "access", _Careless)],
    "queues are joined in two commits": _join_in_two_commits,
    "locks are released by time": _release_by_time,
    "an earlier refusal is not looked at": _forget_refusals,
    "fences restart": _restart_fences,
    "a kill forgets the task": _kill_forgets_the_task,
    "one look is enough for a missing task": _hasty_reconciler,
    "what a look at many tasks leaves out is missing": _left_out_is_missing,
    "what stopped is launched again": _launch_again_whatever_stopped,
    "a word on an earlier attempt is taken for one on this": _launch_again_each_time,
    "what was not pushed stays so": _announce_nobody,
    "the head of one queue is granted": _one_lock_is_enough,
    "the platform's word goes before the runner's": _never_look_again,
    "a refusal ends what another delivery launches": _refusals_end_all,
    "a launch that is made again is not counted": _uncounted_launches,
    "ids that hold no time are not listed": lambda: [(lost_uploads, "STRETCHES", (RECENT, TIMES))],
    "ids that hold another time are not listed": lambda: [(lost_uploads, "STRETCHES", (RECENT, ODD))],
    "a sweep that was cut short is through": _through_when_cut_short,
    "a sweep goes on from the end of the last one": _sweep_since_the_end,
    "a sweep forgets what it left behind": _forget_keys_apart,
    "uploads are looked for during a grant only": lambda: [(lost_uploads, "LOOKED_FOR", inbox_sweeps.LISTED_BACK)],
    "unanswered uploads are not remembered": lambda: [(lost_uploads.Look, "_remembered", lambda _self: iter(()))],
    "a range is done before its requests": _done_before_it_is,
    "a range that was cut short is done": _done_when_cut_short,
    "lost ranges are not looked for": lambda: [
        (unfinished_batches, "lost_ranges", lambda _ports, _starting_up: iter(()))
    ],
    "a start is withdrawn although its key is good": _withdraw_the_good,
    "a start is withdrawn because one look misses its task": _withdraw_on_a_look,
    "looks at one omission count for two": lambda: [(runs, "GONE_LOOKS_APART", timedelta(0))],
    "looks at two omissions count together": lambda: [(runs, "GONE_LOOKS_WITHIN", timedelta(days=1))],
    "a quota is not held in the commit": _count_unbounded,
    "a refusal for a quota is not held to the count": lambda: _without("unfinished#", Check),
    "an end leaves its place taken": _places_stay_taken,
    "a place is free on the result, not when the task stopped": _place_back_on_result,
    "an end gives its place back twice": _count_down_twice,
    "a deadline counts by the runner's clock": _believe_the_runner_s_clock,
    "what has ended and goes on is let go on": _let_go_on_what_ended,
    "a recount believes the indexes": _believe_the_indexes,
    "a recount takes what changed for what it was": _count_the_first_look,
    "two recounts put the same right twice": lambda: _without("recount#", Put),
    "a lost push for a place is not made again": lambda: [(places, "repair", lambda _ports, _owner, _seen: iter(()))],
    "nothing recounts": lambda: [(reconcile, "_of_the_counts", lambda _ports, _starting_up: iter(()))],
    "an end can change": lambda: [(lifecycle, "can_follow", lambda _current, _wanted: True)],
}
