"""`runvoy list`: which executions, and how many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.conftest import Run, World

ONE, TWO, THREE = (f"01890a5dac96774bbcceb30209{number:06d}" for number in (1, 2, 3))


@pytest.fixture
def three(world: World) -> None:
    """Three executions, an hour apart; the last was admitted five minutes ago."""
    for one in (ONE, TWO, THREE):
        world.submit(world.request(request_id=one))
        world.clock.move(hours=1)
    world.clock.move(minutes=-55)


def listed(runvoy: Run, *options: str) -> list[str]:
    code, out, err = runvoy("list", "--json", *options)
    assert code == 0, err
    return [one["execution_id"] for one in json.loads(out)]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("since", "found"),
    [
        ("10m", [THREE]),
        ("70m", [THREE, TWO]),
        ("3d", [THREE, TWO, ONE]),
        ("1s", []),
        ("2026-05-04T12:30:00Z", [THREE, TWO]),
        ("2026-05-04T14:00:00+02:00", [THREE, TWO, ONE]),
    ],
)
def test_those_that_were_admitted_since(runvoy: Run, since: str, found: list[str]) -> None:
    assert runvoy("whoami")[0] == 0  # learns the deployment's time, by which `10m` is meant
    assert listed(runvoy, "--since", since) == found


@pytest.mark.usefixtures("three")
def test_one_that_was_admitted_before_and_changed_since_is_left_out(runvoy: Run) -> None:
    assert runvoy("kill", ONE)[0] == 0
    assert listed(runvoy, "--since", "10m") == [THREE]


def test_what_is_no_time_is_told_before_anybody_is_asked(runvoy: Run) -> None:
    code, _, err = runvoy("list", "--since", "yesterday")
    assert (code, "'yesterday' is no time" in err) == (2, True)


@pytest.mark.usefixtures("three")
def test_that_there_are_more_is_told_to_people(runvoy: Run) -> None:
    assert listed(runvoy, "--limit", "2") == [THREE, TWO]
    _, out, err = runvoy("list", "--limit", "2", "--verbose")
    assert (len(out.splitlines()), "these are the newest 2; --limit shows more" in err) == (3, True)
    _, out, err = runvoy("list", "--limit", "3", "--verbose")
    assert (len(out.splitlines()), err) == (4, "")
    _, _, err = runvoy("list", "--limit", "2")
    assert err == ""


@pytest.mark.usefixtures("three")
def test_states_are_given_one_by_one_or_with_commas(runvoy: Run) -> None:
    assert listed(runvoy, "--status", "queued,starting") == listed(runvoy, "--status", "queued") == [THREE, TWO, ONE]
    assert listed(runvoy, "--status", "running, failed", "--status", "stopped") == []
    code, _, err = runvoy("list", "--status", "queued,nope")
    assert (code, "'nope' is no state" in err) == (2, True)
