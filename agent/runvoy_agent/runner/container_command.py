"""A command in a container, to the supervisor a command like any other.

What is waited for is the engine's client in the foreground, but its word is not what counts: a client may be killed, and
an engine restarted, while the container goes on. Whenever the client ends the engine is asked for the container's state.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

from runvoy_agent.runner import engine, process
from runvoy_agent.runner.ending import Ending
from runvoy_agent.runner.engine import Spec, State, Variables
from runvoy_agent.runner.process import Command
from runvoy_agent.runner.remarks import remark

_ANSWER_SECONDS = 10.0
_PAUSE_SECONDS = 1.0
_TERM_AGAIN_SECONDS = 0.2
_PATIENCE_SECONDS = 120.0  # an engine that restarts answers again by then
_SIGNAL_BASE = 128
# What docker's and podman's init say, and nothing else comes from the container, when there is no such program in it.
_INIT_FAILED = re.compile(
    rb"(?:ERROR \(catatonit:\d+\): failed to exec pid1: |\[FATAL tini \(\d+\)\] exec .* failed: )([^\n]+)\n?\Z"
)


class Client:
    """The engine's client as this runner's execution needs it. `env` is the machine's, never the command's."""

    def __init__(self, spec: Spec, execution_id: str, folder: str) -> None:
        self.spec = spec
        self.execution_id = execution_id
        self._folder = folder
        self._env = {name: value for name, value in os.environb.items() if name != engine.VARIABLE.encode()}
        # By this variable a client that outlives its runner is found.
        self._env[b"RUNVOY_EXECUTION_ID"] = execution_id.encode()

    def spawn(self, argv: list[str] | list[bytes], out: int, err: int, variables: Variables | None = None) -> Command:
        """Start a client in the background. Raises ExecError or OSError.

        It does not inherit the run's lock: what podman leaves behind for other containers would hold it for ever.
        """
        words = [os.fsencode(word) for word in argv]
        passed = variables.passed if variables is not None else {}
        keep = variables.fd if variables is not None else 0
        return process.start(words, self._env | passed, self._folder, out, err, keep)

    def ask(self, argv: list[str]) -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr of a client that answers at once; -1 if it did not."""
        try:
            done = subprocess.run(
                argv, env=self._env, cwd=self._folder, capture_output=True, timeout=_ANSWER_SECONDS, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            return -1, b"", str(error).encode()
        return done.returncode, done.stdout, done.stderr

    def state(self) -> State:
        return engine.read_state(self.execution_id, *self.ask(engine.inspect(self.spec, self.execution_id)))

    def remove(self) -> bool:
        """Remove the container, which has ended; whether it is gone."""
        self.ask(engine.remove(self.spec, self.execution_id))
        state = self.state()
        if state.status != "gone":
            remark(f"the container was not removed: {state.status} {state.error}")
        return state.status == "gone"


class ContainerCommand(Command):
    """A created container that is started here. `is_lost`: nobody knows how, or whether, it ended.

    SIGTERM goes to the container's init, which hands it to the command; SIGKILL ends everything in the container. What
    the engine says of the end is settled on `ending`; `note` writes to the log. `writers` are the pipes' ends that
    clients write to: kept open, so that another client can go on, until the container has ended.
    """

    def __init__(self, client: Client, writers: tuple[int, int], ending: Ending, note: Callable[[str], None]) -> None:
        """Raises ExecError or OSError: nothing was started."""
        self._client = client
        self._writers = writers
        super().__init__(client.spawn(engine.start(client.spec, client.execution_id), *writers).pid)
        self._ending = ending
        self._note = note
        self._exit_code: int | None = None  # of the client that started the container
        self._is_pausing = False
        self._silent_since: float | None = None
        self._senders: dict[int, int] = {}  # helper → the signal it sends; 0: send SIGTERM when it ends
        self._is_killing = False
        self._kill_again_at = 0.0
        self.is_lost = False

    def signal_all(self, number: int) -> int:
        """Once the container has ended: signal the clients that are left."""
        if self.status is not None:
            return super().signal_all(number)
        if number == signal.SIGKILL:
            self._is_killing = True
            if number in self._senders.values() or time.monotonic() < self._kill_again_at:
                return 1
            self._kill_again_at = time.monotonic() + _PAUSE_SECONDS
        name = signal.Signals(number).name.removeprefix("SIG")
        argv = engine.kill(self._client.spec, self._client.execution_id, name)
        try:
            self._senders[self._client.spawn(argv, 0, 2).pid] = number  # its stdout is /dev/null
        except (OSError, process.ExecError) as error:
            remark(f"the container cannot be signalled: {error}")
        return 1

    def end_group(self) -> None:
        """Nothing of a container is in a group of this machine's."""

    def _ended(self, pid: int, status: int) -> None:
        if pid == self.pid and self.status is None:
            self._client_ended(os.waitstatus_to_exitcode(status))
        elif pid in self._senders:
            self._sent(self._senders.pop(pid), status)

    def _sent(self, number: int, status: int) -> None:
        if self.status is not None or self._is_killing:
            return
        if number == 0:
            self.signal_all(signal.SIGTERM)
        elif status != 0:
            # The container was being started: there was nobody yet to get it.
            self._senders[_pause(_TERM_AGAIN_SECONDS)] = 0

    def _client_ended(self, exit_code: int) -> None:
        if self._exit_code is None:
            self._exit_code = exit_code
        state = self._client.state()
        if not state.may_run:
            self._settle(state)
            return
        now = time.monotonic()
        if state.status != "silent":
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
            self._note(f"the container engine does not answer: {state.error}")
        elif now - self._silent_since > _PATIENCE_SECONDS:
            self.is_lost = True
            self._finish(0)
            return
        if self._is_pausing and state.status != "silent":
            self._note("the engine's client ended before the container; some output may be lost")
            argv = engine.attach(self._client.spec, self._client.execution_id)
            self.pid, self._is_pausing = self._client.spawn(argv, *self._writers).pid, False
        else:
            self.pid, self._is_pausing = _pause(_PAUSE_SECONDS), True

    def _settle(self, state: State) -> None:
        code = state.exit_code & 255
        if state.status == "gone":
            self._ending.settle("signalled", "the container was removed by someone else")
            self._finish(signal.SIGKILL)
        elif state.never_ran:
            self._settle_unstarted(state)
        elif state.oom_killed and code == _SIGNAL_BASE + signal.SIGKILL:
            limit = f" of {self._client.spec.memory_mib} MiB" if self._client.spec.memory_mib else ""
            self._ending.settle("signalled", f"it ran out of memory: the limit{limit} was reached")
            self._finish(signal.SIGKILL)
        else:
            if state.oom_killed:
                self._note("a process of the container was killed for want of memory")
            self._finish(code << 8)

    def _settle_unstarted(self, state: State) -> None:
        code = state.exit_code or self._exit_code or 0
        why = state.error or "the engine says why in the log"
        if code in (process.NOT_EXECUTABLE, process.NOT_FOUND):
            self._ending.settle("exec_failed", f"the container could not run the command: {why}")
            self._finish(code << 8)
        else:
            self._ending.settle("setup_failed", f"the container could not be started: {why}")
            self._finish(0)

    def _finish(self, status: int) -> None:
        self.status = status
        for written in self._writers:
            os.close(written)


def init_failure(said: bytes, exit_code: int | None) -> tuple[int, str] | None:
    """The exit code and the reason, if all that came from the container is its init's word that it cannot run the command.

    The init is there for the signals' sake; without it the engine itself would say this.
    """
    if exit_code not in (1, process.NOT_EXECUTABLE, process.NOT_FOUND) or not (found := _INIT_FAILED.match(said)):
        return None
    reason = found[1].decode(errors="replace")
    return (process.NOT_FOUND if "No such file" in reason else process.NOT_EXECUTABLE), reason


def _pause(seconds: float) -> int:
    """A child that ends after a while: the supervisor's loop wakes when a child ends."""
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            time.sleep(seconds)
        finally:
            os._exit(0)
    return pid
