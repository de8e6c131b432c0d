"""What the embedded stack keeps in RUNVOY_HOME/local, and the locks and files by which its clients find it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from runvoy_agent.local.durable import make_private_folder, sync, temporary_file
from runvoy_protocol import keys
from runvoy_protocol.errors import RunvoyError

D = TypeVar("D", bound=msgspec.Struct)


_LOCK_TRIES = 20
_LOCK_PAUSE_SECONDS = 0.05


class AlreadyRunning(Exception):
    """Another stack holds this home."""


class DamagedHome(Exception):
    """A file of the home is not what a stack wrote there. Nothing is made anew in its place: state would be lost."""


class DeploymentFile(msgspec.Struct, frozen=True, kw_only=True):
    deployment_id: str
    created_at: datetime


class FirstKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of the key that the first client made, and whose it is."""

    public_key: str
    user: str


class StackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """settings.json: what its owner asked of the stack. Without `host_processes` commands run in containers only. Executions that
    ended longer than `keep_seconds` ago are forgotten; None keeps them. Pages of `web_origins` may call it, beside its own. `host`
    (NAME or NAME:PORT) is how other machines reach it, by a proxy of this machine that ends TLS; with it there are containers
    only, whatever else is said."""

    host_processes: bool = True
    keep_seconds: int | None = None
    web_origins: tuple[str, ...] = ()
    host: str = ""

    @property
    def allows_host_processes(self) -> bool:
        return self.host_processes and not self.host


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """endpoint.json: where the stack listens. `instance` is new at each start; `host` is that of its settings."""

    pid: int
    port: int
    instance: str
    version: str
    deployment_id: str
    host: str = ""


class Home(NamedTuple):
    """The paths under RUNVOY_HOME/local."""

    folder: Path

    @property
    def records(self) -> Path:
        return self.folder / "state.db"

    @property
    def queue(self) -> Path:
        return self.folder / "queue.db"

    @property
    def inbox(self) -> Path:
        return self.folder / "objects" / "inbox"

    @property
    def outbox(self) -> Path:
        return self.folder / "objects" / "outbox"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def log(self) -> Path:
        return self.folder / "stack.log"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def make(self) -> None:
        """Make the folder, for its owner alone."""
        make_private_folder(self.folder)
        self.folder.chmod(0o700)

    def take_stack_lock(self) -> int:
        """Hold stack.lock for the life of this process; AlreadyRunning if another stack does."""
        descriptor = os.open(self.folder / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for tries_left in range(_LOCK_TRIES, -1, -1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                # Perhaps only a client that looks whether somebody holds it.
                if not tries_left:
                    os.close(descriptor)
                    raise AlreadyRunning(str(self.folder)) from error
                time.sleep(_LOCK_PAUSE_SECONDS)
        # Who holds it: a client trusts an endpoint.json only of the process that holds this lock, for the port of a stack
        # that died may be anybody's.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def deployment(self) -> DeploymentFile:
        """The deployment's identity, made at the first start. Call with the stack lock held."""
        path = self.folder / "deployment.json"
        try:
            return _decode(path, DeploymentFile)
        except FileNotFoundError:
            made = DeploymentFile(deployment_id=f"local-{secrets.token_hex(6)}", created_at=datetime.now(UTC))
            write_file(path, msgspec.json.encode(made))
            return made

    def deployment_secret(self) -> bytes:
        """The 32 bytes that runners' keys and grants are derived from. Call with the stack lock held."""
        path = self.folder / "deployment.secret"
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            secret = secrets.token_bytes(32)
            write_file(path, secret)
        if len(secret) != 32:
            raise DamagedHome(f"{path} is damaged: it should hold 32 bytes, not {len(secret)}")
        return secret

    def settings(self) -> StackSettings:
        """What the stack is to be; the defaults where its owner never said."""
        try:
            return _decode(self.folder / "settings.json", StackSettings)
        except FileNotFoundError:
            return StackSettings()

    def first_key(self) -> tuple[bytes, str] | None:
        """The first client's public key and user; None if no client left one."""
        path = self.folder / "first_key.pub"
        try:
            left = _decode(path, FirstKey)
            public_key = bytes.fromhex(left.public_key)
            keys.check_public_key(public_key)
        except FileNotFoundError:
            return None
        except (ValueError, RunvoyError) as error:
            raise DamagedHome(f"{path} is damaged: {error}") from error
        return public_key, left.user

    def last_port(self) -> int:
        """The port of the last start, to be used again if it is free; 0 if there is none."""
        try:
            return int(json.loads((self.folder / "endpoint.json").read_bytes())["port"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def publish(self, endpoint: Endpoint) -> None:
        write_file(self.folder / "endpoint.json", msgspec.json.encode(endpoint))


def _decode(path: Path, schema: type[D]) -> D:
    try:
        return msgspec.json.decode(path.read_bytes(), type=schema)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedHome(f"{path} is damaged: {error}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a small file whole and durable, for its owner alone."""
    with temporary_file(path.parent, data) as temporary:
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(folder)
    finally:
        os.close(folder)


def bind(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1: at `port` if it is free, else at any."""
    for wanted in dict.fromkeys((port, 0)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
        except OSError:
            listener.close()
            if wanted == 0:
                raise
            continue
        return listener
    raise AssertionError("unreachable: port 0 either binds or raises")
