"""What must hold, watched at every commit, every object and every move of the platform, and judged once more at the end.

The oracles keep books of their own (the order of admissions by lock, who really runs) and never ask the code they judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec
from tests.simulation.platform import Task
from tests.simulation.ports import START, SimObjects, SimRecords

from runvoy_agent.core import lifecycle, projection, quotas
from runvoy_agent.core.model import AuditEvent, Execution, Key, LockRecord, Refusal, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.ports import Add, Put, Write
from runvoy_protocol import object_keys, receipts, status
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import TERMINAL, Reason, State, can_follow

_FORCED = b'"release-lock"'
_RECOUNT = b'"recount-quotas"'
_NUMBERS = ("unfinished#", "running#")
_MILLISECOND = timedelta(milliseconds=1)
_START_CLOCK_MS = int(lifecycle.START_TIMEOUT.total_seconds() * 1000)


class Violation(AssertionError):
    """Something that must never be was seen."""


class Upload(NamedTuple):
    """One object that a client put into the inbox. `content` tells requests of one id apart."""

    key_id: str
    request_id: str
    object_sha256: str
    content: str
    batch_id: str = ""  # that of the batch it came in


class Oracles:
    """The books, and the judgement. `check` raises Violation at once, so that the trace ends where it happened."""

    def __init__(self, records: SimRecords, outbox: SimObjects) -> None:
        self._records = records
        self._outbox = outbox
        self.executions: dict[str, Execution] = {}
        self.uploads: list[Upload] = []
        self.batches: set[str] = set()
        self.kill_asked: set[str] = set()
        self.lost: set[str] = set()  # objects of which a delivery was lost for good
        self.superseded: set[str] = set()  # objects over which their sender put another
        self.tasks: dict[str, Task] = {}
        self.starts: dict[str, int] = {}
        self.grants = 0
        self.at_limit = 0  # refusals for a quota
        self.corrections = 0
        self._drift: dict[str, int] = {}  # number → by how much somebody has made it too high
        self._miscounted: set[str] = set()  # whose numbers were wrong once, so that a limit may have been passed
        self._users: dict[str, User] = {}
        self._owners: dict[str, str] = {}  # key id → user
        self._unfinished: dict[str, set[str]] = {}  # user → their executions that are not over
        self._living: dict[str, set[str]] = {}  # user → those whose task lives
        self._queues: dict[str, dict[str, None]] = {}  # lock → its executions in the order of their admission
        self._fences: dict[str, int] = {}
        self._started_fences: dict[str, int] = {}
        self._holding: dict[str, dict[str, None]] = {}
        self._forced: set[tuple[str, str]] = set()
        self._revoked: set[str] = set()
        self._shown: dict[str, int] = {}
        self._receipts: dict[str, bytes] = {}
        self.now_ms = lambda: 0

    def copy(self, records: SimRecords, outbox: SimObjects) -> Oracles:
        """The same books for a copy of the world; tasks are copied, for they change."""
        made = Oracles.__new__(Oracles)
        made.__dict__.update(self.__dict__)
        made._records, made._outbox = records, outbox
        for name in (
            "executions",
            "starts",
            "_fences",
            "_started_fences",
            "_shown",
            "_receipts",
            "_users",
            "_owners",
            "_drift",
        ):
            setattr(made, name, dict(getattr(self, name)))
        for name in ("_revoked", "_forced", "kill_asked", "_miscounted"):
            setattr(made, name, set(getattr(self, name)))
        made.tasks = {execution_id: task.copy() for execution_id, task in self.tasks.items()}
        made._unfinished = {name: set(owned) for name, owned in self._unfinished.items()}
        made._living = {name: set(owned) for name, owned in self._living.items()}
        made._queues = {name: dict(queue) for name, queue in self._queues.items()}
        made._holding = {name: dict(holders) for name, holders in self._holding.items()}
        return made

    def identity(self) -> int:
        """What of the books is not in the world itself."""
        return hash(
            (
                tuple((name, tuple(queue)) for name, queue in sorted(self._queues.items())),
                tuple((name, tuple(holders)) for name, holders in sorted(self._holding.items())),
                tuple(sorted(self._fences.items())),
                tuple(sorted(self.starts.items())),
            )
        )

    def uploaded(self, key_id: str, request_id: str, raw: bytes, content: str, batch_id: str = "") -> Upload:
        """A client has put an object into the inbox; of a batch this is told for each of its requests."""
        upload = Upload(key_id, request_id, hashlib.sha256(raw).hexdigest(), content, batch_id)
        self.uploads.append(upload)
        self.batches.add(batch_id)
        return upload

    # -- commits

    def committed(self, writes: Sequence[Write]) -> None:
        puts = [write for write in writes if isinstance(write, Put)]
        revoked_before = set(self._revoked)
        for write in writes:
            if write.key.startswith("audit#"):
                check(isinstance(write, Put) and write.version == 0, f"{write.key} was rewritten: {write}")
        for put in puts:
            if put.key.startswith("audit#") and _FORCED in put.item.body:
                self._note_forced(msgspec.json.decode(put.item.body, type=AuditEvent))
            elif put.key.startswith("key#"):
                key = msgspec.json.decode(put.item.body, type=Key)
                self._owners[key.key_id] = key.user
                if key.revoked_at is not None:
                    self._revoked.add(key.key_id)
            elif put.key.startswith("user#"):
                user = msgspec.json.decode(put.item.body, type=User)
                self._users[user.name] = user
            elif put.key.startswith("refusal#"):
                self._refused(msgspec.json.decode(put.item.body, type=Refusal))
        # Leaving first: whoever releases a lock grants it in the same commit.
        changed = [
            msgspec.json.decode(put.item.body, type=Execution) for put in puts if put.key.startswith("execution#")
        ]
        for execution in sorted(changed, key=lambda execution: execution.is_active):
            self._execution(execution, revoked_before)
        locks = [msgspec.json.decode(put.item.body, type=LockRecord) for put in puts if put.key.startswith("lock#")]
        for lock in locks:
            self._lock(lock)
        for lock in locks:
            self._woken(lock)
        owners = {execution.owner for execution in changed}
        self._recounted(writes, owners)
        for owner in owners:
            self._counted(owner)

    def is_wrong(self, key: str) -> bool:
        return bool(self._drift.get(key))

    def miscounted(self, key: str, amount: int) -> None:
        """Somebody changes a number, and no execution."""
        self._drift[key] = self._drift.get(key, 0) + amount
        self._miscounted.add(key.partition("#")[2])

    def _recounted(self, writes: Sequence[Write], owners: set[str]) -> None:
        """A recount takes away of a number what was wrong with it, and nothing else ever changes one beside the executions."""
        is_recount = any(
            isinstance(write, Put) and write.key.startswith("audit#") and _RECOUNT in write.item.body
            for write in writes
        )
        for write in writes:
            if (
                not isinstance(write, Add)
                or write.key.partition("#")[2] in owners
                or not write.key.startswith(_NUMBERS)
            ):
                continue
            check(is_recount, f"{write.key} was changed by {write.amount}, and no execution")
            drift = self._drift.get(write.key, 0)
            is_better = abs(drift + write.amount) < abs(drift) and (drift + write.amount) * drift >= 0
            check(is_better, f"{write.key} was wrong by {drift}, and is put right by {write.amount}")
            self._drift[write.key] = drift + write.amount
            self.corrections += 1

    def _counted(self, owner: str) -> None:
        """The numbers that are kept are those of the records, in every commit, but for what somebody else did to them; and never
        over the owner's limits."""
        count, limit = len(self._unfinished[owner]), self._limit_of(owner)
        kept = self._right(counts.unfinished_key(owner))
        check(kept == count, f"{owner} has {count} unfinished executions, and {kept} are counted")
        placed = sum(self.executions[execution_id].placed for execution_id in self._unfinished[owner])
        kept, most = self._right(counts.running_key(owner)), self._users[owner].max_running
        check(kept == placed, f"{owner} has {placed} running executions, and {kept} are counted")
        if owner in self._miscounted:
            return
        check(count <= limit, f"{owner} has {count} unfinished executions, and may have {limit}")
        check(most is None or placed <= most, f"{owner} has {placed} running executions, and may have {most}")

    def _right(self, key: str) -> int:
        """What is kept, without what somebody else did to it."""
        return self._number(key) - self._drift.get(key, 0)

    def _number(self, key: str) -> int:
        row = self._records.rows.get(key)
        return 0 if row is None else int(row[0])

    def _limit_of(self, owner: str) -> int:
        return quotas.unfinished_limit(self._users[owner], None)

    def _refused(self, refusal: Refusal) -> None:
        if refusal.code is not ErrorCode.QUOTA_EXCEEDED:
            return
        self.at_limit += 1
        owner = self._owners[refusal.key_id]
        count, limit = self._number(counts.unfinished_key(owner)), self._limit_of(owner)
        check(count >= limit, f"{owner} was refused for a quota with {count} unfinished executions of {limit}")

    def _execution(self, execution: Execution, revoked: set[str]) -> None:
        execution_id = execution.execution_id
        before = self.executions.get(execution_id)
        self.executions[execution_id] = execution
        if before is None:
            check(execution.state is State.QUEUED, f"{execution_id} was admitted as {execution.state}")
            check(execution.key_id not in revoked, f"{execution_id} was admitted after its key's revocation")
            for lock in execution.locks:
                self._queues.setdefault(lock.name, {})[execution_id] = None
        else:
            self._moved(before, execution, revoked)
        if execution.granted and (before is None or not before.granted):
            self._granted(execution)
        owned = self._unfinished.setdefault(execution.owner, set())
        if execution.is_active:
            owned.add(execution_id)
        else:
            owned.discard(execution_id)
            for lock in execution.locks:
                self._queues[lock.name].pop(execution_id, None)

    def _moved(self, before: Execution, after: Execution, revoked: set[str]) -> None:
        name = after.execution_id
        if before.state in TERMINAL:
            check(_end_of(before) == _end_of(after), f"{name}: its end {before.state} became {after.state}")
        elif before.state is not after.state:
            check(can_follow(before.state, after.state), f"{name}: {before.state} became {after.state}")
            if before.state is State.QUEUED and after.state is State.STARTING:
                check(after.key_id not in revoked, f"{name} was started after its key's revocation")
            if before.state is State.STARTING and after.reason is Reason.REVOKED:
                check(after.key_id in self._revoked, f"{name} was withdrawn, and its key is good")
        check(not (before.granted and not after.granted), f"{name}: its grant was taken back")
        check(before.content_digest == after.content_digest, f"{name}: its content changed")
        check(before.bulk == after.bulk, f"{name}: it came in a batch, or not")
        check(after.is_active or after.is_terminal, f"{name} is over and not at an end")
        late_word = msgspec.structs.replace(before, started_at=after.started_at, updated_at=after.updated_at)
        check(before.is_active or late_word == after, f"{name} changed after it was over")

    def _granted(self, execution: Execution) -> None:
        self.grants += 1
        for lock in execution.locks:
            first = next(iter(self._queues[lock.name]))
            check(
                first == execution.execution_id,
                f"lock {lock.name}: {execution.execution_id} was granted before {first}, which came first",
            )
            check(lock.fence is not None, f"{execution.execution_id} was granted {lock.name} without a fence")
            assert lock.fence is not None
            last = self._fences.get(lock.name, 0)
            check(lock.fence > last, f"lock {lock.name}: fence {lock.fence} after {last}")
            self._fences[lock.name] = lock.fence

    def _lock(self, lock: LockRecord) -> None:
        expected = list(self._queues.get(lock.name, {}))
        check(list(lock.queue) == expected, f"lock {lock.name}: its queue is {lock.queue}, not {expected}")
        check(
            lock.fence == self._fences.get(lock.name, 0),
            f"lock {lock.name}: its fence is {lock.fence}, the last given {self._fences.get(lock.name, 0)}",
        )

    def _woken(self, lock: LockRecord) -> None:
        """Whoever heads all of its queues was granted in the commit that made it so."""
        for head in lock.queue[:1]:
            execution = self.executions[head]
            if not execution.granted and all(next(iter(self._queues[own.name])) == head for own in execution.locks):
                raise Violation(f"{head} heads all of its locks' queues and was not granted")

    def _note_forced(self, audit: AuditEvent) -> None:
        if audit.outcome != "ok":
            return
        name = audit.subject
        execution_id = audit.execution_id or ""
        self._forced.add((execution_id, name))
        self._queues[name].pop(execution_id, None)
        self._holding.get(name, {}).pop(execution_id, None)

    # -- objects

    def put(self, object_key: str, data: bytes) -> None:
        if object_key.endswith("/status.json"):
            version = status.decode(data).record_version
            check(version >= self._shown.get(object_key, 0), f"{object_key} went back to version {version}")
            self._shown[object_key] = version
        elif object_key.startswith("receipts/"):
            earlier = self._receipts.setdefault(object_key, data)
            check(earlier == data, f"{object_key} was answered in two ways")
            receipt = receipts.decode(data)
            is_batch = receipt.execution_id in self.batches
            check(
                receipt.outcome == "refused" or is_batch or receipt.execution_id in self.executions,
                f"{object_key} accepts what has no record",
            )

    def kept(self, object_key: str, data: bytes) -> None:
        """What was not written, because another was there: the first answer stands, and it is the only one that is given."""
        if object_key.startswith("receipts/"):
            check(self._receipts.get(object_key) == data, f"{object_key} was to be answered in two ways")

    # -- the platform

    def launched(self, task: Task) -> None:
        execution = self.executions.get(task.execution_id)
        check(
            execution is not None and execution.state is not State.QUEUED,
            f"{task.execution_id} was launched before its STARTING was committed",
        )

    def began(self, task: Task) -> None:
        execution_id = task.execution_id
        self.tasks[execution_id] = task
        self.starts[execution_id] = self.starts.get(execution_id, 0) + 1
        check(self.starts[execution_id] == 1, f"{execution_id} was started {self.starts[execution_id]} times")
        execution = self.executions[execution_id]
        check(execution.is_active, f"{execution_id} began after it was over ({execution.state})")
        living = self._living.setdefault(execution.owner, set())
        living.add(execution_id)
        most = self._users[execution.owner].max_running
        is_within = most is None or len(living) <= most or execution.owner in self._miscounted
        check(is_within, f"{execution.owner} has {len(living)} tasks, and may have {most}")
        fences = dict(pair.split("=") for pair in task.payload.env.get("RUNVOY_LOCK_FENCES", "").split())
        check(set(fences) == {lock.name for lock in execution.locks}, f"{execution_id} was told of locks {fences}")
        for name, fence in fences.items():
            if (execution_id, name) in self._forced:
                continue
            holders = self._holding.setdefault(name, {})
            check(not holders, f"lock {name}: {execution_id} runs beside {', '.join(holders)}")
            holders[execution_id] = None
            check(int(fence) > self._started_fences.get(name, 0), f"lock {name}: {execution_id} has an old fence")
            self._started_fences[name] = int(fence)

    def stopped(self, task: Task) -> None:
        """Nothing of it lives any more: only now may others hold its locks. The runner's end is not enough."""
        for holders in self._holding.values():
            holders.pop(task.execution_id, None)
        for living in self._living.values():  # it may never have begun
            living.discard(task.execution_id)

    def stop_asked(self, task: Task) -> None:
        """Nobody's command is stopped without a reason: a kill, its deadline, or that it never began; or that it has ended. What was
        launched while its key was good goes on."""
        execution = self.executions[task.execution_id]
        if task.execution_id in self.kill_asked or task.result is not None:
            return
        check(execution.reason is not Reason.REVOKED, f"{task.execution_id} was withdrawn, and it had a task")
        if execution.reason is Reason.START:
            begun = execution.starting_at
            assert begun is not None
            last_ms = (begun - START) / _MILLISECOND + _START_CLOCK_MS
            in_time = task.began_ms is not None and task.began_ms < last_ms
            check(
                not in_time,
                f"{task.execution_id} began in time and was stopped by the start clock",
            )
            return
        assert task.began_ms is not None
        deadline_ms = task.began_ms + task.payload.timeout_seconds * 1000
        check(
            self.now_ms() >= deadline_ms,
            f"{task.execution_id} was stopped before its deadline, and nobody asked for it",
        )

    # -- the end

    def judge(self) -> None:
        """All that must hold when faults have stopped and the reconciler has had its last rounds."""
        for execution in self.executions.values():
            self._judge_execution(execution)
        for key, drift in self._drift.items():
            check(not drift, f"{key} is still wrong by {drift}")
        for name, queue in self._queues.items():
            check(not queue, f"lock {name} is still held or waited for: {list(queue)}")
        accepted: dict[str, set[str]] = {}
        for upload in self.uploads:
            receipt = self._receipt_of(upload)
            if receipt is not None and receipt.outcome == "accepted":
                accepted.setdefault(upload.request_id, set()).add(upload.content)
            elif receipt is not None and receipt.code is ErrorCode.ID_CONFLICT:
                check(receipt.execution_id in self.executions, f"{upload.request_id} conflicts with nothing")
        for request_id, contents in accepted.items():
            check(len(contents) == 1, f"{request_id} was accepted with contents {sorted(contents)}")
            task = self.tasks.get(request_id)
            if task is not None:
                check(task.payload.command[-1] in contents, f"{request_id} ran {task.payload.command}, not {contents}")
        unanswered = self.executions.keys() - accepted
        for execution_id in unanswered:
            gone = self._is_gone(self.executions[execution_id].object_sha256)
            check(gone, f"the execution {execution_id} has no accepted receipt")
        check(accepted.keys() <= self.executions.keys(), "a receipt accepts what has no record")

    def _receipt_of(self, upload: Upload) -> Receipt | None:
        stored = self._outbox.stored.get(object_keys.receipt(upload.key_id, upload.request_id, upload.object_sha256))
        if stored is None and upload.batch_id:
            whole = object_keys.receipt(upload.key_id, upload.batch_id, upload.object_sha256)
            refused = self._outbox.stored.get(whole)
            if refused is not None and receipts.decode(refused.data).outcome == "refused":
                return receipts.decode(refused.data)
        if stored is None:
            check(self._is_gone(upload.object_sha256), f"the upload {upload} was never answered")
            return None
        return receipts.decode(stored.data)

    def _is_gone(self, object_sha256: str) -> bool:
        """What was overwritten before anybody was told of it cannot be found by looking. It is the only upload that may stay
        unanswered, whatever else was lost."""
        return object_sha256 in self.lost & self.superseded

    def _judge_execution(self, execution: Execution) -> None:
        execution_id = execution.execution_id
        check(execution.is_terminal and not execution.is_active, f"{execution_id} is stuck in {execution.state}")
        row = self._records.rows[store.execution_key(execution_id)]
        expected = status.encode(projection.project(execution, row[1]))
        shown = self._outbox.stored.get(object_keys.status(execution_id))
        check(shown is not None and shown.data == expected, f"{execution_id}: its status.json is not its record's")
        task = self.tasks.get(execution_id)
        if task is None:
            check(execution.state is not State.SUCCEEDED, f"{execution_id} succeeded and never ran")
        elif task.result is None:
            check(
                execution.state not in (State.SUCCEEDED, State.FAILED),
                f"{execution_id} ended {execution.state}, unseen",
            )
        else:
            self._judge_end(execution, task.result["outcome"], task.result["exit_code"])

    def _judge_end(self, execution: Execution, outcome: str, exit_code: int | None) -> None:
        """Whose runner left a result ended as it says."""
        seen = (execution.state, execution.exit_code)
        if outcome == "exited":
            wanted = [(State.SUCCEEDED if exit_code == 0 else State.FAILED, exit_code)]
        elif outcome == "timed_out":
            wanted = [(State.TIMED_OUT, exit_code)]
        else:
            wanted = [(State.STOPPED, exit_code)]
            if execution.reason in (Reason.START, Reason.DEADLINE):
                wanted = [(State.TIMED_OUT, exit_code)]
        check(seen in wanted, f"{execution.execution_id} ended as {seen}, and its runner said {outcome} {exit_code}")


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def _end_of(execution: Execution) -> tuple[object, ...]:
    return (execution.state, execution.reason, execution.exit_code, execution.ended_at, execution.message)
