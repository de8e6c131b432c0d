"""Deadlines hold to the second by the runner's own record, whatever the command does: TERM, grace, KILL.

A busy machine must not fail these. So all commands run at once, each says when it is ready, and is given more time if it
was not by its deadline; and the tolerance, one second, grows by what a witness saw: how long the start of a process that
does nothing took at that very moment.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import runvoy_agent

NewRun = Callable[[], Any]
Until = Callable[..., None]
GRACE_MS = 1000
TOLERANCE_MS = 1000
HAND_OVERS = (
    4  # the runner wakes, the command, its last child, and the runner again, each as late as the witness at worst
)
AGENT = Path(next(iter(runvoy_agent.__path__))).parent

pytestmark = pytest.mark.xdist_group("deadlines")  # all commands run at once, for one worker


class Witness:
    """Tells how slow the machine was at any moment."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []  # when it was seen (wall clock), for how many milliseconds it took
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            self._is_over.wait(0.05)
            subprocess.run(["true"], check=True)
            self._seen.append((time.time() * 1000, (time.monotonic() - began) * 1000 - 50))

    def lag_ms(self, from_ms: float, to_ms: float) -> float:
        return max((lag for at, lag in self._seen if from_ms - lag - 100 <= at <= to_ms + lag + 100), default=0.0)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()


class Timed(NamedTuple):
    """A run that was ended by its deadline, from when it was ready before that."""

    run: Any
    result: dict[str, Any]
    timeout_ms: int
    lag_ms: float

    def lasted(self, after_deadline_ms: int) -> bool:
        """Whether it ended so long after its deadline, as far as the machine was quick enough to tell."""
        late = self.result["ended_at_ms"] - self.result["started_at_ms"] - self.timeout_ms - after_deadline_ms
        return 0 <= late <= TOLERANCE_MS + HAND_OVERS * self.lag_ms

    @property
    def end(self) -> tuple[str, int | None, int | None]:
        return self.result["outcome"], self.result["exit_code"], self.result["signal"]


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", "import os,sys,time,signal\n" + script]


