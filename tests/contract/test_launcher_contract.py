"""What every launcher promises, on real processes; and what the launcher of one machine promises besides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

from tests.contract.launching import Machine, wait_until

from runvoy_agent.local.launcher import ProcessLauncher
from runvoy_agent.ports import Launch, Launched, LaunchRefused, NoCapacity
from runvoy_protocol.logs import decode_chunk

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
            if isinstance(launcher.start(launch), NoCapacity):
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


def test_without_room_on_the_disk_nothing_is_started_and_what_runs_goes_on(machine: Machine) -> None:
    shortages: list[str] = []
    launcher = machine.launcher(shortage=lambda: shortages[-1] if shortages else None)
    runs, late = machine.launch("sleep 1000"), machine.launch("true")
    launcher.start(runs)
    shortages.append("the disk has 3 MiB left")
    assert launcher.start(late) == NoCapacity("the disk has 3 MiB left")
    assert launcher.describe(late.execution_id, 1).phase == "missing"
    assert isinstance(launcher.start(runs), Launched)
    launcher.stop(runs.execution_id, 1)
    machine.await_stopped(runs)
    shortages.clear()
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


def test_a_runner_that_cannot_claim_is_tried_again_and_says_why(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch(f"echo ran >> {machine.folder}/ran")
    folder = machine.runs / launch.execution_id
    folder.touch()  # as a disk that takes no folder
    outcome = launcher.start(launch)
    assert isinstance(outcome, NoCapacity)
    assert "the runner cannot be started: " in outcome.message
    assert launcher.describe(launch.execution_id, 1).phase == "missing"
    folder.unlink()
    claims = machine.runs / "claims"
    claims.rmdir()
    claims.symlink_to("/proc")
    outcome = launcher.start(launch)
    assert isinstance(outcome, NoCapacity)
    assert "before it claimed the run: the run cannot be claimed: " in outcome.message
    assert launcher.describe(launch.execution_id, 1).phase == "missing"
    claims.unlink()
    assert isinstance(launcher.start(launch), Launched)
    machine.await_stopped(launch)
    assert (machine.folder / "ran").read_text() == "ran\n"


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
        own = str(machine.runs / launch.execution_id)

        def has_its_own_alone() -> bool:
            targets = [str(link.readlink()) for link in (runner / "fd").iterdir() if link.is_symlink()]
            return all(target.startswith(("pipe:", own, "/dev/null")) for target in targets)

        wait_until(has_its_own_alone)  # it may be ringing the bell
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
