"""What every launcher promises, on real processes; and what the launcher of one machine promises besides."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.local import processes
from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.ports import Launch, Launched, LaunchRefused, NoCapacity, NotLaunched
from runvoy_protocol import ids
from runvoy_protocol.logs import decode_chunk


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
        claim = processes.read_claim(self.runs / launch.execution_id)
        assert claim is not None
        return claim.pid

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.close()
        for execution_id in self.ids:
            claim = processes.read_claim(self.runs / execution_id)
            if claim is not None and processes.is_runner_alive(claim):
                processes.signal_process(claim.pid, signal.SIGKILL)
            for pid in processes.survivors(execution_id):
                processes.signal_process(pid, signal.SIGKILL)
            for pid in processes.runners(self.runs / execution_id):
                processes.signal_process(pid, signal.SIGTERM)  # it ends what is left of its command


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.01)


# --- every launcher ---


def test_a_task_from_its_start_to_its_end(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("while [ ! -e go ]; do sleep 0.02; done; exit 7")
    assert launcher.describe(launch.execution_id, 1).phase == "missing"
    assert isinstance(launcher.start(launch), Launched)
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    wait_until((machine.runs / launch.execution_id / "work").exists)
    (machine.runs / launch.execution_id / "work/go").touch()
    machine.await_stopped(launch)
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert machine.result(launch)["exit_code"] == 7
    assert machine.stopped == [(launch.execution_id, 1)]
    assert set(machine.bells) == {launch.execution_id}


def test_starting_again_adopts(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch(f"echo ran >> {machine.folder}/ran; sleep 0.3")
    first = launcher.start(launch)
    assert launcher.start(launch) == first
    machine.await_stopped(launch)
    assert launcher.start(launch) == first, "after its end too"
    assert (machine.folder / "ran").read_text() == "ran\n"


def test_of_many_starts_at_once_one_runs(machine: Machine) -> None:
    launchers = [machine.launcher(), machine.launcher()]
    launch = machine.launch(f"echo ran >> {machine.folder}/ran; sleep 0.3")
    outcomes: list[Any] = []
    threads = [
        threading.Thread(target=lambda number=number: outcomes.append(launchers[number % 2].start(launch)))
        for number in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(outcome) for outcome in outcomes] == [Launched] * 10
    machine.await_stopped(launch)
    assert (machine.folder / "ran").read_text() == "ran\n"


def test_stopping_a_task(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("sleep 1000")
    launcher.start(launch)
    launcher.stop(launch.execution_id, 1)
    launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"
    launcher.stop(launch.execution_id, 1)


def test_stopping_a_task_before_its_start(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch(f"touch {machine.folder}/ran")
    launcher.stop(launch.execution_id, 1)
    assert launcher.describe(launch.execution_id, 1).phase == "missing"
    launcher.start(launch)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"
    assert not (machine.folder / "ran").exists()


def test_what_is_stopped_while_it_is_launched_runs_or_was_certainly_not_started(machine: Machine) -> None:
    launcher = machine.launcher()
    for _ in range(10):
        launch = machine.launch(["sleep", "60"])
        is_over = threading.Event()

        def stop_on_and_on(launch: Launch = launch, is_over: threading.Event = is_over) -> None:
            while not is_over.wait(0.001):
                launcher.stop(launch.execution_id, launch.attempt)

        stopping = threading.Thread(target=stop_on_and_on)
        stopping.start()
        try:
            launcher.start(launch)
        except NotLaunched:
            assert launcher.describe(launch.execution_id, launch.attempt).phase == "missing"
        finally:
            is_over.set()
            stopping.join()


def test_several_looked_at_together_are_what_each_is_alone(machine: Machine) -> None:
    launcher = machine.launcher()
    runs, ends, never = machine.launch("sleep 1000"), machine.launch("true"), machine.launch("true")
    for launch in (runs, ends):
        launcher.start(launch)
    machine.await_stopped(ends)
    attempts = [(launch.execution_id, 1) for launch in (never, ends, runs)]
    seen = launcher.survey(attempts)
    assert [seen[attempt].phase for attempt in attempts] == ["missing", "stopped", "running"]
    assert all(seen[attempt] == launcher.describe(*attempt) for attempt in attempts)
    assert launcher.survey([]) == {}


def test_no_room(machine: Machine) -> None:
    launcher = machine.launcher(max_running=2)
    running = [machine.launch("sleep 1000") for _ in range(2)]
    for launch in running:
        assert isinstance(launcher.start(launch), Launched)
    late = machine.launch("true")
    assert isinstance(launcher.start(late), NoCapacity)
    assert isinstance(launcher.start(running[0]), Launched), "adopting takes no room"
    assert not launcher.wait_for_room(0.05)
    launcher.stop(running[0].execution_id, 1)
    assert launcher.wait_for_room(20)
    assert isinstance(launcher.start(late), Launched)
    machine.await_stopped(late)


def test_a_bulk_leaves_a_quarter_of_the_room(machine: Machine) -> None:
    launcher = machine.launcher(max_running=4)
    for _ in range(2):
        launcher.start(machine.launch("sleep 1000"))
    assert launcher.wait_for_room(0, bulk=True)
    launcher.start(machine.launch("sleep 1000"))
    assert not launcher.wait_for_room(0.05, bulk=True)
    assert launcher.wait_for_room(0), "the last quarter is for runs that people wait for"


def test_what_cannot_be_run_is_refused_with_the_way_out(machine: Machine) -> None:
    outcome = machine.launcher().start(machine.launch("true", isolation="container"))
    assert isinstance(outcome, LaunchRefused)
    assert "`isolation: process`" in outcome.message


# --- one machine ---


def test_a_payload_that_the_runner_refuses(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("true")._replace(payload=b"{")
    outcome = launcher.start(launch)
    assert isinstance(outcome, LaunchRefused)
    assert "malformed" in outcome.message
    assert launcher.describe(launch.execution_id, 1).phase == "missing"
    assert launcher.wait_for_room(0)


def test_a_payload_larger_than_a_pipe(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("exit 3", padding="x" * 5_000_000)
    assert isinstance(launcher.start(launch), Launched)
    machine.await_stopped(launch)
    assert machine.result(launch)["exit_code"] == 3


def test_another_attempt_of_a_run_that_began_is_refused(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch(f"echo ran >> {machine.folder}/ran")
    launcher.start(launch)
    outcome = launcher.start(launch._replace(attempt=2))
    assert isinstance(outcome, LaunchRefused)
    machine.await_stopped(launch)
    assert launcher.describe(launch.execution_id, 2).phase == "missing"
    assert (machine.folder / "ran").read_text() == "ran\n"


KINDS_OF_SURVIVORS = {
    "a command": ["sleep", "1000"],
    "one that carries the lock only": ["env", "-i", "/bin/sleep", "1000"],
    "one that carries the id only": [
        sys.executable,
        "-S",
        "-c",
        "import os,time; os.closerange(0, 256); os.fork() and os._exit(0); os.setsid(); time.sleep(1000)",
    ],
}


@pytest.mark.parametrize("kind", KINDS_OF_SURVIVORS)
def test_a_killed_runner_whose_command_lives(machine: Machine, kind: str) -> None:
    launcher = machine.launcher(grace_seconds=1)
    launch = machine.launch(
        ["/bin/sh", "-c", '"$@" & echo $! > ../pid; wait; sleep 1000', "sh", *KINDS_OF_SURVIVORS[kind]]
    )
    launcher.start(launch)
    folder = machine.runs / launch.execution_id
    wait_until(lambda: (folder / "pid").exists() and bool((folder / "pid").read_text()))
    time.sleep(0.3)  # until it has become what it is
    command = int(json.loads(json.loads((folder / "spool/started.json").read_bytes())["body"])["pid"])
    os.kill(machine.runner_of(launch), signal.SIGKILL)
    os.kill(command, signal.SIGKILL)
    time.sleep(0.3)
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    assert machine.stopped == []
    if kind == "one that carries the lock only":
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)  # nothing names it as ours: it is not signalled
    else:
        launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert not (folder / "spool/result.json").exists()


def test_survivors_that_ignore_term_are_killed(machine: Machine) -> None:
    launcher = machine.launcher(grace_seconds=0.3)
    launch = machine.launch("trap '' TERM; touch ready; while :; do sleep 0.1; done")
    launcher.start(launch)
    wait_until((machine.runs / launch.execution_id / "work/ready").exists)
    os.kill(machine.runner_of(launch), signal.SIGKILL)
    wait_until(
        lambda: (
            not processes.is_runner_alive(processes.read_claim(machine.runs / launch.execution_id) or processes.NOBODY)
        )
    )
    launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)


def test_a_runner_that_hangs_is_killed_and_its_command_ended(machine: Machine) -> None:
    launcher = machine.launcher(grace_seconds=0.2, runner_seconds=0.2)
    launch = machine.launch("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")
    launcher.start(launch)
    wait_until((machine.runs / launch.execution_id / "work/pid").exists)
    os.kill(machine.runner_of(launch), signal.SIGSTOP)
    launcher.stop(launch.execution_id, 1)
    time.sleep(0.3)
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert processes.survivors(launch.execution_id) == []


@pytest.mark.parametrize("how", ["goes on", "is killed"])
def test_a_command_that_removes_its_runs_folder_is_watched_and_not_run_again(machine: Machine, how: str) -> None:
    launcher = machine.launcher()
    gone = machine.folder / "gone"
    loop = f"while [ ! -e {gone}.2 ]; do echo x 2> /dev/null; sleep 0.05; done"
    line = f'trap "" PIPE; echo ran >> {machine.folder}/ran; rm -rf "$(dirname "$PWD")"; echo > {gone}; {loop}'
    launch = machine.launch(line)
    first = launcher.start(launch)
    runner = min(processes.runners(machine.runs / launch.execution_id))  # a child of it looks like it for a moment
    wait_until(gone.exists)
    time.sleep(0.5)  # it goes on printing, and the runner finds that there is nobody to tell
    assert launcher.start(launch) == first
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    if how == "is killed":
        processes.signal_process(runner, signal.SIGKILL)
        time.sleep(0.2)
        assert processes.survivors(launch.execution_id)
    assert machine.stopped == []
    Path(f"{gone}.2").touch()
    machine.await_stopped(launch)
    assert processes.survivors(launch.execution_id) == []
    assert (machine.folder / "ran").read_text() == "ran\n"


def test_a_runner_that_was_stopped_supervises_nothing(machine: Machine) -> None:
    """Or a command that stops its own would have no deadline."""
    launcher = machine.launcher()
    launch = machine.launch("kill -STOP $PPID; while [ ! -e go ]; do sleep 0.05; done")
    launcher.start(launch)
    wait_until(lambda: not launcher.describe(launch.execution_id, 1).supervised)
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    os.kill(machine.runner_of(launch), signal.SIGCONT)
    assert launcher.describe(launch.execution_id, 1).supervised
    (machine.runs / launch.execution_id / "work/go").touch()
    machine.await_stopped(launch)


def test_a_runner_that_was_told_to_end_has_its_time(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch(
        "trap 'sleep 0.5; exit 3' TERM; echo > there; while :; do sleep 0.05; done", grace_seconds=20
    )
    launcher.start(launch)
    wait_until((machine.runs / launch.execution_id / "work/there").exists)
    for _ in range(3):
        launcher.stop(launch.execution_id, 1)
        time.sleep(0.05)
    machine.await_stopped(launch)
    assert (machine.result(launch)["outcome"], machine.result(launch)["exit_code"]) == ("killed", 3)


def test_the_next_launcher_adopts_what_lives_and_what_ended(machine: Machine) -> None:
    first = machine.launcher()
    lives, ends = machine.launch("while [ ! -e go ]; do sleep 0.02; done; exit 4"), machine.launch("exit 5")
    for launch in (lives, ends):
        first.start(launch)
    wait_until((machine.runs / lives.execution_id / "work").exists)
    first.close()
    machine.launchers.remove(first)
    machine.stopped.clear()
    second = machine.launcher(max_running=2)
    assert second.adopt_all() == 2
    machine.await_stopped(ends)
    assert second.describe(lives.execution_id, 1).phase == "running"
    (machine.runs / lives.execution_id / "work/go").touch()
    machine.await_stopped(lives)
    assert machine.result(lives)["exit_code"] == 4
    assert sorted(machine.stopped) == sorted([(lives.execution_id, 1), (ends.execution_id, 1)])


def test_without_pidfds_the_lock_tells_of_the_end(machine: Machine) -> None:
    """As on macOS: a thread waits for the lock. Run where pidfds are, by a claim that names no process."""
    first = machine.launcher()
    launch = machine.launch("env -i /bin/sh -c 'while [ ! -e go ]; do sleep 0.02; done'")
    first.start(launch)
    folder = machine.runs / launch.execution_id
    wait_until((folder / "work").exists)
    first.close()
    machine.launchers.remove(first)
    runner = machine.runner_of(launch)
    claim = json.loads((folder / "started").read_text())
    (folder / "started").write_text(json.dumps(claim | {"start_time": 0}))
    second = machine.launcher()
    second.adopt_all()
    assert second.describe(launch.execution_id, 1).phase == "running"
    (folder / "work/go").touch()
    machine.await_stopped(launch)
    assert not Path(f"/proc/{runner}/environ").exists() or not Path(f"/proc/{runner}/cmdline").read_bytes()


def test_a_claim_from_before_the_machine_started_is_stopped(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("true")
    folder = machine.runs / launch.execution_id
    folder.mkdir(parents=True)
    (folder / "alive").touch()
    (folder / "started").write_text(json.dumps({"pid": os.getpid(), "start_time": 1, "boot_id": "other", "attempt": 1}))
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert isinstance(launcher.start(launch), Launched)
    machine.await_stopped(launch)


REWRITTEN = {
    "from before the machine started": 'echo \'{"pid":2,"start_time":1,"boot_id":"x","attempt":1}\' >',
    "nobody's": "echo '{}' >",
    "gone": "rm",
}


@pytest.mark.parametrize("how", REWRITTEN)
def test_a_command_that_rewrites_its_claim_neither_hides_nor_escapes(machine: Machine, how: str) -> None:
    """Nor by dropping its environment and its run's lock: what lives holds its locks, and can be ended."""
    first = machine.launcher()
    script = f"cd ..; {REWRITTEN[how]} started; rm alive; touch rewritten; trap '' TERM; while :; do sleep 0.05; done"
    launch = machine.launch(["env", "-i", "/bin/sh", "-c", script])
    first.start(launch)
    folder = machine.runs / launch.execution_id
    wait_until((folder / "rewritten").exists)
    (runner,) = processes.runners(folder)
    assert first.describe(launch.execution_id, 1).phase == "running"
    first.close()
    machine.launchers.remove(first)
    second = machine.launcher()
    second.adopt_all()
    assert second.describe(launch.execution_id, 1).phase == "running"
    second.stop(launch.execution_id, 1)
    wait_until(lambda: not Path(f"/proc/{runner}/cmdline").exists() or not Path(f"/proc/{runner}/cmdline").read_bytes())
    assert machine.result(launch)["outcome"] == "killed"
    assert second.describe(launch.execution_id, 1).phase in ("stopped", "missing")


