"""How much memory `runvoy sync` and the stack take while a history is copied, and then while it is watched, as the history grows.

For each size a home of its own with so many tiny executions (`seeding`); a stack on it; `runvoy sync --once` into a new folder;
then a `runvoy sync` that stays, over what is there, and once more into an empty folder. Figures are the kernel's: VmHWM, the most
that was resident, and VmRSS, what is. `RUNVOY_BENCH_SIZES` says how many executions, `RUNVOY_BENCH_FOLDER` where all of it lies.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench_submit_wait import RUNVOY
from benchmarks.seeding import seed

SIZES = [int(size) for size in os.environ.get("RUNVOY_BENCH_SIZES", "1000 10000 100000").split()]
WATCHED_SECONDS = 30
_STEP_SECONDS = 0.05


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("RUNVOY_BENCH_FOLDER")) as name:
        for size in SIZES:
            _measure(Path(name) / str(size), size)


def _measure(folder: Path, size: int) -> None:
    home = folder / "home"
    env = {key: value for key, value in os.environ.items() if not key.startswith("RUNVOY_")}
    env |= {"RUNVOY_HOME": str(home), "RUNVOY_CONTAINER_ENGINE": "/nonexistent/engine"}
    with _stack(env):
        made = subprocess.run([RUNVOY, "submit", "true"], env=env, check=True, capture_output=True, text=True)
        subprocess.run([RUNVOY, "wait", made.stdout.strip()], env=env, check=True, stderr=subprocess.DEVNULL)
    seed(home, made.stdout.strip(), "tiny", (b"%d\n" % number for number in range(size)))
    with _stack(env):
        stack = int(json.loads((home / "local" / "endpoint.json").read_text())["pid"])
        print(f"{size:>7,} executions: stack at the start {_of(stack)}", flush=True)
        once, seconds = _copied(env, folder / "once", size, "--once")
        print(f"{size:>7,} executions: sync --once {once}, {seconds:.0f} s; stack {_of(stack)}", flush=True)
        for what, into in (("over what is there", folder / "once"), ("from nothing", folder / "lasting")):
            lasting, seconds = _copied(env, into, size)
            print(f"{size:>7,} executions: sync {what} {lasting}, {seconds:.0f} s; stack {_of(stack)}", flush=True)


@contextmanager
def _stack(env: dict[str, str]) -> Iterator[None]:
    subprocess.run([RUNVOY, "local", "up"], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run(
            [RUNVOY, "local", "down"], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def _copied(env: dict[str, str], into: Path, size: int, *options: str) -> tuple[str, float]:
    """What a sync took until all was there, and one that stays for a while longer; and how long until then."""
    into.mkdir(exist_ok=True)
    log = into.parent / "sync.log"
    with log.open("ab") as told:
        begun = time.monotonic()
        sync = subprocess.Popen([RUNVOY, "sync", *options, into], env=env, stdout=told, stderr=told)
        try:
            of_sync, seconds = _watch(sync, begun, lambda: _is_copied(into, size), stays=not options)
        finally:
            sync.terminate()
            sync.wait()
    if not _is_copied(into, size):
        raise SystemExit(f"not everything was copied: {log.read_text()[-2000:]}")
    return of_sync, seconds


def _watch(
    sync: subprocess.Popen[bytes], begun: float, is_copied: Callable[[], bool], *, stays: bool
) -> tuple[str, float]:
    of_sync, copied_at = "", 0.0
    while sync.poll() is None:
        of_sync = _of(sync.pid) or of_sync
        now = time.monotonic()
        if stays and not copied_at and is_copied():
            copied_at = now
        if copied_at and now - copied_at > WATCHED_SECONDS:
            break
        time.sleep(_STEP_SECONDS if not stays or copied_at else 1)
    return of_sync, (copied_at or time.monotonic()) - begun


def _is_copied(into: Path, size: int) -> bool:
    lines = into / "executions.jsonl"
    if not lines.exists():
        return False
    with lines.open("rb") as read:
        return sum(1 for _ in read) > size  # the one they are copies of is there as well


def _of(pid: int) -> str:
    """Its VmHWM and VmRSS, in MiB; empty if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    kept = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmHWM" not in kept:
        return ""  # it has ended, and nobody has asked how
    most, now = (int(kept[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    return f"{most:.0f} MiB at most, {now:.0f} now"
