"""The folder, and nothing outside it: every path is walked from its descriptor, and no symbolic link is followed.

Whole files are written to a temporary name, fsynced and renamed; many at once are synced together. One daemon at a time works
on a folder (`Tree.lock`), and within it one thread on a file: so a file's temporary name needs nothing to tell it from others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_sync import libc

STATE = (".runvoy", "sync")  # beside a project's playbooks, which lie in `.runvoy` too
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that somebody put there is not waited for
_LINKS = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)
MAX_FILE_BYTES = 4 * 1024 * 1024


class Identity(NamedTuple):
    """What tells whether a file is still the same, unchanged one."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity | None:
        """None for what is no regular file."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


class _Held(NamedTuple):
    names: tuple[str, ...]
    descriptor: int


class Tree:
    """One folder. `root` may be reached through links, as its user wrote it; nothing below it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock: int | None = None
        self._held = threading.local()

    def close(self) -> None:
        os.close(self._descriptor)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lock(self) -> None:
        """Become the folder's one daemon, until `close` or death; CONFLICT if there is another."""
        with self.folder(*STATE) as folder:
            descriptor = os.open("lock", os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise RunvoyError(
                ErrorCode.CONFLICT,
                f"another `runvoy sync`{f' (process {holder})' if holder.isdigit() else ''} works on {self.root}",
                "One is enough for a folder. End it, or give this one a folder of its own.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    @contextlib.contextmanager
    def folder(self, *names: str, create: bool = True) -> Iterator[int]:
        """The descriptor of a folder within; made if it is not there. FileNotFoundError if it is not to be made."""
        start = descriptor = self._descriptor
        left = names
        held = getattr(self._held, "folder", None)
        if held is not None and names[: len(held.names)] == held.names:
            start = descriptor = held.descriptor
            left = names[len(held.names) :]
        try:
            for name in left:
                below = self._open_folder(descriptor, name, create)
                if descriptor != start:
                    os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            if descriptor != start:
                os.close(descriptor)

    @contextlib.contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Keep a folder open meanwhile: this thread's ways to it and through it begin there and not at the root."""
        with self.folder(*names) as descriptor:
            before = getattr(self._held, "folder", None)
            self._held.folder = _Held(names, descriptor)
            try:
                yield
            finally:
                self._held.folder = before

    def _open_folder(self, descriptor: int, name: str, create: bool) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=descriptor)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if error.errno in _LINKS:
                raise OSError(error.errno, "it is no folder, and symbolic links are not followed", name) from error
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700 if name == STATE[-1] else 0o777, dir_fd=descriptor)
        return os.open(name, _FOLDER, dir_fd=descriptor)

    def make_folder(self, *path: str) -> bool:
        """Make a folder; whether it was not there."""
        with self.folder(*path[:-1]) as parent:
            try:
                os.mkdir(path[-1], dir_fd=parent)
            except FileExistsError:
                os.close(self._open_folder(parent, path[-1], create=False))
                return False
        return True

    def names(self, *folder: str) -> Iterator[str]:
        """What is in a folder, one by one, for there may be many; nothing if there is no folder."""
        try:
            with self.folder(*folder, create=False) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    yield entry.name
        except FileNotFoundError:
            return

    def exists(self, *path: str) -> bool:
        try:
            with self.folder(*path[:-1], create=False) as folder:
                os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def identity(self, *path: str) -> Identity | None:
        """Of a regular file; None if there is none."""
        try:
            with self.folder(*path[:-1], create=False) as folder:
                found = os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Identity.of(found)

    def identities(self, *folder: str) -> Iterator[tuple[str, Identity | None]]:
        """What is in a folder with its identity, None for what is no regular file; nothing if there is no folder."""
        try:
            with self.folder(*folder, create=False) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.name, Identity.of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return

    def read(self, *path: str, most: int = MAX_FILE_BYTES) -> bytes | None:
        """A regular file's bytes, `most` of them and one more; None if there is none."""
        try:
            with self.folder(*path[:-1], create=False) as folder:
                descriptor = os.open(path[-1], os.O_RDONLY | _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EMLINK):
                return None
            raise
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None

    def is_being_written(self, *path: str) -> bool:
        """Whether a process has the file open for writing, where the system can tell (Linux, the user's own files).

        A lease is refused while somebody writes. Whoever opens the file while we hold it has SIGIO sent to us: the caller
        ignores that signal.
        """
        if not hasattr(fcntl, "F_SETLEASE"):
            return False
        try:
            with self.folder(*path[:-1], create=False) as folder:
                descriptor = os.open(path[-1], os.O_RDONLY | _FILE, dir_fd=folder)
        except OSError:
            return False
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        finally:
            os.close(descriptor)
        return False

    def write(self, *path: str, content: bytes, is_durable: bool = True, is_name_durable: bool = False) -> None:
        """Write by temporary file, fsync and rename; with `is_name_durable` the name survives a loss of power, too.

        Not `is_durable`: without fsync, for what is there before, and can be made again, until somebody syncs it.
        """
        name = path[-1]
        with self.folder(*path[:-1]) as folder:
            _put_temporary(folder, name, content, is_durable=is_durable)
            os.rename(_temporary(name), name, src_dir_fd=folder, dst_dir_fd=folder)
            if is_name_durable:
                os.fsync(folder)

    @contextlib.contextmanager
    def fresh(self, *path: str) -> Iterator[int]:
        """The descriptor of a new file to write, under its own name; what is there goes. With an error it is left empty."""
        with self.folder(*path[:-1]) as folder:
            descriptor = _fresh(folder, path[-1])
        try:
            yield descriptor
        except BaseException:
            os.ftruncate(descriptor, 0)  # this needs no room: no torn line stays
            raise
        finally:
            os.close(descriptor)

    def stage(self, *path: str, content: bytes) -> None:
        """The first half of a write: the temporary file, not synced."""
        with self.folder(*path[:-1]) as folder:
            _put_temporary(folder, path[-1], content, is_durable=False)

    def publish(self, *path: str) -> None:
        """The second half: the name of what was staged."""
        with self.folder(*path[:-1], create=False) as folder:
            os.rename(_temporary(path[-1]), path[-1], src_dir_fd=folder, dst_dir_fd=folder)

    def sync_files(self, *path: str) -> None:
        """Make a folder's files durable, and their names."""
        with self.folder(*path, create=False) as folder:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                with _opened(folder, name) as descriptor:
                    if descriptor is not None:
                        os.fsync(descriptor)
            os.fsync(folder)

    def sync_names(self, *path: str) -> None:
        """Make the names in a folder durable."""
        with self.folder(*path) as folder:
            os.fsync(folder)

    def sync_file_system(self, *path: str) -> bool:
        """Make all durable that the file system of a folder holds, names too; False where the system cannot, or does not tell
        of what could not be written (Linux before 5.8)."""
        syncfs = libc.syncfs()
        if syncfs is None:
            return False
        with self.folder(*path) as folder:
            syncfs(folder)
        return True

    @contextlib.contextmanager
    def appendable(self, *path: str) -> Iterator[int]:
        """The descriptor of a regular file to read and append to; made if it is not there. A link in its place goes."""
        with self.folder(*path[:-1]) as folder:
            try:
                descriptor = os.open(path[-1], os.O_RDWR | os.O_CREAT | _FILE, 0o666, dir_fd=folder)
            except OSError as error:
                if error.errno not in _LINKS:
                    raise
                os.unlink(path[-1], dir_fd=folder)
                descriptor = os.open(path[-1], os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", path[-1])
            yield descriptor
        finally:
            os.close(descriptor)

    def link(self, *path: str, target: str) -> None:
        """A symbolic link at `path`, made or replaced as a whole."""
        with self.folder(*path[:-1]) as folder:
            with contextlib.suppress(FileExistsError):
                os.symlink(target, path[-1], dir_fd=folder)
                return
            with contextlib.suppress(OSError):
                if os.readlink(path[-1], dir_fd=folder) == target:
                    return
            temporary = _temporary(path[-1])
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            os.symlink(target, temporary, dir_fd=folder)
            os.rename(temporary, path[-1], src_dir_fd=folder, dst_dir_fd=folder)

    def link_target(self, *path: str) -> str | None:
        try:
            with self.folder(*path[:-1], create=False) as folder:
                return os.readlink(path[-1], dir_fd=folder)
        except OSError:
            return None

    def move(self, source: tuple[str, ...], target: tuple[str, ...]) -> bool:
        """Rename within the tree, over what may be there; False if there is no source."""
        with self.folder(*target[:-1]) as into:
            try:
                with self.folder(*source[:-1], create=False) as origin:
                    os.rename(source[-1], target[-1], src_dir_fd=origin, dst_dir_fd=into)
            except FileNotFoundError:
                return False
            os.fsync(into)
        return True

    def move_if_free(self, source: tuple[str, ...], target: tuple[str, ...]) -> bool:
        """Rename to a name that nobody has; False if somebody has it."""
        with self.folder(*source[:-1]) as origin, self.folder(*target[:-1]) as into:
            try:
                os.link(source[-1], target[-1], src_dir_fd=origin, dst_dir_fd=into, follow_symlinks=False)
            except FileExistsError:
                return False
            os.unlink(source[-1], dir_fd=origin)
        return True

    def remove(self, *path: str) -> None:
        with contextlib.suppress(FileNotFoundError), self.folder(*path[:-1], create=False) as folder:
            os.unlink(path[-1], dir_fd=folder)


def _temporary(name: str) -> str:
    return f".{name}.tmp"


def _put_temporary(folder: int, name: str, content: bytes, *, is_durable: bool) -> None:
    temporary = _temporary(name)
    descriptor = _fresh(folder, temporary)
    try:
        write_all(descriptor, content)
        if is_durable:
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(folder: int, name: str) -> Iterator[int | None]:
    """A regular file's descriptor; None for what is none, or went."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EMLINK, errno.ENXIO):
            raise
        yield None
        return
    try:
        yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _fresh(folder: int, name: str) -> int:
    """A new file; what a crash or somebody else left under its name goes, a link itself and not what it leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
    try:
        return os.open(name, flags, 0o666, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
    return os.open(name, flags, 0o666, dir_fd=folder)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """All of it: a disk that becomes full takes a part and says no to the next."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def begin_writing(descriptor: int) -> None:
    """Have the system send a file's pages to the disk from now on and not when somebody syncs it, where it can be asked to.

    It is advice: a file system or a sandbox that takes none refuses it, and the file is as good as before.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        # Linux drops from memory what is on the disk already, which is nothing yet, and begins to write the rest.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
