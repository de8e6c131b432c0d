"""DSSE envelopes (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md), themselves msgpack.

One scheme for everything people sign; `payload_type` tells what was meant, so that a signature made for one purpose is
worthless for another. There is no algorithm field: the signature is Ed25519.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runvoy_protocol import codec, keys
from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_SIGNATURES = 8
_MAX_ITEMS = 1024  # an envelope has few, however large its payload is


class PayloadType(StrEnum):
    """What a signature was made for."""

    RUN_REQUEST = "application/vnd.runvoy.run-request.v1+msgpack"
    BATCH = "application/vnd.runvoy.batch.v1+msgpack"
    CONTROL = "application/vnd.runvoy.control.v1+msgpack"
    CLAIM = "application/vnd.runvoy.claim.v1+msgpack"


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """64 bytes of Ed25519 over the payload's `pae`, and the id of the key that made it."""

    key_id: str
    signature: bytes


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """Signed bytes with 1 to 8 signatures. Whoever made it is known by `verified_payload` alone."""

    version: int
    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


SCHEMAS = {1: Envelope}


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: PayloadType, payload: bytes, signing_key: keys.SigningKey) -> bytes:
    """Sign `payload` and encode the envelope."""
    signature = Signature(signing_key.key_id, signing_key.sign(pae(payload_type, payload)))
    return codec.encode(Envelope(1, payload_type.value, payload, (signature,)))


def parse(raw: bytes, payload_type: PayloadType, max_bytes: int = codec.MAX_ENVELOPE_BYTES) -> Envelope:
    """Decode an envelope of the expected kind. Its payload is not to be looked at before `verified_payload`."""
    envelope = codec.decode(raw, SCHEMAS, "envelope", max_bytes, max_items=_MAX_ITEMS)
    if envelope.payload_type != payload_type:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST, f"the envelope holds {envelope.payload_type[:80]!r}, not {payload_type.value!r}"
        )
    signers = [signature.key_id for signature in envelope.signatures]
    if not 1 <= len(signers) <= MAX_SIGNATURES or len(set(signers)) != len(signers):
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the envelope needs one to eight signatures of different keys")
    return envelope


def verified_payload(envelope: Envelope, key_id: str, public_key: bytes) -> bytes:
    """The payload, if `key_id` signed it with `public_key`'s private half; else SIGNATURE_INVALID."""
    for signature in envelope.signatures:
        if signature.key_id == key_id:
            if keys.is_signed_by(pae(envelope.payload_type, envelope.payload), signature.signature, public_key):
                return envelope.payload
            raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the signature does not match the signed bytes")
    raise RunvoyError(ErrorCode.SIGNATURE_INVALID, f"the envelope is not signed by key {key_id}")
