"""Seals: the audit's records, minute after minute, in a chain of hashes (docs/adr/0013-the-audit-is-sealed.md).

A seal holds one *leaf* for each record: the record's id and the SHA-256 of its stored bytes. Its hash covers the digest of its
leaves and the hash of the seal before it. So whoever keeps the hash of one seal can tell, of every record that was sealed until
then, whether it is there and unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from runvoy_protocol import codec
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.instants import Instant

GENESIS = "0" * 64
"""What the first seal names as the hash before it."""

MAX_LEAVES = 1000
"""Of one seal, the late ones included."""

MAX_LOOKED_UP = 500
"""How many records are asked for by their ids at once."""

_ID_BYTES = 16
_DIGEST_BYTES = 32
_LEAF_BYTES = _ID_BYTES + _DIGEST_BYTES
_PREFIX = b"runvoy audit seal v1\0"


class Leaf(NamedTuple):
    """One sealed record: its id, and the SHA-256 of its stored bytes in hex."""

    event_id: str
    sha256: str


class Seal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One link of the chain. `previous` is the hash of the seal before it.

    It covers the records that stand after `begins` and not after `ends` in the order of their times: `begins` is where the seal
    before it ends. Both are times as 2030-01-31T09:00:00.000, with `~` and a record's id where a minute was cut. `count` leaves
    are in that order; `late` more follow, of records that came to be seen after their minute was sealed. `leaves` are 48 bytes
    each, id and digest; None where they were left out of an answer.
    """

    number: int
    previous: str
    begins: str
    ends: str
    made_at: Instant
    count: int
    late: int
    leaves_sha256: str
    leaves: bytes | None = None


class _Header(msgspec.Struct, frozen=True, array_like=True):
    """What a seal's hash is of."""

    version: int
    number: int
    previous: str
    begins: str
    ends: str
    made_at: datetime
    count: int
    late: int
    leaves_sha256: str


class SealHead(msgspec.Struct, frozen=True, kw_only=True):
    """GET audit/head: the newest seal's number and hash, 0 and zeros before the first; from where on records are sealed, and
    until when they were looked at."""

    number: int
    hash: str
    began: str
    sealed_until: str


class SealsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET audit/seals: seals in the order of their numbers, from the one that was asked for; as many as an answer can hold. One
    that is not there is left out. `first` is the number that was asked for, or that covers the time that was asked for."""

    seals: tuple[Seal, ...]
    first: int
    head: SealHead


class KeptRecord(msgspec.Struct, frozen=True):
    """A record of the audit as it is stored: the id that its key says, and its bytes."""

    event_id: str
    body: bytes


class KeptRecords(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET audit/records: the records of one part of a day in the order of its index. `after` asks for what follows."""

    part: int
    records: tuple[KeptRecord, ...]
    after: str | None = None


class RecordsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST audit/records: 1 to 500 ids. Those that are not there are not in the answer."""

    event_ids: tuple[str, ...]


class FoundRecords(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a RecordsRequest."""

    records: tuple[KeptRecord, ...]


def leaf(event_id: str, body: bytes) -> Leaf:
    """The leaf of a stored record."""
    return Leaf(event_id, hashlib.sha256(body).hexdigest())


def pack(leaves: Iterable[Leaf]) -> bytes:
    """The leaves of a seal as they are stored."""
    return b"".join(bytes.fromhex(one.event_id) + bytes.fromhex(one.sha256) for one in leaves)


def unpack(seal: Seal) -> list[Leaf]:
    """The leaves of a seal; INVALID_REQUEST if they are not those that its hash is of."""
    packed = seal.leaves
    if packed is None or hashlib.sha256(packed).hexdigest() != seal.leaves_sha256:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the leaves of seal {seal.number} are not those that were sealed")
    if len(packed) != (seal.count + seal.late) * _LEAF_BYTES:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"seal {seal.number} does not have as many leaves as it says")
    pieces = (packed[place : place + _LEAF_BYTES] for place in range(0, len(packed), _LEAF_BYTES))
    return [Leaf(piece[:_ID_BYTES].hex(), piece[_ID_BYTES:].hex()) for piece in pieces]


def hash_of(seal: Seal) -> str:
    """The hash of a seal, in hex: of all but its leaves, whose digest it covers. Empty for one that nothing can have made."""
    header = _Header(
        1,
        seal.number,
        seal.previous,
        seal.begins,
        seal.ends,
        seal.made_at,
        seal.count,
        seal.late,
        seal.leaves_sha256,
    )
    try:
        return hashlib.sha256(_PREFIX + codec.encode(header)).hexdigest()
    except (OverflowError, ValueError):  # a time in no year that UTC has, a number that is too long
        return ""


def place(stamp: str, event_id: str = "") -> str:
    """Where a record stands in the order of all: a text that sorts as they do. Without an id it is before all of that time."""
    return f"{stamp}~{event_id}" if event_id else stamp


def parse_place(text: str) -> tuple[str, str]:
    """The time and the id of a place; the id is empty where it has none. INVALID_REQUEST for what is no place."""
    stamp, tilde, event_id = text.partition("~")
    time_of(stamp)
    if tilde and not is_execution_id(event_id):
        raise _no_place(text)
    return stamp, event_id


def time_of(place: str) -> datetime:
    """The time of a place, to the millisecond; INVALID_REQUEST for what has none."""
    try:
        return datetime.strptime(place.partition("~")[0], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError as error:
        raise _no_place(place) from error


def _no_place(text: str) -> RunvoyError:
    return RunvoyError(ErrorCode.INVALID_REQUEST, f"{text[:64]!r} is no place in the audit")
