"""A kit that runs the real runner, as the launcher does, and reads what it spooled."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.servers import task_processes

import runvoy_agent
from runvoy_protocol import ids
from runvoy_protocol.logs import LogRecord, decode_chunk

RUNNER = Path(next(iter(runvoy_agent.__path__))) / "runner" / "__main__.py"
KEY = bytes(range(32))


class Run:
    """One run folder and the runners started on it."""

    def __init__(self, runs: Path) -> None:
        self.id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        self.folder = runs / self.id
        self.folder.mkdir(mode=0o700)
        self.claim.parent.mkdir(mode=0o700, exist_ok=True)
        self.runners: list[subprocess.Popen[bytes]] = []

    def payload(self, command: list[str] | str, **fields: Any) -> bytes:
        whole = {"execution_id": self.id, "attempt": 1, "execution_key": KEY.hex(), "command": command}
        return json.dumps(
            whole | {"env": {}, "secrets": {}, "timeout_seconds": 60, "grace_seconds": 1} | fields
        ).encode()

    def start(
        self, command: list[str] | str, *, file_size: int | None = None, open_files: int | None = None, **fields: Any
    ) -> Run:
        self.start_with(self.payload(command, **fields), file_size=file_size, open_files=open_files)
        return self

    def start_with(
        self, payload: bytes, *, file_size: int | None = None, open_files: int | None = None
    ) -> subprocess.Popen[bytes]:
        (self.folder / "runner.log").touch(mode=0o600)
        with (self.folder / "runner.log").open("ab") as log:
            runner = subprocess.Popen(
                [sys.executable, "-I", "-S", str(RUNNER), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self.runners.append(runner)
        if file_size is not None:  # what a full disk looks like; it holds before the payload is there
            resource.prlimit(runner.pid, resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        if open_files is not None:
            resource.prlimit(runner.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
        assert runner.stdin is not None
        with contextlib.suppress(BrokenPipeError), runner.stdin as stdin:
            stdin.write(payload)
        return runner

    def wait(self, timeout: float = 60) -> dict[str, Any]:
        """Wait for the runner; its result, whose MAC must be right."""
        self.runners[0].wait(timeout)
        return self.result()

    def result(self) -> dict[str, Any]:
        return self.report("result")

    def report(self, kind: str) -> dict[str, Any]:
        document = json.loads((self.folder / "spool" / f"{kind}.json").read_bytes())
        mac = hmac.digest(KEY, f"{kind}\n{document['body']}".encode(), "sha256").hex()
        assert mac == document["mac"]
        body = json.loads(document["body"])
        assert (body["execution_id"], body["attempt"]) == (self.id, 1)
        return dict(body)

    def records(self) -> list[LogRecord]:
        paths = sorted((self.folder / "spool" / "logs").iterdir())
        assert [path.name for path in paths] == [f"{number:08d}" for number in range(1, len(paths) + 1)]
        return [record for path in paths for record in decode_chunk(path.read_bytes())]

    def output(self, stream: str = "out") -> bytes:
        return b"".join(record.data for record in self.records() if record.s == stream)

    def is_claimed(self) -> bool:
        return self.claim.exists()

    @property
    def claim(self) -> Path:
        return self.folder.parent / "claims" / self.id

    def pids(self) -> list[int]:
        """The living processes that carry the execution's id."""
        return task_processes.living(self.id)

    def end(self) -> None:
        """End what a failed test left."""
        for runner in self.runners:
            if runner.poll() is None:
                runner.kill()
                runner.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.01)


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[Callable[[], Run]]:
    yield from _runs(tmp_path)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Run]]:
    """As `new_run`, for runs that several tests look at."""
    yield from _runs(tmp_path_factory.mktemp("runs"))


def _runs(folder: Path) -> Iterator[Callable[[], Run]]:
    runs: list[Run] = []

    def make() -> Run:
        runs.append(Run(folder))
        return runs[-1]

    yield make
    for run in runs:
        run.end()


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until
