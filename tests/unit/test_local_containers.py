"""Runs in containers, from the launcher down: the real launcher and runner, on an engine of the tests' own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.local import processes
from runvoy_agent.local.containers import Containers
from runvoy_agent.local.engines import Engines
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.ports import Launch, Launched, LaunchRefused
from runvoy_protocol import ids
from runvoy_protocol.logs import decode_chunk

FAKE = Path(__file__).parent / "fake_engine.py"
IMAGE = "tools:1"


class Machine:
    """A runs folder, an engine, a launcher on both, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.state = folder / "engine"
        for name in ("images", "registry", "containers"):
            (self.state / name).mkdir(parents=True)
        (self.state / "images" / IMAGE).touch()
        (self.state / "calls").touch()
        (folder / "bin").mkdir()
        client = folder / "bin/docker"
        client.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKE}" "{self.state}" "$@"\n')
        client.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{folder}/bin:/usr/bin:/bin", "AWS_SECRET_ACCESS_KEY": "hosts"}
        self.environment.pop("RUNVOY_CONTAINER_ENGINE", None)
        self.changed = threading.Condition()
        self.stopped: list[str] = []
        self.launchers: list[ProcessLauncher] = []
        self.launcher = self.new_launcher()

    def new_launcher(self, *, probes: bool = False) -> ProcessLauncher:
        probe = None if probes else lambda _path, _environment: ""  # takes as long as a run
        containers = Containers(Engines(self.environment, probe=probe))
        self.launchers.append(
            ProcessLauncher(
                self.runs, self.on_stopped, lambda _: None, grace_seconds=0.3, containers=containers,
                environment=self.environment,
            )
        )  # fmt: skip
        return self.launchers[-1]

    def on_stopped(self, execution_id: str, _attempt: int) -> None:
        with self.changed:
            self.stopped.append(execution_id)
            self.changed.notify_all()

    def launch(
        self,
        command: list[str] | str,
        *,
        image: str | None = IMAGE,
        platform: str | None = None,
        task_role: str | None = None,
        **fields: Any,
    ) -> Launch:
        execution_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        payload = {"execution_id": execution_id, "attempt": 1, "execution_key": "00" * 32, "command": command}
        limits = {"timeout_seconds": 60, "grace_seconds": 0.3}
        whole = json.dumps(payload | limits | fields).encode()
        return Launch(execution_id, 1, "container", image, 512, 256, whole, platform, task_role)

    def start(self, command: list[str] | str, **fields: Any) -> Launch:
        launch = self.launch(command, **fields)
        assert isinstance(self.launcher.start(launch), Launched)
        return launch

    def run(self, command: list[str] | str, **fields: Any) -> tuple[Launch, dict[str, Any]]:
        launch = self.start(command, **fields)
        self.await_stopped(launch)
        return launch, self.result(launch)

    def await_stopped(self, launch: Launch) -> None:
        with self.changed:
            told = self.changed.wait_for(lambda: launch.execution_id in self.stopped, 60)
        assert told, (self.runs / launch.execution_id / "runner.log").read_text()
        assert not self.container(launch).exists(), "a container was left behind"

    def folder(self, launch: Launch) -> Path:
        return self.runs / launch.execution_id

    def container(self, launch: Launch) -> Path:
        return self.state / "containers" / f"runvoy-{launch.execution_id}"

    def result(self, launch: Launch) -> dict[str, Any]:
        return dict(json.loads(json.loads((self.folder(launch) / "spool/result.json").read_bytes())["body"]))

    def log(self, launch: Launch, stream: str) -> str:
        chunks = sorted((self.folder(launch) / "spool/logs").iterdir())
        records = [record for chunk in chunks for record in decode_chunk(chunk.read_bytes())]
        return b"".join(record.data for record in records if record.s == stream).decode()

    def calls(self, command: str) -> list[list[str]]:
        lines = map(json.loads, (self.state / "calls").read_text().splitlines())
        return [line for line in lines if line[0] == command]

    def kill_runner(self, launch: Launch) -> None:
        claim = processes.read_claim(self.folder(launch))
        assert claim is not None
        os.kill(claim.pid, signal.SIGKILL)
        wait_until(lambda: not processes.is_runner_alive(claim))

    def kill_client(self, launch: Launch) -> None:
        """The one in the foreground of the container."""
        wait_until(lambda: len(processes.survivors(launch.execution_id)) > 0)
        for pid in processes.survivors(launch.execution_id):
            processes.signal_process(pid, signal.SIGKILL)

    def await_running(self, launch: Launch) -> None:
        wait_until((self.container(launch) / "pid").exists)

    def close(self) -> None:
        for name in ("slow-pull", "slow-run", "down"):
            (self.state / name).unlink(missing_ok=True)
        for launcher in self.launchers:
            launcher.close()
        for folder in self.runs.iterdir():
            claim = processes.read_claim(folder) if folder.is_dir() else None
            if claim is not None and processes.is_runner_alive(claim):
                processes.signal_process(claim.pid, signal.SIGKILL)
        for path in (self.state / "containers").glob("*/pid"):
            if not (path.parent / "exit").exists() and int(path.read_text()) > 1:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(path.read_text()), signal.SIGKILL)


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.01)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


