"""What lives of a run: its claim, its runner, its lock, and what a sweep of /proc finds.

The command runs as our own user and may have changed every file of its run: what is read here is checked, and nothing is
signalled that is not, by start time and boot, the process that claimed the run, or that carries the execution's id.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

CLAIM = "started"
LOCK = "alive"
KILL_MARKER = "kill"
_RUNNER = b"/runner/__main__.py"
_LINUX = sys.platform == "linux"
_NOT_RUNNING = (b"T", b"t", b"Z", b"X")  # stopped, traced, and two that ended


class Claim(NamedTuple):
    """Which runner claimed the run. A claim that cannot be read is still a claim: pid and attempt 0, nobody's."""

    pid: int
    start_time: int
    boot_id: str
    attempt: int


NOBODY = Claim(0, 0, "", 0)


def read_claim(run_folder: Path) -> Claim | None:
    """The run's claim; None if it was never claimed."""
    try:
        fd = os.open(run_folder / CLAIM, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return NOBODY
    try:
        fields = json.loads(os.read(fd, 4096))
        claim = Claim(*(fields[name] for name in Claim._fields))
    except (OSError, ValueError, KeyError, TypeError):
        return NOBODY
    finally:
        os.close(fd)
    numbers = (claim.pid, claim.start_time, claim.attempt)
    return claim if all(type(number) is int for number in numbers) and claim.pid > 1 else NOBODY


@functools.cache
def boot_id() -> str:
    """Names the time since the machine started; empty where there is no such name."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() if _LINUX else ""


def is_runner_alive(claim: Claim) -> bool:
    """Whether the process that made the claim still runs. Never elsewhere than on Linux: there the lock tells."""
    return _LINUX and claim.pid > 1 and claim.boot_id == boot_id() and _start_time(claim.pid) == claim.start_time


def is_supervised(claim: Claim, run_folder: Path) -> bool:
    """Whether a runner of the run lives and runs. One that was stopped (SIGSTOP, by its command perhaps) keeps no deadline."""
    pids = {*runners(run_folder), *([claim.pid] if is_runner_alive(claim) else [])}
    return any(_state(pid) not in (None, *_NOT_RUNNING) for pid in pids)


def is_lock_held(run_folder: Path) -> bool:
    """Whether a process has the run's lock: the runner, or a child of the command that kept its descriptors.

    Only to be asked of a claimed run: before the claim the lock is the runners' own matter.
    """
    fd = _open_lock(run_folder)
    if fd is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def wait_for_lock(run_folder: Path) -> None:
    """Return when nothing has the run's lock any more."""
    fd = _open_lock(run_folder)
    if fd is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def survivors(execution_id: str) -> list[int]:
    """The processes that carry the execution's id in their environment: the command and its children, not the runner."""
    if not _LINUX:
        return []
    wanted = f"RUNVOY_EXECUTION_ID={execution_id}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            variables = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue  # it ended, or is another user's
        if wanted in variables and wanted in variables.split(b"\0"):
            found.append(int(entry.name))
    return found


def runners(run_folder: Path) -> list[int]:
    """The processes that were started as the run's runner, by their arguments: the command can rewrite the claim, and not
    these. Our own user's alone, for anybody may start a process with such arguments."""
    if not _LINUX:
        return []
    wanted = os.fsencode(run_folder)
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")[:-1]
            is_one = words[-1:] == [wanted] and words[-2].endswith(_RUNNER) and _user_of(entry.path) == os.getuid()
        except (OSError, IndexError):
            continue  # it ended, or has one word
        if is_one:
            found.append(int(entry.name))
    return found


def open_runner(claim: Claim) -> int | None:
    """A pidfd of the claim's runner; None if it is gone or the system has no pidfds."""
    fd = open_pidfd(claim.pid) if is_runner_alive(claim) else None
    if fd is not None and not is_runner_alive(claim):  # the number may have been given away in between
        os.close(fd)
        return None
    return fd


def open_pidfd(pid: int) -> int | None:
    """None if the process is gone or the system has no pidfds."""
    if not _LINUX:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def signal_runner(claim: Claim, run_folder: Path) -> bool:
    """Send SIGTERM to the run's runner, the claim's or, where that names none, the one that was started for the folder, and to
    nothing else; False if it is gone."""
    if not _LINUX:
        if claim.pid < 2 or not is_lock_held(run_folder):
            return False
        return signal_process(claim.pid, signal.SIGTERM)
    fd = open_runner(claim)
    if fd is None:
        others = [claim.pid] if is_runner_alive(claim) else runners(run_folder)
        told = [signal_process(pid, signal.SIGTERM) for pid in others]
        return any(told)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def kill_runner(claim: Claim, run_folder: Path) -> None:
    """SIGKILL the run's runner: what was started as that, for a claim that was rewritten may name anything of our user's."""
    if _LINUX:
        for pid in runners(run_folder):
            signal_process(pid, signal.SIGKILL)
    elif claim.pid > 1 and is_lock_held(run_folder):
        signal_process(claim.pid, signal.SIGKILL)


def signal_process(pid: int, number: int) -> bool:
    """False if it is gone, or not ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _open_lock(run_folder: Path) -> int | None:
    try:
        return os.open(run_folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # removed after the run, or replaced by the command: the other signs decide


def _user_of(process: str) -> int | None:
    """The real user of a process. The owner of its files tells that of a dumpable one only."""
    for line in Path(process, "status").read_bytes().splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def _start_time(pid: int) -> int | None:
    """In ticks since boot; None for what ended, zombies included: their descriptors and locks are gone."""
    fields = _stat(pid)
    if fields is None:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _state(pid: int) -> bytes | None:
    fields = _stat(pid)
    return None if fields is None else fields[0]


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the process's state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
