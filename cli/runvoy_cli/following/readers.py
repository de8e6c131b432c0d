"""Whoever reads stdout may go away while there is nothing to write, as `head` does: then there is nobody to follow for."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from types import FrameType

from runvoy_cli.input.problems import ReaderGone


class StdoutReader:
    """While it is entered, ReaderGone is raised in the main thread, whatever it waits for, once stdout is a pipe or a socket
    that nobody reads.

    A thread looks, and interrupts the main thread by SIGPIPE: the only way out of a read that may block for long. A SIGPIPE
    that it did not send is a write's own, which finds out by itself. Only for the main thread, and where there are signals;
    elsewhere the next write tells. Not `is_wanted` where nothing is ever written to stdout: then nobody is to read it.
    """

    def __init__(self, *, is_wanted: bool = True) -> None:
        self._is_wanted = is_wanted
        self._is_gone = False
        self._before: object = None
        self._over: int | None = None

    def __enter__(self) -> StdoutReader:
        watched = _pipe_of_stdout() if self._is_wanted else None
        if watched is None or threading.current_thread() is not threading.main_thread():
            return self
        self._before = signal.signal(signal.SIGPIPE, self._on_signal)
        woken, self._over = os.pipe()
        main = threading.main_thread().ident
        threading.Thread(target=self._watch, args=[watched, woken, main], name="stdout-reader", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._over is not None:
            os.close(self._over)  # which wakes the thread
            signal.signal(signal.SIGPIPE, self._before)  # type: ignore[arg-type]

    def _watch(self, watched: int, woken: int, main: int) -> None:
        poll = select.poll()
        poll.register(watched, 0)  # no event is asked for: that the other end is gone is always told
        poll.register(woken, select.POLLIN)
        try:
            told = {fd for fd, _ in poll.poll()}
        finally:
            os.close(woken)
        if woken not in told:
            self._is_gone = True
            signal.pthread_kill(main, signal.SIGPIPE)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_gone:
            self._is_gone = False  # once
            raise ReaderGone


def _pipe_of_stdout() -> int | None:
    """stdout's descriptor, if somebody could go away there and the system tells of it."""
    if not hasattr(select, "poll") or not hasattr(signal, "pthread_kill"):
        return None
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
