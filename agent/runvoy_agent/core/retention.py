"""What may be forgotten of the executions that are long over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runvoy_agent.core.model import Execution
from runvoy_protocol import ids
from runvoy_protocol.requests import MAX_TIMEOUT_SECONDS

SHORTEST_KEEP = timedelta(days=1)
"""Longer than anything that may still come of an execution: deliveries that repeat, a start's claim, a version that is held."""

LONGEST_LIFE = 2 * timedelta(seconds=MAX_TIMEOUT_SECONDS)
"""Waiting, then running, each for as long as a request may say. A batch's object is kept for that much longer than `keep`,
because its executions end one by one."""

REFUSALS_KEPT = timedelta(days=2)
"""Beyond what a request says of its own end, which is an hour after its beginning: for deliveries that come late."""

_LAST = datetime(9999, 1, 1, tzinfo=UTC)


def refusal_forgotten_at(at: datetime, expires_at: datetime | None) -> datetime:
    """When the record of a refusal may go: that of a request which expires at `expires_at`, if it could be read.

    The record exists so that what was refused is not accepted when it is delivered again and something else is true by then.
    A request that is delivered after its record went is judged anew, by the same rules, but too late: it has expired, so it is
    refused again, or its id has an execution of the very same content, which then is the answer. A request may be dated ahead of
    the clock: that is why its own end counts where it is later. The first receipt stays in any case; and another key's request
    gains nothing by its going, for a refusal never held the id.
    """
    return max(at, min(expires_at or at, _LAST)) + REFUSALS_KEPT


def is_known_for_sure(execution_id: str, now: datetime) -> bool:
    """Whether an execution of this id has a record, if there ever was one: the time in it is of late, or to come, and no such is
    forgotten."""
    made_at = ids.made_at(execution_id)
    return made_at is not None and made_at > now - SHORTEST_KEEP


def may_be_forgotten(execution: Execution, before: datetime) -> bool:
    """Whether it ended, was seen stopped, and has not changed since `before`, SHORTEST_KEEP ago or longer; and its id was made
    before that, as it says (see is_known_for_sure). What waits or runs, or whose task was never seen stopped, stays however old it
    is."""
    stopped_at = execution.stopped_at
    if not execution.is_terminal or stopped_at is None:
        return False
    made_at = ids.made_at(execution.execution_id)
    if made_at is not None and made_at >= before:
        return False
    return max(execution.updated_at, stopped_at, execution.ended_at or stopped_at) < before
