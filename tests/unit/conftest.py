"""A deployment in a temporary folder: the real local ports under the real handlers, but for the launcher, which a test
scripts, and the clock, which a test sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.servers.git_hosts import HttpHost, Repository
from tests.unit.served import served

from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.model import Execution, Key, User
from runvoy_agent.handlers import control, ends, inbox, reconcile, starts
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import EndEvent, EndMessage, InboxDelivery, StartMessage
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.handlers.reconciler.inbox_sweeps import BUDGETS, Budget
from runvoy_agent.handlers.routes import Request, Response
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.queue import LocalQueueCare, SqliteQueue
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import (
    Attempt,
    Launch,
    Launched,
    LaunchOutcome,
    Message,
    Ports,
    QueueName,
    TaskState,
    Unavailable,
)
from runvoy_cli import app
from runvoy_protocol import ids, keys, object_keys, receipts, requests, run_objects, status
from runvoy_protocol.members import Role
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.status import ExecutionStatus

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


class SetClock:
    """A clock that stands until it is moved; ids and randomness count up."""

    def __init__(self) -> None:
        self.time = START
        self.tick = timedelta(0)  # so far it moves each time that it is read
        self._count = 0

    def now(self) -> datetime:
        self.time += self.tick
        return self.time

    def new_id(self) -> str:
        return ids.uuid7(self.time, self.random(10))

    def random(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(count, "big")

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def move(self, **duration: float) -> None:
        self.time += timedelta(**duration)


class ScriptedLauncher:
    """Remembers every launch; answers what the test says."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.outcome: LaunchOutcome = Launched("task")
        self.tasks: dict[str, TaskState] = {}
        self.gaps = 0  # so many of the next looks leave out what is there
        self.stops: list[str] = []
        self.looks: list[str] = []  # those at a task alone
        self.unlisted: set[str] = set()  # what a look at many leaves out
        self.busy = 0  # so many of the next looks and stops are not answered
        self.relaunch_window: timedelta | None = timedelta(minutes=10)
        self.meanwhile: Callable[[Launch], None] = lambda _launch: None  # what happens while one is launched

    def start(self, launch: Launch) -> LaunchOutcome:
        self.launches.append(launch)
        self.meanwhile(launch)
        if isinstance(self.outcome, Launched):
            self.tasks.setdefault(launch.execution_id, TaskState("running"))
        return self.outcome

    def stop(self, execution_id: str, attempt: int) -> None:
        self._answer()
        self.stops.append(execution_id)

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        """Those that are there and listed, as a platform that forgets does."""
        listed = {} if self.gaps else {key: task for key, task in self.tasks.items() if key not in self.unlisted}
        return {(key, attempt): listed[key] for key, attempt in attempts if key in listed}

    def _answer(self) -> None:
        if self.busy:
            self.busy -= 1
            raise Unavailable("the platform is busy")

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        self._answer()
        self.looks.append(execution_id)
        if self.gaps:
            self.gaps -= 1
            return TaskState("missing")
        return self.tasks.get(execution_id, TaskState("missing"))


