"""Quotas: how much of the deployment one user may take up, so that nobody keeps everybody else out."""

from __future__ import annotations

from runvoy_agent.core.model import DefaultQuotas, User
from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_UNFINISHED = 100_000
"""Of each user, unless an admin says otherwise: ten of the largest batches, and what a reconciler's round still gets through."""


def unfinished_limit(user: User, defaults: DefaultQuotas | None) -> int:
    """How many unfinished executions the user may have: their own limit, else the deployment's, else MAX_UNFINISHED."""
    if user.max_unfinished is not None:
        return user.max_unfinished
    if defaults is not None and defaults.max_unfinished is not None:
        return defaults.max_unfinished
    return MAX_UNFINISHED


def check_unfinished(user: User, unfinished: int, limit: int) -> None:
    """QUOTA_EXCEEDED unless the user may have one more."""
    if unfinished < limit:
        return
    raise RunvoyError(
        ErrorCode.QUOTA_EXCEEDED,
        f"{user.name} has {unfinished:,} unfinished executions, and may have {limit:,} at most",
        "Try again when some have ended, or end some with `runvoy kill`; an admin can raise the limit with "
        f"`runvoy quotas set --user {user.name} --max-unfinished N`.",
    )
