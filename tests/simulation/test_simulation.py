"""The simulator's quick suite: some seeds, every crash point, and that a seed replays."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
from tests.simulation.scheduler import Crash, Point, When
from tests.simulation.simulation import Report, Settings, Simulation

SEEDS = range(10)
MAX_HUNTS = 60
SETTINGS = Settings(requests=120, tick_ms=30_000)


pytestmark = pytest.mark.xdist_group("simulation")

Place = tuple[Point, When]


class Run(NamedTuple):
    """What makes a run what it is."""

    seed: int
    hunted: frozenset[Place] = frozenset()


@cache
def report_of(seed: int) -> Report:
    return Simulation(seed, SETTINGS).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_breaks_nothing(seed: int) -> None:
    report = report_of(seed)
    tail = "\n".join(str(step) for step in report.trace[-40:])
    assert report.violation is None, f"seed {seed}: {report.violation}\n{tail}"
    assert report.commands > SETTINGS.requests / 3, "the world was too hostile for anything to run"


def test_every_effect_was_crashed_at_before_and_after() -> None:
    """A new effect is found by itself: if no schedule here dies at it, this names it. An effect is a port's operation at
    a place in the source, whichever handler comes there.

    What the seeds passed by is hunted in the run that came there: up to that place it is the same again, and dies there.
    """
    first_seen: dict[tuple[str, str], tuple[Point, Run]] = {}
    crashed: set[tuple[str, str, When]] = set()

    def note(run: Run, report: Report) -> list[tuple[Place, Run]]:
        assert report.violation is None, f"seed {run.seed}: {report.violation}"
        for point in report.points:
            first_seen.setdefault((point.operation, point.site), (point, run))
        crashed.update((point.operation, point.site, when) for point, when in report.crashed)
        return [
            ((point, when), seen_in)
            for effect, (point, seen_in) in first_seen.items()
            for when in When
            if (*effect, when) not in crashed
        ]

    missed: list[tuple[Place, Run]] = []
    for seed in SEEDS:
        missed = note(Run(seed), report_of(seed))
    for _ in range(MAX_HUNTS):
        if not missed:
            break
        seed, hunted = missed[0][1]
        run = Run(seed, hunted.union(place for place, seen_in in missed if seen_in == (seed, hunted)))
        missed = note(run, Simulation(run.seed, SETTINGS, run.hunted).run())
    assert not missed, "never crashed at:\n" + "\n".join(sorted(f"{when} {point}" for (point, when), _ in missed))
    assert len(first_seen) > 50
    print(f"{len(crashed)} crash points of {len(first_seen)} effects")


def test_secrets_that_change_under_way_break_nothing() -> None:
    """Seeds until each of their effects was crashed at, before and after, by one or another."""
    runs = 0
    seen: set[tuple[str, str]] = set()
    crashed: set[tuple[str, str, When]] = set()
    missed: set[tuple[str, str, When]] = set()
    for seed in range(12):
        simulation = Simulation(seed, SETTINGS._replace(secrets=3))
        report = simulation.run()
        tail = "\n".join(str(step) for step in report.trace[-40:])
        assert report.violation is None, f"seed {seed}: {report.violation}\n{tail}"
        runs += simulation.secrecy.runs
        seen |= {
            (point.operation, point.site) for point in report.points if "secret" in f"{point.operation} {point.site}"
        }
        crashed |= {(point.operation, point.site, when) for point, when in report.crashed}
        missed = {(*effect, when) for effect in seen for when in When} - crashed
        if seed >= 2 and not missed:
            break
    assert (runs > 50, len(seen) > 10, missed) == (True, True, set())


def test_a_seed_replays_to_the_letter() -> None:
    again = Simulation(3, SETTINGS).run()
    assert (again.digest, again.steps) == (report_of(3).digest, report_of(3).steps)
    assert Simulation(4, SETTINGS).run().digest != again.digest


def test_a_crash_passes_through_production_code() -> None:
    assert not issubclass(Crash, Exception)
    assert str(Point("inbox", "records.commit", "inbox._record")) == "records.commit from inbox._record in inbox"
