"""Comparing a user's numbers with the records they count, while both go on changing.

No read sees all records at one moment. So the records are looked at twice, and the number is read in between. A record that was
the same at both looks was so when the number was read; of one that was not, nobody knows. That gives a lower and an upper
bound, and a number outside of them is wrong for certain. What happens meanwhile does not change by how much it is wrong,
because each commit changes number and records together. So what was found can be put right later, by adding the difference.

An execution that no index showed yet was not looked at. That can only make a number seem too high, so a number that is too low
is put right at once. One that seems too high is a *suspicion*: it is compared again once indexes must show everything that was
admitted before it. Whatever of that was not looked at, and may have been admitted before the number was read, is taken to have
counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from runvoy_agent.core.model import Execution
from runvoy_agent.core.progress import Suspicion

JUDGED_WITHIN = timedelta(minutes=20)
"""Longer than it can take from the time that an admission writes in the record to its commit, with clocks that differ."""

SUSPECTED_FOR = timedelta(days=1)
MOST_KNOWN = 2_000
"""So many executions that were admitted within JUDGED_WITHIN are remembered with a suspicion. The number of a user who has more
is not lowered until they have fewer."""


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
    """How many were unfinished between the looks. What was at both looks was so in between: an execution never becomes unfinished
    again."""
    first = {execution_id for execution_id, one in before.items() if one.unfinished}
    last = {execution_id for execution_id, one in after.items() if one.unfinished}
    return Bounds(len(first & last), len(first | last))


def running(before: Mapping[str, Looked], after: Mapping[str, Looked]) -> Bounds:
    """How many had a place between the looks. A place may be given back and taken again, so only a record that did not change at
    all is certain."""
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
    """By how many the number is too high, or, negative, too low, if everything that counted was looked at; 0 if it may be
    right."""
    if number > bounds.most:
        return number - bounds.most
    return min(0, number - bounds.least)


def unknown(suspicion: Suspicion, admitted: Iterable[Execution]) -> int:
    """How many of these executions were not looked at when the suspicion came up, and may have counted then. One whose
    admission read the number at the suspicion's version or a later one was committed after it: every commit that counts raises
    the version."""
    known = frozenset(suspicion.known)
    return sum(
        one.counted and one.execution_id not in known and one.counted_from < suspicion.version for one in admitted
    )


def admitted_since(suspicion: Suspicion, index_lag: timedelta) -> datetime:
    """From when on admissions, by the time in their records, may not have been shown by indexes when the suspicion came up."""
    return suspicion.at - index_lag - JUDGED_WITHIN


def is_ripe(suspicion: Suspicion, index_lag: timedelta, now: datetime) -> bool:
    """Whether indexes show by now all that was admitted before the suspicion came up."""
    return now >= suspicion.at + index_lag


def is_stale(suspicion: Suspicion, now: datetime) -> bool:
    return now > suspicion.at + SUSPECTED_FOR


def correction(found: int, confirmed: int) -> int:
    """What to add to a number that is too high by `found` now (negative: too low) and was too high by `confirmed` at least
    before.

    Too low is certain. Too high is believed as far as both agree: now something may not have been looked at, and what was found
    before may have been put right since."""
    return -found if found < 0 else -min(found, confirmed)
