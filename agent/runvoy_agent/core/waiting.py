"""When what waits for the platform's room is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution

_SHORTEST_CAPACITY_DELAY = timedelta(seconds=5)
_LONGEST_CAPACITY_DELAY = timedelta(seconds=30)  # well before the reconciler takes its push for lost


def is_superseded(execution: Execution, tried_at: datetime | None) -> bool:
    """Whether a push, made when it was last tried, or admitted, at `tried_at`, is one too many: it waits for room, and a later try, which
    found none either, has a push of its own."""
    if not lifecycle.waits_for_room(execution) or execution.starting_at is None:
        return False
    return tried_at is not None and tried_at < execution.starting_at


def capacity_delay(execution: Execution, now: datetime) -> timedelta:
    """How long to let pass before the platform is asked for room again: the longer it waited, the longer."""
    waited = now - execution.admitted_at
    return min(max(waited / 20, _SHORTEST_CAPACITY_DELAY), _LONGEST_CAPACITY_DELAY)
