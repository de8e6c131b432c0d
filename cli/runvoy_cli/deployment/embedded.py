"""Finding the embedded stack on this machine, and starting it where it does not run.

The protocol with the stack is files in RUNVOY_HOME/local, a folder of mode 0700: it writes `endpoint.json` by rename
and holds `stack.lock` for life; we hold `start.lock` while we start it. Two clients that start at once start one stack.
A stack killed with -9 leaves an endpoint.json behind, whose port may be anybody's by now: nothing is sent before the
process that the file names holds `stack.lock`, and its health answers with the instance that the file names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runvoy_cli import __version__
from runvoy_cli.deployment.target import Target
from runvoy_cli.home.files import private_folder, told_about, write_private
from runvoy_cli.http.transport import NoAnswer, Transport
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SEED_BYTES, SigningKey
from runvoy_protocol.requests import is_utf8

if TYPE_CHECKING:
    import subprocess

try:
    import fcntl
except ImportError:  # Windows: the client runs there, the stack does not
    fcntl = None  # type: ignore[assignment]

STACK_MODULE = "runvoy_agent"
CONTAINER_ENGINE_VARIABLE = "RUNVOY_CONTAINER_ENGINE"
START_SECONDS = 20.0
LOCK_SECONDS = 30.0
PROBE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.1
_LOG_LINES_SHOWN = 15
_LEAST_FREE_BYTES = 256 * 1024  # a database cannot be opened with less

Say = Callable[[str], None]


class Endpoint(msgspec.Struct, frozen=True):
    """endpoint.json, written by the stack."""

    pid: int
    port: int
    instance: str
    version: str
    deployment_id: str
    host: str = ""  # by which others reach it, over TLS; on this machine it is reachable without

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def public_url(self) -> str:
        return f"https://{self.host}" if self.host else ""


class Embedded:
    """The embedded stack of one RUNVOY_HOME. `is_asked_for`: it is meant whatever is configured, as by `runvoy local`."""

    def __init__(self, home: Path, transport: Transport, say: Say, *, is_asked_for: bool = False) -> None:
        self.home = home
        self.folder = home / "local"
        self.log_path = self.folder / "stack.log"
        self._transport = transport
        self._say = say
        self._is_asked_for = is_asked_for

    def ensure(self) -> Target:
        """Where the stack listens and as whom to call it; started first if it does not run."""
        with told_about(self.home):
            endpoint = self.probe()
            if endpoint is None:
                endpoint = self._start()
            elif endpoint.version != __version__:
                self._say(
                    f"the running stack is runvoy {endpoint.version}, this client {__version__}; "
                    "`runvoy local down` lets the next command start the new one (running commands go on)"
                )
            return self._target_of(endpoint)

    def has_begun(self) -> bool:
        """Whether a stack was ever started here. One whose key was lost is one, too."""
        return any((self.folder / name).exists() for name in ("api_key", "endpoint.json"))

    def probe(self) -> Endpoint | None:
        """The stack that runs now, or None. Starts nothing."""
        try:
            endpoint = msgspec.json.decode((self.folder / "endpoint.json").read_bytes(), type=Endpoint)
            if endpoint.pid != self.holder():
                return None
            answer = self._transport.send(
                "GET",
                f"{endpoint.url}{control.API_PREFIX}/health",
                timeout=PROBE_SECONDS,
                connect_timeout=PROBE_SECONDS,
            )
            health = msgspec.json.decode(answer.body, type=control.Health)
        except (OSError, NoAnswer, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return endpoint if health.instance == endpoint.instance else None

    def existing_target(self) -> Target | None:
        """The stack that runs now, to be called; None if none runs."""
        with told_about(self.home):
            endpoint = self.probe()
            return self._target_of(endpoint) if endpoint else None

    def _target_of(self, endpoint: Endpoint) -> Target:
        return Target(endpoint.url, endpoint.deployment_id, self._signing_key(), endpoint.public_url)

    @contextlib.contextmanager
    def start_lock(self) -> Iterator[None]:
        """Nobody else starts a stack while this is held."""
        with self._locked("start.lock", LOCK_SECONDS, "another client has been starting the stack for too long"):
            yield

    def is_held(self) -> bool:
        """Whether a stack process lives, healthy or not."""
        return self.holder() is not None

    def holder(self) -> int | None:
        """The pid of the stack process that lives, healthy or not; 0 if it has not said so yet, None if there is none.

        The lock lies in a folder that is ours alone, and the kernel drops it with its holder.
        """
        if sys.platform == "win32":
            return None
        try:
            descriptor = os.open(self.folder / "stack.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).strip()
            return int(text) if text.isdigit() else 0
        else:
            return None
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, name: str, patience: float, complaint: str) -> Iterator[None]:
        if fcntl is None:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                "the embedded stack runs on Linux and macOS only",
                "Configure a deployment with `runvoy configure`.",
            )
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for _ in _until(time.monotonic() + patience):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
            else:
                raise RunvoyError(ErrorCode.UNAVAILABLE, complaint, f"Look at {self.log_path}.")
            yield
        finally:
            os.close(descriptor)

    def _start(self) -> Endpoint:
        private_folder(self.folder)
        with self.start_lock():
            endpoint = self._settled()
            if endpoint is not None:
                return endpoint
            if not (self.folder / "api_key").exists():
                self._say(
                    f"a new stack begins on this machine, with its state in {self.folder}"
                    if self._is_asked_for
                    else "nothing is configured, so commands run on this machine, as this user "
                    f"(state in {self.folder}; `runvoy configure` sets a deployment)"
                )
            self._publish_first_key()
            log_size = self.log_path.stat().st_size if self.log_path.exists() else 0
            return self._await(self._spawn(), log_size)

    def _settled(self) -> Endpoint | None:
        """Under start.lock: the stack that runs, or None once no stack process lives any more."""
        for _ in _until(time.monotonic() + START_SECONDS):
            endpoint = self.probe()  # whoever held the lock before us may have started it
            if endpoint is not None or not self.is_held():
                return endpoint
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            "a process of the embedded stack lives but does not answer",
            f"Look at {self.log_path}; `runvoy local status` names the process.",
        )

    def _publish_first_key(self) -> None:
        """Make this machine's key if there is none, and tell the stack its public half.

        Under start.lock, and each file by rename: a client killed in between leaves what the next one completes.
        """
        if not (self.folder / "api_key").exists():
            keep_api_key(self.home, SigningKey(os.urandom(SEED_BYTES)))
        first_key = self.folder / "first_key.pub"
        public_key = self._signing_key().public_key.hex()
        content = msgspec.json.encode({"public_key": public_key, "user": _user_name()})
        if not first_key.exists() or first_key.read_bytes() != content:
            write_private(first_key, content)

    def _signing_key(self) -> SigningKey:
        path = self.folder / "api_key"
        try:
            return SigningKey.from_api_key(path.read_text(encoding="ascii", errors="replace"))
        except FileNotFoundError as error:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"the stack runs, but this machine's key {path} is gone",
                "Put it back, or begin anew with `runvoy local down` and `runvoy local reset`.",
            ) from error
        except RunvoyError as error:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"this machine's key {path} is damaged: {error.message}",
                "Put it back, or begin anew with `runvoy local down` and `runvoy local reset`.",
            ) from error

    def _spawn(self) -> subprocess.Popen[bytes]:
        import subprocess

        # Without RUNVOY_*: a client inside a run must not hand its execution's marks to a stack that outlives it.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RUNVOY_") or name == CONTAINER_ENGINE_VARIABLE
        }
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # Its own session and no descriptor of ours: else `$(runvoy …)` waits for the stack to close the pipe.
            return subprocess.Popen(
                [sys.executable, "-P", "-m", STACK_MODULE, "--home", str(self.home)],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _await(self, process: subprocess.Popen[bytes], log_size: int) -> Endpoint:
        for _ in _until(time.monotonic() + START_SECONDS):
            status = process.poll()
            endpoint = self.probe()
            if endpoint is not None:
                process.returncode = 0 if status is None else status  # it outlives us: no warning about a child left
                return endpoint
            if status is not None:
                self._refuse_a_full_disk()
                raise RunvoyError(
                    ErrorCode.UNAVAILABLE,
                    f"the embedded stack ended as it started (exit code {status}):\n{self._log_since(log_size)}",
                    f"Its whole log is {self.log_path}.",
                )
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"the embedded stack did not answer within {START_SECONDS:.0f} s of its start",
            f"Look at {self.log_path}.",
        )

    def _refuse_a_full_disk(self) -> None:
        """A stack that cannot write cannot say so in its log either."""
        import shutil

        if shutil.disk_usage(self.folder).free < _LEAST_FREE_BYTES:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"the embedded stack ended as it started: there is no room left on the disk of {self.folder}",
                f"Make room on the disk of {self.folder}, or set RUNVOY_HOME to a folder on another one.",
            )

    def _log_since(self, size: int) -> str:
        with self.log_path.open("rb") as file:
            file.seek(size)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_LINES_SHOWN:]) or "  (it printed nothing)"


def keep_api_key(home: Path, key: SigningKey) -> None:
    """Make `key` the one that this machine's clients of the embedded stack use."""
    write_private(home / "local" / "api_key", f"{key.to_api_key()}\n".encode())


def _user_name() -> str:
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a passwd entry
        return f"uid-{os.getuid()}"
    return name if name.isprintable() and is_utf8(name) else f"uid-{os.getuid()}"


def _until(deadline: float) -> Iterator[None]:
    """Come round with growing pauses, at least once, until `deadline` of the monotonic clock."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
