"""Every interleaving of the commits of a few requests, with crashes and duplicates: complete, where the simulator samples.

A state is the world (records, outbox, messages, tasks) and, for each handler under way, the message it handles and the
answers it has had from its ports: handlers are functions of those, so that is all there is to them. A step runs one
handler again from its beginning, feeds it the answers it had, and lets it go on to its next commit or launch. So states
can be copied, compared and pruned, and no threads are needed.

What may be switched at: commits and launches. What may be crashed at: before and after every effect.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from tests.simulation.oracles import Oracles, Violation
from tests.simulation.platform import Plan, Task
from tests.simulation.ports import START, check_sum

from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.model import Execution, InboxGrantee, Key, LockRecord, User
from runvoy_agent.handlers import ends, inbox, reconcile, starts
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import EndMessage, InboxDelivery
from runvoy_agent.ports import (
    Add,
    Attempt,
    Conflict,
    Delete,
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    Page,
    Ports,
    PreconditionFailed,
    Put,
    StoredObject,
    TaskState,
    Versioned,
    Write,
)
from runvoy_protocol import codec, envelope, ids, keys, object_keys, requests, run_objects
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.members import Role
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.run_objects import RunnerPayload

R = TypeVar("R")
SECRET = b"s" * 32
ROUNDS = 3
_SOME_ID = ids.uuid7(START, bytes(10))
_INDEXED: dict[str, type[msgspec.Struct]] = {"execution": Execution, "lock": LockRecord, "grantee": InboxGrantee}
AT_ONCE = 2  # handlers under way


class _Pause(BaseException):
    """The handler has come to its next commit or launch."""


class Raised(NamedTuple):
    """An answer that was an exception."""

    kind: type[Exception]


class Handler(NamedTuple):
    """A handler under way: its message, and what its ports have answered so far."""

    message: tuple[str, bytes]
    answers: tuple[object, ...]


class Bounds(NamedTuple):
    """How much is explored: the locks of each request, and how often what may go wrong."""

    locks: tuple[tuple[str, ...], ...] = (("a",), ("a", "b"), ("b",))
    crashes: int = 1
    duplicates: int = 1
    results: bool = False  # the runner's word is a message of its own, beside the platform's
    revocations: int = 0  # of the key that signed everything
    launches: bool = False  # others may go first at launches, not at commits alone
    refusals: int = 0  # launches that the platform refuses, and forgets that it did
    max_unfinished: int | None = None  # of the one who signed everything


class Result(NamedTuple):
    states: int
    steps: int
    ends: int
    seconds: float
    violation: str | None
    path: tuple[str, ...]
    complete: bool


class World:
    """All that can differ between two moments. Copied for every step."""

    __slots__ = (
        "crashes",
        "duplicates",
        "handlers",
        "messages",
        "oracles",
        "outbox",
        "records",
        "refusals",
        "revocations",
        "rounds",
        "tasks",
    )

    def __init__(self) -> None:
        self.records: dict[str, tuple[bytes, int]] = {}
        self.outbox: dict[str, bytes] = {}
        self.messages: tuple[tuple[str, bytes], ...] = ()
        self.tasks: dict[str, str] = {}
        self.handlers: tuple[Handler, ...] = ()
        self.crashes = 0
        self.duplicates = 0
        self.refusals = 0
        self.revocations = 0
        self.rounds = 0
        self.oracles = Oracles(cast(Any, self), cast(Any, self))

    def copy(self) -> World:
        made = World.__new__(World)
        made.records = dict(self.records)
        made.outbox = dict(self.outbox)
        made.messages = self.messages
        made.tasks = dict(self.tasks)
        made.handlers = self.handlers
        made.crashes = self.crashes
        made.duplicates = self.duplicates
        made.refusals = self.refusals
        made.revocations = self.revocations
        made.rounds = self.rounds
        made.oracles = self.oracles.copy(cast(Any, made), cast(Any, made))
        return made

    # What the oracles look at when they judge the end.

    @property
    def rows(self) -> dict[str, tuple[bytes, int]]:
        return self.records

    @property
    def stored(self) -> dict[str, StoredObject]:
        return {key: StoredObject(data, "", "") for key, data in self.outbox.items()}

    def identity(self) -> int:
        return hash(
            (
                tuple(sorted(self.records.items())),
                tuple(sorted(self.outbox.items())),
                tuple(sorted(self.messages)),
                tuple(sorted(self.tasks.items())),
                tuple(sorted(map(hash, self.handlers))),
                self.crashes,
                self.duplicates,
                self.refusals,
                self.revocations,
                self.rounds,
                self.oracles.identity(),
            )
        )


class _Run:
    """One handler's run on a world: first the answers it had, then `switches` commits or launches, then a pause."""

    def __init__(
        self,
        world: World,
        answers: Sequence[object],
        *,
        switches: int,
        may_die: bool = False,
        at_launches: bool = False,
        refuse: bool = False,
    ) -> None:
        self.world = world
        self.at_launches = at_launches
        self.refuse = refuse  # the launch that it comes to
        self.launched = False
        self.answers = list(answers)
        self._position = 0
        self._switches = switches
        self._may_die = may_die
        self.deaths: list[World] = []

    def read(self, effect: Callable[[], R]) -> R:
        return self._answer(effect)

    def write(self, effect: Callable[[], R], *, switch: bool = False) -> R:
        """An effect; `switch`: others may go first. Dying before an effect is dying after the one before it."""
        if self._position >= len(self.answers):
            if switch and self._switches == 0:
                raise _Pause
            self._switches -= switch
            if self._may_die:
                self.deaths.append(self.world.copy())
        return self._answer(effect)

    def _answer(self, effect: Callable[[], R]) -> R:
        if self._position < len(self.answers):
            answer = self.answers[self._position]
        else:
            try:
                answer = effect()
            except (Conflict, PreconditionFailed) as error:
                answer = Raised(type(error))
            self.answers.append(answer)
        self._position += 1
        if isinstance(answer, Raised):
            raise answer.kind("as before")
        return cast(R, answer)


