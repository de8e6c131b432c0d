"""Times that a runner told: its clock may be off, and its command may hold the key that signs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runvoy_agent.core.model import Execution
from runvoy_protocol.run_objects import RunResult


def instant(milliseconds: int, execution: Execution, now: datetime) -> datetime:
    """A time that the runner told, moved into what is possible: not before its launch, not after now."""
    earliest = execution.starting_at or execution.admitted_at
    return min(max(datetime.fromtimestamp(milliseconds / 1000, UTC), earliest), now)


def ended_at(result: RunResult, execution: Execution, started_at: datetime | None, now: datetime) -> datetime:
    """The end, as long after the start as its runner says: both are times of one clock, however far off it is."""
    if started_at is None or result.started_at_ms is None:
        return instant(result.ended_at_ms, execution, now)
    lasted = timedelta(milliseconds=result.ended_at_ms - result.started_at_ms)
    return started_at + max(timedelta(0), min(lasted, now - started_at))
