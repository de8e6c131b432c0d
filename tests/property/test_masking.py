"""Masking is exact: cut into whatever reads, what is shown is what a slow look at the whole text would show."""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runvoy_agent.runner.masking import Masker
from runvoy_agent.runner.secret_forms import forms

BREAK = re.compile(rb"(?<=[A-Za-z0-9+/_-]{60})\r?\n")


# The same forms, but a naive search: which forms there must be is what the tests further down hold.
def oracle(secrets: Iterable[bytes], text: bytes) -> bytes:
    """The definition: every byte of every occurrence is covered, each covered stretch is one mask."""
    covered = bytearray(len(text))
    everything = list(range(len(text)))
    breaks = {at for match in BREAK.finditer(text) for at in range(*match.span())}
    joined = [at for at in everything if at not in breaks]
    unwrapped = bytes(text[at] for at in joined)
    for value in secrets:
        plain, encoded = forms(value)
        for wanted in plain | encoded:
            _cover(covered, text, wanted, everything)
        for wanted in encoded:
            _cover(covered, unwrapped, wanted, joined)
    return _shown(text, covered)


def _cover(covered: bytearray, text: bytes, wanted: bytes, places: Sequence[int]) -> None:
    at = text.find(wanted)
    while at >= 0:
        start, end = places[at], places[at + len(wanted) - 1] + 1
        covered[start:end] = b"\1" * (end - start)
        at = text.find(wanted, at + 1)


def _shown(text: bytes, covered: bytearray) -> bytes:
    shown = bytearray()
    for at, byte in enumerate(text):
        if not covered[at]:
            shown.append(byte)
        elif at == 0 or not covered[at - 1]:
            shown += b"***"
    return bytes(shown)


def masked(secrets: Sequence[bytes], reads: Iterable[bytes], stream: str = "out") -> bytes:
    masker = Masker({b"S%d" % number: value for number, value in enumerate(secrets)})
    shown = [masker.filter(stream, read) for read in reads if read]
    return b"".join(shown) + masker.filter(stream, b"") + masker.filter(stream, b"")


