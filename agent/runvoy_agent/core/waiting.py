"""When what waits for the platform's room is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution

_WAITED_TO_DELAY = 20  # whoever waited for so long is asked about again within a twentieth of it
_SHORTEST_CAPACITY_DELAY = timedelta(seconds=5)
_LONGEST_CAPACITY_DELAY = timedelta(seconds=30)  # well before the reconciler takes its push for lost


def is_superseded(execution: Execution, tried_at: datetime | None) -> bool:
    """Whether a push is one too many. `tried_at` is when, as the push was sent, the execution had last been tried (or was
    admitted): if it was tried since and still waits for room, that later try has sent a push of its own."""
    if not lifecycle.waits_for_room(execution) or execution.starting_at is None:
        return False
    return tried_at is not None and tried_at < execution.starting_at


def capacity_delay(execution: Execution, now: datetime) -> timedelta:
    """How long to let pass before the platform is asked for room again: a part of the time that it has waited, within bounds."""
    waited = now - execution.admitted_at
    return min(max(waited / _WAITED_TO_DELAY, _SHORTEST_CAPACITY_DELAY), _LONGEST_CAPACITY_DELAY)
