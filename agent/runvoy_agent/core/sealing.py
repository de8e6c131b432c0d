"""The next seal of the audit's chain, made of what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

import msgspec

from runvoy_agent.core.model import AuditHead
from runvoy_protocol import seals
from runvoy_protocol.seals import Leaf, Seal


def beginning(at: str) -> AuditHead:
    """The head of a chain without seals, which covers what stands after `at`."""
    return AuditHead(number=0, hash=seals.GENESIS, began=at, ends=at, scanned_to=at)


def next_seal(head: AuditHead, leaves: Sequence[Leaf], late: Sequence[Leaf], ends: str, now: datetime) -> Seal:
    """The seal after `head`, of these records, that ends at `ends`."""
    packed = seals.pack([*leaves, *late])
    return Seal(
        number=head.number + 1,
        previous=head.hash,
        begins=head.ends,
        ends=ends,
        made_at=now,
        count=len(leaves),
        late=len(late),
        leaves_sha256=hashlib.sha256(packed).hexdigest(),
        leaves=packed,
    )


def after(head: AuditHead, seal: Seal) -> AuditHead:
    """The head once the seal is the newest."""
    return msgspec.structs.replace(
        head, number=seal.number, hash=seals.hash_of(seal), ends=seal.ends, scanned_to=seal.ends
    )
