"""Telling the starts handler that an execution may start."""

from __future__ import annotations

from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import StartMessage
from runvoy_agent.ports import Queue


def push(queue: Queue, execution: Execution, *, delay_seconds: float = 0) -> None:
    """Push an execution. Those of batches have a queue of their own: thousands of them stand before nobody else's run."""
    tried_at = execution.starting_at or execution.admitted_at
    body = messages.encode(StartMessage(execution_id=execution.execution_id, tried_at=tried_at))
    queue.send("bulk" if execution.bulk else "starts", body, delay_seconds=delay_seconds)
