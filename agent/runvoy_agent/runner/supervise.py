"""The loop beside a running command: output in, signals in, clocks kept, until nothing of the run lives."""

from __future__ import annotations

import os
import select
import signal
import time

from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.payload import Payload
from runvoy_agent.runner.process import Command
from runvoy_agent.runner.shipping import Shipper
from runvoy_agent.runner.signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Listener(Protocol):
        """Takes what was read: an Output, or what stands before one."""

        @property
        def due(self) -> float | None: ...

        def feed(self, stream: str, data: bytes) -> None: ...

        def note(self, text: str) -> None: ...

        def tick(self, now: float) -> None: ...


_READ_BYTES = 64 * 1024
_DRAIN_SECONDS = 5.0
_LEFTOVERS_SECONDS = 10.0
_KILL_AGAIN_SECONDS = 0.05
_SIGNAL_BASE = 128


class Supervisor:
    """Supervises one command. The deadline counts from the clock's start, however long this took to be here."""

    def __init__(
        self,
        command: Command,
        payload: Payload,
        signals: Signals,
        streams: dict[int, str],
        output: Listener,
        shipper: Shipper,
        ending: Ending,
        clock: Clock,
    ) -> None:
        self._command = command
        self._grace_seconds = payload.grace_seconds
        self._timeout_seconds = payload.timeout_seconds
        self._clock = clock
        self._deadline = clock.started + payload.timeout_seconds
        self._kill_at: float | None = None
        self._signals = signals
        # The order in which they are read when there is something on both. An announcement stands before what it announces.
        first = "err" if payload.announces else "out"
        self._streams = dict(sorted(streams.items(), key=lambda stream: stream[1] != first))
        self._output = _aligned(output, payload.mark)
        self._shipper = shipper
        self._ending = ending
        self._poll = select.poll()
        self._is_reading = True
        for fd in (signals.wake_fd, *command.wake_fds, *self._streams):
            self._poll.register(fd, select.POLLIN)

    def supervise(self) -> None:
        """Return when the command ended, all it left behind was killed and its output was read."""
        while self._command.status is None:
            self._hold_back(self._shipper.is_busy)
            self._wait(self._next_step())
            self._keep_clocks()
        self._hold_back(False)  # what is left is less than the pipes hold
        for fd in self._command.wake_fds:
            self._poll.unregister(fd)
        self._record_exit(self._command.status)
        self._kill_leftovers()
        self._drain()

    def _hold_back(self, should_wait: bool) -> None:
        """Read no output for a while, or again: the command waits when its pipes are full."""
        if self._is_reading is not should_wait:
            return
        self._is_reading = not should_wait
        for fd in self._streams:
            if should_wait:
                self._poll.unregister(fd)
            else:
                self._poll.register(fd, select.POLLIN)

    def _next_step(self) -> float:
        return self._deadline if self._kill_at is None else self._kill_at

    def _keep_clocks(self) -> None:
        """Begin to end the command when it must end; also one that exited unseen after its deadline is timed out."""
        now = time.monotonic()
        if self._kill_at is not None:
            if now >= self._kill_at and self._command.status is None:
                self._command.signal_all(signal.SIGKILL)
                self._kill_at = now + _KILL_AGAIN_SECONDS  # again: it may be forking
            return
        if self._signals.kill_wanted and self._command.status is None:
            self._begin_to_end(now, "killed", "killed")
        elif now >= self._deadline:
            self._begin_to_end(now, "timed_out", f"timed out after {self._timeout_seconds:g} s")

    def _begin_to_end(self, now: float, outcome: str, message: str) -> None:
        self._ending.settle(outcome, message)
        self._kill_at = now + self._grace_seconds
        if self._command.status is None:
            self._command.signal_all(signal.SIGTERM)

    def _record_exit(self, status: int) -> None:
        self._ending.at_ms = self._clock.now_ms()
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            self._ending.exit_code = code
            self._ending.settle("exited", "")
            return
        self._ending.exit_code, self._ending.signal = _SIGNAL_BASE - code, -code
        self._ending.settle("signalled", signal.strsignal(-code) or f"signal {-code}")

    def _kill_leftovers(self) -> None:
        """SIGKILL what the command left behind, until there is no child any more."""
        self._command.end_group()
        give_up_at = time.monotonic() + _LEFTOVERS_SECONDS
        while self._command.reap():
            living = self._command.signal_all(signal.SIGKILL)
            now = time.monotonic()
            if now >= give_up_at:
                # Another user's (a set-uid program), or stuck in the kernel.
                self._ending.survivors = max(living, 1)
                self._output.note(f"{self._ending.survivors} processes of the command could not be ended")
                return
            self._wait(now + _KILL_AGAIN_SECONDS)

    def _drain(self) -> None:
        give_up_at = time.monotonic() + _DRAIN_SECONDS
        while self._streams and time.monotonic() < give_up_at:
            self._wait(give_up_at)
        for fd in self._streams:
            self._output.feed(self._streams[fd], b"")
            # Someone outside the run was given the other end.
            self._output.note(
                f"std{self._streams[fd]} was still open {_DRAIN_SECONDS:g} seconds after the command's end"
            )
            os.close(fd)

    def _wait(self, until: float) -> None:
        """Handle what comes first: output, a signal, or the next due time."""
        dues = [due for due in (until, self._output.due, self._shipper.due) if due is not None]
        seconds = max(0.0, min(dues) - time.monotonic())
        for fd, _ in self._poll.poll(min(seconds, 3600.0) * 1000 + 0.5 if seconds else 0):
            if fd in self._streams:
                self._read(fd)
            elif fd == self._signals.wake_fd:
                self._signals.drain()
        self._command.reap()
        now = time.monotonic()
        self._output.tick(now)
        self._shipper.tick(now)

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._output.feed(self._streams[fd], data)
            return
        self._poll.unregister(fd)
        os.close(fd)
        self._output.feed(self._streams.pop(fd), b"")


def _aligned(output: Listener, mark: bytes) -> Listener:
    if not mark:
        return output
    from runvoy_agent.runner.alignment import Aligned

    return Aligned(output, mark)
