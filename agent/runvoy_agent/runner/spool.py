"""The spool: what the stack will take over, each file whole and durable before it has its name.

A full disk loses nothing at first: files wait in memory, in order, and are tried again every second. The spool says
when too much waits (`is_full`), so that output can be dropped and counted; reports wait however long it takes. Where the run's
folder was removed nobody will ever read what it holds: then everything is dropped, and the command is supervised as before.
"""

from __future__ import annotations

import collections
import errno
import os
import time

from runvoy_agent.runner.claim import sync_directory
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.shipping import Shipper

PENDING_BYTES = 64 * 1024 * 1024
RETRY_SECONDS = 1.0
_BELL_RETRY_SECONDS = 0.05
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # these pass, or nothing helps


class Spool(Shipper):
    """Writes files under `run_dir/spool` and rings `bell`, the stack's FIFO, after each."""

    def __init__(self, run_dir: str, execution_id: str) -> None:
        self._folder = f"{run_dir}/spool"
        self._run_dir = run_dir
        self._bell = Bell(f"{os.path.dirname(run_dir)}/bell", execution_id)  # noqa: PTH120
        self._pending: collections.deque[tuple[str, bytes]] = collections.deque()
        self._pending_bytes = 0
        self._retry_at: float | None = None
        self._is_gone = False
        self.failure = ""  # why the last write failed, for the log
        self._repair("")

    @property
    def is_full(self) -> bool:
        return self._pending_bytes > PENDING_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether everything is on disk."""
        return not self._pending

    @property
    def due(self) -> float | None:
        times = [at for at in (self._retry_at, self._bell.due) if at is not None]
        return min(times, default=None)

    def put(self, name: str, data: bytes) -> None:
        if self._is_gone:
            return
        self._pending.append((name, data))
        self._pending_bytes += len(data)
        if self._retry_at is None:
            self._flush()

    def tick(self, now: float) -> None:
        if self._retry_at is not None and now >= self._retry_at:
            self._flush()
        if self._bell.due is not None and now >= self._bell.due:
            self._bell.ring()

    def finish(self) -> None:
        """Stay until everything is on disk and the stack, if there is one, was told."""
        while not self.is_empty:
            time.sleep(RETRY_SECONDS)
            self._flush()
        if self._is_gone:
            return
        self._sync()
        for _ in range(20):
            if self._bell.due is None:
                return
            time.sleep(_BELL_RETRY_SECONDS)
            self._bell.ring()

    def _sync(self) -> None:
        try:
            sync_directory(f"{self._folder}/logs")
            sync_directory(self._folder)
        except OSError as error:
            # Everything was written; only a machine that loses power now would lose it.
            remark(f"the spool cannot be synced: {error.strerror}")

    def _flush(self) -> None:
        while self._pending:
            name, data = self._pending[0]
            try:
                self._write(name, data)
            except OSError as error:
                self._note(name, error)
                self._retry_at = None if self._is_gone else time.monotonic() + RETRY_SECONDS
                return
            self._pending.popleft()
            self._pending_bytes -= len(data)
            self._bell.ring()
        self._retry_at = None

    def _note(self, name: str, error: OSError) -> None:
        if not os.path.isdir(self._run_dir):  # noqa: PTH112 - pathlib costs start-up time
            self._give_up()
            return
        reason = error.strerror or repr(error)
        if reason != self.failure:
            remark(f"the spool cannot be written: {reason}; trying again every second")
        self.failure = reason
        if error.errno not in _NO_ROOM:
            self._repair(name)

    def _give_up(self) -> None:
        remark(f"{self._run_dir} was removed: nobody is left to tell")
        self._is_gone = True
        self._pending.clear()
        self._pending_bytes = 0

    def _repair(self, name: str) -> None:
        """Undo what the command, which shares our user, may have done: or the runner would try for ever."""
        try:
            os.chmod(self._run_dir, 0o700)  # noqa: PTH101
            for folder in (self._folder, f"{self._folder}/logs"):  # in this order: a closed folder hides the next
                if os.path.islink(folder) or not os.path.isdir(folder):  # noqa: PTH112, PTH114
                    _put_aside(folder)
                    os.mkdir(folder, 0o700)  # noqa: PTH102
                else:
                    os.chmod(folder, 0o700)  # noqa: PTH101
            target = f"{self._folder}/{name}"
            if name and os.path.isdir(target):  # noqa: PTH112
                _put_aside(target)
        except OSError as error:
            remark(f"the spool cannot be repaired: {error}")

    def _write(self, name: str, data: bytes) -> None:
        draft = f"{self._folder}/draft.{os.urandom(8).hex()}"  # a name where nothing can wait for us
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(draft, f"{self._folder}/{name}")  # noqa: PTH104
        except OSError:
            _remove_if_there(draft)  # half a file would keep the disk full
            raise


def _remove_if_there(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return


def _put_aside(path: str) -> None:
    try:
        os.rename(path, f"{path}.{os.urandom(8).hex()}")  # noqa: PTH104
    except FileNotFoundError:
        return


class Bell:
    """The FIFO that wakes the stack. It is a hint: without a listener nothing is lost, the stack looks when it starts."""

    def __init__(self, path: str, execution_id: str) -> None:
        self._path = path
        self._line = f"{execution_id}\n".encode()  # under PIPE_BUF: lines of several runners never mix
        self.due: float | None = None

    def ring(self) -> None:
        self.due = None
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):  # no stack listens
                remark(f"cannot ring the bell: {error.strerror}")
            return
        try:
            os.write(fd, self._line)
        except BlockingIOError:
            self.due = time.monotonic() + _BELL_RETRY_SECONDS
        except BrokenPipeError:
            pass  # the stack went away just now; it looks when it starts
        finally:
            os.close(fd)
