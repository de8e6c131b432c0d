"""`python -m tests.simulation --seeds N --requests M …`: run seeds, print one table, replay a seed."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.simulation import Report, Settings, Simulation

TAIL = 60


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone, with its trace")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--duplicates", type=float, default=0.3)
    parser.add_argument("--reorder", type=float, default=0.3)
    parser.add_argument("--loss", type=float, default=0.05)
    parser.add_argument("--trace", type=int, default=TAIL, help="how many lines of a failing seed's trace to print")
    parser.add_argument("--about", default="", help="only lines of the trace that hold this text")
    options = parser.parse_args(arguments)
    settings = Settings(options.requests, options.duplicates, options.reorder, options.loss)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    failed = 0
    print(f"{'seed':>6} {'requests':>8} {'admitted':>8} {'commands':>8} {'steps':>9} {'crashed':>8} {'s':>6}  verdict")
    for seed in seeds:
        begun = time.perf_counter()
        report = Simulation(seed, settings).run()
        failed += report.violation is not None
        show(report, time.perf_counter() - begun)
        if report.violation is not None:
            tail = [step for step in report.trace if options.about in str(step)]
            for step in tail[len(tail) - min(options.trace, len(tail)) :]:
                print(f"        {step}")
            print(f"        replay: python -m tests.simulation --seed {seed} --requests {options.requests}")
    print(f"{failed} of {len(seeds)} seeds failed")
    return 1 if failed else 0


def show(report: Report, seconds: float) -> None:
    print(
        f"{report.seed:>6} {report.requests:>8} {report.executions:>8} {report.commands:>8} {report.steps:>9} "
        f"{report.crashes:>8} {seconds:>6.1f}  {report.violation or 'ok'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