IGNORE = "signal.signal(15, signal.SIG_IGN)\n"
READY = "print('ready', flush=True)\n"
# Forks a child of the session `how` makes, and returns when the child has done `then` up to its readiness.
CHILD = (
    "def child(daemon, then):\n"
    "  r, w = os.pipe()\n"
    "  if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if daemon and os.fork(): os._exit(0)\n"
    "    then(); os.write(w, b'x'); os.close(w)\n"
    "    while True: time.sleep(1000)\n"
    "  os.close(w); os.read(r, 1)\n"
)
HYDRA = "def hydra():\n  if os.fork() == 0:\n    while True:\n      time.sleep(.005)\n      if os.fork(): os._exit(0)\n"
COMMANDS: dict[str, list[str] | str] = {
    "obeys": "echo ready; exec sleep 1000",
    "ignores TERM": "trap '' TERM; echo ready; while :; do sleep 1000; done",
    "exits 0": python("signal.signal(15, lambda *_: sys.exit(0))\n" + READY + "time.sleep(1000)"),
    "a fork tree": (
        "trap '' TERM; f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; sleep 1000; }; f 3 & echo ready; wait"
    ),
    "sessions of their own": python(
        CHILD + "def stay(): signal.signal(15, signal.SIG_IGN)\nchild(False, stay); child(False, stay)\n" + READY
        + "time.sleep(1000)"
    ),
    "a session that obeys": python(
        CHILD
        + "def obey(): signal.signal(15, lambda *_: (os.write(1, b'child bye\\n'), os._exit(0)))\n"
        + "child(False, obey)\n" + IGNORE + READY + "os.wait(); sys.exit(7)"
    ),
    "daemons": python(
        CHILD + "def stay(): signal.signal(15, signal.SIG_IGN)\nchild(True, stay)\n" + IGNORE + "child(True, stay)\n"
        + READY + "time.sleep(1000)"
    ),
    "stops itself": "echo ready; kill -STOP $$",
    "a stopped child": python(CHILD + "child(False, lambda: None)\n" + READY + "os.kill(0, signal.SIGSTOP)"),
    "a hydra": python(HYDRA + "hydra()\n" + IGNORE + READY + "time.sleep(1000)"),
    "says goodbye": python(
        "def bye(*_):\n  for i in range(5): print('bye', i, flush=True); time.sleep(.1)\n  sys.exit(3)\n"
        "signal.signal(15, bye)\n" + READY + "time.sleep(1000)"
    ),
    "talks to the end": python(IGNORE + READY + "while True: print(time.monotonic_ns(), flush=True); time.sleep(.02)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    witness = Witness()
    yield witness
    witness.stop()


@pytest.fixture(scope="module")
def timed(make_run: NewRun, witness: Witness) -> dict[str, Timed]:
    """Every command, ended by its deadline."""

    def run_until_ready(command: list[str] | str) -> Timed:
        for seconds in (1, 4, 16):
            run = make_run().start(command, timeout_seconds=seconds, grace_seconds=GRACE_MS // 1000)
            result = run.wait()
            ready = [record.t for record in run.records() if b"ready" in record.data]
            # Some time before: what it does from then on is looked at as well.
            if ready and ready[0] < result["started_at_ms"] + seconds * 1000 - 200:
                lag = witness.lag_ms(result["started_at_ms"] + seconds * 1000, result["ended_at_ms"])
                return Timed(run, result, seconds * 1000, lag)
        raise AssertionError(f"not ready within 16 seconds: {command}")

    with ThreadPoolExecutor(4) as pool:  # few at a time: the commands' starts disturb each other's ends
        return dict(zip(COMMANDS, pool.map(run_until_ready, COMMANDS.values()), strict=True))


@pytest.mark.parametrize(
    ("name", "after_deadline_ms", "exit_code", "number"),
    [
        ("obeys", 0, 143, 15),
        ("ignores TERM", GRACE_MS, 137, 9),
        ("exits 0", 0, 0, None),
        ("a fork tree", GRACE_MS, 137, 9),
        ("sessions of their own", 0, 143, 15),
        ("a session that obeys", 0, 7, None),
        ("daemons", GRACE_MS, 137, 9),
        ("stops itself", GRACE_MS, 137, 9),
        ("a stopped child", GRACE_MS, 137, 9),
        ("a hydra", GRACE_MS, 137, 9),
        ("says goodbye", 500, 3, None),
        ("talks to the end", GRACE_MS, 137, 9),
    ],
)
def test_a_command_that(
    timed: dict[str, Timed], name: str, after_deadline_ms: int, exit_code: int, number: int | None
) -> None:
    case = timed[name]
    assert case.end == ("timed_out", exit_code, number)
    assert case.result["message"].startswith("timed out after ")
    assert case.lasted(after_deadline_ms), (case.result, case.lag_ms)
    assert case.run.pids() == []


def test_what_is_said_in_the_grace_is_kept(timed: dict[str, Timed]) -> None:
    assert timed["says goodbye"].run.output() == b"ready\n" + b"".join(b"bye %d\n" % number for number in range(5))
    assert timed["a session that obeys"].run.output() == b"ready\nchild bye\n"
    case = timed["talks to the end"]
    *whole, last = case.run.output().decode().split("ready\n")[1].splitlines()
    assert len(whole) > 10
    assert (int(last) - int(whole[0])) / 1e9 > 1, "to the very end of the grace"


def killed_by_hand(make_run: NewRun, until: Until, command: list[str], timeout_seconds: int) -> Any:
    """A run that was told to end when it had made the file `now`; None if it ended before."""
    run = make_run().start(command, timeout_seconds=timeout_seconds, grace_seconds=2)
    until(lambda: (run.folder / "work/now").exists() or run.runners[0].poll() is not None)
    run.runners[0].terminate()
    run.wait()
    return run if b"ready" in run.output() else None


def test_a_kill_in_the_grace_changes_nothing(make_run: NewRun, until: Until, witness: Witness) -> None:
    command = python(
        "signal.signal(15, lambda *_: open('now', 'w').close())\n" + READY + "while True: time.sleep(1000)"
    )
    runs = ((seconds, killed_by_hand(make_run, until, command, seconds)) for seconds in (1, 4, 16))
    seconds, run = next((seconds, run) for seconds, run in runs if run)
    result = run.result()
    deadline = result["started_at_ms"] + seconds * 1000
    case = Timed(run, result, seconds * 1000, witness.lag_ms(deadline, result["ended_at_ms"]))
    assert case.end == ("timed_out", 137, 9)
    assert case.lasted(2000), (result, case.lag_ms)


def test_a_deadline_in_the_grace_of_a_kill_changes_nothing(make_run: NewRun, until: Until) -> None:
    command = python(IGNORE + READY + "open('now', 'w').close()\nwhile True: time.sleep(1000)")
    runs = ((seconds, killed_by_hand(make_run, until, command, seconds)) for seconds in (2, 4, 16))
    _, run = next((seconds, run) for seconds, run in runs if run and run.result()["outcome"] == "killed")
    result = run.result()
    assert (result["exit_code"], result["message"]) == (137, "killed")
    assert result["ended_at_ms"] - result["started_at_ms"] >= 2000


@pytest.mark.parametrize("jump_seconds", [-3600, 3600])
def test_a_clock_that_is_set_changes_nothing(make_run: NewRun, witness: Witness, jump_seconds: int) -> None:
    run = make_run()
    # The machine's own clock is not ours to set: the runner's view of it jumps 0.5 s after it began.
    program = (
        "import sys, time; real, began = time.time_ns, time.monotonic()\n"
        f"time.time_ns = lambda: real() + ({jump_seconds} * 10**9 if time.monotonic() - began > .5 else 0)\n"
        f"sys.path.append({str(AGENT)!r})\n"
        "from runvoy_agent.runner.main import main\n"
        "sys.exit(main(sys.argv))\n"
    )
    payload = run.payload("echo a; trap 'echo b; exit 0' TERM; sleep 1000 & wait", timeout_seconds=2)
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(run.folder)],
        input=payload,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    result = run.result()
    case = Timed(run, result, 2000, witness.lag_ms(result["started_at_ms"] + 2000, result["ended_at_ms"]))
    assert case.result["outcome"] == "timed_out"
    assert case.lasted(0), (result, case.lag_ms)
    assert run.output() == b"a\nb\n"
    assert run.pids() == []