# --- the way of a run ---


def test_a_run_from_its_start_to_its_end(machine: Machine) -> None:
    launch, result = machine.run("echo out; echo err >&2; exit 7")
    assert (result["outcome"], result["exit_code"], result["signal"]) == ("exited", 7, None)
    assert (machine.log(launch, "out"), machine.log(launch, "err"), machine.log(launch, "sys")) == (
        "out\n",
        "err\n",
        "",
    )
    assert machine.launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert machine.stopped == [launch.execution_id]
    assert machine.calls("pull") == []


def test_an_argv_arrives_as_it_was_signed(machine: Machine) -> None:
    launch, _ = machine.run(["/usr/bin/printf", "%s|", "a b", "", "*", "$HOME", "--init", "ü\n"])
    assert machine.log(launch, "out") == "a b||*|$HOME|--init|ü\n|"


def test_variables_arrive_and_no_argument_shows_them(machine: Machine) -> None:
    env = {
        "PEM": "-----BEGIN\nwith lines\n",
        "PATH": "/usr/bin:/bin",
        "HOME": "/home/app",
        "LD_PRELOAD": "in-the-image",
    }
    command = 'printf "%s|" "$PEM" "$HOME" "$TOKEN" "$LD_PRELOAD" "$AWS_SECRET_ACCESS_KEY"'
    launch, result = machine.run(command, env=env, secrets={"TOKEN": "aHVudGVyMjJodW50ZXIyMg=="})
    assert result["exit_code"] == 0
    assert machine.log(launch, "out").startswith("-----BEGIN\nwith lines\n|/home/app|")
    assert machine.log(launch, "out").endswith("|in-the-image||"), "nothing of the host's"
    assert "hunter22hunter22" not in machine.log(launch, "out"), "masked, as everywhere"
    calls = (machine.state / "calls").read_text()
    assert not [value for value in ("with lines", "/home/app", "hunter22", "in-the-image") if value in calls]
    assert not [
        path for path in machine.folder(launch).rglob("*") if path.is_file() and b"hunter22" in path.read_bytes()
    ]


def test_secrets_of_every_kind_arrive_and_are_masked(machine: Machine) -> None:
    values = {
        "SSH_PRIVATE_KEY": b"two lines,\nof a 'quoted' \"kind\"\n",
        "GOOGLE_CREDENTIALS": b'{"control": "\x01\x7f", "umlaut": "\xc3\xa4"}',
        "LONG": bytes(33 + (number * 7919) % 90 for number in range(64 * 1024)),
        "DOCKER_TOKEN": b"its name means something to the client",
    }
    sent = {name: base64.b64encode(value).decode() for name, value in values.items()}
    sums = [hashlib.sha256(value).hexdigest() for value in values.values()]
    command = "; ".join(f'printf %s "${name}" | sha256sum' for name in values)
    command += '; for each in "$SSH_PRIVATE_KEY" "$GOOGLE_CREDENTIALS" "$LONG" "$DOCKER_TOKEN"; do printf "%s\\n" "$each"; done'
    launch, result = machine.run(command, secrets=sent)
    assert result["exit_code"] == 0, (result["message"], machine.log(launch, "sys"))
    shown = machine.log(launch, "out").splitlines()
    assert [line.split()[0] for line in shown[:4]] == sums
    assert set("".join(shown[4:])) <= set("*\n"), "masked"
    told = (machine.state / "calls").read_bytes()
    files = [path.read_bytes() for path in machine.folder(launch).rglob("*") if path.is_file()]
    for value in values.values():
        first = value.splitlines()[0]
        assert not [held for held in (told, *files) if first in held or base64.b64encode(first)[:-4] in held]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("LD_PRELOAD", b"two\nlines", "line break"),
        ("LD_PRELOAD", b"x" * 64 * 1024, "longer"),
        ("LD_PRELOAD", b"not UTF-8: \xff\xfe", "not UTF-8"),
        ("TOKEN", b"not UTF-8: \xff\xfe", "not UTF-8"),
    ],
)
def test_a_variable_that_cannot_be_handed_over_is_a_reason(machine: Machine, name: str, value: bytes, why: str) -> None:
    sent = base64.b64encode(value).decode()
    launch, result = machine.run("echo ran", secrets={name: sent})
    assert result["outcome"] == "setup_failed"
    assert name in result["message"]
    assert why in result["message"]
    assert machine.log(launch, "out") == ""
    assert machine.calls("create") == []


