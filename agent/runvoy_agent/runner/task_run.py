"""One run beside the command's container: hand the command over, supervise it, upload what it says and how it ended.

The task ends with the runner, so nothing of it can be left behind.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from runvoy_agent.runner import handover, metadata, process
from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.git_clone import Clone, Place
from runvoy_agent.runner.http_calls import Connections
from runvoy_agent.runner.output import Output, masked
from runvoy_agent.runner.payload import Payload
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.report import Reports
from runvoy_agent.runner.run_grant import RunGrant
from runvoy_agent.runner.signals import Signals
from runvoy_agent.runner.supervise import Supervisor
from runvoy_agent.runner.task_command import NotHandedOver, TaskCommand, Wrapper
from runvoy_agent.runner.uploads import Uploader

STOP_SECONDS = 120.0
"""How long the platform lets a task live that it stops (the containers' stopTimeout, and all that Fargate allows)."""
MAX_GRACE_SECONDS = 90.0
_SPARE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 2.0
_LOG_WAIT_SECONDS = 0.05
_LOG_HURRY_SECONDS = 1.0  # so long it is not waited for again: that would slow the command down


class TaskOutput(Output):
    """Also shows what is shown on the runner's own streams, from where the platform takes it to its log.

    That one is a convenience: it is not waited for long, and what it does not take is counted.
    """

    unseen_bytes = 0
    _hurried_until = 0.0

    def _frame(self, stream: str, data: bytes) -> None:
        super()._frame(stream, data)
        rest = memoryview(data)
        fd = 1 if stream == "out" else 2
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                if not self._can_take_more(fd):
                    break
            except OSError:
                break  # nobody reads it
        self.unseen_bytes += len(rest)

    def _can_take_more(self, fd: int) -> bool:
        if time.monotonic() < self._hurried_until:
            return False
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(_LOG_WAIT_SECONDS * 1000):
            return True
        self._hurried_until = time.monotonic() + _LOG_HURRY_SECONDS
        return False


class TaskRun:
    """The run of one payload. Raises PayloadError when its grant is none."""

    def __init__(self, folder: str, payload: Payload, signals: Signals) -> None:
        payload.grace_seconds = min(payload.grace_seconds, MAX_GRACE_SECONDS)
        self._folder = folder
        self._payload = payload
        self._signals = signals
        self._ending = Ending()
        self._uploader = Uploader(RunGrant(payload, Connections()))
        for fd in (1, 2):
            os.set_blocking(fd, False)
        self._output = masked(TaskOutput, self._uploader, payload.masked, payload.max_log_bytes)
        self._clock = Clock()  # set anew when the command is about to start: until then no deadline runs
        self._waits_until = self._clock.started + payload.start_seconds
        self._look_at = self._clock.started + _LOOK_EVERY_SECONDS
        self._endpoint = os.environ.get("ECS_CONTAINER_METADATA_URI_V4", "")

    def run(self) -> bool:
        """Run to the end; whether all of it was uploaded, so that the result counts and not the platform's word."""
        try:
            self._start_and_supervise()
        except (NotHandedOver, handover.Unquotable, OSError) as error:
            self._ending.settle("setup_failed", f"the command was not started: {error}")
        if self._ending.outcome == "setup_failed":
            self._ending.exit_code = self._ending.signal = None
            self._output.note(self._ending.message)
        self._output.end()
        Reports(self._payload, self._uploader, self._clock).result(self._ending, self._output)
        is_whole = self._uploader.finish(self._give_up_shipping_at(time.monotonic()))
        if self._output.unseen_bytes:
            remark(f"{self._output.unseen_bytes:,} bytes of the output are in the execution's log alone")
        if not is_whole:
            remark(f"the log and the result were not uploaded: {self._uploader.failure}")
        return is_whole

    def _start_and_supervise(self) -> None:
        payload, ending = self._payload, self._ending
        process.guard()  # the command, which shares the PID namespace and perhaps the user, must not read this process
        begins = self._clone()
        if begins is None:
            return
        wrapper = Wrapper(self._folder, self._why_not_to_wait)
        told = payload.checkout_variables(f"{self._folder}/work")
        env = payload.env | told | payload.secrets | {b"RUNVOY_EXECUTION_ID": payload.execution_id.encode()}
        command = wrapper.hand_over(handover.script(payload.argv, env, self._folder, begins), ending)
        self._clock = Clock()
        wrapper.start()
        Reports(payload, self._uploader, self._clock).started(command.pid)
        self._supervise(command, {wrapper.out: "out", wrapper.err: "err"})

    def _clone(self) -> str | None:
        """Clone into the shared folder, if there is something to clone: where the command begins, "" where its image says. None
        if there is no checkout, and the ending says why."""
        if self._payload.git is None:
            return ""
        clone = Clone(
            self._payload,
            self._payload.git,
            Place(f"{self._folder}/work", is_shared=True, tools_folder=f"{self._folder}/git-tools"),
            self._signals,
            self._output,
            self._uploader,
            is_killed=lambda: False,  # here a kill is a signal, always
        )
        begins = clone.run(self._ending)
        self._waits_until = time.monotonic() + self._payload.start_seconds
        return begins

    def _supervise(self, command: TaskCommand, streams: dict[int, str]) -> None:
        Supervisor(
            command, self._payload, self._signals, streams, self._output, self._uploader, self._ending, self._clock
        ).supervise()

    def _why_not_to_wait(self) -> str:
        """Whether, and why, the wrapper is not waited for any longer."""
        now = time.monotonic()
        self._output.tick(now)
        if self._signals.kill_wanted:
            self._ending.settle("killed", "killed before the command started")
            return "killed"
        is_late = now >= self._waits_until
        if not is_late and now < self._look_at:
            return ""
        self._look_at = now + _LOOK_EVERY_SECONDS
        container = metadata.look(self._endpoint)
        if is_late:
            return f"its container did not come within {self._payload.start_seconds:g} s: {container}"
        return f"{container}: its image may lack a /bin/sh that works" if container.has_ended else ""

    def _give_up_shipping_at(self, ended: float) -> Callable[[], float]:
        def at() -> float:
            in_time = ended + self._payload.ship_seconds
            if self._signals.kill_wanted:
                return min(in_time, self._signals.kill_wanted_at + STOP_SECONDS - _SPARE_SECONDS)
            return in_time

        return at
