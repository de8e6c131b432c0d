"""Executions as a deployment tells the folder daemon of them."""

from datetime import UTC, datetime, timedelta

from runvoy_protocol.ids import uuid7
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def ended(number, chunks=1, **labels):
    """The execution that was admitted `number` seconds after NOW, and succeeded."""
    return ExecutionStatus(
        execution_id=uuid7(NOW, number.to_bytes(10, "big")),
        record_version=3,
        state=State.SUCCEEDED,
        owner="ann",
        key_id="k" * 32,
        command="x",
        isolation="process",
        timeout_seconds=600,
        issued_at=NOW,
        admitted_at=NOW + timedelta(seconds=number),
        exit_code=0,
        labels=labels,
        chunks=chunks,
    )