class ExploredRecords:
    """Exact, and a place to switch at before each commit."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    @property
    def rows(self) -> dict[str, tuple[bytes, int]]:
        return self._run.world.records

    @property
    def index_lag(self) -> timedelta:
        return timedelta(0)

    def get(self, key: str) -> Versioned | None:
        rows = self._run.world.records
        return self._run.read(lambda: Versioned(key, *rows[key]) if key in rows else None)

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        return [self.get(key) for key in keys]

    def commit(self, writes: Sequence[Write]) -> None:
        self._run.write(lambda: self._commit(tuple(writes)), switch=True)

    def query(
        self, index: str, partition: str, *, after: object = None, limit: int = 100, descending: bool = False
    ) -> Page:
        """For the reconciler alone, which comes when nothing else is left to happen: no index is behind then."""
        found = []
        for key, (body, version) in sorted(self._run.world.records.items()):
            schema = _INDEXED.get(key.partition("#")[0])
            if schema is not None:
                entry = store._indexes(msgspec.json.decode(body, type=schema)).get(index)
                if entry is not None and entry.partition == partition:
                    found.append(Versioned(key, body, version))
        return Page(found, None)

    def _commit(self, writes: Sequence[Write]) -> None:
        rows = self._run.world.records
        for write in writes:
            body, version = rows.get(write.key, (b"", 0))
            if isinstance(write, Add):
                check_sum(write, body)
            elif version != write.version:
                raise Conflict(write.key)
        for write in writes:
            # Audit records have ids of their own each and decide nothing.
            if isinstance(write, Put) and not write.key.startswith("audit#"):
                rows[write.key] = (write.item.body, write.version + 1)
            elif isinstance(write, Add):
                body, version = rows.get(write.key, (b"", 0))
                rows[write.key] = (check_sum(write, body), version + 1)
            elif isinstance(write, Delete):
                del rows[write.key]
        self._run.world.oracles.committed(writes)


class _Objects:
    def __init__(self, run: _Run, stored: dict[str, bytes], on_put: Callable[[str, bytes], None]) -> None:
        self._run = run
        self._stored = stored
        self._on_put = on_put

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        return self._run.read(lambda: self._get(object_key))

    def put(
        self, object_key: str, data: bytes, *, content_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        return self._run.write(lambda: self._put(object_key, data, if_absent, if_match))

    def _get(self, object_key: str) -> StoredObject | None:
        data = self._stored.get(object_key)
        return None if data is None else StoredObject(data, str(hash(data)), "")

    def _put(self, object_key: str, data: bytes, if_absent: bool, if_match: str | None) -> str:
        current = self._get(object_key)
        if (if_absent and current is not None) or (if_match is not None and (not current or current.etag != if_match)):
            raise PreconditionFailed(object_key)
        self._stored[object_key] = data
        self._on_put(object_key, data)
        return str(hash(data))


class _Queue:
    def __init__(self, run: _Run) -> None:
        self._run = run

    def send(self, queue: str, body: bytes, *, delay_seconds: float = 0) -> None:
        self._run.write(lambda: _send(self._run.world, queue, body))


class _Launcher:
    relaunch_window: timedelta | None = None

    def __init__(self, run: _Run) -> None:
        self._run = run

    def start(self, launch: Launch) -> LaunchOutcome:
        return self._run.write(lambda: self._start(launch), switch=self._run.at_launches)

    def stop(self, execution_id: str, attempt: int) -> None:
        """Comes too late for every task here: a command may always end by itself before it is told."""

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        return self._run.read(lambda: self._describe(execution_id))

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        return self._run.read(lambda: {one: self._describe(one[0]) for one in attempts})

    def _describe(self, execution_id: str) -> TaskState:
        state = self._run.world.tasks.get(execution_id)
        return TaskState("missing" if state is None else "running" if state == "running" else "stopped")

    def _start(self, launch: Launch) -> LaunchOutcome:
        world = self._run.world
        if launch.execution_id not in world.tasks and self._run.refuse:
            world.refusals += 1
            return LaunchRefused("the platform will not run this")
        if launch.execution_id not in world.tasks:
            self._run.launched = True
            task = Task(launch, msgspec.json.decode(launch.payload, type=RunnerPayload), Plan(), 0)
            world.oracles.launched(task)
            task.began_ms = 0
            world.oracles.began(task)
            world.tasks[launch.execution_id] = "running"
        return Launched(launch.execution_id)


class _Clock:
    """Time stands still: what depends on it is the simulator's."""

    def now(self) -> datetime:
        return START

    def new_id(self) -> str:
        return _SOME_ID

    def random(self, count: int) -> bytes:
        return bytes(count)

    def sleep(self, seconds: float) -> None:
        pass