@pytest.mark.parametrize(("command", "code"), [(["no-such-program"], 127), (["/etc"], 126)])
def test_what_cannot_be_executed(machine: Machine, command: list[str], code: int) -> None:
    launch, result = machine.run(command)
    assert (result["outcome"], result["exit_code"]) == ("exec_failed", code)
    assert repr(command[0]) in result["message"]
    assert IMAGE in machine.log(launch, "sys")


@pytest.mark.parametrize("code", [126, 127])
def test_a_command_may_itself_end_with_such_a_code(machine: Machine, code: int) -> None:
    assert machine.run(f"exit {code}")[1]["outcome"] == "exited"


def test_running_out_of_memory_is_said(machine: Machine) -> None:
    (machine.state / "oom").touch()
    _, result = machine.run("kill -9 $$")
    assert (result["outcome"], result["exit_code"], result["signal"]) == ("signalled", 137, 9)
    assert "memory" in result["message"]
    assert "256 MiB" in result["message"]


def test_a_container_that_the_engine_cannot_start(machine: Machine) -> None:
    (machine.state / "fails-to-start").write_text(json.dumps({"ExitCode": 128, "Error": "no cgroup for you"}))
    _, result = machine.run("echo ran")
    assert (result["outcome"], result["exit_code"]) == ("setup_failed", None)
    assert "no cgroup for you" in result["message"]
    (machine.state / "fails-to-start").write_text(json.dumps({"ExitCode": 127, "Error": "exec: x: not found in $PATH"}))
    assert machine.run(["x"])[1]["outcome"] == "exec_failed"


def test_an_engine_that_refuses_the_container(machine: Machine) -> None:
    (machine.state / "fails-create").write_text("range of CPUs is from 0.01 to 0.25")
    _, result = machine.run("echo ran")
    assert result["outcome"] == "setup_failed"
    assert "range of CPUs" in result["message"]


def test_a_limit_that_the_engine_does_not_apply_is_in_the_log(machine: Machine) -> None:
    (machine.state / "warning").write_text("WARNING: limits on memory are not supported\n")
    launch, result = machine.run("exit 0")
    assert result["exit_code"] == 0
    assert machine.log(launch, "sys") == "runvoy: WARNING: limits on memory are not supported\n"


# --- the image ---


def test_a_pull_is_in_the_log_as_runvoys_own(machine: Machine) -> None:
    (machine.state / "registry/new:1").touch()
    launch, result = machine.run("echo hi", image="new:1")
    assert result["exit_code"] == 0
    assert machine.log(launch, "out") == "hi\n"
    said = machine.log(launch, "sys").splitlines()
    assert said[0] == "runvoy: pulling the image new:1"
    assert "runvoy: pull: 9824c27679d3: Pull complete" in said


def test_an_image_of_another_platform_is_pulled_for_the_one_that_is_asked_for(machine: Machine) -> None:
    (machine.state / "registry" / IMAGE).touch()
    launch, result = machine.run("echo hi", platform="linux/arm64")
    assert (result["exit_code"], machine.log(launch, "out")) == (0, "hi\n")
    assert machine.calls("pull") == [["pull", "--platform", "linux/arm64", IMAGE]]
    assert "pulling the image tools:1 for linux/arm64" in machine.log(launch, "sys")
    again, result = machine.run("echo hi", platform="linux/arm64")
    assert result["exit_code"] == 0
    assert len(machine.calls("pull")) == 1, "the one that is here fits"
    assert all(line[line.index("--platform") + 1] == "linux/arm64" for line in machine.calls("create"))
    assert "pulling" not in machine.log(again, "sys")


def test_an_image_that_has_no_such_platform(machine: Machine) -> None:
    _, result = machine.run("echo ran", platform="linux/arm64")
    assert (result["outcome"], result["exit_code"]) == ("setup_failed", None)
    assert "'tools:1 for linux/arm64' was not found" in result["message"]


def test_a_task_role_is_nothing_that_this_machine_has(machine: Machine) -> None:
    outcome = machine.launcher.start(machine.launch("echo ran", task_role="deploy"))
    assert isinstance(outcome, LaunchRefused)
    assert "no task roles" in outcome.message


