"""From the global options to a client of the deployment that is meant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.home import config
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import Transport
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS, Settings
from runvoy_cli.terminal.render import Console
from runvoy_protocol.errors import ErrorCode, RunvoyError


class Session(NamedTuple):
    client: Client
    console: Console
    default_timeout_seconds: int
    is_embedded: bool
    web_url: str | None = None


class NothingRanHere(RunvoyError):
    """Nothing is configured, and this machine never had an embedded stack."""

    def __init__(self, home: Path) -> None:
        super().__init__(
            ErrorCode.NOT_FOUND,
            f"nothing is configured, and nothing ever ran on this machine (its state would be in {home})",
            "Set the deployment with `runvoy configure` or `runvoy claim`; the first `runvoy run` starts a stack here.",
        )


def open_session(settings: Settings, calls_are_limited: bool = True, *, begins: bool = True) -> Session:
    """Find the deployment (starting the embedded stack if that is what is meant) and connect a client to it.

    `calls_are_limited`: whether `--timeout` is the limit of a call; in run, submit, wait and logs it means another thing.
    `begins`: whether a first embedded stack is begun; not for what asks about executions, of which there can be none then.
    Raises NothingRanHere instead.
    """
    console = Console(settings)
    transport = Transport(console.trace if settings.debug else None)
    home = config.home()
    remote = config.resolve(settings.profile, console.warn)
    default = (remote.timeout_seconds if remote else None) or DEFAULT_TIMEOUT_SECONDS
    limit = settings.timeout_seconds if calls_are_limited and settings.timeout_seconds is not None else default
    if remote is not None:
        client = Client(_target_of(remote), _caches_in(home), transport, limit)
        return Session(client, console, default, is_embedded=False, web_url=remote.web_url)

    from runvoy_cli.deployment.embedded import Embedded
    from runvoy_cli.home.files import told_about

    stack = Embedded(home, transport, console.warn)
    if not begins:
        with told_about(home):
            has_begun = stack.has_begun()
        if not has_begun:
            raise NothingRanHere(home)
    # Siblings of the client may ask at the same time, and the stack's own calls are for one thread.
    lock = threading.Lock()

    def revive() -> Target:
        with lock:
            return stack.ensure()

    client = Client(stack.ensure(), _caches_in(home), transport, limit, revive=revive)
    return Session(client, console, default, is_embedded=True, web_url=f"{endpoint_for_others(client.target)}/")


def running_client(settings: Settings, limit_seconds: float) -> Client | None:
    """A client of the deployment that is meant, for who only asks in passing: nothing is said, and no embedded stack is started;
    None if that is what is meant and does not run. Raises as `open_session` does."""

    def say_nothing(_text: str) -> None:
        return

    transport = Transport(None)
    home = config.home()
    remote = config.resolve(settings.profile, say_nothing)
    if remote is not None:
        target: Target | None = _target_of(remote)
    else:
        from runvoy_cli.deployment.embedded import Embedded

        stack = Embedded(home, transport, say_nothing)
        target = stack.existing_target() if stack.has_begun() else None
    if target is None:
        return None
    return Client(target, _caches_in(home), transport, limit_seconds)


def endpoint_for_others(target: Target) -> str:
    """Where somebody on another machine reaches the deployment: what claim tokens and links say."""
    return target.public_endpoint or target.endpoint


def _target_of(remote: config.Remote) -> Target:
    return Target(remote.endpoint, remote.deployment_id, remote.signing_key)


def _caches_in(home: Path) -> Callable[[Target], Cache]:
    return lambda target: Cache(home, target.endpoint, target.signing_key.key_id)