class World:
    """One deployment and one admin's key, `signing_key`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SetClock()
        self.launcher = ScriptedLauncher()
        self.records = SqliteRecords(folder / "state.db")
        self.queue = SqliteQueue(folder / "queue.db")
        self.grants = Grants(bytes(32), "http://127.0.0.1:1")
        self.inbox = FolderObjects(folder / "inbox", versioned=True, grants=self.grants)
        self.outbox = FolderObjects(folder / "outbox", grants=self.grants)
        self.ports = Ports(
            records=self.records,
            inbox=self.inbox,
            outbox=self.outbox,
            queue=self.queue,
            launcher=self.launcher,
            secrets=FolderSecrets(folder / "secrets"),
            clock=self.clock,
        )
        self.deployment = Deployment(
            deployment_id="here",
            version="0",
            created_at=START - timedelta(days=3),
            secret=b"s" * 32,
            capabilities=Capabilities("process", frozenset({"process"})),
            queues=LocalQueueCare(self.queue),
        )
        self.signing_key = self.add_user("ada", Role.ADMIN)
        self._began_ms: dict[str, int] = {}  # execution id → when its started.json says that it began

    def close(self) -> None:
        self.queue.close()
        self.records.close()

    # -- members

    def add_user(self, name: str, role: Role) -> keys.SigningKey:
        signing_key = keys.SigningKey(self.clock.random(32))
        now = self.clock.now()
        user = store.load(self.records, store.user_key(name), User)
        key = Key(key_id=signing_key.key_id, public_key=signing_key.public_key, user=name, created_at=now)
        self.records.commit(
            [
                store.put(user, User(name=name, role=role, created_at=now)),
                store.put_new(store.key_key(signing_key.key_id), key),
            ]
        )
        return signing_key

    def revoke(self, signing_key: keys.SigningKey) -> None:
        key = store.load(self.records, store.key_key(signing_key.key_id), Key)
        assert key.document is not None
        self.records.commit([store.put(key, msgspec.structs.replace(key.document, revoked_at=self.clock.now()))])

    # -- requests

    def request(self, **fields: object) -> RunRequest:
        values: dict[str, object] = {
            "version": 1,
            "deployment_id": "here",
            "request_id": self.clock.new_id(),
            "issued_at": self.clock.now(),
            "expires_at": self.clock.now() + timedelta(minutes=15),
            "command": ("true",),
        }
        return RunRequest(**(values | fields))  # type: ignore[arg-type]

    def upload(self, request: RunRequest, signing_key: keys.SigningKey | None = None) -> InboxDelivery:
        signing_key = signing_key or self.signing_key
        raw = requests.seal_request(request, signing_key)
        return self.upload_raw(raw, object_keys.request(signing_key.key_id, request.request_id))

    def upload_raw(self, raw: bytes, object_key: str) -> InboxDelivery:
        self.inbox.put(object_key, raw, content_type="")
        return InboxDelivery(object_key=object_key, version=FolderObjects.version_of(raw))

    def deliver(self, delivery: InboxDelivery) -> Receipt:
        """Handle a delivery; the receipt of that very object."""
        inbox.handle(self.ports, self.deployment, messages.encode(delivery))
        _, key_id, request_id = delivery.object_key.split("/")
        stored = self.inbox.get(delivery.object_key, delivery.version)
        assert stored is not None
        digest = hashlib.sha256(stored.data).hexdigest()
        receipt = self.outbox.get(object_keys.receipt(key_id, request_id, digest))
        assert receipt is not None, "the delivery left no receipt"
        return receipts.decode(receipt.data)

    def submit(self, request: RunRequest, signing_key: keys.SigningKey | None = None) -> Receipt:
        return self.deliver(self.upload(request, signing_key))

    # -- the rest of a run

    def start(self, execution_id: str) -> None:
        starts.handle(self.ports, self.deployment, messages.encode(StartMessage(execution_id=execution_id)))

    def tell(self, execution_id: str, event: EndEvent, attempt: int | None = None) -> None:
        message = EndMessage(execution_id=execution_id, event=event, attempt=attempt)
        ends.handle(self.ports, self.deployment, messages.encode(message))

    def leave_result(self, execution_id: str, *, outcome: str = "exited", exit_code: int | None = 0) -> None:
        now_ms = int(self.clock.now().timestamp() * 1000)
        body = {
            "execution_id": execution_id,
            "attempt": 1,
            "outcome": outcome,
            "exit_code": exit_code,
            "signal": None,
            "message": "",
            "started_at_ms": self._began_ms.get(execution_id, now_ms),
            "ended_at_ms": now_ms,
            "lines": 0,
            "chunks": 1,
            "lost_bytes": 0,
        }
        self.leave_signed(object_keys.result(execution_id), b"result", json.dumps(body), execution_id)

    def leave_started(self, execution_id: str) -> None:
        now_ms = int(self.clock.now().timestamp() * 1000)
        self._began_ms[execution_id] = now_ms
        body = {"execution_id": execution_id, "attempt": 1, "started_at_ms": now_ms, "pid": 1}
        self.leave_signed(object_keys.started(execution_id), b"started", json.dumps(body), execution_id)

    def leave_signed(self, object_key: str, kind: bytes, body: str, execution_id: str) -> None:
        key = run_objects.execution_key(self.deployment.secret, execution_id, 1)
        signed = {"body": body, "mac": run_objects.mac_of(key, kind, body)}
        self.outbox.put(object_key, json.dumps(signed).encode(), content_type="")

    def reconcile(self, *, starting_up: bool = False, budget: Budget | None = None) -> list[Repair]:
        """One round. `budget`: that of each stretch of the inbox, instead of a deployment's."""
        budgets = BUDGETS if budget is None else dict.fromkeys(BUDGETS, budget)
        return reconcile.handle(self.ports, starting_up=starting_up, budgets=budgets).repairs

    # -- looking

    def execution(self, execution_id: str) -> Execution:
        document = store.load_execution(self.records, execution_id).document
        assert document is not None
        return document

    def status(self, execution_id: str) -> ExecutionStatus:
        stored = self.outbox.get(object_keys.status(execution_id))
        assert stored is not None
        return status.decode(stored.data)

    def messages(self, queue: QueueName) -> list[Message]:
        """What is due in a queue now; taken out of it."""
        found = []
        while (message := self.queue.receive(queue, 0)) is not None:
            self.queue.acknowledge(message.message_id)
            found.append(message)
        return found

    def pushed(self) -> list[str]:
        """The executions pushed to the starts queue."""
        return [json.loads(message.body)["execution_id"] for message in self.messages("starts")]

    def call(self, request: Request) -> Response:
        return control.handle(self.ports, self.deployment, request)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository of git's, with commits, a branch and a tag."""
    return Repository(tmp_path_factory.mktemp("git"))


@pytest.fixture
def http(repository: Repository) -> Iterator[HttpHost]:
    """Git's own smart HTTP server for it, which wants a password."""
    host = HttpHost(repository.bare.parent)
    yield host
    host.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runvoy(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """The command line with the world as its deployment and the admin's key; what it ends with and prints."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    with served(world) as endpoint:
        monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("RUNVOY_ENDPOINT", endpoint)
        monkeypatch.setenv("RUNVOY_DEPLOYMENT", "here")
        monkeypatch.setenv("RUNVOY_API_KEY", world.signing_key.to_api_key())
        monkeypatch.delenv("RUNVOY_PROFILE", raising=False)
        yield run
