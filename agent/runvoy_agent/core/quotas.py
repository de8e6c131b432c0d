"""Quotas: how much of the deployment one user may take up, so that nobody keeps everybody else out."""

from __future__ import annotations

from runvoy_agent.core.model import DefaultQuotas, User
from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_UNFINISHED = 100_000
"""Of each user, unless an admin says otherwise: ten of the largest batches, which a round of the reconciler still gets
through."""

MAX_LOG_MIB = 2048
"""Of each execution, unless an admin says otherwise: longer than any log that is read, and an end for what prints for ever."""


def unfinished_limit(user: User, defaults: DefaultQuotas | None) -> int:
    """How many unfinished executions the user may have: their own limit, else the deployment's, else MAX_UNFINISHED."""
    return default_unfinished(defaults) if user.max_unfinished is None else user.max_unfinished


def default_unfinished(defaults: DefaultQuotas | None) -> int:
    """How many unfinished executions a user without a limit of their own may have."""
    return MAX_UNFINISHED if defaults is None or defaults.max_unfinished is None else defaults.max_unfinished


def running_limit(user: User, defaults: DefaultQuotas | None) -> int | None:
    """How many executions of the user may have a task at once: their own limit, else the deployment's; None for any number."""
    if user.max_running is not None:
        return user.max_running
    return None if defaults is None else defaults.max_running


def log_limit(user: User, defaults: DefaultQuotas | None) -> int:
    """How many MiB of its output the log of an execution of the user's keeps."""
    return default_log(defaults) if user.max_log_mib is None else user.max_log_mib


def default_log(defaults: DefaultQuotas | None) -> int:
    """How many MiB the log of an execution keeps whose owner has no limit of their own."""
    return MAX_LOG_MIB if defaults is None or defaults.max_log_mib is None else defaults.max_log_mib


def free_places(user: User, running: int, defaults: DefaultQuotas | None, most: int) -> int:
    """How many more of the user's executions may start now, `most` at most."""
    limit = running_limit(user, defaults)
    return most if limit is None else max(0, min(most, limit - running))


def why_no_place(user: User, running: int, limit: int | None) -> str | None:
    """Why one more execution of the user's has to wait for a place, for people; None if it may start."""
    if limit is None or running < limit:
        return None
    return f"{user.name} has {running:,} running, and may have {limit:,} at once"


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
