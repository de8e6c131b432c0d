"""What lives of a run, as /proc tells: its runner, its command and what that left behind.

The command runs as our own user. What it cannot change of another process is what that was started with, when, and which open
files it has: so a claim names a run's runner only if the process has a runner's arguments, and nothing else is signalled than
that, than what carries the execution's id, and than what holds the run's lock.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from runvoy_agent.local import run_claims
from runvoy_agent.local.run_claims import Claim

KILL_MARKER = "kill"
_RUNNER = b"/runner/__main__.py"
_LINUX = sys.platform == "linux"
_NOT_RUNNING = (b"T", b"t", b"Z", b"X")  # stopped, traced, and two that ended


@functools.cache
def boot_id() -> str:
    """Names the time since the machine started; empty where there is no such name."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() if _LINUX else ""


def claim_of(pid: int, attempt: int) -> Claim:
    """The claim that a runner that we know makes. Where there is no /proc it names the pid alone."""
    return Claim(pid, _start_time(pid) or 0, boot_id(), attempt)


def is_runner_alive(claim: Claim, run_folder: Path) -> bool:
    """Whether the process that made the claim still runs: one that was started as the run's runner, when the claim says. Never
    elsewhere than on Linux: there the lock tells."""
    if not _LINUX or claim.pid < 2 or claim.boot_id != boot_id() or _start_time(claim.pid) != claim.start_time:
        return False
    return _is_runner(f"/proc/{claim.pid}", os.fsencode(run_folder))


def is_supervised(claim: Claim, run_folder: Path) -> bool:
    """Whether the claim's runner lives and runs. One that was stopped (SIGSTOP, by its command perhaps) keeps no deadline."""
    return is_runner_alive(claim, run_folder) and _state(claim.pid) not in (None, *_NOT_RUNNING)


def survivors(run_folder: Path) -> list[int]:
    """The command's processes, not the runner: those that carry the execution's id in their environment, and those that hold the
    run's lock by a descriptor that they inherited."""
    if not _LINUX:
        return []
    runner = os.fsencode(run_folder)
    wanted = f"RUNVOY_EXECUTION_ID={run_folder.name}".encode()
    lock = run_claims.lock_file(run_folder)

    def is_one(process: str) -> bool:
        if wanted in Path(process, "environ").read_bytes().split(b"\0"):
            return True
        return lock is not None and _holds(process, lock) and not _is_runner(process, runner)

    return list(_processes(is_one))


def runners(run_folder: Path) -> list[int]:
    """The processes that were started as the run's runner, by their arguments. Our own user's alone, for anybody may start a
    process with such arguments."""
    wanted = os.fsencode(run_folder)
    return list(_processes(lambda process: _is_runner(process, wanted))) if _LINUX else []


def open_runner(claim: Claim, run_folder: Path) -> int | None:
    """A pidfd of the claim's runner; None if it is gone or the system has no pidfds."""
    fd = open_pidfd(claim.pid) if is_runner_alive(claim, run_folder) else None
    if fd is not None and not is_runner_alive(claim, run_folder):  # the number may have been given away in between
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
        if claim.pid < 2 or not run_claims.is_locked(run_folder):
            return False
        return signal_process(claim.pid, signal.SIGTERM)
    fd = open_runner(claim, run_folder)
    if fd is None:
        others = [claim.pid] if is_runner_alive(claim, run_folder) else runners(run_folder)
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
    elif claim.pid > 1 and run_claims.is_locked(run_folder):
        signal_process(claim.pid, signal.SIGKILL)


def signal_process(pid: int, number: int) -> bool:
    """False if it is gone, or not ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _processes(is_wanted: Callable[[str], bool]) -> Iterator[int]:
    """The processes, this one aside, whose folder in /proc is wanted. One that ends meanwhile, or is another user's, is not."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            is_one = is_wanted(entry.path)
        except OSError:
            continue
        if is_one:
            yield int(entry.name)


def _is_runner(process: str, run_folder: bytes) -> bool:
    try:
        words = Path(process, "cmdline").read_bytes().split(b"\0")[:-1]
        is_named = words[-1:] == [run_folder] and len(words) > 1 and words[-2].endswith(_RUNNER)
        return is_named and _user_of(process) == os.getuid()
    except OSError:
        return False


def _holds(process: str, lock: tuple[int, int]) -> bool:
    """Whether one of its descriptors holds the lock. Whoever only has the file open, to read it, does not; and no file is asked
    for but those that are named as claims are made, for another's file system may answer late."""
    for descriptor in os.scandir(f"{process}/fd"):
        try:
            if "/claim." not in os.readlink(descriptor.path):  # noqa: PTH115 - one of very many
                continue
            found = os.stat(descriptor.path)  # noqa: PTH116
            is_locked = b"FLOCK" in Path(process, "fdinfo", descriptor.name).read_bytes()
        except OSError:
            continue  # closed meanwhile
        if is_locked and (found.st_dev, found.st_ino) == lock:
            return True
    return False


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
