"""Framing is exact: whatever bytes come on both streams, in whatever pieces, the records give them back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from runvoy_agent.runner.framing import RECORD_BYTES, SPAN_MS, Framer
from runvoy_protocol.logs import LogRecord, decode_chunk

Read = tuple[str, bytes, int, bool]  # stream, data, milliseconds since the read before, flush after it

pieces = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=12).map(str.encode),
    st.sampled_from(
        [
            b"\n",
            b"a\n",
            b"\r\n",
            b"\xe2\x82",
            b"\xac",
            b"\xf0\x9f",
            b"\x98\x80",
            b"\xc3",
            b"\0",
            b'"\\\t\x1b',
            b"\xed\xa0",
        ]
    ),
    st.sampled_from([b"x" * (RECORD_BYTES - 1), "é".encode() * RECORD_BYTES, b"line\n" * 30_000, b"\n" * 70_000]),
)
reads = st.lists(
    st.tuples(st.sampled_from(["out", "err"]), pieces, st.sampled_from([0, 1, 60, 150, -5]), st.booleans())
)


def frame(given_reads: Sequence[Read]) -> list[LogRecord]:
    encoded: list[bytes] = []
    sizes: list[int] = []

    def emit(record: bytes, size: int) -> None:
        encoded.append(record)
        sizes.append(size)

    framer = Framer(emit)
    now = 1_000_000
    for stream, data, step, flush in given_reads:
        now += step
        framer.feed(stream, data, now)
        if flush:
            framer.flush()
    framer.end(now)
    compress = zlib.compressobj(1, zlib.DEFLATED, 31)
    records = decode_chunk(compress.compress(b"".join(encoded)) + compress.flush())
    assert [len(record.data) for record in records] == sizes
    return records


def bytes_of(records: Sequence[LogRecord], stream: str) -> bytes:
    return b"".join(record.data for record in records if record.s == stream)


def check_lines(records: Sequence[LogRecord]) -> None:
    """Every line has one number, numbers have no gaps, and a line that goes on says so and does so."""
    next_number = 1
    goes_on: dict[str, int] = {}
    for record in records[:-1]:
        data = record.data
        number = goes_on.pop(record.s, None)
        if number is not None:
            assert record.n == number
            assert b"\n" not in data[:-1], "a continuation holds nothing after its line's end"
            assert record.p == (not data.endswith(b"\n")) or not record.p
        else:
            assert record.n == next_number
            assert data
            next_number += data.count(b"\n") + (not data.endswith(b"\n"))
        if record.p:
            assert not data.endswith(b"\n")
            goes_on[record.s] = next_number - 1 if number is None else number
    assert goes_on == {}, "a line that goes on has its end"
    assert records[-1].end
    assert records[-1].n == next_number


@given(reads)
@example([("out", b"a\xc3", 0, True), ("err", b"b", 0, True), ("out", b"\xa9\n", 0, False)])
@example([("out", b"\xf0\x9f", 0, True)])
@example([("out", b"abc", 0, True)])
@example([])
def test_records_give_back_every_byte(given_reads: list[Read]) -> None:
    records = frame(given_reads)
    for stream in ("out", "err"):
        assert bytes_of(records, stream) == b"".join(data for name, data, _, _ in given_reads if name == stream)
    check_lines(records)
    assert all(len(record.data) <= RECORD_BYTES for record in records)


@given(st.text(), st.lists(st.integers(0, 40)))
def test_text_is_never_split_into_what_is_no_text(text: str, cuts: list[int]) -> None:
    data = text.encode()
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:end] for start, end in pairwise(borders)]
    records = frame([("out", part, 0, True) for part in parts])
    assert not any(record.b for record in records)
    assert bytes_of(records, "out") == data


def test_a_new_record_when_the_stream_changes() -> None:
    records = frame([("out", b"a\n", 0, False), ("out", b"b\n", 1, False), ("err", b"c\n", 0, False)])
    assert [(r.n, r.s, r.m) for r in records[:-1]] == [(1, "out", "a\nb\n"), (3, "err", "c\n")]


def test_a_new_record_when_time_moves() -> None:
    records = frame([("out", b"a\n", 0, False), ("out", b"b\n", SPAN_MS, False), ("out", b"c\n", 1, False)])
    assert [r.m for r in records[:-1]] == ["a\nb\n", "c\n"]


def test_long_output_is_cut_at_line_ends() -> None:
    records = frame([("out", b"0123456789\n" * 20_000, 0, False)])
    assert len(records) == 5
    assert not any(record.p for record in records)


def test_a_partial_line_goes_on_under_its_number() -> None:
    records = frame(
        [("out", b"x\nab", 0, True), ("err", b"e\n", 0, True), ("out", b"c\nd", 0, True), ("out", b"e", 0, True)]
    )
    assert [(r.n, r.s, r.m, r.p) for r in records[:-1]] == [
        (1, "out", "x\nab", True),
        (3, "err", "e\n", False),
        (2, "out", "c\n", False),
        (4, "out", "d", True),
        (4, "out", "e", True),
        (4, "out", "", False),
    ]


def test_what_is_not_utf8_is_base64() -> None:
    records = frame([("out", b"\xff\xfe\n", 0, False)])
    assert records[0].b
    assert records[0].text == "\ufffd\ufffd\n"
