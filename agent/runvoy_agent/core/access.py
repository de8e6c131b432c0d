"""Who may do what: one table of roles, and the checks of keys and owners."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from runvoy_agent.core.model import Key, Role, User
from runvoy_protocol.errors import ErrorCode, RunvoyError


class Action(StrEnum):
    """What a call does. `OWN` actions are about the caller's executions, `ANY` about everybody's."""

    KNOW_SELF = "know-self"
    RUN = "run"
    READ_OWN = "read-own"
    READ_ANY = "read-any"
    KILL_OWN = "kill-own"
    KILL_ANY = "kill-any"
    READ_LOCKS = "read-locks"
    RELEASE_LOCKS = "release-locks"
    RECONCILE = "reconcile"
    SEE_STACK = "see-stack"


_EVERYONE = frozenset({Action.KNOW_SELF, Action.READ_OWN, Action.READ_LOCKS})
_RUNS = _EVERYONE | {Action.RUN, Action.KILL_OWN}

ALLOWED: Mapping[Role, frozenset[Action]] = {
    Role.VIEWER: _EVERYONE | {Action.READ_ANY},
    Role.DEVELOPER: _RUNS,
    Role.OPERATOR: _RUNS | {Action.READ_ANY, Action.KILL_ANY, Action.RELEASE_LOCKS, Action.RECONCILE, Action.SEE_STACK},
    Role.ADMIN: frozenset(Action),
}


def is_allowed(role: Role, action: Action) -> bool:
    return action in ALLOWED[role]


def check_allowed(user: User, action: Action) -> None:
    """FORBIDDEN, naming the roles that may, unless the user's role allows the action."""
    if is_allowed(user.role, action):
        return
    roles = ", ".join(role.value for role in Role if is_allowed(role, action))
    raise RunvoyError(
        ErrorCode.FORBIDDEN,
        f"the role {user.role.value} of {user.name} does not allow this ({action.value})",
        f"It takes one of these roles: {roles}. An admin can change yours.",
    )


def check_read(user: User, owner: str) -> None:
    """FORBIDDEN unless the user may read executions of `owner`."""
    check_allowed(user, Action.READ_OWN if owner == user.name else Action.READ_ANY)


def check_key(key: Key | None, user: User | None, now: datetime) -> tuple[Key, User]:
    """The key and its user, if both are known and good at `now`."""
    if key is None or user is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, "no such key is registered in this deployment")
    if key.revoked_at is not None or user.revoked_at is not None:
        what = "the key" if key.revoked_at is not None else f"the user {user.name}"
        raise RunvoyError(ErrorCode.KEY_REVOKED, f"{what} was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise RunvoyError(ErrorCode.KEY_EXPIRED, f"the key expired at {key.expires_at.isoformat()}")
    return key, user
