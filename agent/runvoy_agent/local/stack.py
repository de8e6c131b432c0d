"""The life of the embedded stack's process: one per home, found by endpoint.json, ended by SIGTERM.

Ending it, or killing it, leaves commands running: their runners spool to disk, and the next stack takes that in.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runvoy_agent.local.gateway import Gateway
from runvoy_agent.local.home import AlreadyRunning, DamagedHome, Endpoint, Home, bind
from runvoy_agent.local.server import serve_on
from runvoy_agent.ports import Unavailable

log = logging.getLogger("runvoy.stack")

GATEWAY_THREADS = 96
RECONCILE_EVERY_SECONDS = 60.0
# The server's loop sleeps until something happens; the reconciler's round wakes it to close idle connections.
_LOOP_TIMEOUT_SECONDS = 3600
_IDLE_CONNECTION_SECONDS = 60
_CONNECTIONS = 900  # below the usual limit of 1,024 open files, with room for those of the stack itself


class Services(Protocol):
    """Everything behind the gateway, as the composition root builds it."""

    gateway: Gateway
    endpoint: Endpoint

    def listen_at(self, port: int) -> Endpoint:
        """Learn the port, which addresses in grants need."""
        ...

    def recover(self) -> None:
        """Take in what happened while no stack ran."""
        ...

    def start(self) -> None: ...

    def reconcile(self) -> None: ...

    def close(self) -> None: ...


def run(folder: Path, build: Callable[[Home], Services]) -> int:
    """Run the stack of a home until SIGTERM or SIGINT; the process's exit code."""
    home = Home(folder)
    home.make()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        lock = home.take_stack_lock()
    except AlreadyRunning:
        log.info("another stack runs in %s", folder)
        return 0
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Its memory holds keys and values of secrets. Commands inherit that, and may ask for core files of their own.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    log.info("holding %s (lock %d)", folder, lock)
    try:
        _serve(home, build, stopping)
    except (DamagedHome, Unavailable, OSError) as error:
        log.error("the stack cannot go on: %s", error)  # noqa: TRY400 - a person reads this, and needs no trace
        return 1
    return 0


def _serve(home: Home, build: Callable[[Home], Services], stopping: threading.Event) -> None:
    services = build(home)
    listener = bind(home.last_port())
    endpoint = services.listen_at(listener.getsockname()[1])
    server = serve_on(
        listener,
        services.gateway,
        threads=GATEWAY_THREADS,
        connection_limit=_CONNECTIONS,
        channel_timeout=_IDLE_CONNECTION_SECONDS,
        asyncore_loop_timeout=_LOOP_TIMEOUT_SECONDS,
        ident=None,
    )
    services.recover()
    services.start()
    threading.Thread(target=server.run, name="gateway", daemon=True).start()
    home.publish(endpoint)
    log.info("listening on 127.0.0.1:%d, pid %d, version %s", endpoint.port, endpoint.pid, endpoint.version)
    while not stopping.wait(RECONCILE_EVERY_SECONDS):
        services.reconcile()
        server.trigger.pull_trigger()
    log.info("stopping; commands that run go on")
    services.close()
