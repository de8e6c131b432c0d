"""What of a remote text reaches a terminal, judged by a tokenizer that has nothing in common with the sanitizer."""

import itertools
import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_cli.terminal.sanitize import RESET, Sanitizer, json_text, one_line

BIDI = {0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
SEED = 20300131


def assert_harmless(shown):
    """Fail at the first thing that is not text, a tab, a newline or a colour. Character by character, no pattern."""
    text = shown.decode("utf-8")  # strict: broken UTF-8 may hold bytes that a terminal takes for controls
    at = 0
    while at < len(text):
        code = ord(text[at])
        if code == 0x1B:
            assert text[at + 1] == "[", ascii(text[at : at + 20])
            end = at + 2
            while text[end] in "0123456789;:":
                end += 1
            assert text[end] == "m", ascii(text[at : end + 5])
            assert end - at < 80
            at = end + 1
            continue
        assert code in (9, 10) or 0x20 <= code < 0x7F or code >= 0xA0, (at, hex(code))
        assert code not in BIDI, (at, hex(code))
        at += 1


def cleaned(sent, cuts=()):
    """What is shown of `sent` if it comes in pieces."""
    sanitizer = Sanitizer()
    edges = [0, *sorted(cuts), len(sent)]
    shown = b"".join(sanitizer.feed(sent[begin:end]) for begin, end in itertools.pairwise(edges))
    return shown + sanitizer.finish()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"plain\ttext\n", b"plain\ttext\n"),
        ("zażółć 日本語 🚀\n".encode(), "zażółć 日本語 🚀\n".encode()),
        (b"\x1b[31mred\x1b[0m \x1b[38;5;1mx\x1b[4:3my\x1b[m", b"\x1b[31mred\x1b[0m \x1b[38;5;1mx\x1b[4:3my\x1b[m"),
        (b"\x1b[31mred", b"\x1b[31mred\x1b[0m"),
        (b"\x1b[" + b"1;" * 40 + b"mx", b"x"),
        (b"\x1b[>4;2mx\x1b[?25mx\x1b[1$mx", b"xxx"),
        (b"a\x1b[2Jb\x1b[1;1Hc\x1b[?1049hd\x1b[6ne", b"abcde"),
        (b"a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c\x1b]52;c;aGk=\xc2\x9cd", b"abcd"),
        (b"a\x1b]0;no end\nb\x1b]0;no end", b"a\nb"),
        (b"a\x1bPq#0\x1b\\b\x1b_x\x1b\\c\x1b^x\x1b\\d\x1bXx\x1b\\e", b"abcde"),
        (b"a\x1b]0;x\x18b\x1b]0;x\x1b[31mc\x1b[m", b"ab\x1b[31mc\x1b[m"),
        (b"a\x1bcb\x1b(Bc\x1b#8d\x1b7e\x1b\xc3\xa9", "abcde\u00e9".encode()),
        (b"a\x07\x00\x08\x0b\x0c\x0e\x7f\x1ab", b"ab"),
        ("a\u009b2Jé\u0085\u009d0;x".encode(), "a2Jé0;x".encode()),
        (b"a\x9b2J\x85\xff\xc3", "a\ufffd2J\ufffd\ufffd\ufffd".encode()),
        ("a\u202eb\u2066c\u200fd\u061ce".encode(), b"abcde"),
        (b"one\r\ntwo\r\r\nthree\r", b"one\ntwo\nthree"),
        (b"10%\r20%\r\r30%\n\rdone\n", b"10%\n20%\n30%\ndone\n"),
        (b"safe\rrm -rf\x1b[K", b"safe\nrm -rf"),
        (b"\x1b[3\x1b[1mx\x1b[m\x1b[3\nx", b"\x1b[1mx\x1b[m\nx"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_colours_stay_and_everything_else_goes(sent, shown, size):
    assert cleaned(sent, range(size, len(sent), size)) == shown
    assert_harmless(shown)


INTRODUCERS = [
    b"\x1b[",
    b"\x1b]",
    b"\x1bP",
    b"\x1b_",
    b"\x1b^",
    b"\x1bX",
    b"\x1b",
    b"\xc2\x9b",
    b"\x9b",
    b"\xc2\x9d",
    b"\x1b[?",
]
BODIES = [
    b"",
    b"0;title",
    b"31",
    b"1;31",
    b"38:5:1",
    b"2",
    b">4;1",
    b" ",
    b"$",
    b"%G",
    b"52;c;aGk=",
    b"\r",
    b"\n",
    b"\xe2\x80\xae",
]
ENDINGS = [
    b"m",
    b"J",
    b"H",
    b"h",
    b"\x07",
    b"\x1b\\",
    b"\xc2\x9c",
    b"\x18",
    b"c",
    b"",
    b"n",
    b"\x7f",
    b"\xff",
    b"text",
    b"\r",
]


def hostile_sequence(chance):
    if chance.random() < 0.1:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 12)))
    body = chance.choice(BODIES) * chance.choice([1, 1, 1, 2, 40])
    return chance.choice(INTRODUCERS) + body + chance.choice(ENDINGS)


