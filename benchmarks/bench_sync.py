"""`runvoy sync --once` copying logs of ended executions, interleaved with `aws s3 sync` and `rclone sync` copying objects of the
same content from moto's S3 on loopback; and how long a printed line takes to be in log.txt.

All peers start as processes, on an empty folder in each round, when the file system has written what was left of the one before: ours
syncs it, and would wait for what the others did not. What they copied is compared with what was printed. Logs of a MiB
come in three kinds: such as compress to nothing, such as compress to a fifth, as text of a log does, and such as hardly compress.
The stack hands all of them out within grants. The executions are
put into a home of their own for each kind (`seeding`), and a stack is started on it. `RUNVOY_BENCH_SMALL` says how many small
ones; `RUNVOY_BENCH_ROUNDS` how many rounds; `RUNVOY_BENCH_PEER` is an environment in which the peers are already.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench_submit_wait import RUNVOY, _install_peer, _moto
from benchmarks.seeding import seed

ROUNDS = int(os.environ.get("RUNVOY_BENCH_ROUNDS", "5"))
BIG, BIG_BYTES = 100, 1024 * 1024
SMALL, SMALL_BYTES = int(os.environ.get("RUNVOY_BENCH_SMALL", "10000")), 2 * 1024
LINES = 200
_REST_SECONDS = 0.3
WORDS = [
    "INFO",
    "WARN",
    "starting",
    "request",
    "done",
    "in",
    "GET",
    "/api/v1/users",
    "status=200",
    "worker",
    "retry",
    "queue",
    "lock",
    "held",
    "by",
    "connection",
    "closed",
    "id=",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed = os.environ.get("RUNVOY_BENCH_PEER")
        peer = _install_peer(folder) if installed is None else Path(installed) / "bin"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNVOY_", "AWS_", "PYTHONDONTWRITE"))}
        env["RUNVOY_CONTAINER_ENGINE"] = "/nonexistent/engine"
        with _moto(peer, env) as aws_env:
            with _stack(env | {"RUNVOY_HOME": str(folder / "home")}) as own:
                _latency(folder, own)
            for label, count, size, content_of in KINDS:
                contents = _contents(folder, label, count, size, content_of)
                own = env | {"RUNVOY_HOME": str(folder / f"{label}-home")}
                _make(own, label, contents)
                with _stack(own):
                    _upload(folder, peer, aws_env, label, contents)
                    _compare(folder, peer, own, aws_env, label, contents)


@contextmanager
def _stack(env: dict[str, str]) -> Iterator[dict[str, str]]:
    subprocess.run([RUNVOY, "run", "true"], env=env, check=True, stderr=subprocess.DEVNULL)
    try:
        yield env
    finally:
        subprocess.run([RUNVOY, "local", "down"], env=env, check=True, stderr=subprocess.DEVNULL)


def _line() -> bytes:
    return os.urandom(36).hex().encode() + b"\n"


def _one_line(size: int) -> bytes:
    """A line again and again, which compresses to next to nothing."""
    line = _line()
    return line * (size // len(line) + 1)


def _many_lines(size: int) -> bytes:
    """Lines that are all different, and compress to 0.6 of their size."""
    return b"".join(_line() for _ in range(size // len(_line()) + 1))


def _text(size: int) -> bytes:
    """Lines as a service logs them: a time, some words of few, a number."""
    lines, length, milliseconds = [], 0, 0
    while length < size:
        milliseconds += secrets.randbelow(50)
        words = " ".join(secrets.choice(WORDS) for _ in range(8))
        line = f"2026-01-02T03:{milliseconds // 60_000 % 60:02}:{milliseconds / 1000 % 60:06.3f}Z {words} {secrets.randbelow(10**6)}\n"
        lines.append(line.encode())
        length += len(line)
    return b"".join(lines)


KINDS: tuple[tuple[str, int, int, Callable[[int], bytes]], ...] = (
    ("big", BIG, BIG_BYTES, _one_line),
    ("text", BIG, BIG_BYTES, _text),
    ("random", BIG, BIG_BYTES, _many_lines),
    ("small", SMALL, SMALL_BYTES, _one_line),
)


def _contents(folder: Path, label: str, count: int, size: int, content_of: Callable[[int], bytes]) -> list[bytes]:
    """What the executions printed, and a file of each for the peers."""
    sources = folder / f"{label}-sources"
    sources.mkdir()
    contents = []
    for number in range(count):
        content = content_of(size)[: size - 1].rstrip(b"\n") + b"\n"
        contents.append(content)
        (sources / str(number)).write_bytes(content)
    return contents


def _make(env: dict[str, str], label: str, contents: list[bytes]) -> None:
    with _stack(env):
        made = subprocess.run([RUNVOY, "submit", "true"], env=env, check=True, capture_output=True, text=True)
        model = made.stdout.strip()
        subprocess.run([RUNVOY, "wait", model], env=env, check=True, stderr=subprocess.DEVNULL)
    seed(Path(env["RUNVOY_HOME"]), model, label, contents)


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
        plain = {name: value for name, value in aws_env.items() if not name.startswith("AWS_")}
        ways["rclone sync"] = lambda into: _seconds([rclone, "sync", "-q", remote, into], plain)
    times: dict[str, list[float]] = {what: [] for what in ways}
    # Nothing is deleted before the last round: for minutes ext4 looks at each inode that was, whenever it makes a file.
    for number in range(ROUNDS):
        for what, copy in ways.items():
            into = folder / f"{label}-{what.split()[0]}-{number}"
            times[what].append(copy(into))
            found = into.glob("executions/*/log.txt") if what.startswith("runvoy") else into.iterdir()
            if sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found) != wanted:
                raise SystemExit(f"{what} did not copy what was printed")
    for what in ways:
        for number in range(ROUNDS):
            shutil.rmtree(folder / f"{label}-{what.split()[0]}-{number}")
    print(f"{label}: {len(contents)} × {len(contents[0]):,} bytes, {ROUNDS} interleaved rounds, contents compared")
    ours = times["runvoy sync --once"]
    for what, seconds in times.items():
        ratios = [own / its for own, its in zip(ours, seconds, strict=True)]
        print(
            f"{what:20} {statistics.median(seconds):7.2f} s ({min(seconds):.2f} – {max(seconds):.2f}); runvoy / it, round by "
            f"round: {statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})",
            flush=True,
        )


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
    os.sync()
    time.sleep(_REST_SECONDS)
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - started
