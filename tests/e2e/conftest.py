"""The product as a user has it: the installed command line on a fresh RUNVOY_HOME, with a real embedded stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RUNVOY = Path(sys.executable).parent / "runvoy"
FAKE_ENGINE = Path(__file__).parents[1] / "unit" / "fake_engine.py"
PATIENCE_SECONDS = 60


class Machine:
    """One RUNVOY_HOME. Whatever runs in it is ended with the test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNVOY_")}
        # No container engine, whatever the machine has: what needs one has tests of its own.
        engine = {"RUNVOY_CONTAINER_ENGINE": "/nonexistent/engine"}
        self.env = {**kept, **engine, "RUNVOY_HOME": str(home), "NO_COLOR": "1"}

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("bufsize", 0)  # what readline() reads ahead would be lost to communicate()
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        env = {**self.env, **options.pop("env", {})}
        return subprocess.Popen([str(RUNVOY), *args], env=env, **options)

    def __call__(self, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        patience = options.pop("patience", PATIENCE_SECONDS)
        process = self.popen(*args, **options)
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(args, process.returncode, out or b"", err or b"")

    def ok(self, *args: str, **options: Any) -> str:
        """Run one command that must succeed; its stdout."""
        done = self(*args, **options)
        assert done.returncode == 0, (args, done)
        return done.stdout.decode()

    def endpoint(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "local" / "endpoint.json").read_bytes())
        return found

    def stack_pid(self) -> int:
        return int(self.endpoint()["pid"])

    def kill_stack(self) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.stack_pid()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.wait_until(lambda: not is_alive(pid))

    def status(self, execution_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", execution_id, "--json"))
        return found

    def wait_until(self, holds: Any) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < give_up_at, "it did not come about in time"
            time.sleep(0.02)

    def end(self) -> None:
        """End the stack and every process of a run of this home, each by its pid."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self) -> list[int]:
        """Processes that carry this home in their command line (the stack) or lie in its runs (runners, commands)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                folder = str((entry / "cwd").readlink())
            except OSError:
                continue
            if (
                str(self.home / "local").encode() in command
                or str(self.home) in folder
                or (b"runvoy_agent" in command and str(self.home).encode() in command)
            ):
                found.append(int(entry.name))
        return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def machine_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine, its stack up, for all tests of a worker that are marked as `shared`."""
    made = Machine(tmp_path_factory.mktemp("shared") / "home")
    try:
        made.ok("local", "up")
        yield made
    finally:
        made.end()


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """One of the test's own. With `shared`, that of the worker: then executions of others are there, of which some may run yet, and
    what the test locks, labels, names or tells from those has a name that no other test gives."""
    if request.node.get_closest_marker("shared") is not None:
        yield request.getfixturevalue("machine_of_worker")
        return
    made = Machine(tmp_path / "home")
    yield made
    made.end()


@pytest.fixture
def engine(machine: Machine, tmp_path: Path) -> Path:
    """The tests' own container engine in place of the machine's; its state."""
    state = tmp_path / "engine"
    for name in ("images", "registry", "containers"):
        (state / name).mkdir(parents=True)
    client = tmp_path / "docker"
    client.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKE_ENGINE}" "{state}" "$@"\n')
    client.chmod(0o755)
    machine.env["RUNVOY_CONTAINER_ENGINE"] = str(client)
    return state


@pytest.fixture(scope="module")
def machine_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine, its stack up, for tests that leave nothing behind that another could see. Up, because the first start has
    something to say, and which test comes first depends on what the other workers took."""
    made = Machine(tmp_path_factory.mktemp("machine") / "home")
    try:
        made.ok("local", "up")
        yield made
    finally:
        made.end()
