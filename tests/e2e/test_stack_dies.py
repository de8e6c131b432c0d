"""kill -9 of the stack at any moment: nothing is lost, nothing runs twice, and what runs goes on."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Machine

SEED = 20260504
# A quick form in the suite; `just chaos` asks for more.
COMMANDS = int(os.environ.get("RUNVOY_TEST_CHAOS", "24"))
CLIENTS = 4
TRIES = 20  # on a busy machine a stack may be killed before it answers, time and again


def test_twelve_clients_start_one_stack(machine: Machine) -> None:
    processes = [machine.popen("run", "echo $PPID") for _ in range(12)]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0] * 12, outputs
    log = (machine.home / "local" / "stack.log").read_text()
    assert log.count("listening on") == 1, log
    assert len(json.loads(machine.ok("list", "--json"))) == 12


def test_a_running_command_goes_on_and_its_log_and_result_are_there_afterwards(machine: Machine) -> None:
    gate = machine.home / "gate"
    command = f"echo before; while [ ! -e {gate} ]; do sleep 0.05; done; echo after; exit 9"
    execution_id = machine.ok("submit", command).strip()
    machine.wait_until(lambda: machine.status(execution_id)["state"] == "RUNNING")
    machine.kill_stack()
    gate.touch()  # the command ends while no stack runs
    machine.wait_until(lambda: not _runners(machine))
    assert machine("wait", execution_id).returncode == 9
    assert machine.ok("logs", execution_id) == "before\nafter\n"


@pytest.mark.shared
def test_following_goes_on_over_a_restart(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = machine.popen("run", f"echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two; exit 4")
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    machine.kill_stack()
    machine.ok("local", "up")
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"two\n", 4), err


@pytest.mark.shared
def test_local_down_leaves_commands_running(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    execution_id = machine.ok("submit", f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done").strip()
    machine.wait_until(lambda: machine.status(execution_id)["state"] == "RUNNING")
    machine.ok("local", "down")
    gate.touch()
    assert machine("wait", execution_id).returncode == 0
    assert machine.ok("logs", execution_id) == "done\n"


@pytest.mark.timeout(240 + 6 * COMMANDS)  # a machine with ten times as much to do as it can takes as long
def test_chaos(machine: Machine) -> None:
    """Clients submit commands that record their own runs while the stack is killed again and again."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    machine.ok("local", "up")
    record = machine.home / "record"
    record.touch()
    done = threading.Event()

    def submit(number: int) -> tuple[int, str]:
        # One short write with O_APPEND is atomic. Every third has output enough for several chunks.
        body = f"echo {number} >> {record}; "
        body += "seq 20000; " if number % 3 == 0 else f"echo line {number}; sleep 0.{number % 10}; "
        for _ in range(TRIES):
            process = machine("submit", "--id", f"run-{number}", body + f"exit {number % 4}")
            if process.returncode == 0:
                return number, process.stdout.decode().strip()
            # Gave up while the stack was away: the id makes trying again safe.
        raise AssertionError(process)

    def kill() -> int:
        kills = 0
        while not done.wait(chance.uniform(0.2, 1.5)):
            try:
                machine.kill_stack()
            except FileNotFoundError:
                continue
            kills += 1
        return kills

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killing = pool.submit(kill)
        try:
            submitted = list(pool.map(submit, range(COMMANDS)))
        finally:
            done.set()  # or the pool would wait for the killing to end
        print(f"{killing.result()} kills")
    assert killing.result() >= 3
    machine.ok("local", "up")
    waited = machine("wait", "--json", *(execution_id for _, execution_id in submitted), patience=150)
    answers = [json.loads(line) for line in waited.stdout.splitlines()]
    assert [answer["exit_code"] for answer in answers] == [number % 4 for number in range(COMMANDS)], waited
    runs = Counter(record.read_text().split())
    assert runs == {str(number): 1 for number in range(COMMANDS)}
    with ThreadPoolExecutor(CLIENTS) as pool:
        logs = list(pool.map(lambda one: machine.ok("logs", one[1]), submitted))
    for (number, _), log in zip(submitted, logs, strict=True):
        assert log == ("".join(f"{line}\n" for line in range(1, 20001)) if number % 3 == 0 else f"line {number}\n")
    for name in ("state.db", "queue.db"):
        with sqlite3.connect(machine.home / "local" / name) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _runners(machine: Machine) -> bool:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return any("runner/__main__.py" in line and str(machine.home) in line for line in shown.splitlines())
