"""The simulator and the explorer are worth what they catch: every planted bug."""

from __future__ import annotations

import pytest
from tests.simulation.planted import Planted, bugs, hunt


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Planted) -> None:
    caught = hunt(bug)
    assert caught.how is not None, f"nothing noticed that {bug.name}"
    print(caught.how)