def test_a_process_that_got_the_runners_number_is_not_signalled(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("true")
    folder = machine.runs / launch.execution_id
    folder.mkdir(parents=True)
    lock = os.open(folder / "alive", os.O_RDWR | os.O_CREAT)
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        claim = {"pid": bystander.pid, "start_time": 1, "boot_id": processes.boot_id(), "attempt": 1}
        (folder / "started").write_text(json.dumps(claim))
        launcher.stop(launch.execution_id, 1)
        time.sleep(0.3)
        assert bystander.poll() is None
    finally:
        os.close(lock)
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    "spoiled", [b"", b"[]", b"{", b'{"pid": 1, "start_time": 0, "boot_id": "", "attempt": 1}', b"\xff"]
)
def test_a_spoiled_claim_is_still_a_claim(machine: Machine, spoiled: bytes) -> None:
    launcher = machine.launcher()
    launch = machine.launch(f"touch {machine.folder}/ran")
    folder = machine.runs / launch.execution_id
    folder.mkdir(parents=True)
    (folder / "started").write_bytes(spoiled)
    assert isinstance(launcher.start(launch), Launched)
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    launcher.stop(launch.execution_id, 1)
    assert not (machine.folder / "ran").exists()


def test_noise_on_the_bell_is_no_bell(machine: Machine) -> None:
    launcher = machine.launcher()
    bell = os.open(machine.runs / "bell", os.O_WRONLY | os.O_NONBLOCK)
    os.write(bell, b"\n../../etc\n" + b"x" * 30_000 + b"\n\xff\n")
    os.close(bell)
    launch = machine.launch("true")
    launcher.start(launch)
    machine.await_stopped(launch)
    assert set(machine.bells) == {launch.execution_id}


