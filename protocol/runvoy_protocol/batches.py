"""Batches: many run requests under one signature, each with its own id.

What is signed is a gzip stream of the canonical batch: so a signature is checked before anything is unpacked, and a
deployment unpacks only what one of its members made. Each request travels as its own canonical bytes and is decoded on its
own: one that is malformed spoils itself, not the batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from runvoy_protocol import codec, envelope, gzip_streams, ids, keys, requests
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import RunRequest

MAX_REQUESTS = 10_000
MAX_BYTES = codec.MAX_BATCH_BYTES
"""Of the object, and of the batch once it is unpacked."""

_LEVEL = 6
_MAX_DEPTH = 3  # batch, its requests, one of them
_ITEMS_OF_A_REQUEST = 3
_MAX_ITEMS = 16 + _ITEMS_OF_A_REQUEST * MAX_REQUESTS
_ROOM_FOR_THE_ENVELOPE = 1024


class BatchedRequest(msgspec.Struct, frozen=True, array_like=True):
    """One request of a batch: its id, and its canonical bytes, which must say the same id."""

    request_id: str
    payload: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """1 to 10,000 run requests. `batch_id` is a UUIDv7 or UUIDv8 as 32 hex digits, and none of the requests' ids."""

    version: int
    batch_id: str
    requests: tuple[BatchedRequest, ...]


SCHEMAS = {1: Batch}


def encode(batch: Batch) -> bytes:
    """The canonical bytes of a batch, unpacked."""
    return codec.encode(batch)


def decode(payload: bytes) -> Batch:
    """Unpack and decode verified bytes, but not the requests in it; INVALID_REQUEST or TOO_LARGE for what is no batch."""
    raw = gzip_streams.unpack(payload, MAX_BYTES, "the batch")
    batch = codec.decode(raw, SCHEMAS, "batch", MAX_BYTES, max_items=_MAX_ITEMS, max_depth=_MAX_DEPTH)
    check(batch)
    return batch


def check(batch: Batch) -> None:
    """INVALID_REQUEST or TOO_LARGE unless each of its ids is one, and stands once."""
    if not batch.requests:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the batch holds no request")
    if len(batch.requests) > MAX_REQUESTS:
        raise RunvoyError(
            ErrorCode.TOO_LARGE,
            f"the batch holds {len(batch.requests):,} requests; at most {MAX_REQUESTS:,} are allowed",
        )
    seen: set[str] = set()
    for request_id in (batch.batch_id, *(request.request_id for request in batch.requests)):
        if not ids.is_execution_id(request_id):
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST, f"{request_id[:64]!r} in the batch is no UUIDv7 or UUIDv8 as 32 hex digits"
            )
        if request_id in seen:
            # Both would have their receipt in the same place.
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the id {request_id} stands twice in the batch")
        seen.add(request_id)


def open_request(batched: BatchedRequest) -> RunRequest:
    """Decode and check one request of a batch; INVALID_REQUEST or TOO_LARGE for that one."""
    request = requests.decode(batched.payload)
    if request.request_id != batched.request_id:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the request's id is not the one that the batch has for it")
    return request


def seal_batch(batch: Batch, signing_key: keys.SigningKey) -> bytes:
    """Check, pack and sign a batch: the bytes of the inbox object."""
    check(batch)
    raw = encode(batch)
    if len(raw) > MAX_BYTES:
        raise _too_large(len(raw))
    deflate = zlib.compressobj(_LEVEL, wbits=gzip_streams.WINDOW_BITS)
    sealed = envelope.seal(PayloadType.BATCH, deflate.compress(raw) + deflate.flush(), signing_key)
    if len(sealed) > MAX_BYTES:
        raise _too_large(len(sealed))
    return sealed


def open_batch(raw: bytes, key_id: str, public_key: bytes) -> Batch:
    """The batch in an inbox object, if `key_id` signed it; nothing is unpacked before that is known."""
    sealed = envelope.parse(raw, PayloadType.BATCH, MAX_BYTES)
    return decode(envelope.verified_payload(sealed, key_id, public_key))


def portions(made: Iterable[BatchedRequest]) -> Iterator[Sequence[BatchedRequest]]:
    """Requests in their order, cut into as many as one batch can hold."""
    portion: list[BatchedRequest] = []
    size = 0
    for one in made:
        needed = len(codec.encode(one))
        if portion and (len(portion) == MAX_REQUESTS or size + needed > MAX_BYTES - _ROOM_FOR_THE_ENVELOPE):
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += needed
    if portion:
        yield portion


def _too_large(size: int) -> RunvoyError:
    return RunvoyError(ErrorCode.TOO_LARGE, f"the batch has {size:,} bytes; at most {MAX_BYTES:,} are allowed")
