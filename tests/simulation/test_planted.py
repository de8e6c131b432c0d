"""The simulator and the explorer are worth what they catch: every planted bug."""

from __future__ import annotations

import pytest
from tests.simulation.planted import IN_WORLDS, Planted, bugs, hunt
from tests.simulation.simulation import Simulation


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Planted) -> None:
    caught = hunt(bug)
    assert caught.how is not None, f"nothing noticed that {bug.name}"
    print(caught.how)


@pytest.mark.parametrize(("name", "seed"), zip(IN_WORLDS, (0, 4, 1), strict=True), ids=IN_WORLDS)
def test_the_world_that_shows_a_bug_is_whole_without_it(name: str, seed: int) -> None:
    """The seeds are those that caught them. What holds here is what one of two rules was taken away for."""
    assert Simulation(seed, IN_WORLDS[name]).run().violation is None
