"""`just prove`: everything at its full size, in one table. Exit 1 if anything was not as it must be."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.simulation.explorer import Bounds, Result, explore
from tests.simulation.planted import Caught, bugs, hunt
from tests.simulation.scheduler import When
from tests.simulation.simulation import Report, Settings, Simulation

# A run of 10,000 is 20 worlds of 500 under seeds of their own: a world's reconciler looks at all that is younger than
# two hours each minute, so one large world would spend its time there, and fail in fewer ways.
REQUESTS_PER_WORLD = 500
EXPLORED = (
    ("3 requests, locks a, ab, b; switches at commits", Bounds()),
    ("2 requests, one lock; results, switches at launches too", Bounds((("a",), ("a",)), results=True, launches=True)),
    ("2 requests, no lock; the key is revoked meanwhile", Bounds(((), ()), revocations=1)),
    ("2 requests, one lock; a launch is refused", Bounds((("a",), ("a",)), launches=True, refusals=2)),
)
QUEUE = Settings(
    requests=1400,
    locks=50,
    duplicates=0.3,
    reorder=0.3,
    window_ms=60_000,
    everyone_waits=True,
    process_crashes=False,
)


class Row(NamedTuple):
    what: str
    figures: str
    verdict: str
    seconds: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.prove", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    rows: list[Row] = []

    def told(row: Row) -> None:
        rows.append(row)
        print(f"{row.what:<62} {row.figures:<66} {row.seconds:>6.0f} s  {row.verdict}", flush=True)

    with ProcessPoolExecutor(options.jobs) as pool:
        _simulate(pool, options.seeds, options.requests, told)
        _explore(pool, told)
        _plant(pool, told)
        _queue(pool, told)
    failed = sum(row.verdict != "ok" for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} ok in {time.monotonic() - begun:.0f} s, with {options.jobs} processes")
    return 1 if failed else 0


def run_seed(seed: int, requests: int) -> tuple[list[Report], float]:
    """One seed's worlds; their traces only where something was wrong."""
    begun = time.monotonic()
    worlds = max(1, requests // REQUESTS_PER_WORLD)
    settings = Settings(requests=requests // worlds)
    reports = []
    for world in range(worlds):
        report = Simulation(seed * 1000 + world, settings).run()
        reports.append(report if report.violation else report._replace(trace=[]))
    return reports, time.monotonic() - begun


def _simulate(pool: ProcessPoolExecutor, seeds: int, requests: int, told: Callable[[Row], None]) -> None:
    seen: set[tuple[str, str]] = set()
    crashed: set[tuple[str, str, When]] = set()
    futures = [pool.submit(run_seed, seed, requests) for seed in range(seeds)]
    for seed, future in enumerate(futures):
        reports, seconds = future.result()
        for report in reports:
            seen |= {(point.operation, point.site) for point in report.points}
            crashed |= {(point.operation, point.site, when) for point, when in report.crashed}
        wrong = [f"--seed {report.seed}: {report.violation}" for report in reports if report.violation]
        figures = (
            f"{sum(report.executions for report in reports)} admitted, {sum(report.commands for report in reports)} ran, "
            f"{sum(report.crashes for report in reports)} places crashed at"
        )
        told(Row(f"seed {seed}: {requests} requests", figures, "; ".join(wrong) or "ok", seconds))
    every = {(*effect, when) for effect in seen for when in When}
    missed = sorted(f"{when} {operation} from {site}" for operation, site, when in every - crashed)
    figures = f"{len(every & crashed)} of {len(every)} crash points of {len(seen)} effects"
    told(Row("every crash point", figures, "never crashed at: " + "; ".join(missed) if missed else "ok", 0))


def _explore(pool: ProcessPoolExecutor, told: Callable[[Row], None]) -> None:
    futures = [(name, pool.submit(explore, bounds)) for name, bounds in EXPLORED]
    for name, future in futures:
        result: Result = future.result()
        verdict = "ok" if result.complete else f"{result.violation or 'not complete'}: {' / '.join(result.path)}"
        figures = f"{result.states} states, {result.steps} steps, {result.ends} ends, {int(result.violation is not None)} violations"
        told(Row(f"explorer: {name}", figures, verdict, result.seconds))


def _plant(pool: ProcessPoolExecutor, told: Callable[[Row], None]) -> None:
    begun = time.monotonic()
    caught: list[Caught] = list(pool.map(_hunt, range(len(bugs()))))
    missed = [bug.name for bug in caught if bug.how is None]
    figures = f"{len(caught) - len(missed)} of {len(caught)} caught"
    told(Row("planted bugs", figures, "not caught: " + "; ".join(missed) if missed else "ok", time.monotonic() - begun))


def _hunt(number: int) -> Caught:
    return hunt(bugs()[number])


def _queue(pool: ProcessPoolExecutor, told: Callable[[Row], None]) -> None:
    begun = time.monotonic()
    report: Report = pool.submit(_run_queue).result()
    inversions = "0 inversions" if report.violation is None else "see there"
    figures = f"{report.grants} grants, {inversions} (each is judged by the order of admission)"
    told(Row("1,000 waiters on 50 locks", figures, report.violation or "ok", time.monotonic() - begun))


def _run_queue() -> Report:
    return Simulation(1, QUEUE).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
