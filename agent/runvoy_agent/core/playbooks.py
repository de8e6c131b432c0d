"""Published playbooks: whose word each is, and which of them a key may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from runvoy_agent.core import access
from runvoy_agent.core.model import Key, User
from runvoy_protocol import playbooks
from runvoy_protocol.members import KeyLimits
from runvoy_protocol.playbooks import CompiledPlaybook, PublishedPlaybook


def standing(
    published: Sequence[PublishedPlaybook], keys: Mapping[str, Key], user: User
) -> tuple[PublishedPlaybook, ...]:
    """Those whose key was not revoked since: what somebody put there who had stolen a key goes with the key."""
    good = {key.key_id for key in keys.values() if access.revoked_at(key, user) is None}
    return tuple(one for one in published if one.key_id in good)


def published(
    asked: Sequence[CompiledPlaybook], before: Sequence[PublishedPlaybook], key_id: str, now: datetime
) -> tuple[PublishedPlaybook, ...]:
    """What is published once these take the place of those before, by name. One that is the same stays as it was published."""
    known = {one.playbook.name: one for one in before}
    made = []
    for playbook in sorted(asked, key=lambda one: one.name):
        old = known.get(playbook.name)
        if old is not None and old.playbook == playbook:
            made.append(old)
        else:
            digest = playbooks.pin(playbook).digest
            made.append(PublishedPlaybook(playbook=playbook, digest=digest, key_id=key_id, published_at=now))
    return tuple(made)


def change_in_words(before: Sequence[PublishedPlaybook], after: Sequence[PublishedPlaybook]) -> str:
    """What became of which, for the audit."""
    old = {one.playbook.name: one for one in before}
    new = {one.playbook.name: one for one in after}
    parts = (
        ("added", [name for name in new if name not in old]),
        ("changed", [name for name in new if name in old and new[name] != old[name]]),
        ("removed", [name for name in old if name not in new]),
    )
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)


def visible(published: Sequence[PublishedPlaybook], limits: KeyLimits | None) -> tuple[PublishedPlaybook, ...]:
    """Those that a key may see: one that is limited to playbooks sees what it may run, and no other."""
    if limits is None or limits.playbooks is None:
        return tuple(published)
    pinned = {(pin.name, pin.digest) for pin in limits.playbooks}
    return tuple(one for one in published if (one.playbook.name, one.digest) in pinned)
