"""The claim that makes a run start at most once, and the lock that says whether anything of it lives.

`alive` is locked before the run is claimed: whoever finds the claim finds the lock held or the run over, never a runner
that is between the two. The command inherits the lock's file descriptor, so the lock outlives a killed runner for as
long as the command, or any child that did not close its descriptors, lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time

_WAIT_SECONDS = 30.0
_LOCK_FD_FROM = 64  # out of the way of shell scripts, which use 3 to 9 by name, and of dash and bash, which use 10 on


class ClaimError(Exception):
    """The run can be neither claimed nor seen to be claimed: nothing was started."""


def claim(run_dir: str, attempt: int) -> int | None:
    """Claim the run; the descriptor of the held lock, or None if it was claimed before.

    Raises ClaimError or OSError (a full disk): nothing was claimed then.
    """
    alive = _open_high(f"{run_dir}/alive")
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _is_claimed(run_dir):
        if _try_lock(alive):
            if _link(run_dir, attempt):
                return alive
            break
        # Another runner holds the lock and is about to claim, or about to die: a matter of milliseconds.
        if time.monotonic() > deadline:
            raise ClaimError("another runner holds the lock and does not claim the run")
        time.sleep(0.005)
    os.close(alive)
    return None


def sync_directory(path: str) -> None:
    """Make renames and links in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_claimed(run_dir: str) -> bool:
    return os.path.lexists(f"{run_dir}/started")


def _open_high(path: str) -> int:
    low = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LOCK_FD_FROM)
    finally:
        os.close(low)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _link(run_dir: str, attempt: int) -> bool:
    """Put the claim in place, whole and durable; False if another runner was first."""
    body = {"pid": os.getpid(), "start_time": _start_time(), "boot_id": _boot_id(), "attempt": attempt}
    draft = f"{run_dir}/started.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, json.dumps(body).encode())  # far under a block: written whole, or ENOSPC
        os.fsync(fd)
        os.link(draft, f"{run_dir}/started")
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(draft)  # noqa: PTH108 - pathlib costs start-up time
    sync_directory(run_dir)
    return True


def _start_time() -> int:
    """When this process started, in ticks since boot: with the pid and the boot id it names the process for good."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/stat", "rb") as stat:  # noqa: PTH123 - pathlib costs start-up time
        return int(stat.read().rpartition(b")")[2].split()[19])


def _boot_id() -> str:
    if sys.platform != "linux":
        return ""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot_id:  # noqa: PTH123
        return boot_id.read().strip()
