"""Ending, interrupting and looking into what runs and waits: kill, Ctrl-C, locks, health, and a stack that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Machine


def submit(machine: Machine, *args: str) -> str:
    return machine.ok("submit", *args).strip()


def follow(machine: Machine, *args: str) -> tuple[subprocess.Popen[bytes], str]:
    """`runvoy run`, once its command has printed `started`, and the execution's id."""
    process = machine.popen("run", *args)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n", process.communicate()
    newest = json.loads(machine.ok("--json", "list", "--limit", "1"))[0]
    return process, newest["execution_id"]


def holder_and_waiter(machine: Machine, lock: str) -> tuple[str, str]:
    holder = submit(machine, "--lock", lock, "sleep 60")
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    return holder, submit(machine, "--lock", lock, "echo mine")


@pytest.mark.shared
def test_kill_of_one_that_runs_and_one_that_waits_and_one_that_has_ended(machine: Machine) -> None:
    ended = submit(machine, "true")
    assert machine("wait", ended).returncode == 0
    holder, waiter = holder_and_waiter(machine, "killed")
    told = machine.ok("kill", ended, waiter, holder).splitlines()
    assert told == [
        f"{ended} had already ended: SUCCEEDED",
        f"{waiter} killed before it started",
        f"{holder} is being killed",
    ]
    assert machine("wait", waiter, holder).returncode == 123
    again = json.loads(machine.ok("--json", "kill", holder))
    assert (again["state"], again["exit_code_of"], again["had_ended"]) == ("STOPPED", 123, True)
    assert (again["decided_by"], again["exit_meaning"]) == ("runvoy", "killed")


def test_the_last_one_is_that_of_whichever_command_submitted(machine: Machine, tmp_path: Path) -> None:
    assert machine("wait", "@last").returncode == 121
    assert machine("run", "exit 4").returncode == 4
    assert machine("wait", "@last").returncode == 4
    submitted = machine.ok("submit", "exit 5").strip()
    assert machine("wait", "@last").returncode == 5
    assert machine.status("@last")["execution_id"] == submitted
    file = tmp_path / "runs.jsonl"
    file.write_text('{"command": "exit 6"}\n{"command": "echo six"}\n')
    machine.ok("submit", "--bulk", str(file))
    assert machine.ok("logs", "--follow", "@last") == "six\n"
    machine("sync", str(tmp_path / "kept"), "--once")
    assert machine.ok("logs", "@last") == "six\n"


@pytest.mark.shared
def test_kill_can_wait_for_the_end_and_keeps_the_log(machine: Machine) -> None:
    execution_id = submit(machine, "trap 'echo asked; exit 0' TERM; echo begun; while :; do sleep 0.1; done")
    machine.wait_until(lambda: machine.ok("logs", execution_id) == "begun\n")
    assert machine.ok("kill", "--wait", execution_id) == f"{execution_id} killed\n"
    assert {"begun", "asked"} <= set(machine.ok("logs", execution_id).splitlines())


@pytest.mark.shared
def test_kill_right_after_submit_waits_for_the_decision(machine: Machine) -> None:
    for _ in range(3):
        execution_id = submit(machine, "sleep 60")
        assert machine("kill", execution_id).returncode == 0
        assert machine("wait", execution_id).returncode == 123


@pytest.mark.shared
def test_kill_of_an_unknown_one_is_a_failure_that_spares_the_others(machine: Machine) -> None:
    execution_id = submit(machine, "sleep 60")
    unknown = execution_id[:-4] + "0000"
    done = machine("--json", "kill", unknown, execution_id)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["details"]["execution_id"]) == ("NOT_FOUND", unknown)
    assert json.loads(done.stdout)["execution_id"] == execution_id
    assert machine("kill", "nonsense").returncode == 2


