"""Commits that meet others: what was decided on a state that is no more is decided again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from runvoy_agent.ports import Clock, Conflict
from runvoy_protocol.errors import ErrorCode, RunvoyError

COMMIT_TRIES = 30

R = TypeVar("R")


def with_retries(clock: Clock, attempt: Callable[[], R]) -> R:
    """Run `attempt` (read, decide, commit) until its commit meets no conflict; CONFLICT after a bounded number of tries.

    The pause doubles up to half a second and is drawn anew each time, so that those who collided once do not collide
    in step.
    """
    for tried in range(COMMIT_TRIES):
        try:
            return attempt()
        except Conflict:
            longest = min(0.002 * 2**tried, 0.5)
            clock.sleep(longest * int.from_bytes(clock.random(2), "big") / 0xFFFF)
    raise RunvoyError(
        ErrorCode.CONFLICT,
        f"somebody else changed the same records each of the {COMMIT_TRIES} times that this was tried",
    )