def test_an_end_that_could_not_be_told_is_told_again(tmp_path: Path) -> None:
    told: list[str] = []
    done = threading.Event()

    def on_stopped(execution_id: str, _attempt: int) -> None:
        told.append(execution_id)
        if len(told) == 1:
            raise OSError("the disk is full")
        done.set()

    machine = Machine(tmp_path)
    launcher = ProcessLauncher(tmp_path / "runs", on_stopped, machine.on_bell)
    machine.launchers.append(launcher)
    launcher.start(machine.launch("true"))
    assert done.wait(60)
    machine.close()


def test_a_size_that_a_process_is_not_held_to_is_told_in_its_log(machine: Machine) -> None:
    launch = machine.launch("env")._replace(cpu=512, memory_mib=2048)
    assert isinstance(machine.launcher().start(launch), Launched)
    machine.await_stopped(launch)
    chunk = machine.runs / launch.execution_id / "spool/logs/00000001"
    first, *others = decode_chunk(chunk.read_bytes())
    assert (first.n, first.s) == (1, "sys")
    assert first.data.decode() == (
        "runvoy: not limited to 0.5 vCPU and 2048 MiB of memory: a process of the machine may use all that it has\n"
    )
    assert b"RUNVOY_NOTE" not in b"".join(record.data for record in others)


