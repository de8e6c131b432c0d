"""What `audit verify ID` checks: the signed request as it was kept, against what was recorded and what ran."""

from __future__ import annotations

import msgspec

from runvoy_protocol.seals import KeptRecord

PIECE_BYTES = 3 * 1024 * 1024
"""How much of the kept object one answer holds: a batch's can be 8 MiB, and Lambda answers with 6 MB at most."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET audit/evidence/{execution_id}. The deployment checked nothing of it: whoever asks does."""

    execution_id: str
    deployment_id: str
    object_key: str
    object_bytes: int  # of the whole object; 0 where it is not kept any more
    offset: int
    piece: bytes  # the kept object from `offset` on; the rest is asked for by `?offset=`
    object_sha256: str  # as it was recorded at admission
    key_id: str
    public_key: bytes  # of that key; empty if it has no record
    key_user: str
    launched_request: bytes  # the canonical request that launches are made of; empty if it has no record
    # From here on as the execution's record has it.
    owner: str
    command: tuple[str, ...] | str
    timeout_seconds: int
    isolation: str
    batch_id: str | None = None
    image: str | None = None
    image_name: str | None = None
    locks: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    name: str | None = None
    admissions: tuple[KeptRecord, ...] = ()  # the audit's records of its admission
