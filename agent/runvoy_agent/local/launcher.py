"""The launcher of the embedded stack: a runner process per execution, at most one, whoever dies.

A run's folder, `runs/{execution_id}` (0700), holds

    kill             somebody wants the run to end
    container.json   the run has a container: which engine's, and of what image
    work/            the command's working directory
    spool/           what the runner has written and nobody has taken in yet: logs/00000001…, started.json, result.json
    runner.log       the runner's own words

and beside the folders are

    claims/{id}      the claim: which runner runs it. Exists once the run may have begun, and stays when all else is removed, be it
                     by the command. The runner and the command hold a lock on it as long as they live
    bell             the FIFO by which runners tell that there is something in their spools

The claim is the execution's, not the attempt's: on one machine a claimed run has begun, so a further attempt would run
the command twice and is refused.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runvoy_agent.local import processes, run_claims, runner_start
from runvoy_agent.local.containers import Containers
from runvoy_agent.local.run_claims import Claim
from runvoy_agent.local.watch import Watched, Watcher
from runvoy_agent.ports import (
    Attempt,
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    NoCapacity,
    TaskState,
    Unavailable,
)
from runvoy_agent.runner.run import NOTE_VARIABLE
from runvoy_protocol.ids import is_execution_id

_log = logging.getLogger(__name__)
_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR")
_ANSWER_SECONDS = 60.0
_GRACE_SECONDS = 30.0
_RUNNER_SECONDS = 120.0
_KILL_AGAIN_SECONDS = 0.1
_EXIT_BAD_PAYLOAD = 64
_CPU_UNITS = 1024  # of one vCPU


def default_max_running() -> int:
    """How many runs one machine takes at once: commands mostly wait for something else."""
    return max(16, 8 * (os.cpu_count() or 1))


class ProcessLauncher:
    """Starts runners as processes of this machine (ports.Launcher). With `containers` a runner may run its command in one.

    `on_stopped(execution_id, attempt)` is called once when nothing of a run lives any more, whatever became of it: look
    at its spool and at `describe`. `on_bell(execution_id)` says that there is something in its spool. Both are called in
    a watching thread and must only hand over. `shortage()` says why nothing can be started now, if that is so.
    """

    def __init__(  # noqa: PLR0913 - most are for tests
        self,
        runs_folder: Path,
        on_stopped: Callable[[str, int], None],
        on_bell: Callable[[str], None],
        *,
        max_running: int | None = None,
        grace_seconds: float = _GRACE_SECONDS,
        runner_seconds: float = _RUNNER_SECONDS,
        environment: Mapping[str, str] | None = None,
        containers: Containers | None = None,
        shortage: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._runs_folder = runs_folder.resolve()
        self._runs_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_claims.make_folder(self._runs_folder)
        self._tell_stopped = on_stopped
        self._max_running = max_running or default_max_running()
        self._grace_seconds = grace_seconds
        self._runner_seconds = runner_seconds
        source = os.environ if environment is None else environment
        self._environment = {name: source[name] for name in _KEPT_VARIABLES if name in source}
        self._containers = containers
        self._shortage = shortage
        self._room = threading.Condition()
        self._starting: dict[str, int] = {}  # execution id → starts under way
        self._watched: set[str] = set()
        self._begun: dict[str, Claim] = {}  # those of them that were seen claimed, and what ended without its claim
        self._ending: set[str] = set()
        self._told: dict[str, float] = {}  # execution id → since when its runner is told to end, monotonic
        self._watcher = Watcher(self._runs_folder, self._on_stopped, on_bell)

    # --- the port ---

    def start(self, launch: Launch) -> LaunchOutcome:
        """Returns once a runner has claimed the run, this one's or an earlier one's, or has ended without that.

        Raises Unavailable if none came that far in time: trying again is safe, whatever becomes of it.
        """
        if not is_execution_id(launch.execution_id):
            raise ValueError("an execution id is a UUID in 32 hex digits")
        claim = self._claim(launch.execution_id)
        if claim is not None:
            return self._adopt(launch, claim)
        if (shortage := self._shortage()) is not None:
            return NoCapacity(shortage)
        if not self._take_room(launch.execution_id):
            return NoCapacity(f"{self._max_running} runs are under way on this machine")
        try:
            environment = (
                self._prepare_process(launch) if launch.isolation == "process" else self._prepare_container(launch)
            )
            return LaunchRefused(environment) if isinstance(environment, str) else self._start(launch, environment)
        finally:
            self._give_room(launch.execution_id)

    def stop(self, execution_id: str, attempt: int) -> None:  # noqa: ARG002 - one machine runs one attempt
        """The runner does the steps of a deadline; without one they are done from here. A stop before the start counts.

        One that still lives when it is told again, `runner_seconds` after it was told first, hangs: it is killed. It may take as long
        as a task's runner on AWS, and is told until it is seen stopped.
        """
        folder = self._folder(execution_id)
        claim = self._claim(execution_id)
        if claim is not None and not self._lives(execution_id, claim):
            return
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / processes.KILL_MARKER).touch(mode=0o600)
        except OSError as error:
            # Who has claimed the run is told all the same, be the disk full or its folder closed by its command.
            if claim is None:
                raise Unavailable(f"{execution_id} cannot be told to end: {error}") from error
        # The runner looks for the marker after its claim: it sees the marker, or we see the claim.
        claim = self._claim(execution_id)
        if claim is None and not self._is_found(execution_id):
            return
        claim = claim or run_claims.NOBODY
        if self._hangs(execution_id):
            _log.warning("the runner of %s did not end in time, and is killed", execution_id)
            processes.kill_runner(claim, folder)
        elif processes.signal_runner(claim, folder):
            return
        with self._room:
            if execution_id in self._ending:
                return
            self._ending.add(execution_id)
        name = f"runvoy-end-{execution_id}"
        threading.Thread(target=self._end_survivors, args=[execution_id], name=name, daemon=True).start()

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        """`missing`: never seen claimed, or claimed by another attempt, and nothing of it lives.

        The command may find its claim, and remove or rewrite it: what lives is running, whatever it says.
        """
        claim = self._claim(execution_id)
        if claim is None or claim.attempt not in (attempt, 0):
            with self._room:
                is_watched = execution_id in self._watched
            return TaskState("running" if is_watched or self._is_found(execution_id) else "missing")
        if not self._lives(execution_id, claim):
            return TaskState("stopped")
        return TaskState("running", supervised=processes.is_supervised(claim, self._folder(execution_id)))

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        """All of them: what is on this machine is found by one look, and what is not is not there."""
        return {attempt: self.describe(*attempt) for attempt in attempts}

    @property
    def relaunch_window(self) -> None:
        """None: a claim is for ever, so a launch may be sent again at any time."""
        return

    # --- the stack ---

    def adopt_all(self) -> int:
        """Watch every claimed run that was not forgotten yet, ended ones included; how many."""
        count = 0
        for execution_id in run_claims.claimed(self._runs_folder):
            claim = run_claims.read(self._folder(execution_id))
            if claim is not None:
                self._watch(execution_id, claim.attempt, None, claim)
                count += 1
        return count

    def wait_for_room(self, timeout_seconds: float | None = None, *, bulk: bool = False) -> bool:
        """Wait until a run could be started; False if that did not come about in time. `bulk`: until one could that leaves
        a quarter of the room to runs that people wait for."""
        most = self._max_running - (self._max_running // 4 if bulk else 0)
        with self._room:
            return self._room.wait_for(lambda: len(self._running()) < most, timeout_seconds)

    def close(self) -> None:
        """Stop watching; the runs go on, and `adopt_all` finds them."""
        self._watcher.close()
        if self._containers is not None:
            self._containers.close()

    # --- starting ---

    def _prepare_process(self, launch: Launch) -> dict[str, str]:
        """The runner's environment. What a process cannot be held to, its log shall say."""
        asked = [f"{launch.cpu / _CPU_UNITS:g} vCPU"] if launch.cpu is not None else []
        asked += [f"{launch.memory_mib} MiB of memory"] if launch.memory_mib is not None else []
        if not asked:
            return self._environment
        note = f"not limited to {' and '.join(asked)}: a process of the machine may use all that it has"
        return {**self._environment, NOTE_VARIABLE: note}

    def _prepare_container(self, launch: Launch) -> dict[str, str] | str:
        """The runner's environment, or why there can be no container. Never a host process instead."""
        if self._containers is None:
            return "this stack runs no containers; `isolation: process` runs on the machine itself"
        try:
            return self._containers.prepare(self._folder(launch.execution_id), launch)
        except OSError as error:
            raise Unavailable(f"the container cannot be put on record: {error}") from error

    def _start(self, launch: Launch, environment: dict[str, str]) -> LaunchOutcome:
        folder = self._folder(launch.execution_id)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            run_claims.make_folder(self._runs_folder)  # in case somebody removed it: no run could be claimed
            runner = runner_start.spawn(folder, environment)
        except OSError as error:
            return _unstarted(launch, f"the runner cannot be started: {error}")
        deadline = time.monotonic() + _ANSWER_SECONDS
        runner_start.deliver(runner, launch.payload, deadline)
        answer = runner_start.answer(runner, deadline)
        claim = run_claims.read(folder)
        if answer == b"claimed\n" or (claim is not None and runner.poll() is None and answer != b"taken\n"):
            if answer == b"claimed\n":
                claim = processes.claim_of(runner.pid, launch.attempt)
            self._watch(launch.execution_id, launch.attempt, runner, claim)
            return Launched(_task_ref(launch.execution_id))
        if answer is None:
            self._watch(launch.execution_id, launch.attempt, runner, None)
            raise Unavailable(f"the runner has claimed nothing within {_ANSWER_SECONDS:g} seconds")
        exit_code = runner.wait()
        if claim is not None:
            return self._adopt(launch, claim)
        said = runner_start.last_words(folder)
        if exit_code == _EXIT_BAD_PAYLOAD:
            return LaunchRefused(f"the runner refused its payload: {said}")
        return _unstarted(launch, f"the runner ended with {exit_code} before it claimed the run: {said}")

    def _adopt(self, launch: Launch, claim: Claim) -> LaunchOutcome:
        if claim.attempt not in (launch.attempt, 0):
            return LaunchRefused(f"attempt {claim.attempt} of this execution has begun on this machine already")
        # Without a folder and without a process its end was told; or else the reconciler sees that it was not.
        if self._folder(launch.execution_id).exists() or self._lives(launch.execution_id, claim):
            self._watch(launch.execution_id, launch.attempt, None, claim)
        return Launched(_task_ref(launch.execution_id))

    # --- what runs ---

    def _folder(self, execution_id: str) -> Path:
        return self._runs_folder / execution_id

    def _lives(self, execution_id: str, claim: Claim) -> bool:
        """Whether anything of a claimed run lives. The cheap signs first. A claim that says it is from before the machine was
        started anew is not believed either: the command may have written it, and its locks would be given away."""
        folder = self._folder(execution_id)
        if processes.is_runner_alive(claim, folder) or run_claims.is_locked(folder) or self._is_found(execution_id):
            return True
        return self._containers is not None and self._containers.lives(folder)

    def _is_found(self, execution_id: str) -> bool:
        """Whether a sweep finds a process of the run's, whatever its claim says."""
        folder = self._folder(execution_id)
        return bool(processes.survivors(folder) or processes.runners(folder))

    def _take_room(self, execution_id: str) -> bool:
        with self._room:
            if execution_id not in self._running() and len(self._running()) >= self._max_running:
                return False
            self._starting[execution_id] = self._starting.get(execution_id, 0) + 1
            return True

    def _give_room(self, execution_id: str) -> None:
        with self._room:
            self._starting[execution_id] -= 1
            if not self._starting[execution_id]:
                del self._starting[execution_id]
            self._room.notify_all()

    def _running(self) -> set[str]:
        """What takes room. Under the lock."""
        return self._watched | self._starting.keys()

    def _claim(self, execution_id: str) -> Claim | None:
        """The run's claim, as this stack saw it first: a command that finds it may change it later."""
        with self._room:
            seen = self._begun.get(execution_id)
        return seen or run_claims.read(self._folder(execution_id))

    def _watch(
        self, execution_id: str, attempt: int, runner: subprocess.Popen[bytes] | None, claim: Claim | None
    ) -> None:
        """Follow what was claimed, or may be yet."""
        with self._room:
            self._watched.add(execution_id)
            if claim is not None:
                self._begun.setdefault(execution_id, claim)
        self._watcher.watch(Watched(execution_id, attempt, runner))

    def _on_stopped(self, run: Watched) -> None:
        """No process of the run lives. A runner that left with 0 removed its container; else that may go on."""
        ended_cleanly = run.runner is not None and run.runner.returncode == 0
        containers = None if ended_cleanly else self._containers
        if containers is None or not containers.follow(self._folder(run.execution_id), lambda: self._gone(run)):
            self._gone(run)

    def _gone(self, run: Watched) -> None:
        has_claim = run_claims.read(self._folder(run.execution_id)) is not None
        with self._room:
            self._watched.discard(run.execution_id)
            # Without a claim nothing on disk says that it began, and until its end is on record it may be pushed again.
            if has_claim:
                self._begun.pop(run.execution_id, None)
            self._told.pop(run.execution_id, None)
            self._room.notify_all()
        self._tell_stopped(run.execution_id, run.attempt)

    def _hangs(self, execution_id: str) -> bool:
        """Whether its runner was told to end long ago; notes that it is told now."""
        now = time.monotonic()
        with self._room:
            return now - self._told.setdefault(execution_id, now) >= self._runner_seconds

    def _end_survivors(self, execution_id: str) -> None:
        """SIGTERM, grace, SIGKILL, for a command whose runner was killed."""
        folder = self._folder(execution_id)
        try:
            self._end_container(execution_id)
            for pid in processes.survivors(folder):
                processes.signal_process(pid, signal.SIGTERM)
            kill_at = time.monotonic() + self._grace_seconds
            while living := processes.survivors(folder):
                if time.monotonic() >= kill_at:
                    for pid in living:
                        processes.signal_process(pid, signal.SIGKILL)
                time.sleep(_KILL_AGAIN_SECONDS)
            self._end_container(execution_id)  # one of them may have been starting it
        finally:
            with self._room:
                self._ending.discard(execution_id)

    def _end_container(self, execution_id: str) -> None:
        if self._containers is not None:
            self._containers.end(self._folder(execution_id), self._grace_seconds)


def _unstarted(launch: Launch, why: str) -> NoCapacity:
    """No processes, no descriptors, no disk: it is tried again, and its status says for want of what it waits."""
    _log.warning("execution %s was not started, and is tried again: %s", launch.execution_id, why)
    return NoCapacity(why)


def _task_ref(execution_id: str) -> str:
    return f"process:{execution_id}"
