"""Launches that are counted, and are none after all."""

from __future__ import annotations

import msgspec

from runvoy_agent.core.model import Execution
from runvoy_protocol.states import Reason, State


def call_off_launch(execution: Execution) -> Execution | None:
    """One of its launches was counted and not made: it is not room that it waits for now."""
    if execution.state not in (State.STARTING, State.TERMINATING) or not execution.launches:
        return None
    for_room = {"reason": None, "message": ""} if execution.reason is Reason.CAPACITY else {}
    return msgspec.structs.replace(execution, launches=execution.launches - 1, **for_room)


def forget_launches(execution: Execution) -> Execution | None:
    """No launch of it is under way any more, whatever became of those that were."""
    return msgspec.structs.replace(execution, launches=0) if execution.launches else None
