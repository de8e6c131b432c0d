"""What the launcher of one machine does with runners that died, hang or live on, and with claims that lie, on real processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contract.launching import Machine, wait_until

from runvoy_agent.local import processes, run_claims
from runvoy_agent.ports import Launched, Unavailable

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
    wait_until((folder / "spool/started.json").exists)
    time.sleep(0.3)  # until it has become what it is
    command = int(json.loads(json.loads((folder / "spool/started.json").read_bytes())["body"])["pid"])
    os.kill(machine.runner_of(launch), signal.SIGKILL)
    os.kill(command, signal.SIGKILL)
    time.sleep(0.3)
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    assert machine.stopped == []
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
    wait_until(lambda: not processes.runners(machine.runs / launch.execution_id))
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
    assert processes.survivors(machine.runs / launch.execution_id) == []


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
        assert processes.survivors(machine.runs / launch.execution_id)
    assert machine.stopped == []
    Path(f"{gone}.2").touch()
    machine.await_stopped(launch)
    assert processes.survivors(machine.runs / launch.execution_id) == []
    assert (machine.folder / "ran").read_text() == "ran\n"


def test_a_run_whose_folder_was_removed_is_not_run_again_while_its_end_is_told(machine: Machine) -> None:
    """Its start may be delivered again until its end is on record."""
    launch = machine.launch(f'echo ran >> {machine.folder}/ran; rm -rf "$(dirname "$PWD")"')
    tell = machine.on_stopped

    def start_again(execution_id: str, attempt: int) -> None:
        launcher.start(launch)
        wait_until(lambda: not processes.runners(machine.runs / execution_id))
        tell(execution_id, attempt)

    machine.on_stopped = start_again  # type: ignore[method-assign]
    launcher = machine.launcher()
    launcher.start(launch)
    machine.await_stopped(launch)
    assert (machine.folder / "ran").read_text() == "ran\n"
    assert launcher.describe(launch.execution_id, 1).phase == "stopped", "or it would be pushed again for ever"


@pytest.mark.parametrize("how", ["lives", "has ended"])
def test_a_run_whose_folder_was_removed_is_not_run_again_by_the_next_stack(machine: Machine, how: str) -> None:
    """Its stack was killed before it heard that the run began, so its start comes again."""
    gone = machine.folder / "gone"
    loop = f"while [ ! -e {gone}.2 ]; do sleep 0.05; done"
    launch = machine.launch(f'echo ran >> {machine.folder}/ran; rm -rf "$(dirname "$PWD")"; echo > {gone}; {loop}')
    first = machine.launcher()
    first.start(launch)
    wait_until(gone.exists)
    first.close()
    machine.launchers.remove(first)
    if how == "has ended":
        Path(f"{gone}.2").touch()
        wait_until(lambda: not processes.runners(machine.runs / launch.execution_id))
    second = machine.launcher()
    assert second.adopt_all() == 1
    assert isinstance(second.start(launch), Launched)
    if how == "lives":
        assert second.describe(launch.execution_id, 1).phase == "running"
        assert machine.stopped == []
        Path(f"{gone}.2").touch()
    machine.await_stopped(launch)
    assert second.describe(launch.execution_id, 1).phase == "stopped"
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


@pytest.mark.parametrize("stack", ["that started it", "that found it"])
@pytest.mark.parametrize("named", ["a program", "one with a runner's arguments"])
def test_a_command_that_names_another_runner_has_its_deadline(machine: Machine, named: str, stack: str) -> None:
    """It stops its own, and has its claim name what never ends it."""
    if (named, stack) == ("one with a runner's arguments", "that found it"):
        pytest.skip("nothing tells the two apart: see ADR 30")
    other = "sleep 1000 &" if named == "a program" else "sh -c 'sleep 1000; :' x/runner/__main__.py \"${PWD%/work}\" &"
    script = f"""
        {other} kill -STOP $PPID
        claim=../../claims/$RUNVOY_EXECUTION_ID; chmod 600 $claim
        printf '{{"pid":%d,"start_time":%d,"boot_id":"%s","attempt":1}}' \\
            $! $(cut -d' ' -f22 /proc/$!/stat) $(cat /proc/sys/kernel/random/boot_id) > $claim
        touch ../rewritten; trap '' TERM; while :; do sleep 0.05; done
    """
    launcher = machine.launcher(grace_seconds=0.1, runner_seconds=0.1)
    launch = machine.launch(script)
    launcher.start(launch)
    wait_until((machine.runs / launch.execution_id / "rewritten").exists)
    if stack == "that found it":
        launcher.close()
        machine.launchers.remove(launcher)
        launcher = machine.launcher(grace_seconds=0.1, runner_seconds=0.1)
        launcher.adopt_all()
    wait_until(lambda: not launcher.describe(launch.execution_id, 1).supervised)  # a busy runner stops a moment later
    assert launcher.describe(launch.execution_id, 1).phase == "running"
    wait_until(lambda: launcher.stop(launch.execution_id, 1) or (launch.execution_id, 1) in machine.stopped)


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
    path = run_claims.path_of(folder)
    path.chmod(0o600)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"start_time": 0}))
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
    run_claims.path_of(folder).write_text(
        json.dumps({"pid": os.getpid(), "start_time": 1, "boot_id": "other", "attempt": 1})
    )
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    assert isinstance(launcher.start(launch), Launched)
    machine.await_stopped(launch)


REWRITTEN = {
    "from before the machine started": 'echo \'{"pid":2,"start_time":1,"boot_id":"x","attempt":1}\' >',
    "nobody's": "echo '{}' >",
    "gone": "rm -f",
}


@pytest.mark.parametrize("how", REWRITTEN)
def test_a_command_that_rewrites_its_claim_neither_hides_nor_escapes(machine: Machine, how: str) -> None:
    """Nor by dropping its environment and its run's lock: what lives holds its locks, and can be ended."""
    first = machine.launcher()
    claim = '"../claims/${PWD##*/}"'
    script = f"cd ..; chmod 600 {claim}; {REWRITTEN[how]} {claim}; touch rewritten; trap '' TERM; while :; do sleep 0.05; done"
    launch = machine.launch(["env", "-i", "/bin/sh", "-c", script])
    first.start(launch)
    folder = machine.runs / launch.execution_id
    wait_until((folder / "rewritten").exists)
    assert first.describe(launch.execution_id, 1).phase == "running"
    first.close()
    machine.launchers.remove(first)
    second = machine.launcher()
    second.adopt_all()
    assert second.describe(launch.execution_id, 1).phase == "running"
    second.stop(launch.execution_id, 1)
    wait_until(lambda: second.describe(launch.execution_id, 1).phase in ("stopped", "missing"))
    assert machine.result(launch)["outcome"] == "killed"


