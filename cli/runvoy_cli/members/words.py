"""What users, keys and their limits are called when people are told of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from runvoy_cli.terminal.render import moment
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyAnswer, KeyLimits, Quotas, QuotaUse

R = TypeVar("R")


def by_name(name: str, ask: Callable[[str], R]) -> R:
    """What `ask` answers about a user, whose name may be written with capitals, as e-mail addresses are."""
    exact, usual = name.strip(), name.strip().lower()
    try:
        return ask(usual)
    except RunvoyError as error:
        # The embedded stack's first user has the name of the account, capitals and all.
        if error.code is not ErrorCode.NOT_FOUND or exact == usual:
            raise
        return ask(exact)


def limits_text(limits: KeyLimits | None) -> str:
    """A key's limits in one line; empty for a key without any."""
    if limits is None:
        return ""
    parts = []
    for what, names in (("images", limits.images), ("locks", limits.locks)):
        if names is not None:
            parts.append(f"{what} {', '.join(names)}")
    if limits.playbooks is not None:
        parts.append(f"playbooks {', '.join(pin.name for pin in limits.playbooks)}")
    if limits.labels is not None:
        parts.append(f"labels {', '.join(f'{name}={value}' for name, value in limits.labels.items())}")
    return "; ".join(parts)


def quota_text(use: QuotaUse | None) -> str:
    """What a user takes up and may, in one line; empty where the deployment does not tell."""
    if use is None:
        return ""
    running = f"{use.running:,}" + ("" if use.max_running is None else f" of {use.max_running:,}")
    return f"{use.unfinished:,} of {use.max_unfinished:,} executions, {running} running"


def own_quotas_text(quotas: Quotas | None) -> str:
    """A user's own quotas in one line; empty without any."""
    if quotas is None:
        return ""
    numbers = (
        (quotas.max_unfinished, "unfinished"),
        (quotas.max_running, "running"),
        (quotas.max_log_mib, "MiB of log"),
    )
    return ", ".join(f"{number:,} {what}" for number, what in numbers if number is not None)


def key_state(key: KeyAnswer, now: datetime) -> str:
    """`good`, `revoked` or `expired`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "good"


def until(at: datetime | None) -> str:
    return moment(at) if at is not None else "never"
