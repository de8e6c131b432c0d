"""On an engine that nobody here wrote, where there is one. Only the probe's own image is needed: it has one program.

With RUNVOY_TEST_IMAGE, an image with /bin/sh that is there already, what needs a shell is tried as well.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.local import processes, run_claims
from runvoy_agent.local.containers import Containers
from runvoy_agent.local.engines import Engines
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.ports import Launch, Launched
from runvoy_protocol import ids
from runvoy_protocol.logs import decode_chunk

PROBE_IMAGE = "localhost/runvoy-probe:1"


@pytest.fixture(scope="module")
def engines() -> Engines:
    looked = Engines(os.environ)
    found = looked.find(30)
    if found.path is None:
        pytest.skip(f"no container engine works here: {found.why}")
    return looked


@pytest.fixture
def shell_image(engines: Engines) -> str:
    image = os.environ.get("RUNVOY_TEST_IMAGE")
    if not image:
        pytest.skip("RUNVOY_TEST_IMAGE names no image with /bin/sh")
    return image


class Runs:
    def __init__(self, folder: Path, engines: Engines) -> None:
        self.folder = folder
        self.ended = threading.Event()
        self.containers = Containers(engines)
        self.launcher = ProcessLauncher(
            folder, lambda *_: self.ended.set(), lambda _: None, grace_seconds=1, containers=self.containers
        )

    def start(self, image: str, command: list[str] | str, **fields: Any) -> str:
        execution_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        payload = {"execution_id": execution_id, "attempt": 1, "execution_key": "00" * 32, "command": command}
        whole = payload | {"timeout_seconds": 60, "grace_seconds": 1} | fields
        launch = Launch(execution_id, 1, "container", image, 256, 64, json.dumps(whole).encode())
        assert isinstance(self.launcher.start(launch), Launched)
        return execution_id

    def end(self, execution_id: str) -> dict[str, Any]:
        assert self.ended.wait(60), (self.folder / execution_id / "runner.log").read_text()
        assert not self.containers.lives(self.folder / execution_id)
        document = json.loads((self.folder / execution_id / "spool/result.json").read_bytes())
        return dict(json.loads(document["body"]))

    def log(self, execution_id: str, stream: str) -> bytes:
        chunks = sorted((self.folder / execution_id / "spool/logs").iterdir())
        records = [record for chunk in chunks for record in decode_chunk(chunk.read_bytes())]
        return b"".join(record.data for record in records if record.s == stream)


@pytest.fixture
def runs(tmp_path: Path, engines: Engines) -> Iterator[Runs]:
    made = Runs(tmp_path / "runs", engines)
    yield made
    made.launcher.close()


def test_a_program_runs(runs: Runs) -> None:
    execution_id = runs.start(PROBE_IMAGE, ["/probe"], env={"A": "two\nlines", "PATH": "/x", "LD_PRELOAD": "y"})
    result = runs.end(execution_id)
    assert (result["outcome"], result["exit_code"]) == ("exited", 0), runs.log(execution_id, "sys")


def test_a_program_that_is_not_there(runs: Runs) -> None:
    result = runs.end(runs.start(PROBE_IMAGE, ["/nope"]))
    assert (result["outcome"], result["exit_code"]) == ("exec_failed", 127)


def test_an_image_that_is_not_there(runs: Runs) -> None:
    result = runs.end(runs.start("localhost:1/runvoy/nobody-made-it:1", ["/probe"]))
    assert result["outcome"] == "setup_failed"
    assert "was not found" in result["message"]


def test_streams_variables_and_code(runs: Runs, shell_image: str) -> None:
    command = 'printf %s "$A$HOME"; echo err >&2; exit 7'
    execution_id = runs.start(shell_image, command, env={"A": "two\nlines", "HOME": "/h"})
    assert runs.end(execution_id)["exit_code"] == 7
    assert (runs.log(execution_id, "out"), runs.log(execution_id, "err")) == (b"two\nlines/h", b"err\n")


@pytest.mark.parametrize(
    ("command", "code"), [("exec sleep 1000", 143), ("trap '' TERM; while :; do sleep 1; done", 137)]
)
def test_a_deadline(runs: Runs, shell_image: str, command: str, code: int) -> None:
    result = runs.end(runs.start(shell_image, command, timeout_seconds=1))
    assert (result["outcome"], result["exit_code"]) == ("timed_out", code)


def test_a_container_that_lost_its_runner(runs: Runs, shell_image: str) -> None:
    execution_id = runs.start(shell_image, "exec sleep 1000")
    folder = runs.folder / execution_id
    deadline = time.monotonic() + 30
    while not runs.containers.lives(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    claim = run_claims.read(folder)
    assert claim is not None
    os.kill(claim.pid, signal.SIGKILL)
    while processes.is_runner_alive(claim, folder):
        time.sleep(0.01)
    assert runs.launcher.describe(execution_id, 1).phase == "running"
    assert not runs.ended.is_set()
    runs.launcher.stop(execution_id, 1)
    assert runs.ended.wait(30)
    assert not runs.containers.lives(folder)