def test_a_process_that_got_the_runners_number_is_not_signalled(machine: Machine) -> None:
    launcher = machine.launcher()
    launch = machine.launch("true")
    folder = machine.runs / launch.execution_id
    folder.mkdir(parents=True)
    lock = os.open(run_claims.path_of(folder), os.O_RDWR | os.O_CREAT)
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        claim = {"pid": bystander.pid, "start_time": 1, "boot_id": processes.boot_id(), "attempt": 1}
        run_claims.path_of(folder).write_text(json.dumps(claim))
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
    run_claims.path_of(folder).write_bytes(spoiled)
    assert isinstance(launcher.start(launch), Launched)
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"
    launcher.stop(launch.execution_id, 1)
    assert not (machine.folder / "ran").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_command_that_closed_its_folder_is_stopped_and_adopted(machine: Machine) -> None:
    closed = machine.folder / "closed"
    launch = machine.launch(f"chmod 0 ..; touch '{closed}'; sleep 1000")
    machine.launcher().start(launch)
    wait_until(closed.exists)
    next_one = machine.launcher()
    assert next_one.adopt_all() == 1
    next_one.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"


def test_one_that_cannot_be_marked_is_told_all_the_same(machine: Machine) -> None:
    """As on a disk that takes no further file."""
    launcher = machine.launcher()
    launch = machine.launch("sleep 1000")
    launcher.start(launch)
    (machine.runs / launch.execution_id / processes.KILL_MARKER).symlink_to("nowhere/to/be/found")
    launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"


def test_one_that_can_be_neither_marked_nor_told_is_an_outage(machine: Machine) -> None:
    launch = machine.launch("true")
    launcher = machine.launcher()
    (machine.runs / launch.execution_id).touch()
    with pytest.raises(Unavailable, match="cannot be told to end"):
        launcher.stop(launch.execution_id, 1)
