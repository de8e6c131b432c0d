"""Claims: how the public half of a new key gets into a deployment.

An admin hands out a *claim token*; whoever holds it makes a key on their own machine and proves possession of it: the claim
names token and public key and is signed by that very key. A member who registers a further key of their own sends the same
claim without a token, inside a signed call.

The token's text is `rvc1_` + base64url without padding of CRC-32 ‖ msgpack [secret (32 bytes), endpoint, deployment id], so
that it alone is enough to begin with. The secret alone counts; the deployment keeps an HMAC of it.
"""

from __future__ import annotations

import base64
import zlib

import msgspec

from runvoy_protocol import codec, envelope, keys
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.hidden import repr_without

TOKEN_PREFIX = "rvc1_"
SECRET_BYTES = 32
MAX_CLAIM_BYTES = 4096
_MAX_TOKEN_CHARACTERS = 4096
_CHECKSUM_BYTES = 4
_HINT = "Paste the whole token, as `runvoy users create` printed it."


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What the new key signs. `secret` is the token's; empty where the call around it says who the caller is."""

    version: int
    deployment_id: str
    secret: bytes
    public_key: bytes

    def __repr__(self) -> str:
        return repr_without(self, "secret")


SCHEMAS = {1: Claim}


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a claim token says. Its repr does not show the secret."""

    secret: bytes
    endpoint: str
    deployment_id: str

    def __repr__(self) -> str:
        return repr_without(self, "secret")

    def to_text(self) -> str:
        body = codec.encode(self)
        return TOKEN_PREFIX + base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


def parse_token(text: str) -> Token:
    """The token behind its text; INVALID_REQUEST, never quoting it, if it is not whole."""
    text = text.strip()
    if not text.startswith(TOKEN_PREFIX) or len(text) > _MAX_TOKEN_CHARACTERS:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "this is not a runvoy claim token", _HINT)
    encoded = text[len(TOKEN_PREFIX) :]
    try:
        raw = codec.decode_base64url(encoded + "=" * (-len(encoded) % 4))
        checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        if checksum != _checksum(body):
            raise ValueError("the checksum does not match")
        codec.check_shape(body, "claim token", max_items=8, max_depth=2)
        token = msgspec.msgpack.decode(body, type=Token)
        if len(token.secret) != SECRET_BYTES or codec.encode(token) != body:
            raise ValueError("the content is not in its canonical form")
    except (ValueError, msgspec.MsgspecError, RunvoyError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "the claim token is damaged", _HINT) from error
    return token


def seal(deployment_id: str, secret: bytes, signing_key: keys.SigningKey) -> bytes:
    """The claim of a key, signed by it."""
    claim = Claim(1, deployment_id, secret, signing_key.public_key)
    return envelope.seal(PayloadType.CLAIM, codec.encode(claim), signing_key)


def open_sealed(raw: bytes, deployment_id: str) -> Claim:
    """Verify a claim: made for this deployment, of a usable key, by its holder. Nothing is said of the token."""
    sealed = envelope.parse(raw, PayloadType.CLAIM, MAX_CLAIM_BYTES)
    claim = codec.decode(sealed.payload, SCHEMAS, "claim", MAX_CLAIM_BYTES)
    if len(claim.secret) not in (0, SECRET_BYTES):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"a token's secret has {SECRET_BYTES} bytes")
    keys.check_public_key(claim.public_key)
    # The public key comes out of the very bytes that are verified: decoded first, but believed only after.
    envelope.verified_payload(sealed, keys.key_id_of(claim.public_key), claim.public_key)
    if claim.deployment_id != deployment_id:
        raise RunvoyError(
            ErrorCode.WRONG_DEPLOYMENT, f"the claim is for deployment {claim.deployment_id[:128]!r}, not this one"
        )
    return claim


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big")
