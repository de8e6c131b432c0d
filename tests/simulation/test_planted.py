"""The simulator and the explorer are worth what they catch: every planted bug."""

from __future__ import annotations

import pytest
from tests.simulation.planted import IN_WORLDS, Planted, bugs, hunt
from tests.simulation.simulation import Settings, Simulation


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Planted) -> None:
    caught = hunt(bug)
    assert caught.how is not None, f"nothing noticed that {bug.name}"
    print(caught.how)


@pytest.mark.parametrize("seed", [0, 1])  # where rounds are seven minutes apart others end with an upload unanswered
@pytest.mark.parametrize("world", dict.fromkeys(IN_WORLDS.values()))
def test_a_world_that_shows_a_bug_is_whole_without_it(world: Settings, seed: int) -> None:
    """So what is seen there is the bug, and the two bounds of looks suffice: there is no third rule."""
    assert Simulation(seed, world).run().violation is None
