"""Claim tokens and claims: whole, or refused without a word of what they hold."""

import base64
import random

import pytest

from runvoy_protocol import claims, codec, envelope
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(1, 33)))
SECRET = bytes(range(100, 132))
TOKEN = claims.Token(SECRET, "https://runvoy.example", "dep-1")


def code_of(call):
    with pytest.raises(RunvoyError) as caught:
        call()
    assert SECRET.hex() not in str(caught.value)
    assert base64.urlsafe_b64encode(SECRET).decode()[:20] not in caught.value.message
    return caught.value.code


def test_a_token_comes_back_whole():
    text = TOKEN.to_text()
    assert text.startswith("rvc1_")
    assert "=" not in text
    assert claims.parse_token(f"  {text}\n") == TOKEN
    assert "endpoint" in repr(TOKEN)
    assert repr(SECRET) not in repr(TOKEN)


def test_a_token_with_any_one_character_changed_lost_or_added_is_refused():
    text = TOKEN.to_text()
    seed = 7
    print(f"seed {seed}")
    draw = random.Random(seed)
    for position in range(len(text)):
        other = draw.choice([c for c in "abcXYZ019-_" if c != text[position]])
        for damaged in (
            text[:position] + other + text[position + 1 :],
            text[:position] + text[position + 1 :],
            text[:position] + other + text[position:],
        ):
            if damaged != text:
                assert code_of(lambda damaged=damaged: claims.parse_token(damaged)) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("text", ["", "rvc1_", "rvk1_abc", "rvc1_ä", "rvc1_" + "A" * 5000, KEY.to_api_key(), "rvc1_\0"])
def test_what_is_no_token(text):
    assert code_of(lambda: claims.parse_token(text)) is ErrorCode.INVALID_REQUEST


def test_a_token_with_a_short_secret_is_refused_even_with_a_right_checksum():
    text = claims.Token(b"short", "https://x.example", "d").to_text()
    assert code_of(lambda: claims.parse_token(text)) is ErrorCode.INVALID_REQUEST


def test_a_claim_proves_possession_of_its_key():
    opened = claims.open_sealed(claims.seal("dep-1", SECRET, KEY), "dep-1")
    assert opened == claims.Claim(1, "dep-1", SECRET, KEY.public_key)
    assert claims.open_sealed(claims.seal("dep-1", b"", KEY), "dep-1").secret == b""


def sealed_as(claim, signing_key, payload_type=PayloadType.CLAIM):
    return envelope.seal(payload_type, codec.encode(claim), signing_key)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (sealed_as(claims.Claim(1, "dep-1", SECRET, KEY.public_key), OTHER), ErrorCode.SIGNATURE_INVALID),
        (sealed_as(claims.Claim(1, "dep-2", SECRET, KEY.public_key), KEY), ErrorCode.WRONG_DEPLOYMENT),
        (sealed_as(claims.Claim(1, "dep-1", b"short", KEY.public_key), KEY), ErrorCode.INVALID_REQUEST),
        (sealed_as(claims.Claim(2, "dep-1", SECRET, KEY.public_key), KEY), ErrorCode.INVALID_REQUEST),
        # Of small order: it "verifies" signatures nobody made.
        (sealed_as(claims.Claim(1, "dep-1", SECRET, b"\x01" + bytes(31)), KEY), ErrorCode.INVALID_REQUEST),
        (sealed_as(claims.Claim(1, "dep-1", SECRET, bytes(32)), KEY), ErrorCode.INVALID_REQUEST),
        (sealed_as(claims.Claim(1, "dep-1", SECRET, b"\x05" * 31), KEY), ErrorCode.INVALID_REQUEST),
        (
            sealed_as(claims.Claim(1, "dep-1", SECRET, KEY.public_key), KEY, PayloadType.CONTROL),
            ErrorCode.INVALID_REQUEST,
        ),
        (b"", ErrorCode.INVALID_REQUEST),
        (b"\x91" * 100, ErrorCode.INVALID_REQUEST),
        (b"\0" * 5000, ErrorCode.TOO_LARGE),
    ],
)
def test_what_is_no_claim_of_this_deployment(raw, code):
    assert code_of(lambda: claims.open_sealed(raw, "dep-1")) is code


def test_a_claim_with_any_bit_changed_is_refused():
    raw = claims.seal("dep-1", SECRET, KEY)
    for position in range(len(raw)):
        damaged = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        code_of(lambda damaged=damaged: claims.open_sealed(damaged, "dep-1"))


def test_what_a_token_may_be_at_most():
    """A text of 4,096 characters is read, and none that is longer."""
    texts = {length: claims.Token(SECRET, "e" * length, "d").to_text() for length in range(3000, 3040)}
    read = {length for length, text in texts.items() if len(text) <= 4096}
    assert 4096 in {len(text) for text in texts.values()}
    for length, text in texts.items():
        if length in read:
            assert claims.parse_token(text).endpoint == "e" * length
        else:
            assert code_of(lambda text=text: claims.parse_token(text)) is ErrorCode.INVALID_REQUEST


def test_a_claim_s_repr_does_not_show_its_secret():
    shown = repr(claims.Claim(1, "dep-1", SECRET, KEY.public_key))
    assert repr(SECRET) not in shown
    assert "secret=…" in shown
    assert "deployment_id='dep-1'" in shown
