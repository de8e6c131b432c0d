"""kill -9 of the stack, of runners and of clients at random, while commands are submitted, some of them under locks.

Commands are their own witnesses: each records that it ran, and takes an flock per lock that it was granted.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

SEED = 20260511
# A quick form in the suite; `just chaos` asks for more.
COMMANDS = int(os.environ.get("RUNVOY_TEST_CHAOS", "24"))
CLIENTS = 4
TRIES = 40
LOCKS = ("a", "b", "c", "d", "e")
KINDS = ("stack", "runner", "client")


class Wish(NamedTuple):
    """One command: how it is asked for, what it does, and what is to be seen of it."""

    number: int
    verb: str  # `submit`, or `run`, whose client lives as long as the command
    locks: tuple[str, ...]
    pause: float
    is_loud: bool

    @property
    def exit_code(self) -> int:
        return self.number % 4

    @property
    def output(self) -> str:
        return "".join(f"{line}\n" for line in range(1, 5001)) if self.is_loud else f"line {self.number}\n"

    def arguments(self, home: Path) -> list[str]:
        takes = "".join(
            f"exec {3 + place}>{home}/{name}.flock; flock -n {3 + place} || echo {self.number} {name} >> {home}/overlaps; "
            for place, name in enumerate(self.locks)
        )
        # One short write with O_APPEND is atomic.
        body = f"echo {self.number} >> {home}/record; "
        body += "seq 5000; " if self.is_loud else f"echo line {self.number}; "
        locks = [option for name in self.locks for option in ("--lock", name)]
        line = f"{takes}{body}sleep {self.pause}; exit {self.exit_code}"
        return [self.verb, "--id", f"run-{self.number}", "--name", str(self.number), *locks, line]


class Clients:
    """The clients that live, so that one of them can be killed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._mutex = threading.Lock()
        self._living: list[subprocess.Popen[bytes]] = []
        self._killed: set[subprocess.Popen[bytes]] = set()
        self.came_through = 0

    def ask(self, wish: Wish) -> None:
        """Until a client has come through; the id makes trying again safe."""
        for _ in range(TRIES):
            process = self._machine.popen(*wish.arguments(self._machine.home))
            with self._mutex:
                self._living.append(process)
            _, err = process.communicate(timeout=120)
            with self._mutex:
                self._living.remove(process)
                if process in self._killed:
                    continue
            # 120 to 125 are runvoy's own: the stack was away, or a runner was killed and nobody knows the end.
            is_through = process.returncode == (0 if wish.verb == "submit" else wish.exit_code)
            assert is_through or process.returncode in (1, 120, 125), (wish, process.returncode, err)
            if is_through or (wish.verb == "run" and process.returncode == 125 and b"nobody knows" in err):
                with self._mutex:
                    self.came_through += 1
                return
        raise AssertionError(f"{wish} did not come through in {TRIES} tries")

    def kill_one(self, chance: random.Random) -> bool:
        with self._mutex:
            if not self._living:
                return False
            victim = chance.choice(self._living)
            if victim.poll() is not None:
                return False
            victim.kill()
            self._killed.add(victim)
            return True


@pytest.mark.timeout(120 + 3 * COMMANDS)
def test_chaos_of_stack_runners_and_clients(machine: Machine) -> None:
    print(f"seed {SEED}, {COMMANDS} commands")
    chance = random.Random(SEED)
    wishes = [
        Wish(
            number,
            verb="run" if number % 3 == 0 else "submit",
            locks=tuple(chance.sample(LOCKS, chance.choice([0, 1, 2]))),
            pause=round(chance.uniform(0, 0.4), 2),
            is_loud=number % 5 == 0,
        )
        for number in range(COMMANDS)
    ]
    assert any(wish.locks for wish in wishes)
    machine.home.mkdir(parents=True, exist_ok=True)
    record = machine.home / "record"
    record.touch()
    clients = Clients(machine)
    killed = _while_things_die(machine, clients, chance, lambda: _ask_all(clients, wishes))
    print(f"killed: {dict(killed)}")
    assert min(killed[kind] for kind in KINDS) >= (1 if COMMANDS < 100 else 10)

    machine.ok("local", "up")
    executions = json.loads(machine.ok("list", "--limit", str(COMMANDS + 10), "--json"))
    assert len(executions) == COMMANDS, "a request was lost, or taken twice"
    by_number = {int(execution["name"]): execution["execution_id"] for execution in executions}
    assert sorted(by_number) == list(range(COMMANDS))
    waited = machine("wait", "--json", *by_number.values(), patience=150)
    answers = {answer["execution_id"]: answer for answer in map(json.loads, waited.stdout.splitlines())}
    assert len(answers) == COMMANDS, waited.stderr

    runs = Counter(map(int, record.read_text().split()))
    assert set(runs.values()) == {1}, "a command ran twice"
    unknown = 0
    for wish in wishes:
        answer = answers[by_number[wish.number]]
        if answer["state"] == "UNKNOWN":
            # The price of a killed runner, and of nothing else.
            unknown += 1
            continue
        assert answer["exit_code"] == wish.exit_code, (wish, answer)
        assert runs[wish.number] == 1, f"{wish} ended as {answer['state']} and never ran"
        assert machine.ok("logs", answer["execution_id"]) == wish.output
    print(f"{unknown} ended UNKNOWN")
    assert unknown <= killed["runner"]
    assert not (machine.home / "overlaps").exists()
    machine.wait_until(lambda: json.loads(machine.ok("locks", "list", "--json")) == [])
    for name in ("state.db", "queue.db"):
        with sqlite3.connect(machine.home / "local" / name) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _ask_all(clients: Clients, wishes: list[Wish]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(clients.ask, wishes))


def _while_things_die(
    machine: Machine, clients: Clients, chance: random.Random, work: Callable[[], None]
) -> Counter[str]:
    """Do the work while something is killed every now and then; how many of each kind were."""
    killed: Counter[str] = Counter()
    done = threading.Event()
    kinds: dict[str, Callable[[], bool]] = {
        "stack": lambda: _kill_stack(machine),
        "runner": lambda: _kill_runner(machine, chance),
        "client": lambda: clients.kill_one(chance),
    }

    def kill() -> None:
        came_through = in_vain = 0
        # On a machine so busy that nobody comes through before the next death, deaths are to come more rarely.
        while not done.wait(chance.uniform(0.1, 0.9) * max(1, in_vain / 2)):
            in_vain = in_vain + 1 if clients.came_through == came_through else 0
            came_through = clients.came_through
            # The rarest first, so that each has its share: of runners a third, for each takes what is known of its command.
            for kind in sorted(
                kinds, key=lambda kind: (killed[kind] * (3 if kind == "runner" else 1), chance.random())
            ):
                if kinds[kind]():
                    killed[kind] += 1
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        work()
    finally:
        done.set()
        killer.join()
    return killed


def _kill_stack(machine: Machine) -> bool:
    try:
        os.kill(machine.stack_pid(), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError, json.JSONDecodeError):
        return False
    return True


def _kill_runner(machine: Machine, chance: random.Random) -> bool:
    runners = []
    for pid in machine.processes():
        try:
            if b"runner/__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                runners.append(pid)
        except OSError:
            continue
    if not runners:
        return False
    try:
        os.kill(chance.choice(runners), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
