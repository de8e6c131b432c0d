"""How many unfinished and how many running executions each user has: numbers that change in the very commits that admit, start
and end them, so that no crash and no delivery that comes twice can make them differ from the records. What does all the same (two
versions at once, a record that somebody removed, a bug) `recounts` finds and puts right."""

from __future__ import annotations

from typing import NamedTuple

from runvoy_agent.core.model import Execution
from runvoy_agent.core.recounts import counts_as_running, counts_as_unfinished
from runvoy_agent.handlers.documents.store import Several
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
    """The number of a user's executions that are `counted` and active."""
    return f"unfinished#{user}"


def running_key(user: str) -> str:
    """The number of a user's executions that are `placed` and active."""
    return f"running#{user}"


def number_in(known: Several, key: str) -> Number:
    """One of the numbers that were read together with other records."""
    return number(known.record(key), key)


def number(found: Versioned | None, key: str) -> Number:
    """The number that a record is; 0 where there is none."""
    return Number(key, 0, 0) if found is None else Number(key, int(found.body), found.version)


def changes(
    before: Execution | None, after: Execution, *, max_unfinished: int | None = None, max_running: int | None = None
) -> tuple[Add, ...]:
    """What a commit that makes `after` of `before` (None: admits it) adds to its owner's numbers. With a limit it is held to it: it
    does not hold if there would be more."""
    unfinished = counts_as_unfinished(after) - (before is not None and counts_as_unfinished(before))
    running = counts_as_running(after) - (before is not None and counts_as_running(before))
    both = (
        (unfinished_key(after.owner), unfinished, max_unfinished),
        (running_key(after.owner), running, max_running),
    )
    return tuple(Add(key, amount, limit if amount > 0 else None) for key, amount, limit in both if amount)


def gives_place(before: Execution, after: Execution) -> bool:
    return counts_as_running(before) and not counts_as_running(after)
