"""Servers that tests start: installed into a venv of their own, on loopback, ended by their process id."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep

import pytest

_INSTALL_SECONDS = 300
_START_SECONDS = 60
_STOP_SECONDS = 2
_PR_SET_PDEATHSIG = 1


def installed(cache: Path, requirement: str, *, python: str = sys.executable, exclude_newer: str | None = None) -> Path:
    """The bin folder of a venv with `requirement` (pinned, so its name says what is in it); skips where there is none.
    `exclude_newer`: what it needs is resolved as of that day, which takes uv."""
    folder = cache / requirement.replace("==", "-")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run share it
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, requirement, python, exclude_newer)
            (folder / "complete").touch()
    return folder / "bin"


def _install(folder: Path, requirement: str, base: str, exclude_newer: str | None) -> None:
    uv = shutil.which("uv")
    python = str(folder / "bin/python")
    if uv is not None:
        as_of = [] if exclude_newer is None else ["--exclude-newer", exclude_newer]
        commands = [
            [uv, "venv", "-q", "--python", base, str(folder)],
            [uv, "pip", "install", "-q", "--python", python, *as_of, requirement],
        ]
    elif exclude_newer is not None:
        pytest.skip(f"{requirement} as of {exclude_newer} can be installed by uv alone, which is not here")
    else:
        commands = [[base, "-m", "venv", str(folder)], [python, "-m", "pip", "install", "-q", requirement]]
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
        if done.returncode:
            pytest.skip(f"{requirement} cannot be installed here: {done.stderr.strip()[-500:]}")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]


@contextlib.contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    ready_url: str,
    environment: Mapping[str, str] | None = None,
    *,
    trusting: ssl.SSLContext | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when `ready_url` answers until the block is left. What it says is in `folder`/log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one call, no lock
        )
    try:
        _await(process, ready_url, folder / "log", trusting)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await(process: subprocess.Popen[bytes], url: str, log: Path, trusting: ssl.SSLContext | None) -> None:
    deadline = monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2, context=trusting):
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{process.args!r} ended with {process.returncode}: {said}"
            assert monotonic() < deadline, f"{process.args!r} does not answer at {url}: {said}"
            sleep(0.1)
