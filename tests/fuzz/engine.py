"""The long form: `python -m tests.fuzz MINUTES [--seed N] [--engine own|atheris] [TARGET…]` (`just fuzz MINUTES`).

Each target runs in a process of its own, under a limit of memory, with a limit of time for each input; so a decoder that
eats memory or hangs is found like one that raises. Coverage-guided by atheris where that is installed (`uv sync --group
fuzz`); otherwise by what inputs lead to: one that is decoded is mutated further.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz import known
from tests.fuzz.mutators import MAX_BYTES, mutate
from tests.fuzz.targets import PROTOCOL_TARGETS, Target
from tests.fuzz.targets_agent import AGENT_TARGETS
from tests.fuzz.targets_aws import AWS_TARGETS
from tests.fuzz.targets_bulk import BULK_TARGETS
from tests.fuzz.targets_client import CLIENT_TARGETS
from tests.fuzz.targets_proofs import PROOF_TARGETS

TARGETS = {
    target.name: target
    for target in (*PROTOCOL_TARGETS, *AGENT_TARGETS, *AWS_TARGETS, *CLIENT_TARGETS, *BULK_TARGETS, *PROOF_TARGETS)
}
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "fuzz"  # what was found, and atheris's corpus
INPUT_SECONDS = 10
MEMORY_BYTES = 768 * 1024 * 1024  # of address space beyond what the process has when it begins
CORPUS = 500


class TookTooLong(BaseException):
    """Not an Exception: no decoder may swallow it."""


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TookTooLong(f"one input took over {INPUT_SECONDS} s")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within, an input that takes too long raises; `rearm` begins the time anew."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def judge(target: Target, raw: bytes) -> str:
    """What became of an input; raises what is a bug and not known."""
    try:
        return target.run(raw)
    except Exception as error:
        reason = known.reason_of(target.name, error)
        if reason is None:
            raise
        return f"known: {reason}"


def fuzz(target: Target, seconds: float, seed: int) -> dict[str, Any]:
    """Own engine: mutate until the time is over or something is found."""
    random = Random(f"{seed} {target.name}")
    corpus = list(target.seeds)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        origin = random.choice(target.seeds if random.random() < 0.5 else corpus)
        raw = mutate(origin, target.format, random)
        began = time.monotonic()
        try:
            with limited():
                answer = judge(target, raw)
        except BaseException as error:  # noqa: BLE001 - a report of whatever was raised is what is wanted
            return _report(target, outcomes, slowest, len(corpus)) | {
                "bug": repr(error)[:500],
                "input": _keep(target, raw),
            }
        slowest = max(slowest, time.monotonic() - began)
        outcomes[answer] += 1
        if _is_good(answer):
            # Others that are read like it are near; what is refused already is refused again whatever else changes.
            if len(corpus) >= CORPUS:
                corpus.pop(random.randrange(len(corpus)))
            corpus.append(raw)
    return _report(target, outcomes, slowest, len(corpus))


def _is_good(answer: str) -> bool:
    return answer.startswith(("decoded", "2", "changed"))


def _report(target: Target, outcomes: Counter[str], slowest: float, corpus: int) -> dict[str, Any]:
    return {
        "target": target.name,
        "inputs": sum(outcomes.values()),
        "outcomes": dict(outcomes.most_common(8)),
        "slowest_seconds": round(slowest, 3),
        "corpus": corpus,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _keep(target: Target, raw: bytes) -> str:
    folder = KEPT
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target.name}-{hashlib.sha256(raw).hexdigest()[:12]}"
    path.write_bytes(raw)
    return str(path.relative_to(ROOT))


def with_atheris(target: Target, seconds: float, seed: int) -> dict[str, Any]:
    """libFuzzer in this process, which it ends itself: so how it stands is told each second."""
    atheris = importlib.import_module("atheris")
    outcomes: Counter[str] = Counter()
    slowest = told_at = 0.0

    def one(raw: bytes) -> None:
        nonlocal slowest, told_at
        began = time.monotonic()
        try:
            outcomes[judge(target, raw)] += 1
        except BaseException as error:
            print(json.dumps({"bug": repr(error)[:500], "input": _keep(target, raw)}), flush=True)
            raise
        now = time.monotonic()
        slowest = max(slowest, now - began)
        if now - told_at >= 1:
            told_at = now
            print(json.dumps(_report(target, outcomes, slowest, 0)), flush=True)

    def mutated(raw: bytes, max_size: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.3:
            return bytes(atheris.Mutate(raw, max_size))
        origin = raw if raw and random.random() < 0.5 else random.choice(target.seeds)
        return mutate(origin, target.format, random)[:max_size]

    corpus = KEPT / f"corpus-{target.name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(raw)
    arguments = [sys.argv[0], f"-max_total_time={max(1, int(seconds))}", f"-seed={seed}", f"-timeout={INPUT_SECONDS}"]
    arguments += ["-rss_limit_mb=1024", f"-max_len={MAX_BYTES}", f"-artifact_prefix={KEPT}/", "-verbosity=0"]
    atheris.Setup([*arguments, str(corpus)], one, custom_mutator=mutated)
    atheris.Fuzz()
    return {}


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _child(name: str, seconds: float, seed: int, engine: str) -> int:
    target = TARGETS[name]
    for raw in target.seeds:
        judge(target, raw)
    if engine == "atheris":
        with_atheris(target, seconds, seed)
        return 0
    if sys.platform == "linux":
        _limit_memory()
    report = fuzz(target, seconds, seed)
    print(json.dumps(report))
    return 1 if "bug" in report else 0


def _start(name: str, seconds: float, seed: int, engine: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--child",
        name,
        str(seconds / 60),
        "--seed",
        str(seed),
        "--engine",
        engine,
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120, check=False, stdin=subprocess.DEVNULL
    )
    report: dict[str, Any] = {"target": name, "exit": done.returncode}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            report |= json.loads(line)
    if done.returncode and "bug" not in report:
        report["bug"] = (done.stderr or done.stdout)[-800:]
    return report


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("minutes", type=float, help="for all targets together")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)}")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31, help="the same seed, the same inputs")
    parser.add_argument("--engine", choices=["own", "atheris"], default="atheris" if has_atheris() else "own")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_intermixed_args()
    if chosen.child:
        return _child(chosen.child, chosen.minutes * 60, chosen.seed, chosen.engine)
    names = chosen.targets or list(TARGETS)
    workers = os.cpu_count() or 1
    seconds = max(1.0, chosen.minutes * 60 * workers / len(names))
    print(
        f"{len(names)} targets, {seconds:.0f} s each, {workers} at once, engine {chosen.engine}, seed {chosen.seed}",
        flush=True,
    )
    bugs = inputs = 0
    with ThreadPoolExecutor(workers) as pool:
        for report in pool.map(lambda name: _start(name, seconds, chosen.seed, chosen.engine), names):
            inputs += report.get("inputs", 0)
            bugs += "bug" in report
            print(_line(report), flush=True)
    print(f"{inputs:,} inputs, {bugs} targets with something uncaught; seed {chosen.seed}")
    return 1 if bugs else 0


def _line(report: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{name} {count:,}" for name, count in report.get("outcomes", {}).items())
    text = f"{report['target']:16} {report.get('inputs', 0):>9,} inputs  {report.get('peak_mib', 0):>4} MiB  "
    text += f"{report.get('slowest_seconds', 0):.3f} s at most  {outcomes}"
    return text + (f"\n    FOUND {report['bug']} in {report.get('input', '?')}" if "bug" in report else "")
