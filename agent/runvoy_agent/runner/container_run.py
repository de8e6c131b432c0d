"""One run in a container: get the image, make the container, start and supervise it, remove it.

Everything that a run is made of (claim, spool, deadlines, reports) is what it is for a host process. The image is pulled
in a step of its own, before the command's clock starts: its progress is runvoy's to tell, and its failure a reason.
"""

from __future__ import annotations

import copy
import os
import sys

from runvoy_agent.runner import engine, process
from runvoy_agent.runner.container_command import Client, ContainerCommand, init_failure
from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.engine import Variables
from runvoy_agent.runner.output import Output, masked
from runvoy_agent.runner.payload import Payload
from runvoy_agent.runner.process import Command
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.removal import remove_tree
from runvoy_agent.runner.report import Reports
from runvoy_agent.runner.signals import Signals
from runvoy_agent.runner.spool import Spool
from runvoy_agent.runner.supervise import Supervisor

_PULL_SECONDS = 900.0
_STEP_SECONDS = 120.0
_COPY_SECONDS = 600.0
_STEP_GRACE_SECONDS = 5.0
_HEAD_BYTES = 4096
_LINE_BYTES = 1000


class ContainerOutput(Output):
    """Also takes what the engine's client says: `pull` is shown line by line as runvoy's own, `step` and `answer`
    are only kept as `said`, `unheard` is dropped. `head` is all that the container wrote, as long as that is little: else None."""

    head: bytes | None = b""

    def feed(self, stream: str, data: bytes) -> None:
        if stream in ("out", "err"):
            if self.head is not None:
                self.head = self.head + data if len(self.head) + len(data) <= _HEAD_BYTES else None
            super().feed(stream, data)
        elif stream != "unheard":
            self._hear(stream, data)

    def begin_step(self) -> None:
        self.said: list[str] = []
        self._rest = {"pull": b"", "pull-err": b"", "step": b"", "answer": b""}

    def _hear(self, stream: str, data: bytes) -> None:
        """Take lines; the stream's end, b"", ends the last."""
        *lines, rest = (self._rest[stream] + (data or b"\n")).replace(b"\r", b"\n").split(b"\n")
        self._rest[stream] = rest[:_LINE_BYTES]
        for line in lines:
            if text := line.decode("utf-8", "replace").strip()[:_LINE_BYTES]:
                self.said.append(text)
                if stream.startswith("pull"):
                    self.note(f"pull: {text}")


