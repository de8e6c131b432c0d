"""What commits tell about, counted: every decision is committed with its audit record, so none is missed or made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec

from runvoy_agent.core.model import AuditEvent, Execution
from runvoy_agent.ports import Add, Page, Position, Put, Records, Versioned, Write
from runvoy_protocol import aws_layout
from runvoy_protocol.states import State

Count = Callable[..., None]
"""`count(metric, value, **dimensions)`."""

_AUDIT = "audit#"
_EXECUTION = "execution#"


class MeteredRecords:
    """Records that count what was committed through them (ports.Records)."""

    def __init__(self, records: Records, count: Count) -> None:
        self._records = records
        self._count = count

    @property
    def index_lag(self) -> timedelta:
        return self._records.index_lag

    def get(self, key: str) -> Versioned | None:
        return self._records.get(key)

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        return self._records.get_many(keys)

    def commit(self, writes: Sequence[Write]) -> None:
        self._records.commit(writes)
        for write in writes:
            if isinstance(write, Put) and write.key.startswith(_AUDIT):
                self._count_event(msgspec.json.decode(write.item.body, type=AuditEvent), writes)

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        return self._records.query(index, partition, after=after, limit=limit, descending=descending)

    def _count_event(self, event: AuditEvent, writes: Sequence[Write]) -> None:
        match event.action, event.outcome:
            case "admit", "accepted":
                self._count(aws_layout.METRIC_ACCEPTED, 1)
            case "admit", code:
                self._count(aws_layout.METRIC_REFUSED, 1, code=code)
            case "start", State.STARTING:
                self._count(aws_layout.METRIC_STARTED, 1)
                self._count_lock_wait(writes)
            case "recount-quotas", "ok" if any(isinstance(write, Add) for write in writes):
                self._count(aws_layout.METRIC_CORRECTED, 1)

    def _count_lock_wait(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if isinstance(write, Put) and write.key.startswith(_EXECUTION):
                execution = msgspec.json.decode(write.item.body, type=Execution)
                if execution.locks and execution.granted_at is not None and execution.state is State.STARTING:
                    waited = execution.granted_at - execution.admitted_at
                    self._count(aws_layout.METRIC_LOCK_WAIT, waited.total_seconds())
