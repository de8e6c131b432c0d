"""One thread that learns of ends and of new output without polling: pidfds and the bell in one selector."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from runvoy_agent.local import processes, run_claims
from runvoy_protocol.ids import is_execution_id

_log = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 1.0
_BELL_LINE_BYTES = 33


class Watched:
    """A run that may live. `runner` is set if it is our own child, which must be reaped."""

    def __init__(self, execution_id: str, attempt: int, runner: subprocess.Popen[bytes] | None) -> None:
        self.execution_id = execution_id
        self.attempt = attempt
        self.runner = runner
        self.fds: list[int] = []
        self.waits_for_lock = False


class Watcher:
    """Calls `on_stopped` once nothing of a watched run lives, and `on_bell` when a runner has written something.

    Both are called in the watching thread: they hand over and return. Where there is no pidfd a thread per run waits for
    its lock instead.
    """

    def __init__(
        self, runs_folder: Path, on_stopped: Callable[[Watched], None], on_bell: Callable[[str], None]
    ) -> None:
        self._runs_folder = runs_folder
        self._on_stopped = on_stopped
        self._on_bell = on_bell
        self._watched: dict[str, Watched] = {}  # this thread's alone
        self._todo: queue.SimpleQueue[Watched | None] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._bell = _open_bell(runs_folder / "bell")
        self._bell_rest = b""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, name="runvoy-watch", daemon=True)
        self._thread.start()

    def watch(self, run: Watched) -> None:
        """Follow a run to its end; a second call for one execution adds the runner to reap, if it brings it."""
        self._enqueue(run)

    def close(self) -> None:
        """Stop watching. The runs go on."""
        self._enqueue(None)
        self._thread.join()
        for fd in (self._bell, self._woken, self._wake):
            os.close(fd)

    def _enqueue(self, run: Watched | None) -> None:
        self._todo.put(run)
        with contextlib.suppress(
            BlockingIOError, OSError
        ):  # full: it will wake anyway; closed: nobody watches any more
            os.write(self._wake, b"\0")

    def _loop(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._bell:
                    self._hear()
                elif key.fd == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif key.data in self._watched:
                    self._look_safely(self._watched[key.data])
            while not self._todo.empty():
                run = self._todo.get()
                if run is None:
                    self._selector.close()
                    return
                self._look_safely(self._merge(run))

    def _merge(self, run: Watched) -> Watched:
        known = self._watched.setdefault(run.execution_id, run)
        if known is not run and run.runner is not None:
            known.runner, known.attempt = run.runner, run.attempt
        return known

    def _look_safely(self, run: Watched) -> None:
        try:
            self._look(run)
        except Exception:  # noqa: BLE001 - one run's trouble must not end the watch over all others
            _log.exception("cannot watch the run %s; looking again", run.execution_id)
            self._look_later(run)

    def _look(self, run: Watched) -> None:
        """See what lives of a run and wait for that; nothing does: it stopped."""
        if self._watched.get(run.execution_id) is not run:
            return
        self._forget_fds(run)
        folder = self._runs_folder / run.execution_id
        claim = run_claims.read(folder)
        if claim is not None and (fd := processes.open_runner(claim, folder)) is not None:
            self._follow(run, [fd])
            return
        ended_cleanly = False
        if run.runner is not None:
            if claim is None and run.runner.poll() is None:
                self._follow(run, [run.runner.pid], are_pids=True)
                return
            # It ended, or there are no pidfds here and the lock tells.
            ended_cleanly = run.runner.poll() == 0
        # A runner leaves with 0 only when it has no child any more: no need to sweep.
        pids = []
        if not ended_cleanly:  # whatever the claim says: the command may have removed it
            pids = [*processes.survivors(folder), *processes.runners(folder)]
        if pids:
            self._follow(run, pids, are_pids=True)
        elif claim is not None and run_claims.is_locked(folder):
            self._await_lock(run, folder)
        else:
            self._stopped(run)

    def _follow(self, run: Watched, sources: list[int], *, are_pids: bool = False) -> None:
        fds = [fd for pid in sources if (fd := processes.open_pidfd(pid)) is not None] if are_pids else sources
        for fd in fds:
            self._selector.register(fd, selectors.EVENT_READ, run.execution_id)
        run.fds = fds
        if not fds:
            self._look_later(run)  # all of them ended meanwhile, or there are no pidfds

    def _await_lock(self, run: Watched, folder: Path) -> None:
        if run.waits_for_lock:
            return
        run.waits_for_lock = True

        def wait() -> None:
            try:
                run_claims.wait_unlocked(folder)
            finally:
                run.waits_for_lock = False
                self._enqueue(run)

        threading.Thread(target=wait, name=f"runvoy-lock-{run.execution_id}", daemon=True).start()

    def _look_later(self, run: Watched) -> None:
        timer = threading.Timer(_LOOK_AGAIN_SECONDS, self._enqueue, [run])
        timer.daemon = True
        timer.start()

    def _stopped(self, run: Watched) -> None:
        if run.runner is not None:
            run.runner.wait()  # it has let go of its lock, or it was seen to have ended: reaping takes no time
        del self._watched[run.execution_id]
        self._on_stopped(run)

    def _forget_fds(self, run: Watched) -> None:
        for fd in run.fds:
            self._selector.unregister(fd)
            os.close(fd)
        run.fds = []

    def _hear(self) -> None:
        try:
            data = self._bell_rest + os.read(self._bell, 65536)
        except BlockingIOError:
            return
        lines = data.split(b"\n")
        # Any process of this user may write here: what is no execution id is no bell.
        self._bell_rest = lines.pop()[:_BELL_LINE_BYTES]
        for line in dict.fromkeys(lines):
            execution_id = line.decode("ascii", "replace")
            if not is_execution_id(execution_id):
                continue
            try:
                self._on_bell(execution_id)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("cannot take in the output of %s; it is tried again when the run ends", execution_id)


def _open_bell(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    if not stat.S_ISFIFO(path.lstat().st_mode):
        path.unlink()
        os.mkfifo(path, 0o600)
    # Read and write: with a writer of our own there is never an end of file to spin on.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
