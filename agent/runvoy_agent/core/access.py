"""Who may do what: one table of roles, and the checks of keys and owners."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from runvoy_agent.core.model import Key, User
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role


class Action(StrEnum):
    """What a call does. `OWN` actions are about what the caller owns, `ANY` about everybody's."""

    KNOW_SELF = "know-self"
    RUN = "run"
    READ_OWN = "read-own"
    READ_ANY = "read-any"
    READ_REQUESTS = "read-requests"
    KILL_OWN = "kill-own"
    KILL_ANY = "kill-any"
    READ_LOCKS = "read-locks"
    RELEASE_LOCKS = "release-locks"
    READ_IMAGES = "read-images"
    MANAGE_IMAGES = "manage-images"
    READ_PLAYBOOKS = "read-playbooks"
    PUBLISH_PLAYBOOKS = "publish-playbooks"
    OWN_SECRETS = "own-secrets"
    ANY_SECRETS = "any-secrets"
    ROTATE_KEY = "rotate-key"
    OWN_KEYS = "own-keys"
    READ_USERS = "read-users"
    MANAGE_USERS = "manage-users"
    READ_AUDIT = "read-audit"
    OWN_COST = "own-cost"
    ANY_COST = "any-cost"
    RECONCILE = "reconcile"
    SEE_STACK = "see-stack"
    FORGET = "forget"


_EVERYONE = frozenset(
    {Action.KNOW_SELF, Action.READ_OWN, Action.READ_LOCKS, Action.OWN_KEYS, Action.ROTATE_KEY, Action.OWN_COST}
)
_RUNS = _EVERYONE | {
    Action.RUN,
    Action.KILL_OWN,
    Action.READ_IMAGES,
    Action.OWN_SECRETS,
    Action.READ_PLAYBOOKS,
    Action.PUBLISH_PLAYBOOKS,
}
_OPERATES = _RUNS | {
    Action.READ_ANY,
    Action.READ_REQUESTS,
    Action.KILL_ANY,
    Action.RELEASE_LOCKS,
    Action.MANAGE_IMAGES,
    Action.ANY_SECRETS,
    Action.READ_USERS,
    Action.ANY_COST,
    Action.RECONCILE,
    Action.SEE_STACK,
}

ALLOWED: Mapping[Role, frozenset[Action]] = {
    Role.VIEWER: _EVERYONE | {Action.READ_ANY},
    Role.DEVELOPER: _RUNS,
    Role.OPERATOR: _OPERATES,
    Role.ADMIN: frozenset(Action),
}

ALLOWED_TO_LIMITED_KEYS = frozenset(
    {Action.KNOW_SELF, Action.RUN, Action.READ_OWN, Action.KILL_OWN, Action.ROTATE_KEY, Action.READ_PLAYBOOKS}
)
"""What a key with limits may do at most, whatever its user's role: it lies in a CI system, not in a person's hands."""


class Member(NamedTuple):
    """Who acts: a user, by one of their keys. Both are good at the moment they were checked."""

    user: User
    key: Key

    @property
    def actions(self) -> frozenset[Action]:
        allowed = ALLOWED[self.user.role]
        return allowed if self.key.limits is None else allowed & ALLOWED_TO_LIMITED_KEYS

    def may(self, action: Action) -> bool:
        return action in self.actions

    def owns(self, owner: str, key_id: str) -> bool:
        """Whether an execution of that owner, submitted by that key, is the member's own. To a limited key only what it
        submitted itself is."""
        return owner == self.user.name and (self.key.limits is None or key_id == self.key.key_id)


def check_allowed(member: Member, action: Action) -> None:
    """FORBIDDEN, naming the roles that may, unless the member's role and key allow the action."""
    if member.may(action):
        return
    user = member.user
    if action in ALLOWED[user.role]:
        raise RunvoyError(
            ErrorCode.FORBIDDEN,
            f"the key {member.key.key_id} is limited and does not allow this ({action.value})",
            "Use a key without limits.",
        )
    roles = ", ".join(role.value for role in Role if action in ALLOWED[role])
    raise RunvoyError(
        ErrorCode.FORBIDDEN,
        f"the role {user.role.value} of {user.name} does not allow this ({action.value})",
        f"It takes one of these roles: {roles}. An admin can change yours.",
    )


def revoked_at(key: Key, user: User) -> datetime | None:
    """Since when a key has been worthless: itself, or with its user, who may have come back since. None if it is not."""
    if key.revoked_at is not None:
        return key.revoked_at
    return user.lives_ended_at[key.life] if key.life < len(user.lives_ended_at) else user.revoked_at


def check_key(key: Key | None, user: User | None, now: datetime) -> Member:
    """The key and its user, if both are known and good at `now`."""
    if key is None or user is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, "no such key is registered in this deployment")
    if user.revoked_at is not None:
        raise RunvoyError(ErrorCode.KEY_REVOKED, f"the user {user.name} was revoked")
    # A user who was revoked and came back makes new keys: the old ones may be in anybody's hands by now.
    if key.revoked_at is not None or key.life != user.life:
        raise RunvoyError(ErrorCode.KEY_REVOKED, "the key was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise RunvoyError(ErrorCode.KEY_EXPIRED, f"the key expired at {key.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    return Member(user, key)
