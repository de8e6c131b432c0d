"""What `audit verify ID` checks: the signed request as it was kept, against what was recorded and what ran."""

from __future__ import annotations

import msgspec

from runvoy_protocol.seals import KeptRecord

PIECE_BYTES = 3 * 1024 * 1024
"""How much of the kept object one answer holds: a batch's can be 8 MiB, and Lambda answers with 6 MB at most."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET audit/evidence/{execution_id}. Nothing of it was checked.

    `piece` is the kept object from `offset` on; the rest is asked for by `?offset=`. `object_bytes` is 0 where it is kept no more.
    `object_sha256` is what was recorded at admission. `public_key` is that of the key `key_id`, empty if it has no record, and
    `key_user` its user. `launched_request` is the canonical request that launches are made of, empty if it has no record.
    The fields after it are those of the execution's record. `admissions` are the audit's records of its admission.
    """

    execution_id: str
    deployment_id: str
    object_key: str
    object_bytes: int
    offset: int
    piece: bytes
    object_sha256: str
    key_id: str
    public_key: bytes
    key_user: str
    launched_request: bytes
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
    admissions: tuple[KeptRecord, ...] = ()