@pytest.mark.shared
def test_ctrl_c_once_leaves_after_three_seconds_and_the_command_goes_on(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process, execution_id = follow(
        machine, f"echo started; while [ ! -e {gate} ]; do sleep 0.1; done; echo finished; exit 4"
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b""), err
    assert f"runvoy logs --follow {execution_id}".encode() in err
    assert b"Ctrl-C again within 3 s kills it" in err
    gate.touch()
    assert machine("wait", execution_id).returncode == 4
    assert machine.ok("logs", execution_id) == "started\nfinished\n"


@pytest.mark.shared
def test_output_goes_on_and_an_end_counts_in_the_seconds_after_ctrl_c(machine: Machine, tmp_path: Path) -> None:
    """They are three, in which a machine that others keep busy may not come to it: then once more."""
    tries = 3
    ended = [end_after_ctrl_c(machine, tmp_path / "gate-1")]
    while ended[-1][0] == 130 and len(ended) < tries:
        ended.append(end_after_ctrl_c(machine, tmp_path / f"gate-{1 + len(ended)}"))
    assert ended[-1][:2] == (6, b"1\n2\n"), ended


def end_after_ctrl_c(machine: Machine, gate: Path) -> tuple[int, bytes, bytes]:
    """How a client ends whose command ends as soon as Ctrl-C was noticed."""
    # It cannot end before Ctrl-C has been noticed: a signal to a client that is leaving anyway says nothing.
    process, _ = follow(machine, f"echo started; while [ ! -e {gate} ]; do sleep 0.02; done; echo 1; echo 2; exit 6")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    seen = b""
    while b"Ctrl-C again" not in seen:
        piece = process.stderr.readline()
        assert piece, seen
        seen += piece
    gate.touch()
    out, err = process.communicate(timeout=60)
    return process.returncode, out, seen + err


@pytest.mark.shared
def test_ctrl_c_twice_kills_and_follows_to_the_end(machine: Machine) -> None:
    tries = 3  # as above: it leaves by itself after three seconds
    ended = [end_after_two(machine)]
    while ended[-1][0] == 130 and len(ended) < tries:
        ended.append(end_after_two(machine))
    code, out, state, err = ended[-1]
    assert (code, out, state) == (123, b"asked\n", "STOPPED"), err


def end_after_two(machine: Machine) -> tuple[int, bytes, str, bytes]:
    process, execution_id = follow(machine, "trap 'echo asked; exit 0' TERM; echo started; while :; do sleep 0.1; done")
    process.send_signal(signal.SIGINT)
    read_to(process, b"kills it")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 130:
        machine.ok("kill", "--wait", execution_id)
    return process.returncode, out, machine.status(execution_id)["state"], err


@pytest.mark.shared
def test_ctrl_c_leaves_and_kills_where_the_stack_does_not_answer(machine: Machine) -> None:
    """Once: it leaves in time all the same. Three times: it leaves at once, and does not claim that the kill was done."""
    assert left_after(machine, 1).endswith(b" goes on\n")
    tries = 3  # as above: it leaves by itself after three seconds
    told = [left_after(machine, 3)]
    while told[-1].endswith(b" goes on\n") and len(told) < tries:
        told.append(left_after(machine, 3))
    assert told[-1].endswith(b" may be killed, or go on\n"), told


def left_after(machine: Machine, presses: int) -> bytes:
    """What a client says as it leaves after so many Ctrl-Cs, while the stack takes calls and answers none."""
    process, execution_id = follow(machine, "echo started; sleep 600")
    assert process.stderr is not None
    stack = machine.stack_pid()
    os.kill(stack, signal.SIGSTOP)
    left = f"runvoy: left; {execution_id}".encode()
    line = b""
    try:
        for word in (b"Ctrl-C again", b"killing it", left)[:presses]:
            process.send_signal(signal.SIGINT)
            line = read_to(process, word, left)
        line = line if left in line else read_to(process, left)
        process.communicate(timeout=25)  # less than a call may take
    finally:
        os.kill(stack, signal.SIGCONT)
    assert process.returncode == 130
    machine.ok("kill", execution_id)
    return line


def read_to(process: subprocess.Popen[bytes], *words: bytes) -> bytes:
    """Read what a client says until a line has one of the words in it; that line."""
    assert process.stderr is not None
    seen = [b""]
    while not any(word in seen[-1] for word in words):
        seen.append(process.stderr.readline())
        assert seen[-1], seen
    return seen[-1]


def test_ctrl_c_before_anything_was_sent_says_so(machine: Machine) -> None:
    machine.ok("local", "up")
    stack = machine.stack_pid()
    os.kill(stack, signal.SIGSTOP)  # so that the client waits for its grant, or for the health, and sends nothing
    try:
        process = machine.popen("--debug", "run", "touch should-not-be")
        assert process.stderr is not None
        machine.wait_until(lambda: wchan(process.pid) == "S")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        os.kill(stack, signal.SIGCONT)
    assert process.returncode == 130, err
    assert b"submitted" in err  # `not submitted`, or that it may not have been
    assert json.loads(machine.ok("--json", "list")) == []


def wchan(pid: int) -> str:
    """The state of a process that has got as far as a socket: S if it sleeps on one."""
    try:
        sockets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH115, PTH208
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return state if any(name.startswith("socket:") for name in sockets) else ""


def test_locks_are_listed_shown_and_released(machine: Machine) -> None:
    assert json.loads(machine.ok("--json", "locks", "list")) == []
    holder, waiter = holder_and_waiter(machine, "prod.db")
    [listed] = json.loads(machine.ok("--json", "locks", "list"))
    assert (listed["name"], listed["length"], [one["execution_id"] for one in listed["queue"]]) == (
        "prod.db",
        2,
        [holder],
    )
    shown = json.loads(machine.ok("--json", "locks", "show", "prod.db"))
    assert [(one["execution_id"], one["position"]) for one in shown["queue"]] == [(holder, 0), (waiter, 1)]
    assert holder in machine.ok("locks", "show", "prod.db")
    assert "prod.db" in machine.ok("locks", "list")
    told = machine.ok("status", waiter)
    assert f"prod.db: next, held by {holder}" in told
    assert "it waits for the lock prod.db, next in line, held by" in told
    assert_release(machine, holder, waiter)
    assert machine("wait", waiter).returncode == 0
    assert machine.status(holder)["state"] == "RUNNING"


def assert_release(machine: Machine, holder: str, waiter: str) -> None:
    unasked = machine("locks", "release", "prod.db")
    assert (unasked.returncode, b"--yes" in unasked.stderr) == (2, True)
    wrong = machine("locks", "release", "prod.db", "--yes", "--holder", waiter)
    assert (wrong.returncode, b"CONFLICT" in wrong.stderr) == (1, True)
    done = machine("--json", "locks", "release", "prod.db", "--yes", "--holder", holder)
    assert (done.returncode, json.loads(done.stdout)["released"]) == (0, holder), done.stderr
    assert holder.encode() in done.stderr


@pytest.mark.shared
def test_a_lock_nobody_knows_and_a_name_with_any_character(machine: Machine) -> None:
    for name in ("nobody", "a/b?c#d%e", "日本"):
        done = machine("locks", "show", name)
        assert (done.returncode, b"NOT_FOUND" in done.stderr) == (1, True), done


def test_health_and_repairs(machine: Machine) -> None:
    shown = json.loads(machine.ok("--json", "health"))
    assert shown["status"] == "ok"
    assert abs(shown["clock_skew_seconds"]) < 5
    assert "as this machine's" in machine.ok("health")
    assert machine.ok("health", "reconcile") == "nothing was wrong\n"
    execution_id = submit(machine, "echo mended")
    assert machine("wait", execution_id).returncode == 0
    found = json.loads(machine.ok("--json", "health", "reconcile"))
    assert set(found) == {"repairs", "left"}


@pytest.mark.shared
def test_logs_wait_for_a_run_that_has_not_begun(machine: Machine) -> None:
    holder, waiter = holder_and_waiter(machine, "logged")
    process = machine.popen("logs", waiter)
    assert process.stderr is not None
    assert b"has not begun; waiting for it" in process.stderr.readline()
    assert machine("logs", "--timeout", "0", waiter).returncode == 120
    machine.ok("kill", holder)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"mine\n")


