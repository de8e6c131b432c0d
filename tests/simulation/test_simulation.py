"""The simulator's quick suite: some seeds, every crash point, and that a seed replays."""

from __future__ import annotations

import itertools
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


class Hunt:
    """Looks for every place to crash at, run after run."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[Run, Point]] = {}  # each effect with the runs that came to it
        self.crashed: set[tuple[str, str, When]] = set()
        self._in_vain: set[tuple[Place, Run]] = set()

    def note(self, run: Run, report: Report) -> None:
        assert report.violation is None, f"seed {run.seed}: {report.violation}"
        for point in report.points:
            self.seen.setdefault((point.operation, point.site), {}).setdefault(run, point)
        self.crashed.update((point.operation, point.site, when) for point, when in report.crashed)

    def missed(self) -> list[str]:
        every = [(*effect, when) for effect in self.seen for when in When]
        return sorted(
            f"{when} {operation} from {site}"
            for operation, site, when in every
            if (operation, site, when) not in self.crashed
        )

    def go_on(self) -> bool:
        """Hunt in one run all that was missed and seen in it; False when no run is left to hunt in.

        Up to the first such place the run is the same again, and dies there. One that died before it came to the place
        after an effect never comes to that: then another run that saw the effect is taken.
        """
        by_run: dict[Run, set[Place]] = {}
        for effect, runs in self.seen.items():
            for when in When:
                if (*effect, when) not in self.crashed:
                    for run, point in runs.items():
                        if ((point, when), run) not in self._in_vain:
                            by_run.setdefault(run, set()).add((point, when))
        if not by_run:
            return False
        run, places = next(iter(by_run.items()))
        hunting = Run(run.seed, run.hunted.union(places))
        before = len(self.crashed)
        self.note(hunting, Simulation(hunting.seed, SETTINGS, hunting.hunted).run())
        if len(self.crashed) == before:
            self._in_vain.update((place, run) for place in places)
        return True


def test_every_effect_was_crashed_at_before_and_after() -> None:
    """A new effect is found by itself: if no schedule here dies at it, this names it. An effect is a port's operation at
    a place in the source, whichever handler comes there."""
    hunt = Hunt()
    seeds = itertools.count()
    for seed in itertools.islice(seeds, len(SEEDS)):
        hunt.note(Run(seed), report_of(seed))
    for _ in range(MAX_HUNTS):
        if not hunt.missed():
            break
        if not hunt.go_on():
            seed = next(seeds)
            hunt.note(Run(seed), report_of(seed))
    assert not hunt.missed(), "never crashed at:\n" + "\n".join(hunt.missed())
    assert len(hunt.seen) > 100
    print(f"{len(hunt.crashed)} crash points of {len(hunt.seen)} effects")


def test_secrets_that_change_under_way_break_nothing() -> None:
    """Seeds until each of their effects was crashed at, before and after, by one or another."""
    runs = 0
    seen: set[tuple[str, str]] = set()
    crashed: set[tuple[str, str, When]] = set()
    missed: set[tuple[str, str, When]] = set()
    for seed in range(24):
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
        if seed >= 2 and runs > 50 and not missed:
            break
    assert (runs > 50, len(seen) > 10, missed) == (True, True, set())


def test_a_seed_replays_to_the_letter() -> None:
    again = Simulation(3, SETTINGS).run()
    assert (again.digest, again.steps) == (report_of(3).digest, report_of(3).steps)
    assert Simulation(4, SETTINGS).run().digest != again.digest


def test_a_place_to_die_is_told_by_the_handlers_own_function_in_whatever_package() -> None:
    """Else the calls of many functions pass for one place, which is tried eagerly once."""
    modules = {point.site.rpartition(".")[0] for point in report_of(3).points}
    assert {"inbox", "admission.judging", "locks.releases", "quotas.places", "executions.kills"} <= modules
    assert not modules & {"documents.store", "documents.commits"}


def test_a_crash_passes_through_production_code() -> None:
    assert not issubclass(Crash, Exception)
    assert str(Point("inbox", "records.commit", "inbox._record")) == "records.commit from inbox._record in inbox"
