"""The codec: one canonical form, capped before any decoder sees the bytes."""

import time
import tracemalloc
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_protocol import codec
from runvoy_protocol.errors import ErrorCode, RunvoyError


class Sample(msgspec.Struct, frozen=True, array_like=True):
    version: int
    name: str
    count: int = 0
    env: dict[str, str] = {}
    words: tuple[str, ...] = ()
    at: datetime | None = None
    data: bytes = b""


SCHEMAS = {1: Sample}
instants = st.datetimes(
    min_value=datetime(1, 1, 2),
    max_value=datetime(9999, 12, 30),
    timezones=st.just(UTC),
)
samples = st.builds(
    Sample,
    version=st.just(1),
    name=st.text(),
    count=st.integers(-(2**63), 2**64 - 1),
    env=st.dictionaries(st.text(), st.text(), max_size=20),
    words=st.lists(st.text(), max_size=20).map(tuple),
    at=st.none() | instants,
    data=st.binary(),
)


def refusal(raw, **options):
    with pytest.raises(RunvoyError) as caught:
        codec.decode(raw, SCHEMAS, "sample", **options)
    return caught.value


def pack(*items):
    return msgspec.msgpack.encode(items)


@given(samples)
def test_what_is_encoded_is_decoded(sample):
    assert codec.decode(codec.encode(sample), SCHEMAS, "sample") == sample


@given(st.dictionaries(st.text(), st.text(), min_size=2, max_size=8), st.randoms())
def test_map_order_makes_one_form(env, random):
    shuffled = list(env.items())
    random.shuffle(shuffled)
    canonical = codec.encode(Sample(1, "x", env=env))
    assert codec.encode(Sample(1, "x", env=dict(shuffled))) == canonical
    raw = pack(1, "x", 0, dict(shuffled), (), None, b"")
    if raw != canonical:
        assert "canonical" in refusal(raw).message


def test_keys_are_in_the_order_of_their_bytes():
    env = {"\uffff": "", "\U00010000": "", "Z": "", "a": "", "": ""}
    keys = list(msgspec.msgpack.decode(codec.encode(Sample(1, "x", env=env)))[3])
    assert keys == sorted(keys, key=str.encode)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x97\xcc\x01\xa1x\x00\x80\x90\xc0\xc4\x00", "an integer longer than it needs to be"),
        (b"\x97\x01\xd9\x01x\x00\x80\x90\xc0\xc4\x00", "a string with a longer header than it needs"),
        (b"\x97\x01\xa1x\x00\x80\xdc\x00\x00\xc0\xc4\x00", "an array with a longer header than it needs"),
        (b"\x97\x01\xa1x\x00\xde\x00\x00\x90\xc0\xc4\x00", "a map with a longer header than it needs"),
        (b"\xdc\x00\x07\x01\xa1x\x00\x80\x90\xc0\xc4\x00", "a message with a longer header than it needs"),
        (b"\x97\x01\xa1x\x00\x82\xa1a\xa1b\xa1a\xa1b\x90\xc0\xc4\x00", "a key given twice"),
        (b"\x97\x01\xa1x\xcb\x00\x00\x00\x00\x00\x00\x00\x00\x80\x90\xc0\xc4\x00", "a float for an integer"),
        (b"\x92\x01\xa1x", "defaults left out"),
        (b"\x98\x01\xa1x\x00\x80\x90\xc0\xc4\x00\x00", "a field too many"),
        (b"\x97\x01\xa1x\x00\x80\x90\xba2026-01-01T00:00:00.00000Z\xc4\x00", "a time as text"),
        (
            b"\x97\x01\xa1x\x00\x80\x90\xc7\x0c\xff\x00\x00\x00\x00" + bytes(8) + b"\xc4\x00",
            "a time longer than needed",
        ),
        (b"\x97\x01\xa1x\x00\x80\x90\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x01\xc4\x00", "a time in single nanoseconds"),
    ],
)
def test_any_other_form_is_refused(raw, why):
    assert codec.decode(b"\x97\x01\xa1x\x00\x80\x90\xc0\xc4\x00", SCHEMAS, "sample") == Sample(1, "x")
    error = refusal(raw)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert "canonical" in error.message or "malformed" in error.message, why


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\xa1x",
        b"\x80",
        b"\xc1",
        pack("1", "x"),
        pack(1.5, "x"),
        pack(True, "x", 0, {}, (), None, b""),
        pack(1),
        pack(1, b"x", 0, {}, (), None, b""),
        pack(1, "x", 0, {1: "a"}, (), None, b""),
        b"\x97\x01\xa1\xff\x00\x80\x90\xc0\xc4\x00",  # not UTF-8
        b"\x97\x01\xa3\xed\xa0\x80\x00\x80\x90\xc0\xc4\x00",  # a lone surrogate
        codec.encode(Sample(1, "x")) + b"\xc0",
        codec.encode(Sample(1, "x"))[:-1],
        pack(1, "x", 0, {}, (), msgspec.msgpack.Ext(5, b"123"), b""),
        b"\x97\x01\xa1x\x00\x80\x90\xc7\x0c\xff\x00\x00\x00\x00\x7f" + b"\xff" * 7 + b"\xc4\x00",  # a year past 9999
    ],
)
def test_what_is_no_message_is_malformed(raw):
    assert refusal(raw).code is ErrorCode.INVALID_REQUEST


