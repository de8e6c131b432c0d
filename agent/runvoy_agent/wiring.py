"""The composition root: the one place where adapters and handlers meet."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version as installed_version
from pathlib import Path

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers import control, ends, healths, inbox, reconcile, routes, starts
from runvoy_agent.handlers.admission.batches import RangesApart
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import EndMessage, InboxDelivery, StartMessage
from runvoy_agent.handlers.routes import Call, Response, Route, route
from runvoy_agent.local.changes import Changes
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.containers import Containers
from runvoy_agent.local.disk import Disk
from runvoy_agent.local.engines import Engines
from runvoy_agent.local.gateway import Answer, ControlCall, Gateway, Names
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.home import Endpoint, Home
from runvoy_agent.local.ingest import Report, SpoolIngest
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.pump import Pump
from runvoy_agent.local.queue import LocalQueueCare, SqliteQueue
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.local.stack import GATEWAY_THREADS
from runvoy_agent.local.worker import Worker
from runvoy_agent.ports import Ports, Write
from runvoy_agent.wiring_keeping import Keeping
from runvoy_protocol import codec, keys
from runvoy_protocol.members import Role

log = logging.getLogger("runvoy.wiring")

EMBEDDED = Capabilities(default_isolation="process", isolations=frozenset({"process"}), any_image=True)
CONTAINERS_ONLY = Capabilities(default_isolation="container", isolations=frozenset(), any_image=True)
_STOP_SECONDS = 10.0
# Above what a handler can take. A stack that dies gives everything back at once, so nothing waits for this to pass.
_VISIBILITY_SECONDS = 300.0
# Well below that: a delivery of a range is done before the queue gives it to another.
_RANGE_LASTS = timedelta(seconds=60)
_LOOK_AGAIN_SECONDS = 5.0
_SPARE_GATEWAY_THREADS = 16
# Compressed, as nearly all logs have: a read of its own takes either end a millisecond and more.
INLINE_LOG_BYTES = 1024 * 1024


def stack_route(serve: Callable[[Call], Response]) -> Route:
    """What the embedded stack shows of itself, beyond control.ROUTES."""
    return route("GET", "/stack", Action.SEE_STACK, serve, name="show-stack")


def gc_route(serve: Callable[[Call], Response]) -> Route:
    """What the embedded stack is asked to forget, beyond control.ROUTES."""
    return route("POST", "/stack/gc", Action.FORGET, serve, name="gc", single_use=True)


class EmbeddedServices:
    """The embedded stack behind its gateway (see local.stack.Services)."""

    def __init__(self, home: Home) -> None:
        codec.work_out_types()  # threads of adapters begin with the recovery, the worker's and the gateway's after it
        self._home = home
        self._starts_lock = threading.Lock()
        self._starts_under_way: Counter[str] = Counter()
        settings = home.settings()
        self._capabilities = EMBEDDED if settings.allows_host_processes else CONTAINERS_ONLY
        identity = home.deployment()
        secret = home.deployment_secret()
        self._changes = Changes(GATEWAY_THREADS - _SPARE_GATEWAY_THREADS)
        self._disk = Disk(home.folder)
        self._grants = Grants(hmac.digest(secret, b"runvoy grants v1", "sha256"))
        clock = SystemClock()
        self._records = SqliteRecords(home.records)
        self._queue = SqliteQueue(home.queue, visibility_seconds=_VISIBILITY_SECONDS)
        self._inbox = FolderObjects(home.inbox, bucket="inbox", versioned=True, grants=self._grants)
        self._outbox = FolderObjects(
            home.outbox, bucket="outbox", grants=self._grants, on_change=self._changes.announce
        )
        home.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ingest = SpoolIngest(home.runs, self._outbox, on_event=self._on_report)
        self._pump = Pump(self._ingest.ingest, self._on_stopped)
        self._engines = Engines(os.environ)
        self._launcher = ProcessLauncher(
            home.runs,
            on_stopped=self._pump.stopped,
            on_bell=self._pump.bell,
            containers=Containers(self._engines),
            shortage=self._disk.shortage,
        )
        self._ports = Ports(
            records=self._records,
            inbox=self._inbox,
            outbox=self._outbox,
            queue=RangesApart(self._queue),
            launcher=self._launcher,
            secrets=FolderSecrets(home.secrets),
            clock=clock,
        )
        self._deployment = Deployment(
            deployment_id=identity.deployment_id,
            version=installed_version("runvoy"),
            created_at=identity.created_at,
            secret=secret,
            capabilities=self._capabilities,
            instance=secrets.token_hex(8),
            look_for_containers=self._look_for_containers,
            queues=LocalQueueCare(self._queue),
            inline_log_bytes=INLINE_LOG_BYTES,
            disk=self._disk.look,
        )
        self._keeping = Keeping(home, self._ports, self._inbox, self._outbox, self._ingest, identity.created_at)
        self._routes = (*control.ROUTES, stack_route(self._show_stack), gc_route(self._keeping.serve))
        self._worker = Worker(
            self._queue,
            {
                "inbox": lambda body: inbox.handle(self._ports, self._deployment, body),
                "ranges": self._handle_range,
                "starts": self._handle_start,
                "bulk": self._handle_start,
                "ends": self._handle_end,
            },
            lambda name: self._launcher.wait_for_room(_LOOK_AGAIN_SECONDS, bulk=name == "bulk"),
        )
        self.gateway = Gateway(
            inbox=self._inbox,
            outbox=self._outbox,
            grants=self._grants,
            changes=self._changes,
            clock=clock,
            serve_control=self._serve_control,
            on_upload=self._on_upload,
            shortage=self._disk.shortage,
            names=Names(settings.host, frozenset(settings.web_origins)),
        )
        self.endpoint = Endpoint(pid=os.getpid(), port=0, instance="", version="", deployment_id="", host=settings.host)

    def listen_at(self, port: int) -> Endpoint:
        self.gateway.port = port
        self._grants.base_url = f"http://127.0.0.1:{port}"
        self.endpoint = msgspec.structs.replace(
            self.endpoint,
            port=port,
            instance=self._deployment.instance,
            version=self._deployment.version,
            deployment_id=self._deployment.deployment_id,
        )
        return self.endpoint

    def recover(self) -> None:
        self._register_first_key()
        self._ingest.ingest_all()
        self._forget_claims()
        self._launcher.adopt_all()
        reconcile.handle(self._ports, starting_up=True)

    def start(self) -> None:
        self._pump.start()
        self._worker.start()

    def reconcile(self) -> None:
        """One round of the reconciler; what fails is logged and tried again in the next."""
        self._disk.shortage()  # for its log, where nobody comes with something new
        try:
            self._home.publish(self.endpoint)  # in case somebody damaged it
        except OSError as error:
            log.warning("the endpoint cannot be written anew: %s", error.strerror)  # and stands as it was
        try:
            reconcile.handle(self._ports)
            self._records.purge_expired(self._ports.clock.now())
            self._keeping.keep_up()
        except Exception:
            log.exception("a round of the reconciler failed")

    def close(self) -> None:
        self._changes.close()
        self._worker.close(_STOP_SECONDS)
        self._launcher.close()
        self._pump.close(_STOP_SECONDS)
        self._records.close()

    def _look_for_containers(self) -> Capabilities:
        found = self._engines.find()
        if found.path is None:
            return self._capabilities._replace(no_containers=found.why)
        return self._capabilities._replace(isolations=self._capabilities.isolations | {"container"})

    def _forget_claims(self) -> None:
        """Drop the claims that were left of runs that are over; no start is under way yet."""
        for execution_id in self._ingest.removed():
            self._forget_claim(execution_id)

    def _register_first_key(self) -> None:
        """The first client's key belongs to an admin. A key that is known, revoked ones included, stays as it is."""
        left = self._home.first_key()
        if left is None:
            return
        public_key, name = left
        key_id = keys.key_id_of(public_key)
        if self._records.get(store.key_key(key_id)) is not None:
            return
        now = self._ports.clock.now()
        user = store.load(self._records, store.user_key(name), User)
        life = 0 if user.document is None else user.document.life
        key = Key(key_id=key_id, public_key=public_key, user=name, created_at=now, life=life)
        admin = User(name=name, role=Role.ADMIN, created_at=now)
        writes: list[Write] = [
            store.put_new(store.key_key(key_id), key),
            store.put(user, admin) if user.document is None else user.check,
        ]
        writes.append(store.audit(self._ports.clock, name, "register-first-key", "ok", key_id=key_id))
        self._records.commit(writes)
        log.info("registered key %s of %s, an admin", key_id, name)

    def _serve_control(self, call: ControlCall) -> Answer:
        response = control.handle(self._ports, self._deployment, routes.Request(*call), self._routes)
        return Answer(response.status, response.body, response.content_type)

    def _on_upload(self, object_key: str, version: str, source: str) -> None:
        delivery = InboxDelivery(object_key=object_key, version=version, source=source)
        self._queue.send("inbox", messages.encode(delivery))

    def _on_report(self, execution_id: str, report: Report) -> None:
        self._queue.send("ends", messages.encode(EndMessage(execution_id=execution_id, event=report)))

    def _on_stopped(self, execution_id: str, attempt: int) -> None:
        message = EndMessage(execution_id=execution_id, event="stopped", attempt=attempt)
        self._queue.send("ends", messages.encode(message))

    def _handle_range(self, body: bytes) -> None:
        inbox.handle(self._ports, self._deployment, body, self._ports.clock.now() + _RANGE_LASTS)

    def _handle_start(self, body: bytes) -> None:
        execution_id = msgspec.json.decode(body, type=StartMessage).execution_id
        with self._starting(execution_id):
            starts.handle(self._ports, self._deployment, body)

    @contextmanager
    def _starting(self, execution_id: str) -> Iterator[None]:
        with self._starts_lock:
            self._starts_under_way[execution_id] += 1
        try:
            yield
        finally:
            with self._starts_lock:
                self._starts_under_way[execution_id] -= 1
                if not self._starts_under_way[execution_id]:
                    del self._starts_under_way[execution_id]

    def _handle_end(self, body: bytes) -> None:
        message = msgspec.json.decode(body, type=EndMessage)
        if message.event == "stopped":
            # Whoever saw it stop may have been faster than the spool's way into the outbox; what is settled without the
            # result that lies there stays so for ever.
            self._ingest.ingest(message.execution_id)
        ends.handle(self._ports, self._deployment, body)
        if message.event == "stopped":
            self._ingest.remove(message.execution_id)
            self._forget_claim(message.execution_id)

    def _forget_claim(self, execution_id: str) -> None:
        """Drop the claim of a run that is over, unless a start of it is half-way: one that read the record before the run
        ended would find no claim and run it again. Starts that begin now read that it has ended."""
        execution = store.load_execution(self._records, execution_id).document
        with self._starts_lock:
            is_safe = execution_id not in self._starts_under_way
        if execution is not None and not execution.is_active and is_safe:
            self._ingest.forget(execution_id)

    def _show_stack(self, call: Call) -> Response:
        """What `local status` shows."""
        counts = healths.counts_by_state(self._records, self._deployment.created_at, call.ports.clock.now())
        body = {
            "pid": self.endpoint.pid,
            "endpoint": f"http://127.0.0.1:{self.endpoint.port}",
            "version": self.endpoint.version,
            "instance": self.endpoint.instance,
            "deployment_id": self.endpoint.deployment_id,
            "host": self.endpoint.host or None,
            "data_directory": str(self._home.folder),
            "host_processes": "process" in self._capabilities.isolations,
            "keep_seconds": self._home.settings().keep_seconds,
            "counts": counts,
            "queues": {name: counts._asdict() for name, counts in self._queue.counts().items()},
        }
        return Response(200, msgspec.json.encode(body))


def embedded(home: Home) -> EmbeddedServices:
    """The embedded stack of a home."""
    return EmbeddedServices(home)


def embedded_home(runvoy_home: Path) -> Path:
    return runvoy_home / "local"
