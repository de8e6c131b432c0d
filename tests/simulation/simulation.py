"""One run: a deployment on simulated ports, clients that submit, kill and revoke, and a world that fails around them.

The run has three parts. While faults are on, requests arrive over a stretch of virtual time. Then the faults stop and
everything that is under way comes to its end. Then the reconciler has three rounds, and after them nothing may be left.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence, Set
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from tests.simulation.oracles import Oracles, Violation, check
from tests.simulation.platform import MINUTE_MS, SimPlatform, Task, Watching
from tests.simulation.ports import START, SimClock, SimObjects, SimQueue, SimRecords, SimSecrets
from tests.simulation.scheduler import Crash, Invocation, Point, Scheduler, Step, When
from tests.simulation.seals import check_seals
from tests.simulation.secrecy import Secrecy
from tests.simulation.workload import Workload

from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers import control, ends, inbox, reconcile, starts
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import commits, messages, store
from runvoy_agent.handlers.documents.messages import EndMessage, InboxDelivery
from runvoy_agent.handlers.reconciler import lost_uploads
from runvoy_agent.handlers.reconciler.inbox_sweeps import STRETCHES, Budget
from runvoy_agent.handlers.routes import Request
from runvoy_agent.ports import Ports, QueueName, Unavailable, Write
from runvoy_protocol import control as control_protocol
from runvoy_protocol import keys
from runvoy_protocol.control import ControlCall
from runvoy_protocol.members import Role

MAX_RECEIVES = 5
MAX_RECOVERY_DEATHS = 3
# Longer than the longest wait of the reconciler: the deadline of a command whose runner does not keep it.
LONG_TICK_MS = 65 * MINUTE_MS
LIST_ALL_MS = lost_uploads.LOOK_EVERY // timedelta(milliseconds=1)
KEYS = 12
# Many a delivery of a range has no time for all three of its requests.
RANGE_LASTS_MS = 40


class Settings(NamedTuple):
    """How large a run is, and how hostile its world."""

    requests: int = 300
    duplicates: float = 0.3
    reorder: float = 0.3
    loss: float = 0.05
    crash_rate: float = 0.002
    unavailable_rate: float = 0.001
    eagerness: float = 1  # to die where nobody died yet: few first rounds come through
    longest_index_lag_ms: int = 20_000
    process_crashes: bool = True
    locks: int | None = None
    window_ms: int | None = None
    batches: int | None = None
    odd_ids: float = 0.2  # as many are made of a text, or at another time
    tick_ms: int = MINUTE_MS
    secrets: int = 0  # as many that runs may name, and an operator changes
    everyone_waits: bool = False  # every request asks for locks and waits as long as it takes
    long_runs: float = 0.05  # as many take up to half an hour
    slow_boots: float = 0.1  # as many tasks take up to two minutes to begin
    no_room: float = 0.05  # as many tasks are taken, and stop for want of room
    deaf: float = 0.02  # as many runners do not enforce the deadline
    lingering: float = 0.02  # as many tasks go on after their result
    skewed: float = 0.2  # as many runners' clocks are off by up to ten minutes
    omitted: float = 0.05  # as many looks at a task miss it for a while
    revoked: float = 1 / 3  # as many keys
    revoked_within_ms: int = 300  # of an upload by the key
    max_unfinished: int = 3  # of one member in `limited`
    max_running: int = 1  # of one other in `limited`
    limited: int = 6
    miscounts: int = 0  # so often somebody makes the numbers of somebody wrong
    overlapping: float = 0.2  # as many rounds begin while another is under way
    recounted: bool = True  # and an admin has them counted, now and then

    @property
    def lock_names(self) -> list[str]:
        count = self.locks if self.locks is not None else max(4, self.requests // 60)
        return [f"lock{number}" for number in range(count)]

    @property
    def batch_count(self) -> int:
        return self.batches if self.batches is not None else self.requests // 40

    @property
    def arrival_ms(self) -> int:
        return self.window_ms if self.window_ms is not None else max(10 * MINUTE_MS, self.requests * 360)


class Report(NamedTuple):
    """What a run was, and what was wrong with it, if anything."""

    seed: int
    requests: int
    executions: int
    commands: int
    grants: int
    states: Counter[str]
    steps: int
    crashes: int
    points: dict[Point, int]
    crashed: set[tuple[Point, When]]
    digest: int
    violation: str | None
    trace: list[Step]


class Simulation:
    """A deployment and the world around it, for one seed."""

    def __init__(
        self, seed: int, settings: Settings | None = None, hunted: Set[tuple[Point, When]] = frozenset()
    ) -> None:
        self.seed = seed
        self.settings = settings = settings or Settings()
        # Small enough for sweeps of the inbox to take several rounds each.
        some = 3 + settings.requests // 40
        self.budgets = dict.fromkeys(STRETCHES, Budget(pages=some, page=3, reads=7 + some))
        self.scheduler = Scheduler(
            seed,
            crash_rate=settings.crash_rate,
            unavailable_rate=settings.unavailable_rate,
            eagerness=settings.eagerness,
            hunted=hunted,
        )
        self._world = self.scheduler.stream("world")
        self._ticks = self.scheduler.stream("ticks")
        self._sent = Counter[bytes]()
        self.records = SimRecords(self.scheduler, longest_lag_ms=settings.longest_index_lag_ms)
        self.inbox = SimObjects(self.scheduler, "inbox")
        self.outbox = SimObjects(self.scheduler, "outbox")
        self.clock = SimClock(self.scheduler)
        self.oracles = Oracles(self.records, self.outbox)
        self.oracles.now_ms = lambda: self.scheduler.now_ms
        self.secrets = SimSecrets(self.scheduler)
        self.secrecy = Secrecy(self, settings.secrets)
        self.records.on_commit = self._committed
        self.outbox.on_put = self.oracles.put
        self.outbox.on_kept = self.oracles.kept
        self.deployment = Deployment(
            deployment_id="here",
            version="0",
            created_at=START,
            secret=b"s" * 32,
            capabilities=Capabilities("process", frozenset({"process"})),
            range_size=3,
        )
        watching = Watching(self._launched, self.oracles.began, self.oracles.stopped, self.oracles.stop_asked)
        self.platform = SimPlatform(self.scheduler, self.outbox, b"s" * 32, self._tell, watching)
        self.platform.omitted = settings.omitted
        self.ports = Ports(
            records=self.records,
            inbox=self.inbox,
            outbox=self.outbox,
            queue=SimQueue(self.scheduler, self.transport),
            launcher=self.platform,
            secrets=self.secrets,
            clock=self.clock,
        )
        self._handlers: dict[QueueName, Callable[[bytes], None]] = {
            "inbox": self._handle_inbox,
            "starts": lambda body: starts.handle(self.ports, self.deployment, body),
            "bulk": lambda body: starts.handle(self.ports, self.deployment, body),
            "ends": lambda body: ends.handle(self.ports, self.deployment, body),
        }
        self._down = False
        self._waiting: list[Callable[[], None]] = []
        self._violation: Violation | None = None
        self._numbers = Counter[str]()
        self.operator = self.add_user("operator", Role.OPERATOR)
        self.admin = self.add_user("admin", Role.ADMIN) if settings.miscounts else None
        self.members = [self.add_user(f"dev{number}", Role.DEVELOPER, **self._quotas(number)) for number in range(KEYS)]

    def _committed(self, writes: Sequence[Write]) -> None:
        try:
            self.secrecy.committed(writes)  # first: it asks the other for what was before
            self.oracles.committed(writes)
        except Violation as seen:
            self._violation = seen  # a call's handler makes an answer of whatever is raised
            raise

    def _launched(self, task: Task) -> None:
        self.oracles.launched(task)
        self.secrecy.launched(task)

    # -- the deployment

    def _quotas(self, number: int) -> dict[str, Any]:
        if self.settings.everyone_waits or number % self.settings.limited > 1:
            return {}
        return (
            {"max_running": self.settings.max_running}
            if number % self.settings.limited
            else {"max_unfinished": self.settings.max_unfinished}
        )

    def add_user(self, name: str, role: Role, **quotas: Any) -> keys.SigningKey:
        signing_key = keys.SigningKey(self.clock.random(32))
        now = self.clock.now()
        key = Key(key_id=signing_key.key_id, public_key=signing_key.public_key, user=name, created_at=now)
        user = User(name=name, role=role, created_at=now, **quotas)
        self.records.commit(
            [
                store.put_new(store.user_key(name), user),
                store.put_new(store.key_key(signing_key.key_id), key),
            ]
        )
        return signing_key

    def call(
        self,
        kind: str,
        signing_key: keys.SigningKey,
        method: str,
        path: str,
        body: bytes = b"",
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """A signed control call, now. `again`: what the client does if the deployment dies of it or cannot do it now."""
        target = f"/api/v1{path}"
        signed = ControlCall(
            1, "here", method, target, control_protocol.body_digest(body), self.clock.now(), self.clock.random(16)
        )
        header = control_protocol.authorization(signed, signing_key)
        parts = urlsplit(target)
        request = Request(method, parts.path, target, dict(parse_qsl(parts.query)), {"authorization": header}, body)

        def serve() -> None:
            response = control.handle(self.ports, self.deployment, request)
            if self._violation is not None:
                raise self._violation
            check(response.status != 500, f"{method} {path} failed: {response.body!r}")
            if response.status == 503:
                again()

        def finished(error: BaseException | None) -> None:
            self._must_be_injected(error)
            if error is not None:
                again()

        self._invoke(kind, serve, finished)

    # -- the transport

    def _handle_inbox(self, body: bytes) -> None:
        inbox.handle(self.ports, self.deployment, body, self.clock.now() + timedelta(milliseconds=RANGE_LASTS_MS))

    def transport(self, queue: QueueName, body: bytes, delay_seconds: float = 0) -> None:
        """Carry a message: lost, once or twice; soon or late."""
        settings = self.settings
        self._sent[body] += 1
        rng = self.scheduler.stream(f"{queue} {body!r} {self._sent[body]}")
        faulty = self.scheduler.faults.enabled
        if faulty and rng.random() < settings.loss:
            self.scheduler.note("transport", f"LOST {queue} {body.decode()}")
            self._lost(queue, body)
            return
        for _ in range(2 if faulty and rng.random() < settings.duplicates else 1):
            late_ms = rng.randrange(30_000) if faulty and rng.random() < settings.reorder else rng.randrange(1, 50)
            self.scheduler.at(delay_seconds * 1000 + late_ms, lambda: self._deliver(queue, body, 1, rng))

    def upload(self, object_key: str, raw: bytes) -> None:
        """A client's upload, and the news of it."""
        before = self.inbox.stored.get(object_key)
        if before is not None and before.data != raw:
            self.oracles.superseded.add(hashlib.sha256(before.data).hexdigest())
        self.inbox._put(object_key, raw, False, None)
        version = self.inbox.stored[object_key].version
        self.transport("inbox", messages.encode(InboxDelivery(object_key=object_key, version=version)))

    def _lost(self, queue: QueueName, body: bytes) -> None:
        if queue == "inbox":
            delivery = msgspec.json.decode(body, type=InboxDelivery)
            stored = self.inbox.stored_version(delivery.object_key, delivery.version)
            self.oracles.lost.add(hashlib.sha256(stored.data).hexdigest())

    def _tell(self, message: EndMessage, body: bytes) -> None:
        self.transport("ends", body)

    def _deliver(self, queue: QueueName, body: bytes, receives: int, rng: random.Random) -> None:
        if self._down:
            self._waiting.append(lambda: self._deliver(queue, body, receives, rng))
            return

        def run() -> None:
            self._handlers[queue](body)
            self._acknowledge(queue)

        def finished(error: BaseException | None) -> None:
            self._must_be_injected(error)
            if error is None:
                return
            if receives >= MAX_RECEIVES:
                self.scheduler.note("transport", f"DEAD {queue} {body.decode()}")
                self._lost(queue, body)
                return
            # An outage is no fault of the message, and is not counted.
            again = receives + 1 if isinstance(error, Crash) else receives
            self.scheduler.at(rng.randrange(500, 30_000), lambda: self._deliver(queue, body, again, rng))

        self._invoke(queue, run, finished)

    def _acknowledge(self, queue: QueueName) -> None:
        """The last place to die at: all is done, and the delivery comes again."""
        self.scheduler.call("queue.acknowledge", queue, lambda: None)

    def _invoke(self, kind: str, run: Callable[[], object], finished: Callable[[BaseException | None], None]) -> None:
        if self._down:
            self._waiting.append(lambda: self._invoke(kind, run, finished))
            return
        self._numbers[kind] += 1
        self.scheduler.begin(Invocation(kind, f"{kind}-{self._numbers[kind]}", run, finished))

    @staticmethod
    def _must_be_injected(error: BaseException | None) -> None:
        """Let nothing pass but what was injected, and what the oracles say."""
        if error is not None and not isinstance(error, Crash | Unavailable):
            raise error if isinstance(error, Violation) else Violation(f"a handler raised {error!r}") from error

    # -- the reconciler, and the death of everything at once

    def tick(self) -> None:
        """One round, as the stack makes it, failures ending the round only. Now and then the next begins before it is through."""
        if self._down:
            return
        self._round()
        while self.scheduler.faults.enabled and self._ticks.random() < self.settings.overlapping:
            self.scheduler.at(self._ticks.randrange(500), self._round)

    def _round(self) -> None:
        def finished(error: BaseException | None) -> None:
            self._must_be_injected(error)

        def run() -> None:
            reconcile.handle(self.ports, budgets=self.budgets)
            self.records.purge_expired(self.clock.now())

        self._invoke("reconcile", run, finished)

    def crash_process(self, down_ms: int) -> None:
        """Everything dies at once, and comes back by way of a recovery."""
        if self._down:
            return
        self.scheduler.note("world", f"PROCESS CRASH for {down_ms} ms")
        self._down = True
        for invocation in list(self.scheduler.live):
            self.scheduler.kill(invocation)
        self.scheduler.at(down_ms, self._recover)

    def _recover(self, deaths: int = 0) -> None:
        """The first round after a start; one that died is begun again, a few times."""
        self.scheduler.note("world", "recovery")

        def finished(error: BaseException | None) -> None:
            self._must_be_injected(error)
            if error is not None:
                self.scheduler.at(1000, lambda: self._recover(deaths + 1))
                return
            self._down = False
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                self.scheduler.at(self._world.randrange(1, 500), event)

        def recover() -> None:
            reconcile.handle(self.ports, starting_up=True, budgets=self.budgets)

        self._numbers["recovery"] += 1
        label = f"recovery-{self._numbers['recovery']}"
        recovery = Invocation("recovery", label, recover, finished)
        recovery.mortal = deaths < MAX_RECOVERY_DEATHS
        self.scheduler.begin(recovery)

    # -- a run

    def run(self) -> Report:
        """The whole run; a violation ends it and is told in the report."""
        logging.getLogger("runvoy").setLevel(logging.CRITICAL)
        workload = Workload(self)
        violation = None
        try:
            workload.renew_grants()
            self.scheduler.drain()
            workload.plan()
            self.scheduler.faults.enabled = True
            end_ms = self.settings.arrival_ms + 5 * MINUTE_MS
            for at_ms in range(self.settings.tick_ms, end_ms, self.settings.tick_ms):
                self.scheduler.at(at_ms, self.tick)
            self.scheduler.run(end_ms)
            self.scheduler.faults.enabled = False
            # The first when all is listed again, and while lost uploads are young enough to be looked for.
            for wait_ms in (LIST_ALL_MS, LONG_TICK_MS, LONG_TICK_MS):
                # Then some that follow each other as rounds do: what a task is held for was seen twice, two minutes apart; and the
                # inbox is listed a part in each.
                for next_ms in (wait_ms, *[MINUTE_MS] * 9):
                    self.scheduler.run(self.scheduler.now_ms + next_ms)
                    self.tick()
                    self._come_to_an_end()
            self.oracles.judge()
            self.secrecy.judge()
            check_seals(self.records)
        except Violation as seen:
            violation = str(seen)
        finally:
            self.scheduler.close()
        return self._report(violation)

    def _come_to_an_end(self) -> None:
        """Work through all events there are. What waits for a place of its owner's is tried again and again, and what holds that
        place may be one that only rounds free: three of them, now and then."""
        minutes = 0
        while not self.scheduler.is_idle:
            minutes += 1
            check(minutes < 3 * 24 * 60, "something goes on for ever")
            self.scheduler.run(self.scheduler.now_ms + MINUTE_MS)
            if minutes % (LONG_TICK_MS // MINUTE_MS) < 3 < minutes:
                self.tick()

    def _report(self, violation: str | None) -> Report:
        faults = self.scheduler.faults
        return Report(
            seed=self.seed,
            requests=self.settings.requests,
            executions=len(self.oracles.executions),
            commands=len(self.oracles.starts),
            grants=self.oracles.grants,
            states=Counter(execution.state.value for execution in self.oracles.executions.values()),
            steps=self.scheduler.steps,
            crashes=len(faults.crashed),
            points=dict(faults.seen),
            crashed=set(faults.crashed),
            digest=self.scheduler.digest,
            violation=violation,
            trace=list(self.scheduler.trace),
        )


def revoke(simulation: Simulation, signing_key: keys.SigningKey) -> None:
    """Have a key revoked, as an admin's call will do it: one conditional write."""

    def run() -> None:
        def attempt() -> None:
            key = store.load(simulation.records, store.key_key(signing_key.key_id), Key)
            assert key.document is not None
            revoked = msgspec.structs.replace(key.document, revoked_at=simulation.clock.now())
            simulation.records.commit([store.put(key, revoked)])

        commits.with_retries(simulation.clock, attempt)

    simulation.scheduler.begin(Invocation("revoke", "revoke", run, lambda _error: None))
