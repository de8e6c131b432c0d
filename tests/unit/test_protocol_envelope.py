"""Envelopes: what is signed, what is refused, and by which code."""

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from runvoy_protocol import codec, envelope, keys
from runvoy_protocol.envelope import Envelope, PayloadType, Signature
from runvoy_protocol.errors import ErrorCode, RunvoyError

SEED = bytes(range(32))
KEY = keys.SigningKey(SEED)
OTHER = keys.SigningKey(bytes(32))
PAYLOAD = b"\x91\x01"
SEALED = envelope.seal(PayloadType.RUN_REQUEST, PAYLOAD, KEY)
WHOLE = envelope.parse(SEALED, PayloadType.RUN_REQUEST)


def opened(raw, payload_type=PayloadType.RUN_REQUEST):
    return envelope.verified_payload(envelope.parse(raw, payload_type), KEY.key_id, KEY.public_key)


def refusal(raw, payload_type=PayloadType.RUN_REQUEST):
    with pytest.raises(RunvoyError) as caught:
        opened(raw, payload_type)
    return caught.value


def test_what_was_sealed_is_opened():
    assert opened(SEALED) == PAYLOAD


def test_the_signed_bytes_are_dsse_s():
    """The example of the DSSE specification, protocol.md."""
    assert envelope.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert envelope.pae("ü", b"") == b"DSSEv1 2 \xc3\xbc 0 "  # lengths are of bytes, not characters


@given(st.tuples(st.text(max_size=20), st.binary(max_size=20)), st.tuples(st.text(max_size=20), st.binary(max_size=20)))
def test_no_two_messages_have_the_same_signed_bytes(one, other):
    assert (envelope.pae(*one) == envelope.pae(*other)) == (one == other)


@given(st.binary(max_size=200))
def test_signatures_are_what_another_library_makes_and_accepts(payload):
    signed = envelope.pae(PayloadType.CONTROL, payload)
    theirs = Ed25519PrivateKey.from_private_bytes(SEED).sign(signed)
    assert KEY.sign(signed) == theirs
    assert keys.is_signed_by(signed, theirs, KEY.public_key)
    Ed25519PublicKey.from_public_bytes(KEY.public_key).verify(KEY.sign(signed), signed)


@pytest.mark.parametrize(
    "changed",
    [
        {"payload": PAYLOAD + b"\0"},
        {"payload": b""},
        {"signatures": (Signature(KEY.key_id, bytes(64)),)},
        {"signatures": (Signature(KEY.key_id, WHOLE.signatures[0].signature[:-1]),)},
        {"signatures": (Signature(KEY.key_id, WHOLE.signatures[0].signature + b"\0"),)},
        {"signatures": (Signature(KEY.key_id, b""),)},
        {"signatures": (Signature(OTHER.key_id, WHOLE.signatures[0].signature),)},
        {"signatures": ()},
        {"signatures": WHOLE.signatures * 2},
        {"signatures": tuple(Signature(f"{number}", b"") for number in range(9))},
    ],
    ids=str,
)
def test_a_changed_field_is_a_bad_signature(changed):
    assert refusal(codec.encode(msgspec.structs.replace(WHOLE, **changed))).code is ErrorCode.SIGNATURE_INVALID


@pytest.mark.parametrize("kind", [kind for kind in PayloadType if kind is not PayloadType.RUN_REQUEST])
def test_a_signature_is_good_for_one_purpose(kind):
    assert refusal(SEALED, kind).code is ErrorCode.INVALID_REQUEST
    relabelled = codec.encode(msgspec.structs.replace(WHOLE, payload_type=kind.value))
    assert refusal(relabelled, kind).code is ErrorCode.SIGNATURE_INVALID


def test_every_single_bit_is_protected():
    for position in range(len(SEALED)):
        for bit in range(8):
            flipped = bytearray(SEALED)
            flipped[position] ^= 1 << bit
            assert refusal(bytes(flipped)).code in (ErrorCode.SIGNATURE_INVALID, ErrorCode.INVALID_REQUEST)


def test_every_truncation_and_every_addition_is_malformed():
    for length in range(len(SEALED)):
        assert refusal(SEALED[:length]).code is ErrorCode.INVALID_REQUEST
    assert refusal(SEALED + b"\xc0").code is ErrorCode.INVALID_REQUEST
    assert refusal(SEALED * 2).code is ErrorCode.INVALID_REQUEST


def test_a_second_signer_does_not_disturb_the_first():
    second = Signature(OTHER.key_id, OTHER.sign(envelope.pae(WHOLE.payload_type, WHOLE.payload)))
    both = codec.encode(msgspec.structs.replace(WHOLE, signatures=(second, *WHOLE.signatures)))
    parsed = envelope.parse(both, PayloadType.RUN_REQUEST)
    for key in (KEY, OTHER):
        assert envelope.verified_payload(parsed, key.key_id, key.public_key) == PAYLOAD


def test_a_wrong_public_key_under_the_right_id_is_refused():
    with pytest.raises(RunvoyError) as caught:
        envelope.verified_payload(WHOLE, KEY.key_id, OTHER.public_key)
    assert caught.value.code is ErrorCode.SIGNATURE_INVALID


def test_a_malleable_signature_is_refused():
    """S + L is another encoding of S, the group order being L; RFC 8032 §5.1.7 refuses it."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = WHOLE.signatures[0].signature
    other = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    signed = envelope.pae(WHOLE.payload_type, WHOLE.payload)
    assert keys.is_signed_by(signed, signature, KEY.public_key)
    assert not keys.is_signed_by(signed, other, KEY.public_key)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(KEY.public_key).verify(other, signed)


def test_size_is_capped_before_decoding():
    big = envelope.seal(PayloadType.RUN_REQUEST, bytes(codec.MAX_ENVELOPE_BYTES), KEY)
    assert refusal(big).code is ErrorCode.TOO_LARGE


def test_a_newer_envelope_names_the_way_out():
    newer = refusal(codec.encode(Envelope(2, PayloadType.RUN_REQUEST, PAYLOAD, WHOLE.signatures)))
    assert newer.code is ErrorCode.INVALID_REQUEST
    assert "newer" in newer.hint


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_code(raw):
    assert refusal(raw).code in (ErrorCode.SIGNATURE_INVALID, ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("count", [0, 9])
def test_an_envelope_without_signatures_or_with_too_many_is_refused_before_its_key_is_known(count):
    signatures = tuple(Signature(f"{number}", b"") for number in range(count))
    raw = codec.encode(msgspec.structs.replace(WHOLE, signatures=signatures))
    with pytest.raises(RunvoyError, match="one to eight"):
        envelope.parse(raw, PayloadType.RUN_REQUEST)


def test_eight_signatures_are_read():
    signatures = tuple(Signature(f"{number}", b"") for number in range(8))
    raw = codec.encode(msgspec.structs.replace(WHOLE, signatures=signatures))
    assert envelope.parse(raw, PayloadType.RUN_REQUEST).signatures == signatures
