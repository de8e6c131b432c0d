"""Corrections to the number of an execution's launches, which are counted before they are made."""

from __future__ import annotations

import msgspec

from runvoy_agent.core.model import Execution
from runvoy_protocol.states import Reason, State


def call_off_launch(execution: Execution) -> Execution | None:
    """One of its launches was counted and then not made, for a reason that is not the platform's: it does not wait for room."""
    if execution.state not in (State.STARTING, State.TERMINATING) or not execution.launches:
        return None
    for_room = {"reason": None, "message": ""} if execution.reason is Reason.CAPACITY else {}
    return msgspec.structs.replace(execution, launches=execution.launches - 1, **for_room)


def forget_launches(execution: Execution) -> Execution | None:
    """None of its launches is under way any more, whatever came of them."""
    return msgspec.structs.replace(execution, launches=0) if execution.launches else None
