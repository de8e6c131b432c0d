"""Tasks that really run: the image's shell and the runner as process trees, told only what the overrides tell a container."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from tests.aws.fake_ecs import Ended, Task
from tests.servers import task_processes

from runvoy_protocol import aws_layout

_STOP_SECONDS = 120


class RealTasks:
    """As ECS runs them: the task ends with its runner; whoever stops it sends SIGTERM to both containers."""

    def __init__(self, certificate: Path) -> None:
        shell = shutil.which("dash") or shutil.which("sh")
        if shell is None:
            pytest.skip("there is no shell on this machine")
        self._shell = shell
        self._certificate = certificate
        self._running: dict[str, tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, task: Task, ended: Ended) -> None:
        folder = Path(tempfile.mkdtemp(prefix="rvlive"))
        folder.chmod(0o755)
        main = task_processes.start_main(folder, self._shell)
        trust = {"SSL_CERT_FILE": str(self._certificate)}
        runner = task_processes.start_runner(folder, task.environment[aws_layout.RUNNER_CONTAINER] | trust)
        with self._lock:
            self._running[task.arn] = (main, runner)
        thread = threading.Thread(target=self._watch, args=(task, folder, main, runner, ended))
        self._threads.append(thread)
        thread.start()

    def stop(self, task: Task) -> None:
        with self._lock:
            containers = self._running.get(task.arn, ())
        for container in containers:
            with contextlib.suppress(ProcessLookupError):
                container.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End what still runs, as a machine that is switched off does."""
        with self._lock:
            left = [container for containers in self._running.values() for container in containers]
        for container in left:
            container.kill()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def _watch(
        self,
        task: Task,
        folder: Path,
        main: subprocess.Popen[bytes],
        runner: subprocess.Popen[bytes],
        ended: Ended,
    ) -> None:
        task.runner_exit_code = _code(runner.wait())
        with contextlib.suppress(ProcessLookupError):
            main.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            main.wait(1)
        task_processes.end(task.environment[aws_layout.RUNNER_CONTAINER][aws_layout.TASK_ENV_EXECUTION], folder, main)
        with self._lock:
            del self._running[task.arn]
        ended(_code(main.wait()), "Essential container in task exited")


def _code(returned: int) -> int:
    """As a container's: 128 and the signal's number for one that a signal ended."""
    return returned if returned >= 0 else 128 - returned
