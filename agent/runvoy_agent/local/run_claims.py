"""Claims of runs as the stack sees them: which runs began, by which runner, and whether anything holds a claim's lock.

A claim lies at `runs/claims/{execution id}`, out of the way of a command that removes its own run's folder. Runs that an older
version began have theirs, `started`, and a file for its lock, `alive`, in their folders.

The command runs as our own user and may change what it finds: what is read here is checked, and where it matters something
else is asked (see processes).
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import NamedTuple

from runvoy_agent.local.durable import sync
from runvoy_protocol.ids import is_execution_id

FOLDER = "claims"
OLD_CLAIM = "started"
OLD_LOCK = "alive"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Claim(NamedTuple):
    """Which runner claimed the run. A claim that cannot be read is still a claim: pid and attempt 0, nobody's."""

    pid: int
    start_time: int
    boot_id: str
    attempt: int


NOBODY = Claim(0, 0, "", 0)


def path_of(run_folder: Path) -> Path:
    return run_folder.parent / FOLDER / run_folder.name


def make_folder(runs_folder: Path) -> None:
    """The folder of claims, for this user alone; OSError. It is on disk before any claim: a crash of the machine that took it would
    take claims of runs that began."""
    try:
        (runs_folder / FOLDER).mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(runs_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def read(run_folder: Path) -> Claim | None:
    """The run's claim; None if it was never claimed."""
    for path in (path_of(run_folder), run_folder / OLD_CLAIM):
        try:
            fd = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return NOBODY
        with os.fdopen(fd, "rb") as file:
            return _decode(file.read(4096))
    return None


def claimed(runs_folder: Path) -> list[str]:
    """The executions with a claim, but for those of an older version whose folder was removed."""
    names = [entry.name for entry in os.scandir(runs_folder / FOLDER)]
    names += [entry.name for entry in os.scandir(runs_folder) if _has_old_lock(entry.path)]
    return sorted({name for name in names if is_execution_id(name) and read(runs_folder / name) is not None})


def remains(runs_folder: Path) -> list[str]:
    """The executions of which a claim without a folder is left, or a folder without a claim: nothing of them is still to be taken
    in or to be looked for, as far as files can tell."""
    claims = {entry.name for entry in os.scandir(runs_folder / FOLDER)}
    folders = {entry.name: entry.path for entry in os.scandir(runs_folder)}
    alone = [name for name in claims ^ folders.keys() if is_execution_id(name)]
    return sorted(name for name in alone if name in claims or not _has_old_lock(folders[name]))


def forget(run_folder: Path) -> None:
    """From here on a start of this execution would run it again. Of an older version's, the folder that holds it goes first."""
    path_of(run_folder).unlink(missing_ok=True)


def is_locked(run_folder: Path) -> bool:
    """Whether a process has the run's lock: the runner, or a child of the command that kept its descriptors."""
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


def wait_unlocked(run_folder: Path) -> None:
    """Return when nothing has the run's lock any more."""
    fd = _open_lock(run_folder)
    if fd is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def lock_file(run_folder: Path) -> tuple[int, int] | None:
    """Device and inode of the file that is locked; None if it was removed."""
    try:
        found = path_of(run_folder).lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _has_old_lock(run_folder: str) -> bool:
    """Not in a folder that a command closed, until it is opened (see ingest)."""
    return os.path.exists(f"{run_folder}/{OLD_LOCK}")  # noqa: PTH110 - Path.exists raises what forbids to look


def _open_lock(run_folder: Path) -> int | None:
    for path in (path_of(run_folder), run_folder / OLD_LOCK):
        try:
            return os.open(path, _READ)
        except FileNotFoundError:
            continue
        except OSError:
            return None  # replaced by the command: the other signs decide
    return None


def _decode(raw: bytes) -> Claim:
    try:
        fields = json.loads(raw)
        claim = Claim(*(fields[name] for name in Claim._fields))
    except (ValueError, KeyError, TypeError):
        return NOBODY
    numbers = (claim.pid, claim.start_time, claim.attempt)
    return claim if all(type(number) is int for number in numbers) and claim.pid > 1 else NOBODY