def test_the_runner_gets_nothing_of_the_stacks(machine: Machine) -> None:
    """No descriptor, no variable: `$(runvoy submit …)` must not hang, and credentials stay where they are."""
    launcher = machine.launcher(environment={**os.environ, "AWS_SECRET_ACCESS_KEY": "no"})
    held = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(held, True)
    launch = machine.launch("sleep 1000")
    launcher.start(launch)
    os.close(held)
    runner = Path(f"/proc/{machine.runner_of(launch)}")
    wait_until((machine.runs / launch.execution_id / "spool/started.json").exists)
    if os.getuid() == 0:  # the runner is readable to root only
        assert b"AWS_SECRET_ACCESS_KEY" not in (runner / "environ").read_bytes()
        targets = {str(link.readlink()) for link in (runner / "fd").iterdir()}
        own = str(machine.runs / launch.execution_id)
        assert all(target.startswith(("pipe:", own, "/dev/null")) for target in targets), targets
    assert os.getsid(machine.runner_of(launch)) == machine.runner_of(launch)


STARTER = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from concurrent.futures import ThreadPoolExecutor
    from runvoy_agent.local.launcher import ProcessLauncher
    from runvoy_agent.ports import Launch
    launches = [Launch(i, 1, "process", None, None, None, p.encode()) for i, p in json.load(open(sys.argv[2]))]
    launcher = ProcessLauncher(Path(sys.argv[1]), lambda *_: None, lambda _: None, max_running=1000)
    print("ready", flush=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launcher.start, launches))
    """
)


def test_a_launcher_killed_while_it_starts_100_commands(machine: Machine) -> None:
    """Again and again until all have started: every command runs, and none runs twice."""
    ran = machine.folder / "ran"
    launches = [machine.launch(f"echo {number} >> {ran}; sleep 0.05") for number in range(100)]
    (machine.folder / "todo").write_text(
        json.dumps([(launch.execution_id, launch.payload.decode()) for launch in launches])
    )
    kills = 0
    for seconds in [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0, None]:
        command = [sys.executable, "-c", STARTER, str(machine.runs), str(machine.folder / "todo")]
        starter = subprocess.Popen(command, stdout=subprocess.PIPE)
        with contextlib.closing(starter.stdout) as stdout:  # type: ignore[type-var]
            assert stdout is not None
            assert stdout.readline() == b"ready\n"
            if seconds is not None:
                time.sleep(seconds)
                kills += starter.poll() is None
                starter.kill()
            assert starter.wait(60) in (0, -signal.SIGKILL)
    assert kills >= 3
    launcher = machine.launcher(max_running=1000)
    assert launcher.adopt_all() == 100
    for launch in launches:
        machine.await_stopped(launch, 60)
    assert sorted(map(int, ran.read_text().split())) == list(range(100))
    assert all(machine.result(launch)["exit_code"] == 0 for launch in launches)
