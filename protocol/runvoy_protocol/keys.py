"""API keys, key ids and Ed25519 signatures (RFC 8032, by libsodium).

An API key is `rvk1_` + base64url(32-byte seed ‖ CRC-32 of the seed), 53 characters. It never leaves the machine it was
made on; the server knows the public half and the key id.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib

import nacl.bindings
import nacl.exceptions

from runvoy_protocol import codec, ids
from runvoy_protocol.errors import ErrorCode, RunvoyError

PREFIX = "rvk1_"
SEED_BYTES = 32
API_KEY_LENGTH = 53
KEY_ID_PATTERN = re.compile(r"[a-z2-7]{32}\Z")

_HINT = "An API key looks like rvk1_ and 48 more characters; it may have lost some in copying."


class SigningKey:
    """The private half of a key. Its repr and str never show it."""

    __slots__ = ("_secret", "_seed", "key_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        self.public_key, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self._seed = seed
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def from_api_key(cls, api_key: str) -> SigningKey:
        """Parse an API key; INVALID_REQUEST if it is not whole. The text itself is never part of the message."""
        text = api_key.strip()
        if not text.startswith(PREFIX):
            raise RunvoyError(ErrorCode.INVALID_REQUEST, "this is not a runvoy API key", _HINT)
        try:
            raw = codec.decode_base64url(text[len(PREFIX) :])
        except ValueError:
            raw = b""
        seed, checksum = raw[:SEED_BYTES], raw[SEED_BYTES:]
        if len(text) != API_KEY_LENGTH or checksum != _checksum(seed):
            raise RunvoyError(ErrorCode.INVALID_REQUEST, "the API key is damaged (its checksum does not match)", _HINT)
        return cls(seed)

    def to_api_key(self) -> str:
        """The text form: the one place where the secret leaves this object as text."""
        return PREFIX + base64.urlsafe_b64encode(self._seed + _checksum(self._seed)).decode()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        return nacl.bindings.crypto_sign(message, self._secret)[: nacl.bindings.crypto_sign_BYTES]

    def execution_id_of(self, text: str) -> str:
        """The execution id that a free-form `--id TEXT` stands for: the same text and key, the same id.

        SHA-256 of the key's own signature, which is deterministic (RFC 8032 §5.1.6). Made of anything public, it could be
        foretold, and any member could take it first.
        """
        signed = b"runvoy execution id v1\0" + text.encode(errors="surrogatepass")
        return ids.uuid8(hashlib.sha256(self.sign(signed)).digest()[:16])

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r})"


def key_id_of(public_key: bytes) -> str:
    """Lower-case base32 of SHA-256(public key)[:20]: 32 characters."""
    return base64.b32encode(hashlib.sha256(public_key).digest()[:20]).decode().lower()


def is_key_id(text: str) -> bool:
    return KEY_ID_PATTERN.match(text) is not None


def check_public_key(public_key: bytes) -> None:
    """Refuse what is no safe Ed25519 public key: wrong length, not on the curve, of small or mixed order.

    Small-order keys verify signatures nobody made. `cryptography` and WebCrypto accept them; libsodium's point check
    does not (https://doc.libsodium.org/advanced/point-arithmetic).
    """
    if len(public_key) != nacl.bindings.crypto_sign_PUBLICKEYBYTES or not (
        nacl.bindings.crypto_core_ed25519_is_valid_point(public_key)
    ):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "this is not a usable Ed25519 public key")


def is_signed_by(message: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether `signature` over `message` was made with `public_key`'s private half."""
    # PyNaCl hands a public key of any length to libsodium, which reads 32 bytes.
    if len(public_key) != nacl.bindings.crypto_sign_PUBLICKEYBYTES or len(signature) != nacl.bindings.crypto_sign_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
        return False
    return True


def _checksum(seed: bytes) -> bytes:
    return zlib.crc32(seed).to_bytes(4, "big")
