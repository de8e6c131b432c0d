"""What of a run lives in a container: seen, ended and cleared away from outside, when its runner is gone.

A run's folder says in `container.json` that it has a container, and which engine: it is written before the runner is
started. The engine is asked only when no process of the run lives. While it does not answer the run counts as alive:
its locks are not released on a guess.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runvoy_agent.local.durable import temporary_file
from runvoy_agent.local.engines import Engines
from runvoy_agent.ports import Launch
from runvoy_agent.runner import engine
from runvoy_agent.runner.engine import Spec, State

_log = logging.getLogger(__name__)
_SPEC_FILE = "container.json"
_SPEC_BYTES = 64 * 1024
_ANSWER_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0
_REMOVE_TRIES = 5
_TELL_AGAIN_SECONDS = 1.0


class Containers:
    """The containers of one runs folder's runs."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._closing = threading.Event()
        self._changed = threading.Lock()
        self._followed: dict[str, threading.Thread] = {}
        self._waiting: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, folder: Path, launch: Launch) -> dict[str, str] | str:
        """The environment that makes a runner run this in a container, once that is on record; or why it cannot be."""
        if problem := engine.image_problem(launch.image or ""):
            return problem
        if launch.task_role is not None:
            return f"there are no task roles on this machine, so nothing can run as {launch.task_role!r}"
        found = self._engines.find()
        if found.path is None:
            return f"no container engine works here ({found.why}); `isolation: process` runs on the machine itself"
        spec = Spec(found.path, launch.image or "", launch.cpu, launch.memory_mib, launch.platform)
        folder.mkdir(mode=0o700, exist_ok=True)
        with temporary_file(folder, spec.encode().encode()) as written:
            written.replace(folder / _SPEC_FILE)
        return {**self._engines.environment, engine.VARIABLE: spec.encode()}

    def lives(self, folder: Path) -> bool:
        """Whether the run has a container that runs, or may run for all we know."""
        spec = _read(folder)
        return spec is not None and self._state(spec, folder.name).may_run

    def end(self, folder: Path, grace_seconds: float) -> None:
        """SIGTERM, grace, SIGKILL. Returns when the container does not run any more, or the stack closes."""
        spec = _read(folder)
        if spec is None:
            return
        kill_at = time.monotonic() + grace_seconds
        wanted = "TERM"
        while not self._closing.is_set() and self._state(spec, folder.name).may_run:
            self._ask(engine.kill(spec, folder.name, wanted))
            left = kill_at - time.monotonic()
            self._await_end(spec, folder.name, max(0.5, left if wanted == "TERM" else 0.0))
            if time.monotonic() >= kill_at:
                wanted = "KILL"
            self._closing.wait(_FIRST_PAUSE_SECONDS)

    def follow(self, folder: Path, on_gone: Callable[[], None]) -> bool:
        """Call `on_gone`, in a thread, once the run's container has ended and was removed; False if it never had one.

        A second call for a run that is followed adds nothing.
        """
        spec = _read(folder)
        if spec is None:
            return False
        with self._changed:
            if folder.name not in self._followed and not self._closing.is_set():
                name = f"runvoy-container-{folder.name}"
                thread = threading.Thread(
                    target=self._follow, args=[spec, folder.name, on_gone], name=name, daemon=True
                )
                self._followed[folder.name] = thread
                thread.start()
        return True

    def close(self) -> None:
        """Stop following; the containers go on."""
        with self._changed:
            self._closing.set()
            for waiting in self._waiting.values():
                waiting.terminate()
            threads = list(self._followed.values())
        for thread in threads:
            thread.join()

    def _follow(self, spec: Spec, execution_id: str, on_gone: Callable[[], None]) -> None:
        pause = _FIRST_PAUSE_SECONDS
        tries = 0
        while not self._closing.is_set():
            state = self._state(spec, execution_id)
            if state.may_run:
                if state.status == "silent":
                    _log.warning("nobody knows what became of the container of %s: %s", execution_id, state.error)
                else:
                    self._await_end(spec, execution_id, None)
            elif state.status == "gone" or tries == _REMOVE_TRIES:
                break
            else:
                tries += 1
                if self._ask(engine.remove(spec, execution_id))[0] == 0:
                    break
            self._closing.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        while not self._closing.is_set():
            try:
                on_gone()
                break
            except Exception:  # noqa: BLE001 - whatever it is (a full disk), the end must be told
                _log.exception("cannot tell of the end of %s; trying again", execution_id)
                self._closing.wait(_TELL_AGAIN_SECONDS)
        with self._changed:
            del self._followed[execution_id]

    def _await_end(self, spec: Spec, execution_id: str, seconds: float | None) -> None:
        """A client that waits, so that nobody has to look again and again."""
        try:
            waiting = subprocess.Popen(
                engine.wait(spec, execution_id),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._engines.environment,
                cwd="/",
            )
        except OSError as error:
            _log.warning("cannot wait for the container of %s: %s", execution_id, error)
            return
        with waiting:
            key = f"{execution_id} {waiting.pid}"
            with self._changed:
                self._waiting[key] = waiting
                if self._closing.is_set():
                    waiting.terminate()
            try:
                waiting.wait(seconds)
            except subprocess.TimeoutExpired:
                waiting.kill()
            with self._changed:
                del self._waiting[key]

    def _state(self, spec: Spec, execution_id: str) -> State:
        return engine.read_state(execution_id, *self._ask(engine.inspect(spec, execution_id)))

    def _ask(self, argv: list[str]) -> tuple[int, bytes, bytes]:
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._engines.environment,
                cwd="/",
                timeout=_ANSWER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return -1, b"", str(error).encode()
        return done.returncode, done.stdout, done.stderr


def _read(folder: Path) -> Spec | None:
    """The run's container; None if it has none."""
    try:
        with (folder / _SPEC_FILE).open("rb") as file:
            return engine.decode(file.read(_SPEC_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        # Only a process of our own user can have done this.
        _log.warning(
            "%s cannot be read, and what may run in a container is not looked for: %s", folder / _SPEC_FILE, error
        )
        return None
