"""API keys, key ids, public keys and signatures."""

import base64
import string

import nacl.bindings
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from runvoy_protocol import keys
from runvoy_protocol.errors import ErrorCode, RunvoyError

seeds = st.binary(min_size=32, max_size=32)
KEY = keys.SigningKey(bytes(range(32)))
P = 2**255 - 19
SIGN_BIT = 1 << 255

# The points of the 8-torsion subgroup, in every encoding a decoder may accept: canonical y, y + p where it still fits, and
# each with the sign bit of x. A signature that nobody made verifies under most of them.
ORDER_8_Y = (
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
)
SMALL_ORDER = sorted(
    {
        (y | sign).to_bytes(32, "little").hex()
        for y in (0, 1, P - 1, P, P + 1, *ORDER_8_Y)
        for sign in (0, SIGN_BIT)
    }
)  # fmt: skip


def refused_key(text):
    with pytest.raises(RunvoyError) as caught:
        keys.SigningKey.from_api_key(text)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value


@given(seeds)
def test_an_api_key_is_what_it_is_written_as(seed):
    text = keys.SigningKey(seed).to_api_key()
    assert len(text) == keys.API_KEY_LENGTH
    assert text.startswith("rvk1_")
    again = keys.SigningKey.from_api_key(f"  {text}\n")
    assert again.public_key == keys.SigningKey(seed).public_key
    assert Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() == again.public_key


def test_every_wrong_character_is_caught_or_changes_nothing():
    text = KEY.to_api_key()
    for position in range(len(text)):
        for wrong in string.printable + "ä\0":
            changed = text[:position] + wrong + text[position + 1 :]
            try:
                parsed = keys.SigningKey.from_api_key(changed)
            except RunvoyError as error:
                assert error.code is ErrorCode.INVALID_REQUEST
            else:
                assert parsed.public_key == KEY.public_key


def test_a_lost_doubled_or_swapped_character_is_caught():
    text = KEY.to_api_key()
    for position in range(len(text)):
        refused_key(text[:position] + text[position + 1 :])
        refused_key(text[:position] + text[position] + text[position:])
        swapped = text[:position] + text[position : position + 2][::-1] + text[position + 2 :]
        if swapped != text:
            refused_key(swapped)


@pytest.mark.parametrize("text", ["", "rvk1_", "rvk2_" + "A" * 48, "rvk1_" + "=" * 48, "RVK1_" + KEY.to_api_key()[5:]])
def test_what_is_no_api_key_is_refused(text):
    refused_key(text)


def test_a_damaged_key_is_never_shown():
    text = KEY.to_api_key()
    error = refused_key(text[:-1] + "ä")
    for shown in (repr(KEY), str(KEY), str(error), error.hint, repr(error.__cause__), repr(error.__context__)):
        assert text[10:40] not in shown


def test_a_key_id_is_base32_of_the_public_key_s_digest():
    assert keys.is_key_id(KEY.key_id)
    assert keys.key_id_of(KEY.public_key) == KEY.key_id == "kzdvvj2umnduyauf35o36k6kw462mujv"
    assert len(base64.b32decode(KEY.key_id.upper())) == 20


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "A" * 32, "a" * 31 + "1", "a" * 32 + "\n", "a" * 31 + "/"])
def test_what_is_no_key_id(text):
    assert not keys.is_key_id(text)


def test_signatures_follow_rfc_8032():
    """§7.1, tests 1 and 3."""
    for seed, public, message, signature in (
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
            "24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
            "c027beceea1ec40a",
        ),
    ):
        key = keys.SigningKey(bytes.fromhex(seed))
        assert key.public_key.hex() == public
        assert key.sign(bytes.fromhex(message)).hex() == signature
        assert keys.is_signed_by(bytes.fromhex(message), bytes.fromhex(signature), key.public_key)


def test_the_well_known_small_order_encodings_are_all_there():
    assert len(SMALL_ORDER) == 14


@pytest.mark.parametrize("encoding", SMALL_ORDER)
def test_a_public_key_of_small_order_is_refused(encoding):
    public_key = bytes.fromhex(encoding)
    with pytest.raises(RunvoyError) as caught:
        keys.check_public_key(public_key)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    # R = the identity and S = 0 satisfy the verification equation under such a key, for about any message.
    forged = (1).to_bytes(32, "little") + bytes(32)
    assert not any(keys.is_signed_by(b"%d" % number, forged, public_key) for number in range(16))


@pytest.mark.parametrize("y", ORDER_8_Y)
def test_a_public_key_of_mixed_order_is_refused(y):
    mixed = nacl.bindings.crypto_core_ed25519_add(KEY.public_key, y.to_bytes(32, "little"))
    assert mixed != KEY.public_key
    with pytest.raises(RunvoyError):
        keys.check_public_key(mixed)


@pytest.mark.parametrize(
    "public_key",
    [b"", KEY.public_key[:-1], KEY.public_key + b"\0", (2).to_bytes(32, "little"), b"\xff" * 32],
    ids=["empty", "short", "long", "off the curve", "not canonical"],
)
def test_what_is_no_public_key_is_refused(public_key):
    with pytest.raises(RunvoyError):
        keys.check_public_key(public_key)
    assert not keys.is_signed_by(b"x", KEY.sign(b"x"), public_key)


@given(seeds)
def test_a_made_public_key_is_usable(seed):
    keys.check_public_key(keys.SigningKey(seed).public_key)


@given(st.binary(max_size=100), st.integers(0, 511))
def test_no_bit_of_a_signature_is_free(message, bit):
    signature = bytearray(KEY.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not keys.is_signed_by(message, bytes(signature), KEY.public_key)
