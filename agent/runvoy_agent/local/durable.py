"""Files that are whole and on disk, or not there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runvoy_agent.ports import Unavailable

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


@contextlib.contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Turn what the file system refuses (full, read-only, out of descriptors, input/output error) into Unavailable."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror or error}") from error


def sync(descriptor: int) -> None:
    """Flush a file or directory to the disk."""
    if _FULL_SYNC is not None:  # macOS, where fsync stops at the drive's cache
        with contextlib.suppress(OSError):  # not every file system there has it
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
    os.fsync(descriptor)


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it that are not there, for this user alone. `parents=True` would leave those to the
    umask. Raises OSError.

    The client has the same (`runvoy_cli.home.files`): neither may import the other, and what both may import does no I/O.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise


@contextlib.contextmanager
def temporary_file(folder: Path, data: bytes) -> Iterator[Path]:
    """A new file (0600) with `data`, on disk; removed at the end if it still bears that name. Raises OSError.

    A process that dies meanwhile leaves the file: see `remove_leftovers`.
    """
    path = folder / secrets.token_hex(16)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            # The content, before a name that readers know can lead to it: a crash must not leave a torn object.
            sync(descriptor)
        finally:
            os.close(descriptor)
        yield path
    finally:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, older_than: float) -> int:
    """Remove the temporary files that dead processes left before `older_than` (seconds since 1970); how many. Raises OSError."""
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < older_than:
                    Path(entry.path).unlink()
                    removed += 1
    return removed


def cut_log(path: Path, most_bytes: int) -> int:
    """Leave a log that is written in append mode its last `most_bytes`, from the start of a line; how many bytes went. A line
    that is written meanwhile may be lost."""
    try:
        size = path.stat().st_size
        if size <= most_bytes:
            return 0
        with path.open("r+b") as file:
            file.seek(size - most_bytes)
            rest = file.read().partition(b"\n")[2]
            file.seek(0)
            file.write(rest)
            file.truncate()
    except FileNotFoundError:
        return 0
    return size - len(rest)
