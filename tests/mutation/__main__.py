"""`python -m tests.mutation SEED N` (`just mutate SEED N`): N mutants drawn under SEED, each against the tests of its part.

Everything runs in copies of the checkout: nobody's work is touched, nor does it touch the run. What survives is printed with a key;
equivalent.json explains those that change nothing that anybody could see, and they are left out of the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.mutation.mutants import ROOT, Mutant, all_mutants, apply

COPIED = ("protocol", "agent", "cli", "web", "tests", "pyproject.toml")
SECONDS = 240  # for one stage of one mutant; one that takes longer has made something endless
EQUIVALENT: dict[str, str] = json.loads((Path(__file__).parent / "equivalent.json").read_text())

_UNIT = "tests/unit/test_"
# The tests that say most about a file, where they are not named for it.
_OWN = {
    "model": "core_model",
    "progress": "core_model",
    "audit": "protocol_golden",
    "batches": "handlers_batches",
    "cost_sums": "handlers_cost",
    "costs": "core_cost",
    "dry_runs": "protocol_golden",
    "errors": "protocol_words",
    "exit_codes": "protocol_states",
    "evidence": "audit_evidence",
    "fargate_prices": "core_cost",
    "gzip_streams": "protocol_logs",
    "hidden": "protocol_secret_messages",
    "instants": "protocol_codec",
    "object_keys": "protocol_ids",
    "launches": "core_lifecycle",
    "told_times": "core_lifecycle",
    "projection": "core_lifecycle",
    "quotas": "quotas",
    "recounts": "recounts",
    "waiting": "waiting_for_room",
    "patterns": "playbook_pattern*",
    "playbooks": "handlers_playbooks",
    "receipts": "protocol_golden",
    "signed_requests": "handlers_signed_requests",
    "retention": "retention",
    "sealing": "audit_sealed",
    "seals": "audit_sealed",
    "status": "core_lifecycle",
    "trace": "protocol_golden",
}


def stages_of(path: str) -> list[list[str]]:
    """The tests that a file's mutants are tried with: first those about it, then all that may notice."""
    name = Path(path).stem
    if path.startswith("protocol/"):
        own = _OWN.get(name, f"protocol_{name}")
        rest = ["protocol_*", "vectors*", "core_*"]
    else:
        own = _OWN.get(name, f"core_{name}")
        rest = ["core_*", "protocol_words", "handlers_*"]
    return [[f"{_UNIT}{own}.py", f"{_UNIT}protocol_words.py"], [f"{_UNIT}{pattern}.py" for pattern in rest]]


def files_of(patterns: list[str], folder: Path) -> list[str]:
    """The files that match. Each pattern must match one: pytest without files would run everything."""
    found = {pattern: sorted(folder.glob(pattern)) for pattern in patterns}
    empty = [pattern for pattern, files in found.items() if not files]
    if empty:
        raise LookupError(f"no test is named {', '.join(empty)}")
    return sorted({str(file) for files in found.values() for file in files})


class Copy:
    """A copy of the checkout, in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    def try_out(self, mutant: Mutant | None, path: str) -> str:
        """`killed`, `timeout` or `survived`; with None the code as it is, which must survive."""
        target = self.folder / path
        original = target.read_text()
        try:
            if mutant is not None:
                self._write(target, apply(mutant, original))
            for stage in stages_of(path):
                outcome = self.run(stage)
                if outcome != "survived":
                    return outcome
            return "survived"
        finally:
            self._write(target, original)

    @staticmethod
    def _write(target: Path, source: str) -> None:
        """With its compiled form removed: a file of the same length within the same second would pass for its former self."""
        target.write_text(source)
        for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
            compiled.unlink()

    def run(self, patterns: list[str]) -> str:
        """What the tests say of the copy as it stands."""
        files = files_of(patterns, self.folder)
        parts = (self.folder / part for part in ("protocol", "agent", "cli"))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, parts))}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-m", "pytest", *["-x", "-q", "-n0", "-p", "no:cacheprovider"], *files]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return "survived" if process.wait(SECONDS) == 0 else "killed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timeout"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.mutation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--only", default="", help="mutants whose key holds this text")
    chosen = parser.parse_args()
    everything = [mutant for mutant in all_mutants() if chosen.only in mutant.key]
    sample = Random(chosen.seed).sample(everything, min(chosen.count, len(everything)))
    workers = os.cpu_count() or 1
    print(f"{len(sample)} of {len(everything):,} mutants, seed {chosen.seed}, {workers} at once", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation") as folder:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(workers):
            copies.put(Copy(Path(folder) / str(number)))

        def judge(mutant: Mutant | None, path: str) -> str:
            mine = copies.get()
            try:
                return mine.try_out(mutant, path)
            finally:
                copies.put(mine)

        with ThreadPoolExecutor(workers) as pool:
            as_it_is = ("protocol/runvoy_protocol/ids.py", "agent/runvoy_agent/core/locks.py")
            healthy = dict(zip(as_it_is, pool.map(judge, [None, None], as_it_is), strict=True))
            broken = [path for path, outcome in healthy.items() if outcome != "survived"]
            if broken:
                print(f"the tests of {', '.join(broken)} fail without any mutant")
                return 2
            outcomes = dict(zip(sample, pool.map(lambda mutant: judge(mutant, mutant.path), sample), strict=True))
    return _report(outcomes, time.monotonic() - began)


def _report(outcomes: dict[Mutant, str], seconds: float) -> int:
    survivors = [mutant for mutant, outcome in outcomes.items() if outcome == "survived"]
    explained = [mutant for mutant in survivors if mutant.key in EQUIVALENT]
    for mutant in survivors:
        why = f"\n    equivalent: {EQUIVALENT[mutant.key]}" if mutant.key in EQUIVALENT else ""
        print(f"survived {mutant.key} (line {mutant.line}){why}")
    counted = len(outcomes) - len(explained)
    killed = counted - (len(survivors) - len(explained))
    slow = sum(outcome == "timeout" for outcome in outcomes.values())
    rate = 100 * killed / counted if counted else 0.0
    print(
        f"{killed} of {counted} killed ({rate:.1f} %), {slow} of them by time; {len(explained)} more are equivalent; {seconds:.0f} s"
    )
    return 0 if rate >= 90 else 1


if __name__ == "__main__":
    sys.exit(main())
