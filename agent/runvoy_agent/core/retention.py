"""What may be forgotten of the executions that are long over."""

from __future__ import annotations

from datetime import datetime, timedelta

from runvoy_agent.core.model import Execution
from runvoy_protocol.requests import MAX_TIMEOUT_SECONDS

SHORTEST_KEEP = timedelta(days=1)
"""Longer than anything that may still come of an execution: deliveries that repeat, a start's claim, a version that is held."""

LONGEST_LIFE = 2 * timedelta(seconds=MAX_TIMEOUT_SECONDS)
"""Waiting, then running: a batch's object is kept for that much longer than `keep`, for its executions end one by one."""


def may_be_forgotten(execution: Execution, before: datetime) -> bool:
    """Whether it ended, was seen stopped, and has not changed since `before`. What waits or runs, or whose task was never seen
    stopped, stays however old it is."""
    if not execution.is_terminal or execution.is_active or execution.stopped_at is None:
        return False
    last = max(execution.updated_at, execution.stopped_at, execution.ended_at or execution.stopped_at)
    return last < before
