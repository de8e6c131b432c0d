"""Every interleaving within small bounds, and a queue that everybody waits in; `just prove` has the larger ones."""

from __future__ import annotations

from functools import cache

import pytest
from tests.simulation.explorer import Bounds, explore
from tests.simulation.simulation import Settings, Simulation

pytestmark = pytest.mark.xdist_group("simulation")

ONE = Bounds((("a",),), results=True, launches=True, refusals=2)

explored = cache(explore)


@pytest.mark.parametrize(
    ("bounds", "least"),
    [
        (ONE, 1_500),
        (ONE._replace(crashes=2), 3_000),
        (Bounds((("a",), ("a", "b"))), 4_000),
        (Bounds((("a", "b"), ("b", "a")), crashes=0, duplicates=0, results=True), 300),
        (Bounds(((),), revocations=1, launches=True, refusals=1), 500),
        (Bounds(((), ("a",)), max_unfinished=1), 1_000),
    ],
    ids=["one, refused", "two deaths", "two requests", "two locks in both orders", "revoked", "one place for two"],
)
def test_nothing_is_wrong_within_the_bounds(bounds: Bounds, least: int) -> None:
    result = explored(bounds)
    print(f"{result.states} states, {result.ends} ends")
    assert result.violation is None, " / ".join(result.path)
    assert result.complete
    assert result.states >= least, "so few states that something is not explored"


def test_a_walk_is_the_same_each_time() -> None:
    first, again = explored(ONE), explore(ONE)
    assert (first.states, first.steps, first.ends) == (again.states, again.steps, again.ends)


def test_everybody_who_waits_is_granted_in_order() -> None:
    settings = Settings(requests=200, locks=8, window_ms=20_000, everyone_waits=True, process_crashes=False)
    report = Simulation(1, settings).run()
    assert report.violation is None
    assert report.grants > 100
