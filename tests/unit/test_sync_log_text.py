"""log.txt and log.jsonl, made of blocks: the same bytes as line by line."""

import json
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_agent.runner.framing import Framer
from runvoy_cli.output import Lines, prefixed
from runvoy_protocol.logs import LogRecord
from runvoy_sync import log_text
from runvoy_sync.log_text import LogText


def forms_of(records):
    made = LogText()
    forms = [made.feed(record) for record in records] + [made.rest()]
    return b"".join(one.text for one in forms), b"".join(one.json for one in forms), made.last_line


def line_by_line(records):
    lines = Lines()
    found = [line for record in records for line in lines.feed(record)] + lines.rest()
    text = b"".join(prefixed(one.data + b"\n") if one.stream == "sys" else one.data + b"\n" for one in found)
    return text, [one.as_json() for one in found]


OUTPUT = st.lists(
    st.tuples(
        st.sampled_from(["out", "err", "sys"]),
        st.one_of(
            st.binary(max_size=40),
            st.text(alphabet=list('ab\\n"\n\t\x00\x7f\u2028é\U0001f600/'), max_size=40).map(str.encode),
        ),
    ),
    max_size=12,
)


@given(OUTPUT)
def test_blocks_are_what_lines_are(output):
    raw = []
    framer = Framer(lambda record, _: raw.append(record))
    for stream, data in output:
        framer.feed(stream, data, 1_000)
    framer.end(1_000)
    records = [msgspec.json.decode(one, type=LogRecord) for one in raw]
    records = [one for one in records if one.data]
    text, jsonl, _ = forms_of(records)
    expected_text, expected = line_by_line(records)
    assert text == expected_text
    assert [json.loads(line) for line in jsonl.split(b"\n")[:-1]] == expected


@pytest.mark.parametrize("text", ["a\n", "a", "\n", "\n\n", "a\nb", 'q"uo\\nte\n', "\\\n", "\\", "é\n\u2028x\n"])
@pytest.mark.parametrize("number", [1, 49_999, 50_000, 2**53 - 10])
def test_every_number_and_every_escape(text, number):
    record = LogRecord(n=number, t=5, s="out", m=text)
    made, jsonl, last = forms_of([record])
    expected_text, expected = line_by_line([record])
    assert made == expected_text
    assert [json.loads(line) for line in jsonl.split(b"\n")[:-1]] == expected
    assert jsonl.startswith(b'{"n":%d,"t":5,"s":"out","text":"' % number)
    assert last == expected[-1]["text"]


def test_heads_are_kept_for_the_first_lines_alone():
    forms_of([LogRecord(n=1, t=5, s="out", m="x\n" * 60_000)])
    forms_of([LogRecord(n=10**9, t=5, s="out", m="x\n" * 10)])
    assert len(log_text._kept_heads) <= log_text._KEPT_HEADS


class Counting(bytes):
    """Bytes that count how many of them are copied by putting pieces together."""

    copied = 0

    def __add__(self, other):
        Counting.copied += len(self) + len(other)
        return Counting(bytes(self) + bytes(other))

    def __radd__(self, other):
        Counting.copied += len(self) + len(other)
        return Counting(bytes(other) + bytes(self))

    def split(self, *_):
        return [Counting(piece) for piece in bytes.split(self, b"\n")]


class Piece:
    """A record that is a part of one long line."""

    n, t, s, p = 1, 0, "out", True
    data = Counting(b"x" * 1000)


def test_a_long_line_in_many_pieces_is_put_together_once():
    """Each byte is copied a few times, not once for every piece that comes after it."""
    lines = Lines()
    for _ in range(500):
        assert lines.feed(cast("LogRecord", Piece())) == []
    (line,) = lines.rest()
    assert line.data == b"x" * 500_000
    assert Counting.copied <= 2 * 500_000