@pytest.mark.shared
def test_who_follows_starts_a_stack_that_died(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process, _ = follow(machine, f"echo started; while [ ! -e {gate} ]; do sleep 0.1; done; echo more; exit 9")
    before = machine.endpoint()["instance"]
    machine.kill_stack()
    machine.wait_until(lambda: machine.endpoint()["instance"] != before)  # nobody else is there to start it
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, b"more\n"), err


@pytest.mark.shared
def test_who_waits_for_a_lock_starts_a_stack_that_died(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    holder = submit(machine, "--lock", "dying", f"while [ ! -e {gate} ]; do sleep 0.1; done")
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    process = machine.popen("--verbose", "run", "--lock", "dying", "echo mine")
    assert process.stderr is not None
    while b"waits for its locks" not in process.stderr.readline():
        pass
    machine.kill_stack()
    gate.touch()
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, b"mine\n"), err


def meaning(machine: Machine, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine("--json", "run", *args).stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("args", "code", "by", "words"),
    [
        (["true"], 0, "command", "success"),
        (["exit 3"], 3, "command", "failure"),
        (["no-such-program"], 127, "command", "command not found"),
        (["--", "/"], 126, "command", "found, but could not be executed"),
        (["--", "sh", "-c", "kill -9 $$"], 137, "command", "killed by SIGKILL"),
        (["sh -c 'kill -9 $$'; exit $?"], 137, "command", "as after SIGKILL"),
        (["exit 124"], 124, "command", "failure"),
        (["--timeout", "1", "sleep 30"], 124, "runvoy", "timed out"),
    ],
)
def test_exit_codes_in_words(machine_of_module: Machine, args: list[str], code: int, by: str, words: str) -> None:
    found = meaning(machine_of_module, *args)
    assert (found["exit_code"], found["decided_by"], found["exit_meaning"]) == (code, by, words)
