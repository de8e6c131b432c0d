"""The claim that makes a run start at most once, and the lock on it that says whether anything of the run lives.

A claim is a file beside the runs' folders, `claims/{execution id}`: a command that removes its own run's folder leaves it
there. It is locked before it has its name, so whoever finds it finds the lock held or the run over, never a runner that is
between the two. The command inherits the descriptor that holds the lock, so that outlives a killed runner for as long as the
command, or any child that did not close its descriptors, lives. Nothing can be written through it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

# Out of the way of shell scripts, which use 3 to 9 by name, and of dash and bash, which use 10 on.
_LOCK_FD_FROM = (64, 20)


def claim(run_dir: str, attempt: int) -> int | None:
    """Claim the run; the descriptor that holds its lock, or None if it was claimed before.

    Raises OSError (a full disk): nothing was claimed then.
    """
    runs, execution_id = os.path.split(run_dir)
    path = f"{runs}/claims/{execution_id}"
    if os.path.lexists(path) or os.path.lexists(f"{run_dir}/started"):  # the latter is where older versions had it
        return None
    draft = f"{run_dir}/claim.{os.urandom(8).hex()}"
    try:
        _write(draft, attempt)
        lock = _open_high(draft)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            os.link(draft, path)
        except FileExistsError:
            os.close(lock)
            return None
    finally:
        _remove_if_there(draft)
    sync_directory(f"{runs}/claims")
    return lock


def sync_directory(path: str) -> None:
    """Make renames and links in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: str, attempt: int) -> None:
    body = {"pid": os.getpid(), "start_time": _start_time(), "boot_id": _boot_id(), "attempt": attempt}
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        os.write(fd, json.dumps(body).encode())  # far under a block: written whole, or ENOSPC
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_high(path: str) -> int:
    low = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    for first in _LOCK_FD_FROM:
        try:
            high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, first)
        except OSError:
            continue  # more than may be open here
        os.close(low)
        return high
    return low


def _remove_if_there(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - pathlib costs start-up time
    except FileNotFoundError:
        return


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
