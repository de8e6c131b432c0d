"""The simulator and the explorer are worth what they catch: every planted bug."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from tests.simulation.planted import IN_WORLDS, SEEDS, Planted, bugs, hunt
from tests.simulation.simulation import Settings, Simulation

pytestmark = pytest.mark.xdist_group("planted")

Violations = dict[tuple[int, Settings], str | None]


@pytest.fixture(scope="module")
def without() -> Violations:
    """What is wrong in worlds with nothing planted, as far as somebody asked."""
    return {}


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(without: Violations, bug: Planted) -> None:
    caught = hunt(bug)
    assert caught.how is not None, f"nothing noticed that {bug.name}"
    print(caught.how)
    if caught.seed is None:
        return
    # What was seen is the bug: under that very seed its world is whole without it.
    place = caught.seed, bug.world
    if place not in without:
        without[place] = Simulation(*place).run().violation
    assert without[place] is None


def names(function: Callable[..., object]) -> list[str] | None:
    """Those of its positional parameters; None where it takes whatever comes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return None
    return [one.name.strip("_") for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_function_takes_what_the_real_one_takes(bug: Planted) -> None:
    for owner, name, mutant in bug.patches:
        real = owner.__dict__[name]
        if inspect.isfunction(real) and (own := names(mutant)) is not None:
            assert own == names(real), name


@pytest.mark.parametrize("world", dict.fromkeys(IN_WORLDS.values()))
@pytest.mark.long
def test_a_world_that_shows_a_bug_is_whole_without_it(world: Settings) -> None:
    """In every seed that is hunted in, so the two bounds of looks suffice: there is no third rule."""
    violations = {seed: Simulation(seed, world).run().violation for seed in SEEDS}
    assert violations == dict.fromkeys(SEEDS)