def test_a_hundred_thousand_hostile_sequences_put_nothing_else_on_the_terminal():
    chance = random.Random(SEED)
    sent = b"".join(hostile_sequence(chance) for _ in range(100_000))
    whole = cleaned(sent)
    assert_harmless(whole)
    assert b"\x1b[31m" in whole
    for _ in range(2):
        cuts = chance.sample(range(len(sent)), 20_000)
        in_pieces = cleaned(sent, cuts)
        assert_harmless(in_pieces)
        assert in_pieces == whole  # where a record ends is chance, and changes nothing


PIECES = st.one_of(
    st.sampled_from([*INTRODUCERS, *BODIES, *ENDINGS, b"\r\n", b"\x1b[31m", b"\x1b[0m"]),
    st.binary(max_size=6),
    st.text(max_size=6).map(lambda text: text.encode(errors="replace")),
)


@given(st.lists(PIECES, max_size=30).map(b"".join), st.data())
def test_whatever_comes_is_harmless_and_the_same_in_any_pieces(sent, data):
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8))
    whole = cleaned(sent)
    assert_harmless(whole)
    assert cleaned(sent, cuts) == whole
    assert cleaned(whole) == whole  # what was cleaned is clean


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="\u061c"), max_size=200))
def test_text_passes_as_it_is(text):
    assert cleaned(text.encode()) == text.encode()


@pytest.mark.parametrize("begin", [b"\x1b]0;", b"\x1b[", b"\x1bP", b"\x1b  "])
def test_an_endless_sequence_is_dropped_in_little_memory_and_swallows_no_other_line(begin):
    sanitizer = Sanitizer()
    assert sanitizer.feed(begin) == b""
    filler = b"1" if begin == b"\x1b[" else b" "
    for _ in range(100):
        assert sanitizer.feed(filler * 1000) == b""
        assert len(sanitizer._held) <= 5000
    assert sanitizer.feed(b"m\nafter\n").endswith(b"\nafter\n")


def test_where_the_cursor_stands_and_what_colour_is_on():
    sanitizer = Sanitizer()
    sanitizer.feed(b"\x1b[1m\x1b[31mred\n\x1b[4m")
    assert (sanitizer.at_line_start, sanitizer.style) == (True, "\x1b[1m\x1b[31m\x1b[4m")
    sanitizer.feed(b"x\x1b[0m")
    assert (sanitizer.at_line_start, sanitizer.style) == (False, "")
    sanitizer.feed(b"\n\x1b[;m\x1b[2J")
    assert sanitizer.at_line_start
    for _ in range(1000):
        sanitizer.feed(b"\x1b[38;5;100m")
    assert len(sanitizer.style) < 300
    assert sanitizer.finish() == RESET.encode()
    assert sanitizer.finish() == b""


@given(st.text(max_size=50))
def test_one_line_is_one_line_and_harmless(text):
    shown = one_line(text)
    assert shown.isprintable()
    assert_harmless(shown.encode(errors="replace"))


def test_one_line_shows_what_does_not_print():
    assert one_line("a\x1b[2Jb\u202ec\nd\x9b") == "a\\x1b[2Jb\\u202ec\\nd\\x9b"
    assert one_line("zażółć 🚀") == "zażółć 🚀"


@given(st.text(max_size=50))
def test_json_for_a_terminal_is_the_same_json(text):
    shown = json_text(msgspec.json.encode({"text": text.encode(errors="replace").decode()}))
    assert json.loads(shown) == {"text": text.encode(errors="replace").decode()}
    assert_harmless(shown.encode())