def _send(world: World, queue: str, body: bytes) -> None:
    world.messages = (*world.messages, (queue, body))


class Explorer:
    """A depth-first walk over all that can happen within the bounds."""

    def __init__(self, bounds: Bounds | None = None, *, budget_seconds: float = 600) -> None:
        self._bounds = bounds or Bounds()
        self._budget_seconds = budget_seconds
        self._deployment = Deployment("here", "0", START, SECRET, Capabilities("process", frozenset({"process"})))
        self._signing_key = keys.SigningKey(bytes(range(32)))
        self._inbox: dict[str, bytes] = {}
        self._steps = 0

    def run(self) -> Result:
        """Walk until all was seen or something was wrong."""
        logging.getLogger("runvoy").setLevel(logging.CRITICAL)
        begun = time.monotonic()
        begun_at = time.process_time()  # the budget is of CPU: a busy machine explores as much as a quiet one
        first = self._first()
        seen = {first.identity()}
        ended = 0
        stack: list[tuple[World, tuple[str, ...]]] = [(first, ())]
        while stack:
            if time.process_time() - begun_at > self._budget_seconds:
                return Result(len(seen), self._steps, ended, time.monotonic() - begun, None, (), False)
            world, path = stack.pop()
            try:
                moved = False
                for name, after in self._successors(world):
                    moved = True
                    identity = after.identity()
                    if identity not in seen:
                        seen.add(identity)
                        stack.append((after, (*path, name)))
                if not moved and world.rounds < ROUNDS and not _is_over(world):
                    stack.append((self._reconcile(world), (*path, "the reconciler")))
                elif not moved:
                    ended += 1
                    world.oracles.judge()
            except Violation as violation:
                seconds = time.monotonic() - begun
                return Result(len(seen), self._steps, ended, seconds, str(violation), path, False)
        return Result(len(seen), self._steps, ended, time.monotonic() - begun, None, (), True)

    # -- what can happen

    def _successors(self, world: World) -> Iterator[tuple[str, World]]:
        for handler in dict.fromkeys(world.handlers):
            yield from self._go_on(world, handler)
        if len(world.handlers) < AT_ONCE:
            for message in dict.fromkeys(world.messages):
                yield from self._deliver(world, message)
        if world.revocations < self._bounds.revocations:
            yield "the key is revoked", self._revoke(world)
        for execution_id, state in world.tasks.items():
            if state == "running":
                yield f"task {execution_id[-4:]} ends", self._end_task(world, execution_id)

    def _revoke(self, world: World) -> World:
        after = world.copy()
        after.revocations += 1
        records = ExploredRecords(_Run(after, (), switches=1))
        key = store.load(cast(Any, records), store.key_key(self._signing_key.key_id), Key)
        assert key.document is not None
        records.commit([store.put(key, msgspec.structs.replace(key.document, revoked_at=START))])
        return after

    def _deliver(self, world: World, message: tuple[str, bytes]) -> Iterator[tuple[str, World]]:
        taken = world.copy()
        rest = list(world.messages)
        rest.remove(message)
        taken.messages = tuple(rest)
        taken.handlers = (*world.handlers, Handler(message, ()))
        yield from self._step(taken, taken.handlers[-1], 0)
        if world.duplicates < self._bounds.duplicates:
            twice = world.copy()
            twice.duplicates += 1
            _send(twice, *message)
            yield f"{_shown(message)} is there twice", twice

    def _go_on(self, world: World, handler: Handler) -> Iterator[tuple[str, World]]:
        yield from self._step(world, handler, 1)

    def _step(self, world: World, handler: Handler, switches: int) -> Iterator[tuple[str, World]]:
        launched = yield from self._stretch(world, handler, switches, refuse=False)
        if launched and world.refusals < self._bounds.refusals:
            yield from self._stretch(world, handler, switches, refuse=True)

    def _stretch(
        self, world: World, handler: Handler, switches: int, *, refuse: bool
    ) -> Generator[tuple[str, World], None, bool]:
        """Lets the handler go on, and die at each effect; whether it launched a task."""
        name = _shown(handler.message)
        may_die = world.crashes < self._bounds.crashes
        after, deaths, launched = self._run(world, handler, switches, may_die=may_die, refuse=refuse)
        yield f"{name} {'is refused' if refuse else 'goes on'}", after
        rest = list(world.handlers)
        rest.remove(handler)
        for effects, died in enumerate(deaths):
            died.crashes += 1
            died.handlers = tuple(rest)
            _send(died, *handler.message)
            yield f"{name} dies after {effects} effects", died
        return launched

    def _reconcile(self, world: World) -> World:
        """Nothing else can happen, and something is left: a round of the reconciler, as after a start."""
        after = world.copy()
        after.rounds += 1
        run = _Run(after, (), switches=1000)
        reconcile.handle(self._ports(run), starting_up=True)
        return after

    def _run(
        self, world: World, handler: Handler, switches: int, *, may_die: bool, refuse: bool
    ) -> tuple[World, list[World], bool]:
        """The world after one stretch of a handler, what it was like before each of the effects, and whether one was a
        launch."""
        self._steps += 1
        after = world.copy()
        rest = list(after.handlers)
        rest.remove(handler)
        at_launches = self._bounds.launches
        run = _Run(after, handler.answers, switches=switches, may_die=may_die, at_launches=at_launches, refuse=refuse)
        try:
            self._handle(run, *handler.message)
        except _Pause:
            rest.append(Handler(handler.message, tuple(run.answers)))
        except Exception as error:
            if isinstance(error, Violation):
                raise
            raise Violation(f"a handler raised {error!r}") from error
        after.handlers = tuple(rest)
        return after, run.deaths, run.launched

    def _handle(self, run: _Run, queue: str, body: bytes) -> None:
        handle = {"inbox": inbox.handle, "starts": starts.handle, "ends": ends.handle}[queue]
        handle(self._ports(run), self._deployment, body)

    def _ports(self, run: _Run) -> Ports:
        return Ports(
            records=ExploredRecords(run),
            inbox=cast(Any, _Objects(run, self._inbox, lambda _key, _data: None)),
            outbox=cast(Any, _Objects(run, run.world.outbox, run.world.oracles.put)),
            queue=_Queue(run),
            launcher=_Launcher(run),
            secrets=cast(Any, None),
            clock=_Clock(),
        )

    def _end_task(self, world: World, execution_id: str) -> World:
        """The runner leaves its result and goes; the platform sees it stopped. Both are told."""
        after = world.copy()
        task = after.oracles.tasks[execution_id]
        task.result = {"outcome": "exited", "exit_code": 0}
        body: dict[str, Any] = {"execution_id": execution_id, "attempt": 1, "outcome": "exited", "exit_code": 0}
        body |= {"signal": None, "message": "", "started_at_ms": 0, "ended_at_ms": 0}
        body |= {"lines": 0, "chunks": 1, "lost_bytes": 0}
        text = json.dumps(body)
        mac = run_objects.mac_of(run_objects.execution_key(SECRET, execution_id, 1), b"result", text)
        after.outbox[object_keys.result(execution_id)] = json.dumps({"body": text, "mac": mac}).encode()
        after.tasks[execution_id] = "ended"
        after.oracles.stopped(task)
        if self._bounds.results:
            _send(after, "ends", messages.encode(EndMessage(execution_id=execution_id, event="result")))
        stopped = EndMessage(execution_id=execution_id, event="stopped", attempt=1)
        _send(after, "ends", messages.encode(stopped))
        return after

    # -- where it begins

    def _first(self) -> World:
        world = World()
        key = Key(
            key_id=self._signing_key.key_id, public_key=self._signing_key.public_key, user="ada", created_at=START
        )
        user = User(name="ada", role=Role.ADMIN, created_at=START, max_unfinished=self._bounds.max_unfinished)
        made = [store.put_new(store.user_key("ada"), user), store.put_new(store.key_key(key.key_id), key)]
        for record in made:
            world.records[record.key] = (record.item.body, 1)
        world.oracles.committed(made)
        for number, locks in enumerate(self._bounds.locks, start=1):
            request = RunRequest(
                version=1,
                deployment_id="here",
                request_id=ids.uuid7(START, number.to_bytes(10, "big")),
                issued_at=START,
                expires_at=START + timedelta(minutes=15),
                command=("run", f"c{number}"),
                locks=locks,
            )
            raw = envelope.seal(PayloadType.RUN_REQUEST, codec.encode(request), self._signing_key)
            object_key = object_keys.request(key.key_id, request.request_id)
            self._inbox[object_key] = raw
            world.oracles.uploaded(key.key_id, request.request_id, raw, request.command[-1])
            _send(world, "inbox", messages.encode(InboxDelivery(object_key=object_key)))
        return world


def explore(bounds: Bounds | None = None, *, budget_seconds: float = 600) -> Result:
    """Explore with what is costly and the same every time (signatures, decoding, times as text) remembered."""
    pure: list[tuple[Any, str]] = [(envelope, "verified_payload"), (requests, "decode")]
    pure += [(store, name) for name in ("stamp", "day", "hour", "shard_of", "shard_partition")]
    pure.append((run_objects, "execution_key"))
    before = [getattr(module, name) for module, name in pure]
    for module, name in pure:
        setattr(module, name, lru_cache(maxsize=256)(getattr(module, name)))
    try:
        return Explorer(bounds, budget_seconds=budget_seconds).run()
    finally:
        for (module, name), function in zip(pure, before, strict=True):
            setattr(module, name, function)


def _is_over(world: World) -> bool:
    return not any(execution.is_active for execution in world.oracles.executions.values())


def _shown(message: tuple[str, bytes]) -> str:
    queue, body = message
    fields = json.loads(body)
    name = fields.get("execution_id") or fields["object_key"]
    return f"{fields.get('event', queue)} of {name[-4:]}"