def test_an_image_that_is_not_there(machine: Machine) -> None:
    launch, result = machine.run("echo ran", image="nobody/made:it")
    assert (result["outcome"], result["exit_code"]) == ("setup_failed", None)
    assert "'nobody/made:it' was not found" in result["message"]
    assert "manifest unknown" in result["message"]
    assert not (machine.folder(launch) / "spool/started.json").exists(), "the command never began"


def test_a_kill_ends_a_pull(machine: Machine) -> None:
    (machine.state / "slow-pull").touch()
    launch = machine.start("echo ran", image="new:1")
    wait_until(lambda: bool(machine.calls("pull")))
    machine.launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"


@pytest.mark.parametrize("image", [None, "", "--privileged", "a b", "a\n"])
def test_what_is_no_image_is_refused(machine: Machine, image: str | None) -> None:
    outcome = machine.launcher.start(machine.launch("echo ran", image=image))
    assert isinstance(outcome, LaunchRefused)
    assert "image" in outcome.message


# --- deadlines and kills ---


def ready_before_its_deadline(machine: Machine, command: str, **fields: Any) -> tuple[Launch, dict[str, Any]]:
    """A run whose command said `ready` in time. On a busy machine a container takes long to come up."""
    for seconds in (0.5, 2, 8, 32):
        launch, result = machine.run(command, timeout_seconds=seconds, **fields)
        if machine.log(launch, "out").startswith("ready\n"):
            return launch, result
    raise AssertionError(f"not ready within 32 seconds: {command}")


def test_a_deadline_is_told_to_the_command(machine: Machine) -> None:
    command = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    launch, result = ready_before_its_deadline(machine, command, grace_seconds=20)
    assert (result["outcome"], result["exit_code"]) == ("timed_out", 3)
    assert machine.log(launch, "out") == "ready\nbye\n"


def test_a_command_that_ignores_term_is_killed(machine: Machine) -> None:
    _, result = ready_before_its_deadline(machine, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    assert (result["outcome"], result["exit_code"]) == ("timed_out", 137)


def test_a_kill_while_it_runs(machine: Machine) -> None:
    launch = machine.start("exec sleep 1000")
    machine.await_running(launch)
    machine.launcher.stop(launch.execution_id, 1)
    machine.launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert (machine.result(launch)["outcome"], machine.result(launch)["exit_code"]) == ("killed", 143)


def test_a_kill_before_the_start(machine: Machine) -> None:
    launch = machine.launch("echo ran")
    machine.launcher.stop(launch.execution_id, 1)
    machine.launcher.start(launch)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"
    assert machine.calls("create") == []


# --- who dies ---


def test_a_container_outlives_its_runner_and_is_waited_for(machine: Machine) -> None:
    launch = machine.start("while [ ! -e go ]; do sleep 0.02; done")
    machine.await_running(launch)
    machine.kill_runner(launch)
    machine.kill_client(launch)
    wait_until(lambda: bool(machine.calls("wait")))  # no process is left, and the launcher has seen the container
    assert machine.launcher.describe(launch.execution_id, 1).phase == "running"
    assert machine.stopped == []
    (machine.container(launch) / "go").touch()
    machine.await_stopped(launch)
    assert machine.launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert not (machine.folder(launch) / "spool/result.json").exists()


@pytest.mark.parametrize("command", ["exec sleep 1000", "trap '' TERM; while :; do sleep 0.05; done"])
def test_a_container_without_its_runner_is_killed(machine: Machine, command: str) -> None:
    launch = machine.start(command)
    machine.await_running(launch)
    machine.kill_runner(launch)
    machine.launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)


def test_the_next_stack_finds_the_container_and_clears_up(machine: Machine) -> None:
    lives, ended = machine.start("while [ ! -e go ]; do sleep 0.02; done"), machine.start("exec sleep 1000")
    for launch in (lives, ended):
        machine.await_running(launch)
    machine.launcher.close()
    for launch in (lives, ended):
        machine.kill_runner(launch)
        machine.kill_client(launch)
    os.killpg(int((machine.container(ended) / "pid").read_text()), signal.SIGKILL)
    wait_until((machine.container(ended) / "exit").exists)
    machine.launchers.clear()
    launcher = machine.new_launcher()
    assert launcher.adopt_all() == 2
    machine.await_stopped(ended)
    assert launcher.describe(lives.execution_id, 1).phase == "running"
    assert lives.execution_id not in machine.stopped
    (machine.container(lives) / "go").touch()
    machine.await_stopped(lives)


