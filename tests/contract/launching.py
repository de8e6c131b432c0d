"""A folder of runs with launchers of one machine on it, on real processes."""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runvoy_agent.local import processes, run_claims
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.ports import Launch
from runvoy_protocol import ids


class Machine:
    """One runs folder, the launchers on it, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.changed = threading.Condition()
        self.stopped: list[tuple[str, int]] = []
        self.bells: list[str] = []
        self.launchers: list[ProcessLauncher] = []
        self.ids: list[str] = []

    def launcher(self, **options: Any) -> ProcessLauncher:
        made = ProcessLauncher(self.runs, self.on_stopped, self.on_bell, **options)
        self.launchers.append(made)
        return made

    def on_stopped(self, execution_id: str, attempt: int) -> None:
        with self.changed:
            self.stopped.append((execution_id, attempt))
            self.changed.notify_all()

    def on_bell(self, execution_id: str) -> None:
        with self.changed:
            self.bells.append(execution_id)
            self.changed.notify_all()

    def launch(
        self, command: list[str] | str, *, attempt: int = 1, isolation: Any = "process", **fields: Any
    ) -> Launch:
        execution_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        self.ids.append(execution_id)
        payload = {"execution_id": execution_id, "attempt": attempt, "execution_key": "00" * 32, "command": command}
        whole = json.dumps(payload | {"timeout_seconds": 60, "grace_seconds": 1} | fields).encode()
        return Launch(execution_id, attempt, isolation, None, None, None, whole)

    def await_stopped(self, launch: Launch, timeout: float = 60) -> None:
        wanted = (launch.execution_id, launch.attempt)
        with self.changed:
            assert self.changed.wait_for(lambda: wanted in self.stopped, timeout), "the end was not told"

    def result(self, launch: Launch) -> dict[str, Any]:
        document = json.loads((self.runs / launch.execution_id / "spool/result.json").read_bytes())
        return dict(json.loads(document["body"]))

    def runner_of(self, launch: Launch) -> int:
        claim = run_claims.read(self.runs / launch.execution_id)
        assert claim is not None
        return claim.pid

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.close()
        for execution_id in self.ids:
            claim = run_claims.read(self.runs / execution_id)
            if claim is not None and processes.is_runner_alive(claim, self.runs / execution_id):
                processes.signal_process(claim.pid, signal.SIGKILL)
            for pid in processes.survivors(self.runs / execution_id):
                processes.signal_process(pid, signal.SIGKILL)
            for pid in processes.runners(self.runs / execution_id):
                processes.signal_process(pid, signal.SIGTERM)  # it ends what is left of its command


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.01)
