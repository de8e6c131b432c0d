"""What is shown of an execution: its status, made of its record."""

from __future__ import annotations

from runvoy_agent.core.cost import cost_of
from runvoy_agent.core.model import Execution
from runvoy_protocol.explanations import explained
from runvoy_protocol.status import ExecutionStatus, LockStatus


def project(execution: Execution, record_version: int) -> ExecutionStatus:
    """The status (status.json) of an execution at a version of its record, with its explanation and its cost."""
    shown = ExecutionStatus(
        execution_id=execution.execution_id,
        record_version=record_version,
        state=execution.state,
        owner=execution.owner,
        key_id=execution.key_id,
        command=execution.command,
        isolation=execution.isolation,
        timeout_seconds=execution.timeout_seconds,
        issued_at=execution.issued_at,
        admitted_at=execution.admitted_at,
        reason=execution.reason,
        message=execution.message,
        name=execution.name,
        image=execution.image,
        image_name=execution.image_name,
        cpu=execution.cpu,
        memory_mib=execution.memory_mib,
        platform=execution.platform,
        task_role=execution.task_role,
        labels=execution.labels,
        locks=tuple(LockStatus(name=lock.name, fence=lock.fence) for lock in execution.locks),
        starting_at=execution.starting_at,
        started_at=execution.started_at,
        ended_at=execution.ended_at,
        exit_code=execution.exit_code,
        signal=execution.signal,
        attempt=execution.attempt,
        lines=execution.lines,
        chunks=execution.chunks,
        lost_bytes=execution.lost_bytes,
        git=execution.git,
        playbook=execution.playbook,
        cost=cost_of(execution),
    )
    return explained(shown)
