"""The simulator and the explorer are worth what they catch: every planted bug."""

from __future__ import annotations

from functools import cache

import pytest
from tests.simulation.planted import IN_WORLDS, SEEDS, Planted, bugs, hunt
from tests.simulation.simulation import Settings, Simulation

pytestmark = pytest.mark.xdist_group("planted")


@cache
def violation_of(seed: int, world: Settings) -> str | None:
    """What is wrong in the world with nothing planted."""
    return Simulation(seed, world).run().violation


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Planted) -> None:
    """And what was seen is the bug: under that very seed its world is whole without it."""
    caught = hunt(bug)
    assert caught.how is not None, f"nothing noticed that {bug.name}"
    print(caught.how)
    if caught.seed is not None:
        assert violation_of(caught.seed, bug.world) is None


@pytest.mark.long
@pytest.mark.parametrize("world", dict.fromkeys(IN_WORLDS.values()))
def test_a_world_that_shows_a_bug_is_whole_without_it(world: Settings) -> None:
    """In every seed that is hunted in, so the two bounds of looks suffice: there is no third rule."""
    violations = {seed: Simulation(seed, world).run().violation for seed in SEEDS}
    assert violations == dict.fromkeys(SEEDS)