def test_an_unknown_version_says_who_is_newer():
    newer = refusal(pack(2, "something else entirely"))
    assert newer.code is ErrorCode.INVALID_REQUEST
    assert "version 2" in newer.message
    assert "The client is newer than the deployment" in newer.hint
    assert "newer" not in refusal(pack(0, "x")).hint
    assert "newer" not in refusal(pack(-1, "x")).hint
    assert "newer" in refusal(pack(2**64 - 1, "x")).hint


@pytest.mark.parametrize(
    "opening", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\x81\xa1k", b"\xde\x00\x01\xa1k"]
)
@pytest.mark.parametrize("head", [b"", b"\x97\x01\xa1x"])
def test_depth_is_capped_before_decoding(opening, head):
    raw = head + opening * 100_000
    error = refusal(raw, max_bytes=len(raw))
    assert "nests deeper" in error.message


def test_depth_counts_what_is_open_and_not_what_was():
    flat = pack(1, [[] for _ in range(100)], [{} for _ in range(100)], [[[]] for _ in range(100)])
    codec.check_shape(flat, "sample", max_items=1000)
    nested: list[object] = []
    for _ in range(codec.MAX_DEPTH - 1):
        nested = [nested, 1]
    codec.check_shape(pack(*nested), "sample", max_items=1000)
    with pytest.raises(RunvoyError):
        codec.check_shape(pack([[nested]]), "sample", max_items=1000)


nested_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(nested_values)
def test_the_shape_check_agrees_with_the_decoder(value):
    """Depth and count as a walk over the decoded value finds them."""

    def walk(item):
        if isinstance(item, list):
            inner = [walk(child) for child in item]
        elif isinstance(item, dict):
            inner = [walk(child) for pair in item.items() for child in pair]
        else:
            return 0, 1
        depth = max((depth for depth, _ in inner), default=0) + 1 if inner else 0
        return depth, 1 + sum(count for _, count in inner)

    raw = msgspec.msgpack.encode(value)
    depth, count = walk(value)
    codec.check_shape(raw, "sample", max_items=count, max_depth=depth)
    with pytest.raises(RunvoyError):
        codec.check_shape(raw, "sample", max_items=count - 1, max_depth=depth)
    if depth:
        with pytest.raises(RunvoyError):
            codec.check_shape(raw, "sample", max_items=count, max_depth=depth - 1)


@given(st.binary(max_size=200))
def test_the_shape_check_ends_on_any_bytes(raw):
    try:
        codec.check_shape(raw, "sample", max_items=1000)
    except RunvoyError as error:
        assert error.code in (ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE)


# What follows each first byte of msgpack: how many bytes of its own, where a length or count in them is 3; and how many
# items it holds then (https://github.com/msgpack/msgpack/blob/master/spec.md).
def _after_first_byte():
    own = {0xC0: b"", 0xC2: b"", 0xC3: b"", 0xCA: bytes(4), 0xCB: bytes(8)}
    own |= {0xCC + power: bytes(2**power) for power in range(4)}
    own |= {0xD0 + power: bytes(2**power) for power in range(4)}
    own |= {0xD4 + power: bytes(1 + 2**power) for power in range(5)}
    for first, widths in ((0xC4, (1, 2, 4)), (0xD9, (1, 2, 4)), (0xC7, (1, 2, 4))):
        for power, width in enumerate(widths):
            kind = first == 0xC7
            own[first + power] = (3).to_bytes(width, "big") + bytes(3 + kind)
    own |= dict.fromkeys((*range(128), *range(224, 256)), b"")
    own |= {0xA0 + length: bytes(length) for length in range(32)}
    held = dict.fromkeys(own, 0)
    for first, width, items in ((0xDC, 2, 3), (0xDD, 4, 3), (0xDE, 2, 6), (0xDF, 4, 6)):
        own[first], held[first] = (3).to_bytes(width, "big"), items
    for count in range(16):
        own[0x80 + count], held[0x80 + count] = b"", 2 * count
        own[0x90 + count], held[0x90 + count] = b"", count
    return [(first, own[first], held[first]) for first in sorted(own)]


