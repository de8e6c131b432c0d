"""That a deployment always has an admin who can act: whatever is revoked or demoted."""

from __future__ import annotations

from runvoy_agent.core import access
from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Call
from runvoy_agent.ports import Check
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role


def is_lasting(key: Key | None, user: User | None) -> bool:
    """Whether it is an admin's good key that neither expires nor is limited."""
    if key is None or user is None or key.expires_at is not None:
        return False
    try:
        # With no expiry, no time matters.
        return access.check_key(key, user, key.created_at).may(Action.MANAGE_USERS)
    except RunvoyError:
        return False


def another(call: Call, *, but_user: str = "", but_key: str = "") -> tuple[Check, ...]:
    """That an admin with a lasting key is there beside that user or key, as checks for the commit that takes those away: two
    who revoke each other at once do not both succeed. FORBIDDEN if there is none."""
    records = call.ports.records
    for listed, _ in store.of_kind(records, store.KIND_USER, User):
        if listed.name == but_user or listed.role is not Role.ADMIN or listed.revoked_at is not None:
            continue
        # Listings may be stale: what the commit is held to is read again.
        user = store.load(records, store.user_key(listed.name), User)
        for listed_key, _ in store.of_kind(records, store.keys_partition(listed.name), Key):
            key = store.load(records, store.key_key(listed_key.key_id), Key)
            if listed_key.key_id != but_key and is_lasting(key.document, user.document):
                return (user.check, key.check)
    raise RunvoyError(
        ErrorCode.FORBIDDEN,
        "no other admin with a key that neither expires nor is limited would be left",
        "Make another admin first, and have them claim a key; or, for a key, `runvoy keys rotate` it.",
    )