class ContainerRun:
    """The run of one payload. `run` returns whether nothing of it is left."""

    def __init__(self, run_dir: str, payload: Payload, signals: Signals) -> None:
        self._run_dir = run_dir
        self._payload = payload
        self._signals = signals
        self._ending = Ending()
        self._spool = Spool(run_dir, payload.execution_id)
        self._output = masked(ContainerOutput, self._spool, payload.masked, payload.max_log_bytes)
        self._clock = Clock()  # set anew when the command is about to start: until then no deadline runs
        self._client = Client(engine.decode(os.environ[engine.VARIABLE]), payload.execution_id, run_dir)
        self._checkout = f"{run_dir}/checkout"
        self._begins = ""  # the working directory in the container, if it is not its image's
        self._is_made: bool | None = None  # the container; None: it was never asked for
        self._is_lost = False

    def run(self) -> bool:
        ending = self._ending
        try:
            # No reaper of orphans here: podman's monitors are such, and must outlive the container to clean up.
            process.guard()
            if self._image_is_here() and self._clone() and self._create() and self._copy():
                self._start_and_supervise()
        except (OSError, process.ExecError) as error:
            ending.settle("setup_failed", f"the container could not be set up: {error}")
        if ending.outcome in ("setup_failed", "exec_failed"):
            self._output.note(ending.message)
        self._output.end()
        if not self._is_lost:  # without a result it ends UNKNOWN, once it is seen to be gone
            Reports(self._payload, self._spool, self._clock).result(ending, self._output)
        if not self._spool.is_empty:
            self._remove_checkout()  # it may be what takes the room
        self._spool.finish()
        self._remove_checkout()
        return self._nothing_is_left() and not self._is_lost and ending.survivors == 0

    def _remove_checkout(self) -> None:
        if self._payload.git is not None:
            for failure in remove_tree(self._checkout) if os.path.isdir(self._checkout) else ():  # noqa: PTH112
                remark(f"the checkout was not removed: {failure}")

    def _nothing_is_left(self) -> bool:
        if self._is_made is None:
            return True
        # Not made, for its name was in use: the other is left alone, but it counts as this run's as long as it is there.
        return self._client.remove() if self._is_made else self._client.state().status == "gone"

    def _image_is_here(self) -> bool:
        spec = self._client.spec
        if self._step("answer", engine.has_image(spec), _STEP_SECONDS) == 0 and (
            spec.platform is None or spec.platform in self._output.said
        ):
            return True
        if self._ending.outcome:
            return False
        wanted = spec.image if spec.platform is None else f"{spec.image} for {spec.platform}"
        self._output.note(f"pulling the image {wanted}")
        code = self._step("pull", engine.pull(spec), _PULL_SECONDS)
        if code not in (0, None):
            why = self._output.said[-1] if self._output.said else f"exit code {code}"
            self._ending.settle("setup_failed", f"the image {wanted!r} was not found or cannot be pulled: {why}")
        return code == 0

    def _clone(self) -> bool:
        """Clone on this machine, so that no secret for it gets into the container; `_copy` takes it there."""
        if self._payload.git is None:
            return True
        from runvoy_agent.runner.git_clone import Clone, Place

        os.mkdir(self._checkout, 0o700)  # noqa: PTH102 - as everywhere here
        work_dir = f"{self._checkout}/work"
        clone = Clone(
            self._payload,
            self._payload.git,
            Place(work_dir, is_shared=True),
            self._signals,
            self._output,
            self._spool,
            is_killed=self._is_killed,
        )
        begins = clone.run(self._ending)
        if begins is not None:
            os.chmod(self._checkout, 0o755)  # noqa: PTH101, S103 - its mode is copied, too; it lies in a folder of 0700
            self._begins = engine.CHECKOUT + begins.removeprefix(os.path.realpath(work_dir))
        return begins is not None

    def _copy(self) -> bool:
        if self._payload.git is None:
            return True
        code = self._step(
            "step", engine.copy(self._client.spec, self._payload.execution_id, self._checkout), _COPY_SECONDS
        )
        if code not in (0, None):
            why = " ".join(self._output.said[-3:]) or f"exit code {code}"
            self._ending.settle("setup_failed", f"the checkout could not be copied into the container: {why}")
        return code == 0

    def _create(self) -> bool:
        payload = self._payload
        own = {b"RUNVOY_EXECUTION_ID": payload.execution_id.encode()}
        variables = Variables(payload.env | payload.checkout_variables(engine.CHECKOUT) | payload.secrets | own)
        if variables.refused or not payload.argv[0]:
            why = variables.refused or "the command's first word is empty"
            self._ending.settle("setup_failed", f"the container could not be made: {why}")
            return False
        _hand_over(variables)
        spec = self._client.spec
        argv = engine.create(spec, payload.execution_id, payload.attempt, payload.argv, variables, self._begins)
        code = self._step("step", argv, _STEP_SECONDS, variables)
        if variables.fd:
            os.close(variables.fd)
        self._is_made = code in (0, None)  # cut off, nobody knows
        if code == 0:
            for line in self._output.said:  # warnings, such as of a limit that was not applied
                self._output.note(line)
        elif code is not None:
            why = " ".join(self._output.said[-3:]) or f"exit code {code}"
            self._ending.settle("setup_failed", f"the container could not be made: {why}")
        return code == 0

    def _start_and_supervise(self) -> None:
        if self._is_killed():
            return
        ending, output = self._ending, self._output
        out, err = _pipe(), _pipe()
        self._clock = Clock()
        command = ContainerCommand(self._client, (out[1], err[1]), ending, output.note)
        Reports(self._payload, self._spool, self._clock).started(command.pid)
        self._supervise(command, self._payload, {out[0]: "out", err[0]: "err"}, ending, self._clock)
        self._is_lost = command.is_lost
        failure = init_failure(output.head, ending.exit_code) if output.head is not None else None
        if failure is not None and ending.outcome == "exited":
            ending.outcome, ending.exit_code = "exec_failed", failure[0]
            word = ascii(self._payload.argv[0].decode("utf-8", "replace"))
            ending.message = f"cannot run {word} in the image {self._client.spec.image!r}: {failure[1]}"
        elif ending.outcome == "setup_failed":
            ending.exit_code = None

    def _step(
        self, stream: str, argv: list[str] | list[bytes], seconds: float, variables: Variables | None = None
    ) -> int | None:
        """Run a client to its end; its exit code. None if it was cut off by a kill or the time: the ending says so."""
        if self._is_killed():
            return None
        limits = copy.copy(self._payload)
        limits.timeout_seconds, limits.grace_seconds = seconds, _STEP_GRACE_SECONDS
        ending = Ending()
        self._output.begin_step()
        out, err = _pipe(), _pipe()
        command = self._client.spawn(argv, out[1], err[1], variables)
        for written in (out[1], err[1]):
            os.close(written)
        streams = {
            out[0]: "unheard" if stream == "step" else stream,
            err[0]: "pull-err" if stream == "pull" else "step",
        }
        self._supervise(command, limits, streams, ending, Clock())
        if ending.outcome == "killed":
            self._ending.settle("killed", "killed before the command started")
        elif ending.outcome == "timed_out":
            what = "the image was not pulled" if stream == "pull" else "the container engine did not answer"
            self._ending.settle("setup_failed", f"{what} within {seconds:g} seconds")
        else:
            return ending.exit_code
        return None

    def _supervise(
        self, command: Command, payload: Payload, streams: dict[int, str], ending: Ending, clock: Clock
    ) -> None:
        Supervisor(command, payload, self._signals, streams, self._output, self._spool, ending, clock).supervise()

    def _is_killed(self) -> bool:
        if self._signals.kill_wanted or os.path.lexists(f"{self._run_dir}/kill"):
            self._ending.settle("killed", "killed before the command started")
        return self._ending.outcome == "killed"


def run_in_container(run_dir: str, payload: Payload, signals: Signals) -> bool:
    """Run a claimed execution to its end; whether nothing of it is left."""
    return ContainerRun(run_dir, payload, signals).run()


def _pipe() -> tuple[int, int]:
    read, written = os.pipe()
    os.set_blocking(read, False)
    return read, written


def _hand_over(variables: Variables) -> None:
    """Give the listed variables a file that only the client can open: in memory, or without a name."""
    if not variables.listed:
        return
    if sys.platform == "linux":
        variables.fd = os.memfd_create("variables")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            variables.fd = os.dup(file.fileno())
    rest = memoryview(variables.file())
    while rest:
        rest = rest[os.write(variables.fd, rest) :]
    os.lseek(variables.fd, 0, os.SEEK_SET)
    variables.path = f"/dev/fd/{variables.fd}"
