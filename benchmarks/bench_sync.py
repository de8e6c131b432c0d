"""`runvoy sync --once` copying logs of ended executions, interleaved with `aws s3 sync` and `rclone sync` copying objects of the
same content from moto's S3 on loopback; and how long a printed line takes to be in log.txt.

All peers start as processes, on an empty folder in each round. What they copied is compared with what was printed. Executions
are made first, by the embedded stack; `RUNVOY_BENCH_SMALL` says how many small ones (that is what takes long).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_submit_wait import RUNVOY, _install_peer, _moto

ROUNDS = 5
BIG, BIG_BYTES = 100, 1024 * 1024
SMALL, SMALL_BYTES = int(os.environ.get("RUNVOY_BENCH_SMALL", "1000")), 2 * 1024
LINES = 200


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = _install_peer(folder)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNVOY_", "AWS_", "PYTHONDONTWRITE"))}
        env |= {"RUNVOY_HOME": str(folder / "home"), "RUNVOY_CONTAINER_ENGINE": "/nonexistent/engine"}
        with _moto(peer, env) as aws_env:
            subprocess.run([RUNVOY, "run", "true"], env=env, check=True, stderr=subprocess.DEVNULL)
            try:
                _latency(folder, env)
                for label, count, size in (("big", BIG, BIG_BYTES), ("small", SMALL, SMALL_BYTES)):
                    contents = _make(folder, env, label, count, size)
                    _upload(folder, peer, aws_env, label, contents)
                    _compare(folder, peer, env, aws_env, label, contents)
            finally:
                subprocess.run([RUNVOY, "local", "down"], env=env, check=True, stderr=subprocess.DEVNULL)


def _make(folder: Path, env: dict[str, str], label: str, count: int, size: int) -> list[bytes]:
    """Executions that print so much each; what they printed."""
    sources = folder / f"{label}-sources"
    sources.mkdir()
    inbox = folder / f"{label}-made" / "inbox"
    inbox.mkdir(parents=True)
    contents = []
    for number in range(count):
        line = os.urandom(36).hex().encode() + b"\n"
        content = (line * (size // len(line) + 1))[: size - 1].rstrip(b"\n") + b"\n"
        contents.append(content)
        (sources / str(number)).write_bytes(content)
        request = f'{{"command": ["cat", "{sources / str(number)}"], "labels": {{"kind": "{label}"}}}}'
        (inbox / f"{number:06}.json").write_text(request)
    started = time.perf_counter()
    made = subprocess.run(
        [RUNVOY, "sync", "--once", "--label", f"kind={label}", inbox.parent], env=env, capture_output=True, check=False
    )
    if made.returncode != 0:
        raise SystemExit(f"the executions could not be made: {made.stderr.decode()[-2000:]}")
    print(f"{count} request files at once: all submitted, run and copied in {time.perf_counter() - started:.1f} s")
    return contents


def _upload(folder: Path, peer: Path, aws_env: dict[str, str], label: str, contents: list[bytes]) -> None:
    source = folder / f"{label}-sources"
    assert len(list(source.iterdir())) == len(contents)
    subprocess.run([peer / "aws", "s3", "sync", "--quiet", source, f"s3://bench/{label}"], env=aws_env, check=True)


def _compare(
    folder: Path, peer: Path, env: dict[str, str], aws_env: dict[str, str], label: str, contents: list[bytes]
) -> None:
    wanted = sorted(hashlib.sha256(content).hexdigest() for content in contents)
    rclone = shutil.which("rclone")
    ways: dict[str, Callable[[Path], float]] = {
        "runvoy sync --once": lambda into: _seconds([RUNVOY, "sync", "--once", "--label", f"kind={label}", into], env),
        "aws s3 sync": lambda into: _seconds(
            [peer / "aws", "s3", "sync", "--quiet", f"s3://bench/{label}", into], aws_env
        ),
    }
    if rclone is not None:
        remote = f":s3,provider=Other,access_key_id=x,secret_access_key=x,endpoint='{aws_env['AWS_ENDPOINT_URL']}':bench/{label}"
        ways["rclone sync"] = lambda into: _seconds([rclone, "sync", "-q", remote, into], aws_env)
    times: dict[str, list[float]] = {what: [] for what in ways}
    for number in range(ROUNDS):
        for what, copy in ways.items():
            into = folder / f"{label}-{what.split()[0]}-{number}"
            times[what].append(copy(into))
            found = into.glob("executions/*/log.txt") if what.startswith("runvoy") else into.iterdir()
            if sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found) != wanted:
                raise SystemExit(f"{what} did not copy what was printed")
            shutil.rmtree(into)
    print(f"{label}: {len(contents)} × {len(contents[0]):,} bytes, {ROUNDS} interleaved rounds, contents compared")
    ours = statistics.median(times["runvoy sync --once"])
    for what, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{what:20} {median:7.2f} s ({min(seconds):.2f} – {max(seconds):.2f}); runvoy / it = {ours / median:.2f}")


def _latency(folder: Path, env: dict[str, str]) -> None:
    """A command prints the time a line a time; when is the line in log.txt?"""
    kept = folder / "latency"
    (kept / "inbox").mkdir(parents=True)
    program = f"import time\nfor _ in range({LINES}):\n    print(time.time(), flush=True)\n    time.sleep(0.05)"
    script = folder / "print.py"
    script.write_text(program)
    daemon = subprocess.Popen([RUNVOY, "sync", kept], env=env, stderr=subprocess.DEVNULL)
    try:
        (kept / "inbox" / "a.json").write_text(f'{{"command": ["{sys.executable}", "{script}"]}}')
        seen: list[float] = []
        path: Path | None = None
        while len(seen) < LINES:
            time.sleep(0.005)
            if path is None:
                # Others may be copied as well: it is the one of which a line is a time.
                path = next((one for one in kept.glob("executions/*/log.txt") if one.read_bytes()[:2].isdigit()), None)
                continue
            now = time.time()
            seen += [now - float(line) for line in path.read_text().splitlines()[len(seen) :]]
    finally:
        daemon.terminate()
        daemon.wait(20)
    ordered = sorted(seen)
    print(
        f"printed line → line in log.txt, {LINES} lines: median {statistics.median(ordered):.2f} s, "
        f"p95 {ordered[int(LINES * 0.95)]:.2f} s, most {ordered[-1]:.2f} s"
    )


def _seconds(command: list[str | Path], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - started