def cut(text: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(at % (len(text) + 1) for at in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


# Few different bytes: what repeats and overlaps itself is the hard part.
values = st.one_of(
    st.lists(st.sampled_from([b"a", b"b", b"\n", b"'", b'"', b" "]), min_size=8, max_size=24).map(b"".join),
    st.lists(st.sampled_from([b"aaaa", b"abab", b"\r\n", b"\n"]), min_size=2, max_size=6).map(b"".join),
    st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(min_size=1, max_size=80),
    st.binary(min_size=60, max_size=160).map(base64.encodebytes),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Secrets, some of which hold others, and a text made of their forms, whole, wrapped, and in pieces."""
    secrets = draw(st.lists(values, min_size=1, max_size=3))
    if draw(st.booleans()):
        secrets.append(secrets[0] + draw(st.binary(max_size=9)))
        secrets.append(secrets[0][draw(st.integers(0, 4)) :])
    known = sorted(set().union(*(plain | encoded for plain, encoded in map(forms, secrets))) | {*secrets, b"nothing"})
    parts = []
    for form in draw(st.lists(st.sampled_from(known), max_size=8)):
        start, end = draw(st.sampled_from([(0, None), (0, None), (1, None), (0, -1), (0, 7), (0, 3), (3, 9)]))
        part = form[start:end]
        if draw(st.booleans()):
            width = draw(st.sampled_from([60, 64, 76, 5]))
            before = b"k" * draw(st.integers(0, width - 1))
            eol = draw(st.sampled_from([b"\n", b"\r\n"]))
            whole = before + part
            part = eol.join(whole[at : at + width] for at in range(0, len(whole), width))
        parts += [part, draw(st.sampled_from([b"", b"", b"\n", b"\r", b" ", b"a", b"+", b"=", b"k" * 60 + b"\r\n"]))]
    return secrets, b"".join(parts)


@settings(max_examples=200)
@given(cases(), st.lists(st.integers(0, 10_000), max_size=12))
@example(([b"aaaaaaaa"], b"a" * 30), [8, 9, 17])
@example(([b"abababab", b"babababa"], b"xabababababx"), [3, 9])
@example(([b"12345678", b"45678abc", b"8abcdefgh"], b"-12345678abcdefgh-"), [9, 10])
@example(([b"12345678", b"abcdefgh"], b"12345678abcdefgh"), [8])
@example(([b"abcdefgh"], b"kkk" * 20 + b"YWJjZGVmZ2g\nYWJjZGVmZ2g"), [])
@example(([b"a\nb\nc\nd\n"], b"..a\nb\nc\nd.."), [4, 5, 6, 7])
def test_what_is_shown_does_not_depend_on_the_reads(case: tuple[list[bytes], bytes], cuts: list[int]) -> None:
    secrets, text = case
    expected = oracle(secrets, text)
    assert masked(secrets, [text]) == expected
    assert masked(secrets, cut(text, cuts)) == expected
    assert masked(secrets, [bytes([byte]) for byte in text]) == expected


SECRETS = [
    b"hunter2-hunter2",
    b'pa ss/w\xc3\xb6rd+"quoted"\\\'=&?%41\xf0\x9f\x94\x91',
    b"not\xffutf8\xfe\x80 at all\n",
    b"-----BEGIN KEY-----\n" + base64.encodebytes(bytes(range(200))) + b"-----END KEY-----\n",
    b"hunter2-hunter2 and more",
    b"AKtoken0123456789abcdefghij",
]
STARS = b"***"


def wrap(data: bytes, width: int, eol: bytes) -> bytes:
    return eol.join(data[at : at + width] for at in range(0, len(data), width))


def quoted_forms(secret: bytes) -> list[bytes]:
    """The secret as it is and as other programs write it, made by other code than what is tested."""
    value = secret.strip()
    kept = value.decode("utf-8", "surrogateescape")
    pairs = list(zip(*[iter(value.hex())] * 2, strict=True))
    return [
        value,
        json.dumps(kept)[1:-1].encode(),
        json.dumps(kept, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape"),
        json.dumps(json.dumps(kept))[3:-3].encode(),
        urllib.parse.quote(value).encode(),
        urllib.parse.quote(value, safe="").encode(),
        urllib.parse.quote_plus(value).encode(),
        re.sub(r"%..", lambda match: match[0].lower(), urllib.parse.quote_plus(value)).encode(),
        "".join(f"%{high}{low}" for high, low in pairs).encode(),
        "".join(f"%{high}{low}".upper() for high, low in pairs).encode(),
        value.hex().encode(),
        value.hex().upper().encode(),
        value.replace(b"'", b"'\\''"),
        repr(kept)[1:-1].encode(),
        repr(value)[2:-1].encode(),
    ]


def base64_piece(dice: random.Random, secret: bytes) -> tuple[bytes, set[bytes]]:
    """The secret in the midst of something encoded, and what may be left of it: at either end one character may be made
    of bits of the secret and of others."""
    value = secret.strip()
    before = dice.randbytes(dice.randrange(0, 100))
    after = dice.choice([b"", b"\n", dice.choice([b"x", b"\0"]) + dice.randbytes(dice.randrange(90))])
    encoded = binascii.b2a_base64(before + value + after, newline=False)
    if dice.random() < 0.5:
        encoded = encoded.translate(bytes.maketrans(b"+/", b"-_"))
    if dice.random() < 0.5:
        encoded = encoded.rstrip(b"=")
    first, last = -(-len(before) * 8 // 6), (len(before) + len(value)) * 8 // 6
    width, eol = dice.choice([(10_000, b""), (60, b"\n"), (64, b"\n"), (76, b"\n"), (76, b"\r\n")])
    ends = {last, last + 1} if after not in (b"", b"\n") else {len(encoded)}
    left = {
        # A break beside the secret stays or goes with it.
        wrap(encoded[:first], width, eol) + left_eol + STARS + wrap_rest(encoded, end, width, eol)
        for end in ends
        for left_eol in ({b"", eol} if first and first % width == 0 else {b""})
    }
    return wrap(encoded, width, eol), left


def wrap_rest(encoded: bytes, start: int, width: int, eol: bytes) -> bytes:
    lines = [encoded[max(at, start) : at + width] for at in range(start // width * width, len(encoded), width)]
    opening = eol if start and start % width == 0 and start < len(encoded) else b""
    return opening + eol.join(lines)


@pytest.mark.parametrize("seed", range(6))
def test_a_megabyte_in_random_reads(seed: int) -> None:
    dice = random.Random(seed)
    pieces: list[bytes] = []
    allowed: list[set[bytes]] = []
    size = 0
    while size < 1_000_000:
        kind = dice.randrange(6)
        secret = dice.choice(SECRETS)
        if kind == 0:
            piece, left = base64_piece(dice, secret)
        elif kind == 1:
            piece, left = dice.choice(quoted_forms(secret)), {STARS}
        else:
            piece = dice.choice(
                [b"hunter2", b"-----BEGIN", b"a log line\n" * 30, dice.randbytes(500).replace(b"|", b"")]
            )
            left = {piece}
        pieces.append(piece)
        allowed.append(left)
        size += len(piece) + 3
    text = b" | ".join(pieces)
    reads = []
    at = 0
    while at < len(text):
        length = int(2 ** dice.uniform(0, 16))
        reads.append(text[at : at + length])
        at += length
    shown = masked(SECRETS, reads).split(b" | ")
    assert len(shown) == len(pieces)
    for piece, got, left in zip(pieces, shown, allowed, strict=True):
        assert got in left, piece


def test_one_byte_at_a_time() -> None:
    text = b" | ".join(form for secret in SECRETS for form in quoted_forms(secret))
    expected = b" | ".join([STARS] * (text.count(b" | ") + 1))
    assert masked(SECRETS, [bytes([byte]) for byte in text]) == expected


@given(
    st.lists(values, min_size=1, max_size=2), st.lists(st.tuples(st.booleans(), st.binary(max_size=20)), max_size=10)
)
def test_streams_are_masked_apart(secrets: list[bytes], writes: list[tuple[bool, bytes]]) -> None:
    masker = Masker({b"S%d" % number: value for number, value in enumerate(secrets)})
    shown = {True: b"", False: b""}
    for stream, data in writes:
        if data:
            shown[stream] += masker.filter(str(stream), data)
    for stream in (True, False):
        shown[stream] += masker.filter(str(stream), b"")
        assert shown[stream] == oracle(secrets, b"".join(data for where, data in writes if where is stream))
