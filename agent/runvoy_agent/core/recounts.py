"""Comparing a user's numbers with the records they count, while both go on changing.

No read sees all records at one moment. So the records are looked at twice, and the number is read in between: what was the same
both times was so when the number was read, what was not may have been either. That gives bounds, and a number outside of them is
wrong for certain. By how much does not change with what happens meanwhile, for each commit changes number and records together: so
what was found may be put right later, by adding the difference.

A record that nobody knew to look at can only make a number seem too high. So one that is too low is put right at once. One that
seems too high is held against all that was admitted of late, when indexes must show it: whatever of that was not looked at, and may
have been admitted before the number was read, is taken to have counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from runvoy_agent.core.model import Execution
from runvoy_agent.core.progress import Suspicion

JUDGED_WITHIN = timedelta(minutes=20)
"""Longer than a delivery may take from the time that it takes for the admission to its commit, with clocks that differ."""

SUSPECTED_FOR = timedelta(days=1)
MOST_KNOWN = 2_000
"""As many executions of JUDGED_WITHIN are remembered with a suspicion. Of who has more a number is not put down before they have less."""


class Looked(NamedTuple):
    """An execution as it was at one look: its record's version, and whether it counts among the unfinished and the running."""

    version: int
    unfinished: bool
    running: bool


class Bounds(NamedTuple):
    """How many counted at the moment between two looks: from `least` to `most`."""

    least: int
    most: int


def looked_at(execution: Execution, version: int) -> Looked:
    return Looked(version, counts_as_unfinished(execution), counts_as_running(execution))


def counts_as_unfinished(execution: Execution) -> bool:
    return execution.counted and execution.is_active


def counts_as_running(execution: Execution) -> bool:
    return execution.placed and execution.is_active


def unfinished(before: Mapping[str, Looked], after: Mapping[str, Looked]) -> Bounds:
    """What was unfinished at both looks was so in between: none comes back."""
    first = {execution_id for execution_id, one in before.items() if one.unfinished}
    last = {execution_id for execution_id, one in after.items() if one.unfinished}
    return Bounds(len(first & last), len(first | last))


def running(before: Mapping[str, Looked], after: Mapping[str, Looked]) -> Bounds:
    """A place may be given back and taken again: it is certain of a record alone that did not change."""
    least = most = 0
    for execution_id in before.keys() | after.keys():
        first, last = before.get(execution_id), after.get(execution_id)
        if first == last:
            is_running = first is not None and first.running
            least, most = least + is_running, most + is_running
        else:
            most += 1
    return Bounds(least, most)


def excess(number: int, bounds: Bounds) -> int:
    """By how many the number is too high (negative: too low), if all that counted was looked at; 0 if it may be right."""
    if number > bounds.most:
        return number - bounds.most
    return min(0, number - bounds.least)


def unknown(suspicion: Suspicion, admitted: Iterable[Execution]) -> int:
    """How many of these were not looked at, and may have counted, when the suspicion came up. An admission that read the number at
    the version it had then, or at a later one, was committed after that: each commit that counts raises it."""
    known = frozenset(suspicion.known)
    return sum(
        one.counted and one.execution_id not in known and one.counted_from < suspicion.version for one in admitted
    )


def admitted_since(suspicion: Suspicion, index_lag: timedelta) -> datetime:
    """What was admitted before that, by the time in its record, indexes showed when the suspicion came up."""
    return suspicion.at - index_lag - JUDGED_WITHIN


def is_ripe(suspicion: Suspicion, index_lag: timedelta, now: datetime) -> bool:
    """Whether indexes show by now all that was admitted before the suspicion came up."""
    return now >= suspicion.at + index_lag


def is_stale(suspicion: Suspicion, now: datetime) -> bool:
    return now > suspicion.at + SUSPECTED_FOR


def correction(found: int, confirmed: int) -> int:
    """What to add to a number that was found to be too high by `found` now (negative: too low), and by `confirmed` at least before. Too
    low is certain; too high is as much as both say: what is found now may not have been looked at, and what was found then may have
    been put right since."""
    return -found if found < 0 else -min(found, confirmed)
