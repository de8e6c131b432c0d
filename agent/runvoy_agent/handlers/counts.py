"""How many unfinished executions each user has: numbers that change in the very commits that admit and end them, so that no
crash and no delivery that comes twice can make them differ from the records."""

from __future__ import annotations

from typing import NamedTuple

from runvoy_agent.core.model import Execution
from runvoy_agent.ports import Add, Check, Versioned


class Number(NamedTuple):
    """A number that is counted, with the version it was read at."""

    key: str
    value: int
    version: int

    @property
    def check(self) -> Check:
        return Check(self.key, self.version)


def unfinished_key(user: str) -> str:
    """The number of a user's unfinished executions: those whose records are `counted` and active."""
    return f"unfinished#{user}"


def number(found: Versioned | None, key: str) -> Number:
    return Number(key, 0, 0) if found is None else Number(key, int(found.body), found.version)


def one_more(execution: Execution, at_most: int) -> Add:
    """For the commit that admits it: it counts among its owner's unfinished ones, if those are then `at_most` at most."""
    return Add(unfinished_key(execution.owner), 1, at_most)


def one_less(before: Execution, after: Execution) -> tuple[Add, ...]:
    """For the commit that changes an execution: one that is over with it counts among its owner's unfinished ones no more."""
    is_over = before.counted and before.is_active and not after.is_active
    return (Add(unfinished_key(after.owner), -1),) if is_over else ()
