"""Which container engine this machine has: docker, else podman, and only if a container really ran in it.

A server that answers proves little: it may lack rights, a runtime or cgroups. So a container is run, from an image that
is made here of one program of some hundred bytes which does nothing: nothing is pulled, so the probe works offline and
asks no registry, and takes about as long as a container takes to start.

It happens when containers are asked for, never before: who runs host processes only never pays for it.
"""

from __future__ import annotations

import io
import logging
import shutil
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

_log = logging.getLogger(__name__)

ENGINE_VARIABLE = "RUNVOY_CONTAINER_ENGINE"
_DEFAULT_ENGINES = ("docker", "podman")
_PROBE_IMAGE = "localhost/runvoy-probe:1"
_PROBE_SECONDS = 20.0
_WAIT_SECONDS = 10.0
_GOOD_FOR_SECONDS = 300.0
_BAD_FOR_SECONDS = 5.0

# What an engine's client reads to find its engine, its registries and its credentials.
CLIENT_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"),
    *("CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
    *("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)

# exit(0), by machine: ELF's number for it, and the instructions.
_PROGRAMS = {
    "amd64": (62, "b83c000000 31ff 0f05"),  # mov eax, 60; xor edi, edi; syscall
    "arm64": (183, "000080d2 a80b80d2 010000d4"),  # mov x0, 0; mov x8, 93; svc 0
}


class Found(NamedTuple):
    """The engine's client, or None and why there is none."""

    path: str | None
    why: str = ""


class Engines:
    """Looks for an engine when asked, and remembers for a while what it found: a found one for five minutes, none for five
    seconds, so that one that is started later is found. `probe(path, environment)` says what is wrong, "" if nothing."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        probe: Callable[[str, Mapping[str, str]], str] | None = None,
        bad_for_seconds: float = _BAD_FOR_SECONDS,
    ) -> None:
        self.environment = {name: environment[name] for name in CLIENT_VARIABLES if name in environment}
        named = environment.get(ENGINE_VARIABLE, "")
        self._names = (named,) if named else _DEFAULT_ENGINES
        self._probe = probe or probe_engine
        self._bad_for_seconds = bad_for_seconds
        self._changed = threading.Condition()
        self._found: Found | None = None
        self._good_until = 0.0
        self._looking_since: float | None = None

    def find(self, wait_seconds: float = _WAIT_SECONDS) -> Found:
        """The engine to use. Returns within about `wait_seconds`, with no engine if none answered by then."""
        with self._changed:
            now = time.monotonic()
            if self._found is not None and now < self._good_until:
                return self._found
            if self._looking_since is None:
                self._looking_since = now
                threading.Thread(target=self._look, name="runvoy-engines", daemon=True).start()
            left = self._looking_since + wait_seconds - now
            if self._changed.wait_for(lambda: self._looking_since is None, max(0.0, left)) and self._found:
                return self._found
            return Found(None, f"{' and '.join(self._names)}: no answer within {wait_seconds:g} seconds")

    def _look(self) -> None:
        found = Found(None, "the search for a container engine failed")
        try:
            found = self._search()
        except Exception:  # noqa: BLE001 - who waits for the answer must get one
            _log.exception("the search for a container engine failed")
        finally:
            with self._changed:
                self._found = found
                seconds = _GOOD_FOR_SECONDS if found.path else self._bad_for_seconds
                self._good_until = time.monotonic() + seconds
                self._looking_since = None
                self._changed.notify_all()

    def _search(self) -> Found:
        problems = []
        for name in self._names:
            path = shutil.which(name, path=self.environment.get("PATH"))
            problem = "not installed" if path is None else self._probe(path, self.environment)
            if path is not None and not problem:
                _log.info("a probe container ran in %s", path)
                return Found(path)
            problems.append(f"{name}: {problem}")
        return Found(None, "; ".join(problems))


def probe_engine(path: str, environment: Mapping[str, str]) -> str:
    """Run a container that does nothing; what went wrong, "" if nothing."""
    deadline = time.monotonic() + _PROBE_SECONDS
    try:
        architecture = _ask(path, environment, deadline, *_architecture_query(path))
        if architecture not in _PROGRAMS:
            return f"there is no probe for the architecture {architecture!r}"
        try:
            _ask(path, environment, deadline, "image", "inspect", "--format", "{{.Id}}", _PROBE_IMAGE)
        except _EngineError:
            _ask(path, environment, deadline, "import", "-", _PROBE_IMAGE, stdin=probe_image(architecture))
        # As runs are: with an init. Without a network, which takes longest and is not what is asked.
        run = ("run", "--rm", "--pull", "never", "--network", "none", "--log-driver", "none", "--init")
        _ask(path, environment, deadline, *run, "--entrypoint", "/probe", _PROBE_IMAGE)
    except _EngineError as error:
        return str(error)
    return ""


def probe_image(architecture: str) -> bytes:
    """A root file system, as tar, with the one program `/probe`."""
    program = probe_program(architecture)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("probe")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()


def probe_program(architecture: str) -> bytes:
    """A static ELF program that exits with 0: its header, one segment with all of it, the code."""
    machine, code = _PROGRAMS[architecture]
    instructions = bytes.fromhex(code)
    base, headers = 0x400000, 64 + 56
    size = headers + len(instructions)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
    return header + segment + instructions


class _EngineError(Exception):
    """The client's own words."""


def _architecture_query(path: str) -> tuple[str, ...]:
    if "podman" in path.rpartition("/")[2]:
        return ("info", "--format", "{{.Host.Arch}}")
    return ("version", "--format", "{{.Server.Arch}}")  # the server's, which may be another machine


def _ask(path: str, environment: Mapping[str, str], deadline: float, *arguments: str, stdin: bytes = b"") -> str:
    try:
        done = subprocess.run(
            [path, *arguments],
            input=stdin,
            capture_output=True,
            env=dict(environment),
            cwd="/",
            timeout=max(0.1, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _EngineError(f"`{arguments[0]}` did not end within {_PROBE_SECONDS:g} seconds") from error
    except OSError as error:
        raise _EngineError(str(error)) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _EngineError(said[-1][:300] if said else f"`{arguments[0]}` ended with {done.returncode}")
    return done.stdout.decode(errors="replace").strip()
