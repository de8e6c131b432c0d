"""The composition root of a worker on a machine: the functions of a deployment whose queues, buckets and table are AWS's, or
of a stand-in for it (LocalStack), and whose commands are processes and containers of this machine. For developing runvoy.

`python -m runvoy_agent.wiring_host --home DIR`, told of the deployment by the functions' environment (docs/aws-table.md),
without what is about ECS.
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waitress.server import create_server  # type: ignore[import-untyped]

from runvoy_agent.aws import settings
from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.functions import Event
from runvoy_agent.aws.polling import Poller
from runvoy_agent.aws.queue import AwsQueueName
from runvoy_agent.aws.settings import Settings, SettingsError
from runvoy_agent.core.admission import Capabilities
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import EndMessage
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.containers import Containers
from runvoy_agent.local.engines import Engines
from runvoy_agent.local.function_url import FunctionUrl
from runvoy_agent.local.home import AlreadyRunning, Home, bind
from runvoy_agent.local.ingest import Report, SpoolIngest
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.local.pump import Pump
from runvoy_agent.local.spool_upload import UploadedSpool
from runvoy_agent.ports import Ports, Unavailable
from runvoy_agent.wiring_aws import AwsServices, Platform
from runvoy_protocol import aws_layout, codec
from runvoy_protocol.claims import Token
from runvoy_protocol.errors import ErrorCode, RunvoyError

log = logging.getLogger("runvoy.host")

# Containers come with what the machine has; an image has to be registered, as on ECS.
ON_HOST = Capabilities(default_isolation="process", isolations=frozenset({"process"}))
DEFAULT_PORT = 4580
_RECONCILE_EVERY_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 5.0
_INVOCATION_SECONDS = 60.0  # the functions' own timeout; nothing ends one here that takes longer
_STOP_SECONDS = 15.0
_THREADS = 8
_CONFIGURED_BY = "The worker is told of its deployment by its environment: start it with `just localstack`."


class Invocation:
    """What Lambda tells a function of an invocation."""

    def __init__(self, function: str) -> None:
        self._ends_at = time.monotonic() + _INVOCATION_SECONDS
        self.function_name = function
        self.memory_limit_in_mb = 0
        self.invoked_function_arn = f"arn:aws:lambda:::function:{function}"
        self.aws_request_id = str(uuid.uuid4())

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends_at - time.monotonic()) * 1000))


class HostWorker:
    """A deployment's functions, invoked one at a time: their logger and metrics belong to one invocation of a process."""

    def __init__(self, found: Settings, clients: Clients, home: Home) -> None:
        self._turn = threading.Lock()
        self._settings = found
        self._engines = Engines(os.environ)
        home.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pump = Pump(self._take_in, self._on_stopped)
        self._launcher = ProcessLauncher(
            home.runs, on_stopped=self._pump.stopped, on_bell=self._pump.bell, containers=Containers(self._engines)
        )
        platform = Platform(
            self._launcher, ON_HOST, look_for_containers=self._look_for_containers, settling=self._settling
        )
        self._services = AwsServices(found, clients, SystemClock(), platform)
        self._ingest = SpoolIngest(home.runs, UploadedSpool(self._ports.outbox), on_event=self._on_report)
        self._poller = Poller(clients, found.queue_urls, self._invoke, self._is_ready)
        self.function_url = FunctionUrl(lambda event: self._call("control", event))

    @property
    def _ports(self) -> Ports:
        return self._services.ports

    def start(self) -> None:
        """Take up what runs and what ended without a worker, then work."""
        codec.work_out_types()
        self._ingest.ingest_all()
        for execution_id in self._ingest.removed():
            self._forget_claim(execution_id)
        self._launcher.adopt_all()
        self._pump.start()
        self._poller.start()

    def reconcile(self) -> None:
        """One round of the reconciler; what fails is logged and tried again in the next."""
        try:
            self._call("reconcile", {})
        except Exception:
            log.exception("a round of the reconciler failed")

    def seed_admin(self, user: str, endpoint: str) -> str | None:
        """A claim token for an admin, who is made if there is none of that name; None if that one has a key."""
        answer = self._call("control", {aws_layout.SEED_ADMIN: {"user": user}})
        if "error" in answer:
            refused = answer["error"]
            raise RunvoyError(ErrorCode(refused["code"]), refused["message"], refused.get("hint", ""))
        if answer["secret"] is None:
            return None
        return Token(base64.b64decode(answer["secret"]), endpoint, self._settings.deployment_id).to_text()

    def close(self) -> None:
        """Stop; commands go on, and the next worker of this home takes them up."""
        self._poller.close(_STOP_SECONDS)
        self._launcher.close()
        self._pump.close(_STOP_SECONDS)

    # -- invoking

    def _invoke(self, queue: AwsQueueName, event: Event) -> Any:
        return self._call(aws_layout.FED_BY[queue], event)

    def _call(self, function: str, event: Event) -> Any:
        with self._turn:
            return getattr(self._services, function)(event, Invocation(f"runvoy-{function}"))

    def _is_ready(self, queue: AwsQueueName) -> bool:
        if queue not in ("starts", "bulk"):
            return True
        return self._launcher.wait_for_room(_LOOK_AGAIN_SECONDS, bulk=queue == "bulk")

    # -- what runs

    def _look_for_containers(self) -> Capabilities:
        found = self._engines.find()
        if found.path is None:
            return ON_HOST._replace(no_containers=found.why)
        return ON_HOST._replace(isolations=ON_HOST.isolations | {"container"})

    def _take_in(self, execution_id: str) -> None:
        self._ingest.ingest(execution_id)

    def _on_report(self, execution_id: str, report: Report) -> None:
        self._ports.queue.send("ends", messages.encode(EndMessage(execution_id=execution_id, event=report)))

    def _on_stopped(self, execution_id: str, attempt: int) -> None:
        message = EndMessage(execution_id=execution_id, event="stopped", attempt=attempt)
        self._ports.queue.send("ends", messages.encode(message))

    @contextmanager
    def _settling(self, message: EndMessage) -> Iterator[None]:
        """Before a run's end is settled its result is in the outbox; after it nothing is left of it here."""
        if message.event == "stopped":
            self._ingest.ingest(message.execution_id)
        yield
        if message.event == "stopped":
            self._ingest.remove(message.execution_id)
            self._forget_claim(message.execution_id)

    def _forget_claim(self, execution_id: str) -> None:
        """Functions run one at a time, so no start of it is half-way."""
        execution = store.load_execution(self._ports.records, execution_id).document
        if execution is not None and not execution.is_active:
            self._ingest.forget(execution_id)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="wiring_host", description="Work for a deployment whose queues, buckets and table are elsewhere."
    )
    parser.add_argument("--home", type=Path, required=True, help="where what runs is kept; one worker at a time")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="of the control API, on 127.0.0.1; 0: any")
    parser.add_argument(
        "--seed-admin-user", metavar="EMAIL", help="make this admin, and say on stderr how to get a key"
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    home = Home(chosen.home.absolute())
    home.make()
    try:
        home.take_stack_lock()
        _serve(home, chosen.port, chosen.seed_admin_user)
    except AlreadyRunning:
        log.error("another worker runs in %s", home.folder)  # noqa: TRY400 - a person reads this, and needs no trace
        return 1
    except SettingsError as error:
        log.error("%s. %s", error, _CONFIGURED_BY)  # noqa: TRY400
        return 2
    except (RunvoyError, Unavailable, OSError) as error:
        log.error("the worker cannot go on: %s", error)  # noqa: TRY400
        return 1
    return 0


def _serve(home: Home, port: int, admin: str | None) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    worker = HostWorker(settings.read(os.environ, with_tasks=False), Clients(), home)
    listener = bind(port)
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if port and not endpoint.endswith(f":{port}"):
        listener.close()
        raise OSError(f"port {port} of 127.0.0.1 is taken; choose one with --port")
    server = create_server(worker.function_url, sockets=[listener], threads=_THREADS, ident=None)
    worker.start()
    threading.Thread(target=server.run, name="function-url", daemon=True).start()
    # For who started it; stdout is the functions' log.
    sys.stderr.write(f"the control API is at {endpoint}\n")
    if admin is not None:
        token = worker.seed_admin(admin, endpoint)
        sys.stderr.write(f"{admin} has a key already\n" if token is None else f"runvoy claim {token}\n")
    sys.stderr.flush()
    while not stopping.wait(_RECONCILE_EVERY_SECONDS):
        worker.reconcile()
    log.info("stopping; commands that run go on")
    worker.close()


if __name__ == "__main__":
    sys.exit(main())
