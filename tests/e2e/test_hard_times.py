"""The embedded stack when the world is against it, and when nothing happens."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.conftest import Machine as MachineAt

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_refuses_with_a_code_and_loses_nothing(small_disk: Path) -> None:
    machine = MachineAt(small_disk / "home")
    try:
        gate = small_disk.parent / "gate"
        running = machine.ok("submit", f"echo before; while [ ! -e {gate} ]; do sleep 0.05; done; echo after").strip()
        machine.wait_until(lambda: machine.status(running)["state"] == "RUNNING")
        filled = machine("run", "dd if=/dev/zero of=big bs=64k 2> /dev/null; echo $?")
        assert filled.stdout == b"1\n", "its end waits for no room that its own files take"
        assert machine("health").returncode == 0
        filler = small_disk / "filler"
        fill(filler)
        sick = machine("health")
        assert sick.returncode == 1
        assert b"the deployment's disk has too little room left" in sick.stderr
        refused = machine("submit", "--timeout", "5s", "echo never")
        assert refused.returncode == 1
        assert b"no request is taken in: the disk of " in refused.stderr
        assert b"UNAVAILABLE" in refused.stderr
        assert b"hint:" in refused.stderr
        gate.touch()  # the command ends while there is no room for its result
        time.sleep(1)
        filler.unlink()
        assert machine("wait", running, patience=90).returncode == 0
        assert machine.ok("logs", running) == "before\nafter\n"
        assert machine("run", "echo again").stdout == b"again\n"
        machine.ok("local", "down")
        fill(filler)
        unstarted = machine("run", "echo never")  # its log is on that disk as well
        assert unstarted.returncode == 125
        assert f"there is no room left on the disk of {machine.home}".encode() in unstarted.stderr
        filler.unlink()
        assert machine("run", "echo anew").stdout == b"anew\n"
    finally:
        machine.end()


@pytest.mark.parametrize("where", ["a file", "not writable", "no such device"])
def test_a_home_that_cannot_be_used_is_an_error_with_a_hint(tmp_path: Path, where: str) -> None:
    home = tmp_path / "home"
    if where == "a file":
        home.write_text("x")
    elif where == "no such device":
        home = Path("/proc/nothing/home")
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        home.mkdir(mode=0o500)
    done = MachineAt(home)("run", "true")
    assert done.returncode == 125, done
    assert b"hint:" in done.stderr
    assert b"Traceback" not in done.stderr


def test_damaged_files_are_named_or_made_anew(machine: Machine) -> None:
    assert machine("run", "echo one").stdout == b"one\n"
    local = machine.home / "local"
    machine.ok("local", "down")
    (local / "endpoint.json").write_text("{")
    assert machine("run", "echo two").stdout == b"two\n"
    for name in ("deployment.json", "deployment.secret", "state.db"):
        machine.ok("local", "down")
        path = local / name
        kept = path.read_bytes()
        path.write_bytes(b"damaged" * 2000)
        done = machine("run", "echo never")
        assert done.returncode == 125, (name, done)
        assert name.encode() in done.stderr, done.stderr
        assert b"hint:" in done.stderr
        path.write_bytes(kept)
        assert machine("run", "echo back").stdout == b"back\n", name


def test_idle_it_sleeps_and_is_small(machine: Machine) -> None:
    for _ in range(5):
        machine.ok("run", "seq 2000")
    pid = machine.stack_pid()
    # It may have something to finish yet, and the reconciler may fall into one of them.
    seen = []
    while not seen or (seen[-1] and len(seen) < 5):
        seen.append(_switches_in(pid, 2.0))
    assert seen[-1] == 0, f"something wakes up while nothing happens: {seen}"
    [resident] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    assert int(resident.split()[1]) < 80 * 1024


def _switches_in(pid: int, seconds: float) -> int:
    before = _switches(pid)
    time.sleep(seconds)
    return _switches(pid) - before


def _switches(pid: int) -> int:
    """How often all threads of a process were put to sleep or aside."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)
    return total


def newest_cache(machine: Machine) -> Path:
    """There is one for each address; a stack that was killed may find that another process was given its port."""
    return max((machine.home / "cache").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("command", [["run"], ["submit"], ["submit", "--id", "nightly"]], ids=" ".join)
@pytest.mark.shared
def test_a_clock_that_was_set_while_a_grant_was_kept_costs_nothing(machine: Machine, command: list[str]) -> None:
    """Nothing of the deployment's is asked before the upload, so its answer is what tells the time."""
    machine.ok("run", "true")
    cache = newest_cache(machine)
    kept = json.loads(cache.read_bytes())
    assert kept["inbox_grant"]
    ahead = {"offset_seconds": 600.0, "offset_learned_at": datetime.now(UTC).isoformat()}
    cache.write_text(json.dumps(kept | ahead))
    done = machine(*command, "echo once")
    assert done.returncode == 0, done
    if command[0] == "submit":
        execution_id = done.stdout.decode().strip()
        assert machine("wait", execution_id).returncode == 0
        assert machine.ok("logs", execution_id) == "once\n"
    else:
        assert done.stdout == b"once\n"
    assert abs(json.loads(cache.read_bytes())["offset_seconds"]) < 60


@pytest.mark.parametrize("way", [[], ["--no-batch"]])
@pytest.mark.shared
def test_a_clock_that_was_set_while_a_grant_was_kept_costs_a_file_of_runs_nothing(
    machine: Machine, tmp_path: Path, way: list[str]
) -> None:
    """The deployment is asked for the time before anything is signed."""
    machine.ok("run", "true")
    cache = newest_cache(machine)
    ahead = {"offset_seconds": 600.0, "offset_learned_at": datetime.now(UTC).isoformat()}
    cache.write_text(json.dumps(json.loads(cache.read_bytes()) | ahead))
    runs = tmp_path / "runs.jsonl"
    runs.write_text('{"command": "echo once"}\n' * 2)
    first, second = machine.ok("submit", *way, "--bulk", str(runs)).split()
    assert machine("wait", first, second).returncode == 0
    assert abs(json.loads(cache.read_bytes())["offset_seconds"]) < 60
