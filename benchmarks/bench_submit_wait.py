"""submit + wait for `true` on a warm embedded stack, interleaved with a peer that also is a Python program sending one
small object to a bucket on loopback: `aws s3 cp` to moto's S3.

The peer is installed into a temporary environment. The ratio is what can be compared between machines.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 15
RUNVOY = Path(sys.executable).parent / "runvoy"
PEERS = ("awscli>=1.40,<2", "moto[s3,server]>=5.1,<6")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = _install_peer(folder)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNVOY_", "AWS_", "PYTHONDONTWRITE"))}
        env |= {"RUNVOY_HOME": str(folder / "home")}
        with _moto(peer, env) as aws_env:
            subprocess.run([RUNVOY, "run", "true"], env=env, check=True, stderr=subprocess.DEVNULL)
            try:
                _measure(folder, peer, env, aws_env)
            finally:
                subprocess.run([RUNVOY, "local", "down"], env=env, check=True, stderr=subprocess.DEVNULL)


def _measure(folder: Path, peer: Path, env: dict[str, str], aws_env: dict[str, str]) -> None:
    payload = folder / "object"
    payload.write_bytes(os.urandom(300))
    copy = [peer / "aws", "s3", "cp", "--quiet", payload, "s3://bench/object"]
    times: dict[str, list[float]] = {"submit": [], "submit + wait": [], "run": [], "aws s3 cp": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        submitted = subprocess.run([RUNVOY, "submit", "true"], env=env, check=True, capture_output=True, text=True)
        times["submit"].append(time.perf_counter() - started)
        subprocess.run([RUNVOY, "wait", submitted.stdout.strip()], env=env, check=True, capture_output=True)
        times["submit + wait"].append(time.perf_counter() - started)
        times["run"].append(_seconds([RUNVOY, "run", "true"], env))
        times["aws s3 cp"].append(_seconds(copy, aws_env))
    base = statistics.median(times["aws s3 cp"])
    print(f"{ROUNDS} interleaved rounds; median (least – most) seconds, and the median over that of aws s3 cp")
    for what, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{what:15} {median:6.3f} ({min(seconds):.3f} – {max(seconds):.3f})  {median / base:5.2f}")


def _seconds(command: list[str | Path], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def _install_peer(folder: Path) -> Path:
    """Install the peer, byte code included, and return where its programs are."""
    environment = folder / "peer"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    programs = environment / "bin"
    subprocess.run([programs / "pip", "install", "-q", "--compile", *PEERS], check=True, capture_output=True)
    return programs


@contextmanager
def _moto(peer: Path, env: dict[str, str]) -> Iterator[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [peer / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    aws_env = env | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": env.get("HOME", "/"),
    }
    try:
        for _ in range(100):
            made = subprocess.run(
                [peer / "aws", "s3", "mb", "s3://bench"], env=aws_env, capture_output=True, check=False
            )
            if made.returncode == 0:
                break
            time.sleep(0.2)
        yield aws_env
    finally:
        server.terminate()
        server.wait(10)
