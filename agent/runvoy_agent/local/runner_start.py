"""A runner that is started: its payload goes in, and it answers whether it claimed the run. Nothing of it waits longer than it may."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

_RUNNER = Path(__file__).parent.parent / "runner" / "__main__.py"
_LOG = "runner.log"
_LOG_TAIL_BYTES = 2000


def spawn(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the runner of a run's folder, in a session of its own; OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(folder / _LOG, flags, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_RUNNER), str(folder)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(log)


def deliver(runner: subprocess.Popen[bytes], payload: bytes, deadline: float) -> None:
    """Write the payload and its end. A runner that died or stalls is found by its answer."""
    assert runner.stdin is not None  # noqa: S101 - for the type checker: Popen was given PIPE
    rest = memoryview(payload)
    with runner.stdin as stdin:
        fd = stdin.fileno()
        os.set_blocking(fd, False)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                if not _ready(fd, select.POLLOUT, deadline):
                    return  # closing leaves a truncated payload, which claims nothing
            except BrokenPipeError:
                return


def answer(runner: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """What the runner said until it closed its stdout; None if it did not in time."""
    assert runner.stdout is not None  # noqa: S101 - as above
    said = b""
    with runner.stdout as stdout:
        while _ready(stdout.fileno(), select.POLLIN, deadline):
            part = os.read(stdout.fileno(), 64)
            if not part:
                return said
            said += part
    return None


def last_words(folder: Path) -> str:
    """The end of what it wrote on stderr."""
    try:
        return (folder / _LOG).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"


def _ready(fd: int, event: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
