"""The command line on a real pseudo-terminal: what is live, what is asked, and what a hostile log can do."""

from __future__ import annotations

import fcntl
import os
import random
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

RUNVOY = Path(sys.executable).parent / "runvoy"
PATIENCE_SECONDS = 60
SEED = 20300131


class Person:
    """Somebody at a terminal in which one command of runvoy runs."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.seen = b""
        self._master = master

    def see(self, text: bytes, after: int = 0) -> int:
        """Read until `text` stands there; where it ends."""
        assert self._read_until(lambda: text in self.seen[after:]), self.seen[-2000:]
        return self.seen.index(text, after) + len(text)

    def match(self, pattern: bytes) -> None:
        """Read until it is found."""
        assert self._read_until(lambda: re.search(pattern, self.seen) is not None), self.seen[-2000:]

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        """Read to the end; the exit code."""
        self._read_until(lambda: False)
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def _read_until(self, holds: Callable[[], bool]) -> bool:
        """Read until it holds; False if the command ended before."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < give_up_at, self.seen[-2000:]
            ready, _, _ = select.select([self._master], [], [], 1)
            if not ready:
                continue
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                piece = b""  # how Linux tells that nobody holds the other end any more
            if not piece:
                return False
            self.seen += piece
        return True


@contextmanager
def terminal(machine: Machine, *args: str, columns: int = 80, **environ: str) -> Iterator[Person]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**machine.env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environ}

    def take_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches it

    process = subprocess.Popen(
        [str(RUNVOY), *args],
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_the_terminal,  # noqa: PLW1509
    )
    os.close(slave)
    try:
        yield Person(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def held_lock(machine: Machine, name: str) -> str:
    holder = machine.ok("submit", "--lock", name, "sleep 60").strip()
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    return holder


@pytest.mark.shared
def test_a_run_says_what_runs_and_what_became_of_it(machine: Machine) -> None:
    machine.ok("local", "up")
    with terminal(machine, "run", "--name", "greeting", "printf hello; exit 3") as person:
        assert person.end() == 3
    # What live rows were drawn, a busy machine decides; each drawing ends by erasing what is below it.
    lines = [line.rpartition("\x1b[J")[2] for line in person.seen.decode().replace("\r\n", "\n").split("\n")]
    lines = [re.sub("\x1b\\[[0-9]*m", "", line) for line in lines]
    assert lines[0] == "▸ greeting: printf hello; exit 3"
    assert re.fullmatch(r"  [0-9a-f]{32}  this machine", lines[1])
    assert re.fullmatch(rf"  http://127\.0\.0\.1:\d+/\?execution_id={lines[1].split()[0]}", lines[2])
    assert "hello" in lines
    assert lines[-3].startswith("✗ FAILED, exit code 3, ")
    assert lines[-2] == f"  again: runvoy logs {lines[1].split()[0]}"
    assert b"\x1b[3" not in person.seen  # NO_COLOR


@pytest.mark.shared
def test_who_waits_sees_who_holds_the_lock_and_ctrl_c_twice_ends_the_wait(machine: Machine) -> None:
    holder = held_lock(machine, "waited-for")
    tries = 3  # it leaves by itself after three seconds, in which a machine that others keep busy may not come to the second one
    code = 130
    while code == 130 and tries:
        tries -= 1
        with terminal(machine, "run", "--lock", "waited-for", "true", NO_COLOR="") as person:
            at = person.see(b"held by ")
            person.see(f"{holder[:8]}…{holder[-4:]}".encode(), at)
            assert b"\x1b[1mQUEUED" in person.seen
            person.type(b"\x03")
            person.see(b"Ctrl-C again within 3 s kills it")
            person.type(b"\x03")
            code = person.end()
    assert code == 123, person.seen.decode()
    assert "✗ STOPPED".encode() in person.seen
    machine.ok("kill", holder)


@pytest.mark.shared
def test_who_only_looks_is_told_that_it_goes_on(machine: Machine) -> None:
    holder = held_lock(machine, "looked-at")
    for arguments in (["wait", holder], ["logs", "--follow", holder]):
        with terminal(machine, *arguments) as person:
            person.see(b"RUNNING")
            person.type(b"\x03")
            person.see(b"runvoy: left; what runs goes on")
            assert person.end() == 130
    assert machine.status(holder)["state"] == "RUNNING"
    machine.ok("kill", holder)


@pytest.mark.shared
def test_nothing_is_live_on_a_dumb_terminal_or_with_json(machine: Machine) -> None:
    machine.ok("local", "up")
    cases: list[tuple[list[str], dict[str, Any]]] = [
        (["run", "echo hi"], {"TERM": "dumb"}),
        (["run", "--json", "echo hi"], {}),
    ]
    for args, environ in cases:
        with terminal(machine, *args, **environ) as person:
            assert person.end() == 0
        assert b"\x1b" not in person.seen
        assert b"submitted " in person.seen


@pytest.mark.shared
def test_releasing_a_lock_is_asked_about(machine: Machine) -> None:
    holder = held_lock(machine, "released")
    for answer, code, told in ((b"n\n", 1, b"nothing was released"), (b"y\n", 0, b"released released from")):
        with terminal(machine, "locks", "release", "released", columns=200) as person:
            person.see(b"[y/N]")
            person.type(answer)
            assert person.end() == code
        assert told in person.seen
        assert f"the lock released is held by {holder}".encode() in person.seen
    machine.ok("kill", holder)


HOSTILE = r"""
import random, sys
chance = random.Random(int(sys.argv[1]))
begin = [b"\x1b[", b"\x1b]", b"\x1bP", b"\x1b_", b"\x1b", b"\xc2\x9b", b"\x9b", b"\x1b[?", b"\r", b"\xe2\x80\xae"]
body = [b"", b"0;title", b"31", b"2", b">4;1", b" ", b"52;c;aGk=", b"\n", b"text", b"6"]
end = [b"m", b"J", b"H", b"h", b"\x07", b"\x1b\\", b"\xc2\x9c", b"c", b"", b"n", b"\xff", b"\x08"]
for stream in (sys.stdout.buffer, sys.stderr.buffer):
    for _ in range(10000):
        stream.write(chance.choice(begin) + chance.choice(body) + chance.choice(end))
    stream.write(b"\nat the end\n")
    stream.flush()
"""


@pytest.mark.shared
def test_killing_by_a_short_id_is_asked_about(machine: Machine) -> None:
    first = machine.ok("submit", "--name", "first", "sleep 600").strip()
    script = "sleep 600\nKill nothing? " + "x" * 10_000
    second = machine.ok("submit", "--name", "second", script).strip()
    with terminal(machine, "kill", first[-6:]) as person:
        person.see(first.encode())
        person.see(b": first: sleep 600")
        person.see(b"Kill it? [y/N]: ")
        person.type(b"\n")
        assert person.end() == 1
    assert b"nothing was killed" in person.seen
    with terminal(machine, "kill", "--wait", "@last") as person:
        person.see(second.encode())
        person.see(b": second: sleep 600 Kill nothing? xx")
        person.see(b"Kill it? [y/N]: ")
        person.type(b"y\n")
        assert person.end() == 0
    assert b"x" * 100 not in person.seen, "a script of any length leaves what is asked on the screen"
    assert machine.status(second)["state"] == "STOPPED"
    assert machine.status(first)["state"] in ("QUEUED", "STARTING", "RUNNING")
    with terminal(machine, "kill", "@last") as person:
        assert person.end() == 0
    assert b"had already ended" in person.seen
    refused = machine.ok("submit", "--secret", "none-of-these", "true").strip()
    assert machine("wait", refused).returncode == 121
    with terminal(machine, "kill", "--wait", first, "@last") as person:
        assert person.end() == 1
    assert b"Kill it?" not in person.seen, "nobody is asked about what was refused"
    assert machine.status(first)["state"] == "STOPPED"


@pytest.mark.shared
def test_a_hostile_log_puts_nothing_but_text_and_colours_on_the_terminal(machine: Machine) -> None:
    print(f"seed {SEED}")
    seed = str(random.Random(SEED).randrange(1000))
    execution_id = machine.ok("submit", "--", "python3", "-c", HOSTILE, seed).strip()
    assert machine("wait", execution_id).returncode == 0
    exact = machine("logs", execution_id).stdout
    assert b"\x1b]0;title" in exact
    for args in (["logs"], ["logs", "--raw"], ["logs", "--follow", "--tail", "100000"]):
        with terminal(machine, *args, execution_id) as person:
            assert person.end() == 0
        assert person.seen.count(b"at the end") == 2
        assert_harmless(person.seen)


def assert_harmless(seen: bytes) -> None:
    """Text, newlines (as a terminal writes them), colours; and what runvoy's own live rows use."""
    text = seen.decode("utf-8").replace("\r\n", "\n")
    text = re.sub("\x1b\\[[0-9;:]*m", "", text)
    text = re.sub("\r(\x1b\\[[0-9]+A)?[^\x1b\n]*(\x1b\\[K\n[^\x1b\n]*)*\x1b\\[J", "", text)
    strange = {char for char in text if not (char.isprintable() or char in "\n\t")}
    assert not strange - set("\xa0\u2028\u2029"), strange


def test_sync_shows_a_live_line_for_each_running_execution(machine: Machine, tmp_path: Path) -> None:
    """With its name and the last line it printed; a hostile one is text like any other."""
    kept = tmp_path / "kept"
    (kept / "inbox").mkdir(parents=True)
    for name in ("first", "second"):
        (kept / "inbox" / f"{name}.yml").write_text(f"name: {name}\ncommand: printf 'at \\033[2J{name}\\n'; sleep 60\n")
    machine.ok("local", "up")
    with terminal(machine, "sync", str(kept), columns=120) as person:
        for name in ("first", "second"):
            person.match(rb"RUNNING [0-9.]+s " + name.encode() + rb"  at [^\n]*" + name.encode())
        ids = [path.name for path in (kept / "executions").iterdir()]
        assert all(f"{one[:8]}…{one[-4:]}".encode() in person.seen for one in ids)
        assert b"\x1b[2J" not in person.seen
        machine.ok("kill", *ids)
        person.see(b"STOPPED")
        person.type(b"\x03")
        assert person.end() == 130