def test_a_killed_client_is_followed_by_another(machine: Machine) -> None:
    launch = machine.start("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 5")
    machine.await_running(launch)
    machine.kill_client(launch)
    wait_until((machine.container(launch) / "attached").exists)  # it has seen where the output stands
    (machine.container(launch) / "go").touch()
    machine.await_stopped(launch)
    assert (machine.result(launch)["outcome"], machine.result(launch)["exit_code"]) == ("exited", 5)
    assert machine.log(launch, "out").endswith("two\n")
    assert "some output may be lost" in machine.log(launch, "sys")


def test_an_engine_that_restarts(machine: Machine) -> None:
    launch = machine.start("while [ ! -e go ]; do sleep 0.02; done; exit 6")
    machine.await_running(launch)
    asked = len(machine.calls("container"))
    (machine.state / "down").touch()
    wait_until(lambda: len(machine.calls("container")) >= asked + 2)
    assert machine.launcher.describe(launch.execution_id, 1).phase == "running"
    (machine.container(launch) / "go").touch()
    (machine.state / "down").unlink()
    machine.await_stopped(launch)
    assert machine.result(launch)["exit_code"] == 6
    assert "does not answer" in machine.log(launch, "sys")


def test_without_runner_and_engine_a_run_is_not_said_to_have_stopped(machine: Machine) -> None:
    launch = machine.start("exec sleep 1000")
    machine.await_running(launch)
    machine.kill_runner(launch)
    (machine.state / "down").touch()
    wait_until(lambda: not processes.survivors(launch.execution_id))  # the client gives up
    asked = len(machine.calls("container"))
    wait_until(lambda: len(machine.calls("container")) >= asked + 2)
    assert machine.launcher.describe(launch.execution_id, 1).phase == "running"
    assert machine.stopped == []
    (machine.state / "down").unlink()
    machine.launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)


def test_a_container_that_someone_removes(machine: Machine) -> None:
    launch = machine.start("exec sleep 1000")
    machine.await_running(launch)
    pid = int((machine.container(launch) / "pid").read_text())
    machine.container(launch).rename(machine.state / "removed")
    os.killpg(pid, signal.SIGKILL)
    machine.kill_client(launch)
    machine.await_stopped(launch)
    assert (machine.result(launch)["outcome"], machine.result(launch)["signal"]) == ("signalled", 9)
    assert "removed by someone else" in machine.result(launch)["message"]


# --- at most once, and never elsewhere ---


def test_of_many_starts_one_runs(machine: Machine, tmp_path: Path) -> None:
    launch = machine.launch(f"echo ran >> {tmp_path}/ran; sleep 0.2")
    threads = [threading.Thread(target=machine.launcher.start, args=[launch]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.launcher.start(launch) == Launched(f"process:{launch.execution_id}")
    machine.await_stopped(launch)
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert len(machine.calls("create")) == 1


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_container_of_that_name_is_left_alone(machine: Machine, is_ours: bool) -> None:
    """Ours: a home was restored beside what it had started. It counts as this run's until it has ended."""
    launch = machine.launch("echo ran")
    folder = machine.container(launch)
    folder.mkdir()
    labels = {"runvoy.execution": launch.execution_id} if is_ours else {}
    (folder / "spec").write_text(json.dumps({"labels": labels}))
    (folder / "pid").write_text("0")
    machine.launcher.start(launch)
    wait_until((machine.folder(launch) / "spool/result.json").exists)
    assert machine.result(launch)["outcome"] == "setup_failed"
    assert "is in use" in machine.result(launch)["message"]
    wait_until(lambda: bool(machine.calls("wait")) if is_ours else bool(machine.stopped))
    assert (folder / "spec").exists()
    phase = machine.launcher.describe(launch.execution_id, 1).phase
    assert (phase, bool(machine.stopped)) == (("running", False) if is_ours else ("stopped", True))
    (folder / "exit").write_text('{"ExitCode": 0}')
    if is_ours:
        machine.await_stopped(launch)


def test_without_an_engine_nothing_runs(machine: Machine, tmp_path: Path) -> None:
    (machine.state / "down").touch()
    outcome = machine.new_launcher(probes=True).start(machine.launch(f"touch {tmp_path}/ran"))
    assert isinstance(outcome, LaunchRefused)
    assert "docker: Cannot connect to the Docker daemon" in outcome.message
    assert "podman: not installed" in outcome.message
    assert "`isolation: process`" in outcome.message
    assert not (tmp_path / "ran").exists()