def test_every_first_byte_is_as_long_as_the_format_says():
    for first, own, held in _after_first_byte():
        _check_length(first, own, held)


def _check_length(first, own, held):
    whole = bytes([first]) + own + b"\xc0" * held
    codec.check_shape(whole, "sample", max_items=1 + held)
    if held:  # they are counted as its own: what comes after them is at its level again
        with pytest.raises(RunvoyError, match="nests deeper"):
            codec.check_shape(b"\x91" + whole, "sample", max_items=99, max_depth=1)
        codec.check_shape(b"\x92" + whole + b"\x91\x00", "sample", max_items=99, max_depth=2)
        with pytest.raises(RunvoyError, match="nests deeper"):
            codec.check_shape(bytes([first]) + own + b"\xc0" * (held - 1) + b"\x91\x00", "x", 99, max_depth=1)
    # 0xc1 is no item: it is met only if neither less nor more was taken.
    with pytest.raises(RunvoyError, match="0xc1"):
        codec.check_shape(whole + b"\xc1", "sample", max_items=2 + held)


def test_the_only_byte_that_starts_nothing():
    assert set(range(256)) - {first for first, _, _ in _after_first_byte()} == {0xC1}


def test_lengths_are_read_with_their_high_bytes_first():
    for head, length in ((b"\xc5\x01\x00", 256), (b"\xdb\x00\x01\x00\x02", 65_538), (b"\xc8\x01\x00", 257)):
        with pytest.raises(RunvoyError, match="0xc1"):
            codec.check_shape(head + bytes(length) + b"\xc1", "sample", max_items=2)


def test_items_are_capped_by_the_size_a_message_may_have():
    raw = pack(1, "x", 0, {}, [""] * 1017)  # 1,024 items in all
    assert "items" not in refusal(raw, max_bytes=4096).message
    assert "more than 1,024 items" in refusal(pack(1, "x", 0, {}, [""] * 1019), max_bytes=4096).message
    assert "more than 2,000 items" in refusal(pack(*range(2000)), max_bytes=16_000).message
    assert "items" not in refusal(pack(*range(1999)), max_bytes=16_000).message


def test_the_versions_a_deployment_knows_are_named():
    with pytest.raises(RunvoyError) as caught:
        codec.decode(pack(9, "x"), {2: Sample, 1: Sample}, "sample")
    assert caught.value.message == "the sample has schema version 9; this deployment knows 1, 2"


def test_size_is_capped():
    exactly = codec.encode(Sample(1, "x", data=bytes(codec.MAX_ENVELOPE_BYTES - 13)))
    assert len(exactly) == codec.MAX_ENVELOPE_BYTES
    assert codec.decode(exactly, SCHEMAS, "sample").name == "x"
    assert refusal(exactly, max_bytes=codec.MAX_ENVELOPE_BYTES - 1).code is ErrorCode.TOO_LARGE
    whole = codec.encode(Sample(1, "x", data=bytes(codec.MAX_ENVELOPE_BYTES)))
    assert refusal(whole).code is ErrorCode.TOO_LARGE
    assert refusal(whole[:100], max_bytes=99).code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_claimed_length_takes_no_memory(claim):
    tracemalloc.start()
    try:
        for raw in (claim, b"\x97\x01" + claim, b"\x97\x01\xa1x\x00\x80" + claim, b"\x97\x01\xa1x\x00" + claim):
            refusal(raw)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_worst_input_of_the_allowed_size_is_answered_quickly():
    raw = b"\x97\x01\xa1x\x00\x80\xdd\x00\x03\xff\x00" + b"\xa0" * 0x3FF00
    started = time.process_time()
    refusal(raw, max_bytes=len(raw))
    assert time.process_time() - started < 10, "it is milliseconds, and were hours if it took the square of the size"


def test_times_keep_their_microseconds_in_every_zone_s_utc():
    at = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
    decoded = codec.decode(codec.encode(Sample(1, "x", at=at)), SCHEMAS, "sample")
    assert decoded.at == at
    assert decoded.at.utcoffset() == timedelta(0)


def test_every_message_can_be_worked_out_before_there_are_threads():
    count = codec.work_out_types()
    assert count > 40
    assert codec.work_out_types() == count
