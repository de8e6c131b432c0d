"""The Objects port on a folder: an object is a file, its key the path.

What starts with a dot is ours: `.tmp` (unfinished writes), `.locks`, and in a versioned bucket `.name@version` beside
`name`, a second link to each version's content. No object key can name those.

Unlike in S3, a key cannot also be the folder of other keys (`a` and `a/b`); the second put is a ValueError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from runvoy_agent.local.durable import make_private_folder, remove_leftovers, sync, temporary_file, unavailable
from runvoy_agent.local.folder_listing import FOLDER, Wanted, walk
from runvoy_agent.local.grants import Grants
from runvoy_agent.ports import ObjectInfo, PostPolicy, PreconditionFailed, StoredObject, Unavailable
from runvoy_protocol import object_keys

_VERSION = re.compile(r"[0-9a-f]{32}\Z")
# Not to hang on a FIFO that somebody put there.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LEFTOVER_SECONDS = 3600
_KNOWN_FOLDERS = 4096
_LASTING_FOLDERS = 1
# What is wrong with a file to adopt where others may have changed its folder: no fault of the world, and trying again
# would not help.
_WRONG_SOURCE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP})


def _version_of(data: bytes) -> str:
    return _version(hashlib.sha256(data).hexdigest())


def _etag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


def _version(digest: str) -> str:
    return digest[:32]


class FolderObjects:
    """One bucket in one folder, for any number of threads and processes."""

    def __init__(
        self,
        root: Path,
        *,
        versioned: bool = False,
        on_change: Callable[[str], None] | None = None,
        grants: Grants | None = None,
        bucket: str | None = None,
    ) -> None:
        """Open or make the bucket. `on_change` is told the key after each put, adopt and delete.

        `bucket` is its name in grants, the folder's by default. Raises Unavailable.
        """
        self._root = root
        self._versioned = versioned
        self._on_change = on_change
        self._grants = grants
        self._bucket = bucket or root.name
        self._temporary = root / ".tmp"
        self._locks = root / ".locks"
        # Folders whose own entry this process knows to be on disk. Only ever a shortcut: cleared when it grows.
        self._known_folders: set[str] = set()
        with unavailable(str(root)):
            for folder in (root, self._temporary, self._locks):
                make_private_folder(folder)
            remove_leftovers(self._temporary, time.time() - _LEFTOVER_SECONDS)

    def put(
        self,
        object_key: str,
        data: bytes,
        *,
        content_type: str,  # noqa: ARG002  # a folder has no place for it; the gateway goes by the key
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> str:
        folders, name = _split(object_key)
        if if_absent and if_match is not None:
            raise ValueError("if_absent and if_match exclude each other")
        with (
            unavailable(f"put {object_key}"),
            self._folder(object_key, folders, make=True) as folder,
            temporary_file(self._temporary, data) as temporary,
        ):
            if self._versioned:  # first, so that no version can be overwritten before it has its own name
                self._keep_version(temporary, folder, name, _version_of(data))
            with self._locked(object_key, exclusive=if_match is not None):
                if if_match is not None:
                    _check_match(folder, name, if_match, object_key)
                _place(temporary, folder, name, object_key, if_absent=if_absent)
            sync(folder)  # the new name(s)
        self._changed(object_key)
        return _etag_of(data)

    @staticmethod
    def version_of(data: bytes) -> str:
        """The version id of a content: equal content, equal version."""
        return _version_of(data)

    def adopt(self, object_key: str, path: Path) -> None:
        """Move a file of the same file system into the bucket, without copying; replaces the object if there is one.

        Durable when this returns. After a crash both names may be there: adopting again is right. Raises
        FileNotFoundError if there is no such file, ValueError if it is not a regular one.
        """
        folders, name = _split(object_key)
        descriptor = _open_to_adopt(path)
        try:
            with unavailable(f"adopt {object_key}"), self._folder(object_key, folders, make=True) as folder:
                sync(descriptor)  # its content; costs nothing if its writer did that
                if self._versioned:
                    self._keep_version(path, folder, name, _version_of(_content(descriptor)))
                with self._locked(object_key, exclusive=False):
                    _place(path, folder, name, object_key, if_absent=False)
                sync(folder)  # the new name
        finally:
            os.close(descriptor)
        self._changed(object_key)

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        folders, name = _split(object_key)
        if version is not None and not _VERSION.match(version):
            return None
        with unavailable(f"get {object_key}"), contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder(object_key, folders, make=False))
            except FileNotFoundError:
                return None
            data = _read(folder, f".{name}@{version}" if version and self._versioned else name)
        if data is None:
            return None
        digest = hashlib.sha256(data).hexdigest()
        if version is not None and _version(digest) != version:
            return None
        return StoredObject(data, f'"{digest}"', _version(digest))

    def list(
        self, prefix: str, *, after: str | None = None, up_to: str | None = None, limit: int = 1000
    ) -> Sequence[ObjectInfo]:
        """As the port says. Each call reads the names of whole folders, whatever it returns of them."""
        object_keys.check_prefix(prefix)
        folders = prefix.split("/")[:-1]
        found: list[ObjectInfo] = []
        with unavailable(f"list {prefix}"), contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder(prefix, folders, make=False))
            except FileNotFoundError:
                return found
            path = "".join(f"{folder_name}/" for folder_name in folders)
            walk(folder, path, Wanted(prefix, after or "", up_to, limit), found)
        return found

    def delete(self, object_key: str) -> None:
        """As the port says. In a versioned bucket the versions stay readable by their ids."""
        folders, name = _split(object_key)
        with unavailable(f"delete {object_key}"), contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder(object_key, folders, make=False))
                with self._locked(object_key, exclusive=False):
                    os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError):
                if _is_folder(folder, name):  # so there is no such object
                    return
                raise
            sync(folder)  # a payload that was deleted must not be back after a crash
        self._changed(object_key)

    def remove(self, object_key: str) -> None:
        """Delete an object with all of its versions, and the folders that are empty then, but for the first of its path. A put
        that is on its way to such a folder fails as Unavailable, and finds it made anew when it is repeated."""
        folders, name = _split(object_key)
        self.delete(object_key)
        with unavailable(f"remove {object_key}"):
            folder = self._root.joinpath(*folders)
            if self._versioned and folder.is_dir():
                for path in folder.glob(f".{name}@*"):
                    path.unlink(missing_ok=True)
            for depth in range(len(folders), _LASTING_FOLDERS, -1):
                path = self._root.joinpath(*folders[:depth])
                try:
                    path.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        return
                    raise

    def sweep(self) -> int:
        """Remove what writers that died left behind; how many files."""
        with unavailable(str(self._temporary)):
            return remove_leftovers(self._temporary, time.time() - _LEFTOVER_SECONDS)

    def presign_post(self, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime) -> PostPolicy:
        return self._signer().sign_post(
            self._bucket, key_prefix, content_type=content_type, max_bytes=max_bytes, expires_at=expires_at
        )

    def presign_get(self, object_key: str, *, expires_at: datetime) -> str:
        _split(object_key)
        return self._signer().sign_get(self._bucket, object_key, expires_at=expires_at)

    def presign_gets(self, object_keys: Sequence[str], *, expires_at: datetime) -> Sequence[str]:
        return [self.presign_get(object_key, expires_at=expires_at) for object_key in object_keys]

    # -- inside

    def _signer(self) -> Grants:
        if self._grants is None:
            raise ValueError(f"the bucket {self._bucket} makes no grants")
        return self._grants

    def _changed(self, object_key: str) -> None:
        if self._on_change is not None:
            self._on_change(object_key)

    @contextlib.contextmanager
    def _folder(self, object_key: str, folders: Sequence[str], *, make: bool) -> Iterator[int]:
        """A descriptor of the object's folder, reached without following a symbolic link; FileNotFoundError."""
        descriptor = os.open(self._root, FOLDER & ~os.O_NOFOLLOW)
        try:
            path = ""
            for folder in folders:
                path = f"{path}{folder}/"
                if make and _make_folder(descriptor, folder):
                    self._known_folders.discard(path)  # somebody had removed it
                child = _open_folder(descriptor, folder, object_key, make=make)
                if make and path not in self._known_folders:
                    sync(descriptor)  # the folder's own entry, whoever made it: once per folder and process
                    self._remember(path)
                os.close(descriptor)
                descriptor = child
            yield descriptor
        finally:
            os.close(descriptor)

    def _remember(self, path: str) -> None:
        if len(self._known_folders) >= _KNOWN_FOLDERS:
            self._known_folders.clear()
        self._known_folders.add(path)

    @contextlib.contextmanager
    def _locked(self, object_key: str, *, exclusive: bool) -> Iterator[None]:
        """Hold off conditional writes of this key (shared), or every write of it (exclusive), in all processes.

        An flock belongs to the open file, so it works between threads as well; it dies with the process.
        """
        stripe = hashlib.sha256(object_key.encode()).hexdigest()[:2]
        descriptor = os.open(self._locks / stripe, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def _keep_version(self, source: Path, folder: int, name: str, version: str) -> None:
        with contextlib.suppress(FileExistsError):  # the same content before
            os.link(source, f".{name}@{version}", dst_dir_fd=folder, follow_symlinks=False)


def _open_to_adopt(path: Path) -> int:
    try:
        descriptor = os.open(path, _FILE)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise ValueError(f"{path} cannot be adopted: {error.strerror}") from error
        raise Unavailable(f"adopt {path}: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ValueError(f"{path} cannot be adopted: it is not a regular file")


def _split(object_key: str) -> tuple[list[str], str]:
    """The folders and the name of an object; ValueError for what is no object key."""
    *folders, name = object_keys.split(object_key)
    return folders, name


def _make_folder(parent: int, name: str) -> bool:
    """Whether it was not there."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _open_folder(parent: int, name: str, object_key: str, *, make: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if make:
            raise ValueError(f"{object_key}: {name} is no folder, but an object or a symbolic link") from error
        raise FileNotFoundError(object_key) from error


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _place(source: Path, folder: int, name: str, object_key: str, *, if_absent: bool) -> None:
    try:
        if if_absent:
            os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.rename(source, name, dst_dir_fd=folder)
    except FileExistsError as error:
        raise PreconditionFailed(f"{object_key} exists") from error
    except IsADirectoryError as error:
        raise ValueError(f"{object_key} is a folder of other objects") from error
    except OSError as error:
        if error.errno in _WRONG_SOURCE:
            raise ValueError(f"{source} cannot be moved to {object_key}: {error.strerror}") from error
        raise


def _check_match(folder: int, name: str, if_match: str, object_key: str) -> None:
    data = _read(folder, name)
    if data is None or _etag_of(data) != if_match:
        raise PreconditionFailed(f"{object_key} is {'gone' if data is None else 'another than expected'}")


def _read(folder: int, name: str) -> bytes | None:
    """The content of a regular file; None if there is none of that name."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket
            return None
        raise
    try:
        return _content(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()
