"""Files in RUNVOY_HOME: private, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from runvoy_protocol.errors import ErrorCode, RunvoyError


def private_folder(path: Path) -> Path:
    """Make the folder, readable by this user alone, and return it."""
    _make_private(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_private(path: Path, content: bytes, durable: bool = True) -> None:
    """Write by temporary file, fsync (if `durable`) and rename, mode 0600: a crash leaves the old content or the new."""
    _make_private(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _make_private(path: Path) -> None:
    """Make the folder, and those above it that are not there, for this user alone. `parents=True` would leave those to the
    umask: whoever may write to RUNVOY_HOME puts another config.yaml there, or another `local`.

    The agent has the same (`runvoy_agent.local.durable`): neither may import the other, and what both may import does no I/O.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        _make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise


@contextlib.contextmanager
def told_about(path: Path) -> Iterator[None]:
    """Turn an OSError within into UNAVAILABLE that names the path and the way out."""
    try:
        yield
    except OSError as error:
        hint = f"runvoy keeps its files in {path}; set RUNVOY_HOME to a folder that you can write to."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"Make room on the disk of {path}, or set RUNVOY_HOME to a folder on another one."
        place = error.filename or path
        raise RunvoyError(ErrorCode.UNAVAILABLE, f"{place}: {(error.strerror or str(error)).lower()}", hint) from error
