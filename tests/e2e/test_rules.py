"""The rules of a run on the real thing: locks, kill, deadlines, with stack and runners dying among them.

Commands watch the locks themselves: each takes an flock of the lock's name, which the kernel drops when they die, and
says so if somebody has it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

SEED = 20260507
# A quick form in the suite; `just chaos` asks for all fifty, of which some run until they are killed.
CHAOTIC_REQUESTS = min(50, int(os.environ.get("RUNVOY_TEST_CHAOS", "16")))


def watched(machine: Machine, names: list[str], body: str) -> str:
    """A command line that runs `body` and records any overlap under one of its locks."""
    folder = machine.home / "watch"
    folder.mkdir(parents=True, exist_ok=True)
    takes = "".join(
        f"exec {3 + place}>{folder}/{name}; flock -n {3 + place} || echo {name} $$ >> {folder}/overlaps; "
        for place, name in enumerate(names)
    )
    return takes + body


def overlaps(machine: Machine) -> str:
    path = machine.home / "watch" / "overlaps"
    return path.read_text() if path.exists() else ""


def submit_each(machine: Machine, runs: list[dict[str, Any]]) -> list[str]:
    """Submit runs as objects of their own, many at once; their ids."""
    file = machine.home / "runs.jsonl"
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return machine.ok("submit", "--bulk", str(file), "--no-batch").split()


def lock_options(names: list[str]) -> list[str]:
    return [option for name in names for option in ("--lock", name)]


def test_twenty_runs_under_one_lock_go_one_by_one_in_order_of_admission(machine: Machine) -> None:
    machine.ok("local", "up")
    order = machine.home / "order"

    body = watched(machine, ["db"], f"echo $RUNVOY_EXECUTION_ID $RUNVOY_LOCK_FENCE >> {order}; sleep 0.05")
    ids = submit_each(machine, [{"command": body, "locks": ["db"]}] * 20)
    assert machine("wait", *ids).returncode == 0
    assert overlaps(machine) == ""
    executions = json.loads(machine.ok("list", "--limit", "50", "--json"))
    admitted_at = {execution["execution_id"]: execution["admitted_at"] for execution in executions}
    ran = [line.split() for line in order.read_text().splitlines()]
    assert {execution_id for execution_id, _ in ran} == set(ids)
    # Not by the ids: two may be admitted in one millisecond.
    assert [admitted_at[execution_id] for execution_id, _ in ran] == sorted(admitted_at.values())
    assert [int(fence) for _, fence in ran] == list(range(1, 21))


@pytest.mark.parametrize("chaos", [False, True], ids=["calm", "with kill -9"])
def test_requests_over_five_locks_all_end_and_never_overlap(machine: Machine, chaos: bool) -> None:
    chance = random.Random(SEED + chaos)
    print(f"seed {SEED + chaos}")
    machine.ok("local", "up")
    done = threading.Event()
    wanted = []
    for number in range(CHAOTIC_REQUESTS if chaos else 50):
        names = chance.sample(["a", "b", "c", "d", "e"], chance.randint(1, 3))
        fate = chance.choice(["end", "end", "end", "fail", "kill", "time out", "queue"])
        wanted.append((number, names, fate))

    def body_of(names: list[str], fate: str) -> str:
        bodies = {"fail": "sleep 0.05; exit 3", "kill": "sleep 60", "time out": "sleep 60"}
        return watched(machine, names, bodies.get(fate, "sleep 0.05"))

    def submit(item: tuple[int, list[str], str]) -> str:
        number, names, fate = item
        options = ["--id", f"run-{number}", *lock_options(names)]
        options += ["--timeout", "1s"] if fate == "time out" else []
        options += ["--queue-timeout", "4s"] if fate == "queue" else []
        for _ in range(5):
            process = machine("submit", *options, body_of(names, fate))
            if process.returncode == 0:
                return process.stdout.decode().strip()
        raise AssertionError(process)

    def run_of(number: int, names: list[str], fate: str) -> dict[str, Any]:
        times = {"time out": {"timeout": "1s"}, "queue": {"queue_timeout": "4s"}}.get(fate, {})
        return {"command": body_of(names, fate), "locks": names, "id": f"run-{number}", **times}

    def kill_things() -> None:
        while not done.wait(chance.uniform(0.5, 2.0)):
            victims = _runners(machine) if chance.random() < 0.4 else [_stack(machine)]
            for pid in victims[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            machine("local", "up")

    with ThreadPoolExecutor(5) as pool:
        if chaos:
            pool.submit(kill_things)
        try:
            # With chaos each by a client of its own: some meet the stack while it is dead.
            runs = [] if chaos else [run_of(*item) for item in wanted]
            ids = list(pool.map(submit, wanted)) if chaos else submit_each(machine, runs)
            kills = [execution_id for execution_id, item in zip(ids, wanted, strict=True) if item[2] == "kill"]
            for execution_id in kills:
                machine.wait_until(lambda execution_id=execution_id: machine("kill", execution_id).returncode == 0)
        finally:
            done.set()  # or the pool would wait for the killing to end
    machine.ok("local", "up")
    waited = machine("wait", "--json", *ids, patience=150)
    answers = {answer["execution_id"]: answer for answer in map(json.loads, waited.stdout.splitlines())}
    assert set(answers) == set(ids), waited.stderr
    assert overlaps(machine) == ""
    for execution_id, (number, _, fate) in zip(ids, wanted, strict=True):
        allowed = {
            "end": {"SUCCEEDED"},
            "fail": {"FAILED"},
            "kill": {"STOPPED"},
            "time out": {"TIMED_OUT"},
            "queue": {"SUCCEEDED", "TIMED_OUT"},
        }[fate]
        # A runner that was killed leaves no result, and its command may have ended or not: UNKNOWN is the honest word.
        assert answers[execution_id]["state"] in (allowed | {"UNKNOWN"} if chaos else allowed), (number, fate)
    machine.wait_until(lambda: json.loads(machine.ok("locks", "list", "--json")) == [])


def _stack(machine: Machine) -> int:
    try:
        return machine.stack_pid()
    except FileNotFoundError:
        return 2**22 + 1  # no process has this number


def _runners(machine: Machine) -> list[int]:
    found = []
    for pid in machine.processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"runner/__main__.py" in command:
            found.append(pid)
    return found


@pytest.mark.shared
def test_if_locked_fail_is_122_at_once(machine: Machine) -> None:
    holder = machine.ok("submit", "--lock", "held", "sleep 60").strip()
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    done = machine("run", "--lock", "held", "--if-locked", "fail", "echo never")
    assert (done.returncode, done.stdout) == (122, b"")
    assert b"LOCK_HELD" in done.stderr
    assert holder.encode() in done.stderr
    assert machine("kill", holder).returncode == 0
    assert machine("wait", holder).returncode == 123
    assert machine("run", "--lock", "held", "--if-locked", "fail", "echo now").stdout == b"now\n"


@pytest.mark.shared
def test_a_queue_timeout_is_124_with_its_reason(machine: Machine) -> None:
    holder = machine.ok("submit", "--lock", "long-held", "sleep 60").strip()
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    done = machine("run", "--lock", "long-held", "--queue-timeout", "1s", "echo never")
    assert (done.returncode, done.stdout) == (124, b"")
    machine("kill", holder)


@pytest.mark.shared
def test_kill_ends_the_whole_tree_and_keeps_the_log(machine: Machine, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"echo before; for i in 1 2 3; do (setsid sleep 300 & echo $! >> {pids}) ; done; sleep 300"
    process = machine.popen("run", body)
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    [execution] = json.loads(machine.ok("list", "--limit", "1", "--json"))
    machine.wait_until(lambda: len(pids.read_text().split()) == 3 if pids.exists() else False)
    assert machine("kill", execution["execution_id"]).returncode == 0
    process.communicate(timeout=60)
    assert process.returncode == 123
    assert machine.ok("logs", execution["execution_id"]).startswith("before\n")
    for pid in pids.read_text().split():
        machine.wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
    again = machine("kill", execution["execution_id"])
    assert again.returncode == 0


@pytest.mark.shared
def test_a_deadline_ends_what_ignores_it(machine: Machine) -> None:
    for seconds in (1, 4, 16):  # in which a shell on a busy machine may not come so far that it would notice
        command = "trap 'echo noticed; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
        done = machine("run", "--timeout", f"{seconds}s", command)
        if done.stdout:
            break
    assert done.returncode == 124
    assert done.stdout == b"ready\nnoticed\n"
    [execution] = json.loads(machine.ok("list", "--limit", "1", "--json"))
    assert (execution["state"], execution["reason"], execution["exit_code"]) == ("TIMED_OUT", "deadline", 0)


def test_a_dead_runner_leaves_the_lock_held_while_its_command_lives(machine: Machine) -> None:
    gate = machine.home / "gate"
    body = watched(machine, ["db"], f"while [ ! -e {gate} ]; do sleep 0.05; done")
    first = machine.ok("submit", "--lock", "db", body).strip()
    machine.wait_until(lambda: machine.status(first)["state"] == "RUNNING")
    second = machine.ok("submit", "--lock", "db", watched(machine, ["db"], "echo mine")).strip()
    [runner] = _runners(machine)
    os.kill(runner, signal.SIGKILL)
    assert machine("wait", "--timeout", "2s", second).returncode == 120, "the lock passed on while the command lived"
    gate.touch()
    assert machine("wait", second).returncode == 0
    assert overlaps(machine) == ""
    status: dict[str, Any] = machine.status(first)
    assert (status["state"], status["reason"]) == ("UNKNOWN", "lost")


@pytest.mark.shared
def test_a_command_that_removes_its_run_folder_keeps_its_lock_while_it_lives(machine: Machine, tmp_path: Path) -> None:
    gate, is_seen, is_removed = (tmp_path / name for name in ("gate", "seen", "removed"))
    # What it removes may hold the word that it began, if the stack has not taken that in: so only once that is known.
    until = "while [ ! -e {} ]; do sleep 0.05; done"
    body = f"{until.format(is_seen)}; rm -rf ../*; touch {is_removed}; {until.format(gate)}"
    first = machine.ok("submit", "--lock", "folder", watched(machine, ["folder"], body)).strip()
    machine.wait_until(lambda: machine.status(first)["state"] == "RUNNING")
    is_seen.touch()
    machine.wait_until(is_removed.exists)
    second = machine.ok("submit", "--lock", "folder", watched(machine, ["folder"], "true")).strip()
    machine.ok("health", "reconcile")
    assert machine("wait", "--timeout", "2s", second).returncode == 120
    gate.touch()
    assert machine("wait", second).returncode == 0
    assert overlaps(machine) == ""


@pytest.mark.shared
def test_a_command_that_bends_its_spool_harms_only_itself(machine: Machine) -> None:
    """It kills its runner and puts a link to another file system where its log chunks are taken from."""
    here = machine.home.parent.stat().st_dev
    folders = (Path("/dev/shm"), Path("/var/tmp"), Path.cwd())
    others = [folder for folder in folders if folder.exists() and folder.stat().st_dev != here]
    if not others:
        pytest.skip("this machine has one file system")
    elsewhere = others[0] / f"runvoy-test-{os.getpid()}"
    bend = (
        f"mkdir -p {elsewhere}; echo x > {elsewhere}/00000009; kill -9 $PPID; sleep 0.2; "
        f"rm -rf ../spool/logs; ln -s {elsewhere} ../spool/logs"
    )
    try:
        bent = machine.ok("submit", bend).strip()
        assert machine("wait", bent).returncode == 125
        assert machine("run", "echo fine").stdout == b"fine\n"
        machine.kill_stack()
        assert machine("run", "echo still fine").stdout == b"still fine\n"
        assert machine.status(bent)["state"] == "UNKNOWN"
    finally:
        for path in elsewhere.glob("*"):
            path.unlink()
        if elsewhere.exists():
            elsewhere.rmdir()


@pytest.mark.shared
def test_what_ended_while_the_stack_was_away_keeps_its_exit_code(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ids = [machine.ok("submit", f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 7").strip() for _ in range(6)]
    machine.wait_until(lambda: all(machine.status(execution_id)["state"] == "RUNNING" for execution_id in ids))
    machine.kill_stack()
    process = machine.popen("local", "up")
    gate.touch()  # they end while the next stack starts
    process.communicate(timeout=60)
    waited = machine("wait", "--json", *ids)
    assert [json.loads(line)["exit_code"] for line in waited.stdout.splitlines()] == [7] * 6
