"""A command in the container beside the runner's, to the supervisor a command like any other.

The wrapper, a shell, waits there for a FIFO named `go`, reads from it what to run, and reports through another. It ignores
the signals by which the command is ended, and outlives it to tell its exit code.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable

from runvoy_agent.runner.ending import Ending
from runvoy_agent.runner.neighbours import Neighbours
from runvoy_agent.runner.process import Command, send_signal
from runvoy_agent.runner.remarks import remark

_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 1.0
_SIGNAL_BASE = 128
_REALTIME_SIGNALS = 32  # from here on an exit code is rather the command's own
_MAX_REPORT_BYTES = 4096


class NotHandedOver(Exception):
    """The wrapper did not come, or did not take the command: it never began."""


class Wrapper:
    """The runner's end of the shared folder, before the command runs."""

    def __init__(self, folder: str, give_up: Callable[[], str]) -> None:
        """`give_up` says why it makes no sense to wait any longer; "" as long as it does."""
        self._folder = folder
        self._give_up = give_up
        self.out, self.err, self.report = (_fifo(f"{folder}/{name}") for name in ("out", "err", "report"))
        # Held open, so that between two reports there is no end of file.
        self._report_writer = os.open(f"{folder}/report", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        _make_fifo(f"{folder}/start")

    def hand_over(self, script: bytes, ending: Ending) -> TaskCommand:
        """Wait for the wrapper and give it the script; it waits for `start`. Raises NotHandedOver or OSError."""
        _make_fifo(f"{self._folder}/go")
        self._tell("go", script)
        said = b""
        while b"\n" not in said and len(said) < _MAX_REPORT_BYTES:
            self._wait(self.report, select.POLLIN)
            said += _read(self.report)
        line, _, rest = said.partition(b"\n")
        word, _, number = line.partition(b" ")
        if word != b"wrapper" or not number.isdigit() or not 0 < int(number) < 2**22:
            raise NotHandedOver(
                f"the image's /bin/sh does not work as a shell: it said {line[:100].decode(errors='replace')!a}"
            )
        try:
            return TaskCommand(int(number), self.report, rest, ending)
        except ProcessLookupError as error:
            raise NotHandedOver("the shell in the command's container ended before the command began") from error

    def start(self) -> None:
        """Let the command run. Raises NotHandedOver or OSError."""
        self._tell("start", b"run\n")

    def _tell(self, name: str, text: bytes) -> None:
        """Write to a FIFO once somebody reads it, and let nobody read it again."""
        path = f"{self._folder}/{name}"
        try:
            written = self._open(path)
            try:
                self._write(written, text)
            finally:
                os.close(written)
        finally:
            os.unlink(path)  # noqa: PTH108 - pathlib costs start-up time

    def _open(self, path: str) -> int:
        while True:
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            self._check()
            time.sleep(_LOOK_SECONDS)

    def _write(self, written: int, script: bytes) -> None:
        rest = memoryview(script)
        while rest:
            self._wait(written, select.POLLOUT)
            try:
                rest = rest[os.write(written, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise NotHandedOver(
                    "the shell in the command's container ended before it had read the command"
                ) from error

    def _wait(self, fd: int, event: int) -> None:
        poll = select.poll()
        poll.register(fd, event)
        while not poll.poll(_LOOK_SECONDS * 1000):
            self._check()

    def _check(self) -> None:
        if reason := self._give_up():
            raise NotHandedOver(reason)


class TaskCommand(Command):
    """A command that was handed over. `pid` is the wrapper's.

    A wrapper's word on the exit code is a shell's: 126 and 127 may be its own (it cannot execute the command), and 128 + n
    is taken for signal n, as shells have it.
    """

    def __init__(self, wrapper: int, report: int, said: bytes, ending: Ending) -> None:
        super().__init__(wrapper)
        self._report = report
        self._said = said
        self._ending = ending
        self._neighbours = Neighbours(wrapper)
        self._has_run = False
        self._alone_since: float | None = None
        self._pidfd = _pidfd(wrapper)
        self.wake_fds = (report,) if self._pidfd is None else (report, self._pidfd)

    def reap(self) -> bool:
        if self.status is None:
            is_gone = self._wrapper_is_gone()  # looked at first: what it reports comes before its end
            self._said = (self._said + _read(self._report))[-_MAX_REPORT_BYTES:]
            *lines, self._said = self._said.split(b"\n")
            for line in lines:
                self._hear(line)
            if self.status is None and is_gone:
                self._ending.settle("signalled", "the shell beside the command was killed, and its exit code is lost")
                self.status = int(signal.SIGKILL)
        return self.status is None or bool(self._neighbours.living())

    def signal_all(self, number: int) -> int:
        found = self._neighbours.living()
        for pid in found:
            send_signal(pid, number)
        if not found and number == signal.SIGKILL and self.status is None:
            self._rouse()
        return len(found)

    def end_group(self) -> None:
        """What is left is found by `signal_all`."""

    def _hear(self, line: bytes) -> None:
        word, _, number = line.partition(b" ")
        if word == b"run":
            self._has_run = True
        elif word == b"exit" and number.isdigit() and int(number) <= 255 and self.status is None:
            self._end(int(number))

    def _end(self, code: int) -> None:
        if not self._has_run:
            self._ending.settle(
                "setup_failed", f"the command could not be set up in its container: the shell's code was {code}"
            )
        number = code - _SIGNAL_BASE
        self.status = number if 0 < number < _REALTIME_SIGNALS else code << 8

    def _rouse(self) -> None:
        """Nothing but the wrapper is left, and it should have told the exit code: it may have been stopped."""
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        send_signal(self.pid, signal.SIGCONT if now - self._alone_since < _PATIENCE_SECONDS else signal.SIGKILL)

    def _wrapper_is_gone(self) -> bool:
        if self._pidfd is None:
            return not os.path.isdir(f"/proc/{self.pid}")  # noqa: PTH112
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))


def _fifo(path: str) -> int:
    """A new FIFO that anybody in the task may write to: the command's user is its image's choice. Its reading end."""
    _make_fifo(path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _make_fifo(path: str) -> None:
    """Made under another name: the wrapper must not find it before it may be opened."""
    os.mkfifo(f"{path}.new", 0o600)
    os.chmod(f"{path}.new", 0o666)  # noqa: PTH101, S103
    os.rename(f"{path}.new", path)  # noqa: PTH104


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _MAX_REPORT_BYTES)
    except BlockingIOError:
        return b""


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError) as error:
        remark(f"the wrapper is looked for in /proc: {error}")
        return None
