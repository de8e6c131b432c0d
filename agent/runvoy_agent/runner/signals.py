"""Signals as something to poll: a wake-up pipe, and whether someone wants the run to end."""

from __future__ import annotations

import os
import signal
import time


class Signals:
    """Installs the runner's handlers. `wake_fd` becomes readable when a signal came."""

    def __init__(self) -> None:
        self.kill_wanted = False
        self.kill_wanted_at = 0.0  # monotonic, of the first time
        self.wake_fd, written = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._want_kill)
        signal.signal(signal.SIGINT, self._want_kill)
        signal.signal(signal.SIGCHLD, _noted)  # without a handler nothing would be written to the pipe
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def drain(self) -> None:
        """Make `wake_fd` unreadable until the next signal."""
        try:
            while os.read(self.wake_fd, 512):
                pass
        except BlockingIOError:
            return

    def _want_kill(self, _number: int, _frame: object) -> None:
        if not self.kill_wanted:
            self.kill_wanted, self.kill_wanted_at = True, time.monotonic()


def _noted(_number: int, _frame: object) -> None:
    return
