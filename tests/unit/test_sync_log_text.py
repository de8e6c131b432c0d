"""log.txt is what the lines are, however records cut them; log.jsonl holds the records, and with them the bytes."""

import gzip
import json
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_agent.runner.framing import Framer
from runvoy_cli.following.output import Lines, prefixed
from runvoy_protocol.logs import Chunk, LogRecord, read_chunk
from runvoy_sync.log_text import LogText


def forms_of(*chunks):
    made = LogText()
    text, lines = b"", b""
    for chunk in chunks:
        forms = made.feed(chunk)
        text += b"".join(forms.text)
        lines += forms.json
    return text + made.rest(), lines, made.last_line


def of_records(records):
    """Chunks as a runner makes them, one for each record."""
    return [read_chunk(gzip.compress(msgspec.json.encode(record) + b"\n")) for record in records]


def line_by_line(records):
    lines = Lines()
    found = [line for record in records for line in lines.feed(record)] + lines.rest()
    text = b"".join(prefixed(one.data + b"\n") if one.stream == "sys" else one.data + b"\n" for one in found)
    return text, found[-1].data.decode(errors="replace") if found else ""


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
def test_text_is_what_lines_are_and_records_are_what_was_printed(output):
    raw = []
    framer = Framer(lambda record, _: raw.append(record))
    for stream, data in output:
        framer.feed(stream, data, 1_000)
    framer.end(1_000)
    records = [msgspec.json.decode(one, type=LogRecord) for one in raw]
    records = [one for one in records if one.data]
    text, jsonl, last = forms_of(*of_records(records))
    assert forms_of(Chunk(records, None)) == (text, jsonl, last)
    assert (text, last) == line_by_line(records)
    found = [msgspec.json.decode(line, type=LogRecord) for line in jsonl.split(b"\n")[:-1]]
    assert found == records
    for stream in ("out", "err", "sys"):
        printed = b"".join(data for one, data in output if one == stream)
        assert b"".join(record.data for record in found if record.s == stream) == printed


@pytest.mark.parametrize(
    "text", ["a\n", "a", "\n", "\n\n", "a\nb", 'q"uo\\nte\n', "\\\n", "\\", "é\n\u2028x\n", "\x1b\x7f\n"]
)
@pytest.mark.parametrize("stream", ["out", "sys"])
def test_every_text_in_one_record(text, stream):
    record = LogRecord(n=7, t=5, s=stream, m=text)
    made, jsonl, last = forms_of(*of_records([record]))
    assert (made, last) == line_by_line([record])
    assert json.loads(jsonl) == {"n": 7, "t": 5, "s": stream, "m": text}
    assert jsonl.count(b"\n") == 1


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b""])
def test_what_a_chunk_holds_beside_its_records_is_not_kept(end):
    """Its writer may be the command: bytes that are no UTF-8, in a field that no schema knows, would spoil the file."""
    chunk = read_chunk(gzip.compress(b'{"n":1, "t":1,"s":"out","m":"x\\n","more":"\xff"}' + end))
    assert forms_of(chunk)[1] == b'{"n":1,"t":1,"s":"out","m":"x\\n"}\n'


def test_chunks_whose_last_line_has_no_end_stay_apart():
    chunk = read_chunk(gzip.compress(b'{"n":1,"t":1,"s":"out","m":"x\\n"}'))
    assert forms_of(chunk, chunk)[1] == b'{"n":1,"t":1,"s":"out","m":"x\\n"}\n' * 2


@pytest.mark.parametrize("is_going_on", [True, False])
def test_a_record_that_holds_nothing_neither_begins_a_line_nor_ends_one(is_going_on):
    """No runner writes it, but a command may; `runvoy logs` passes it over as well."""
    nothing = LogRecord(n=1, t=5, s="out", p=is_going_on)
    begun = LogRecord(n=1, t=5, s="out", m="ab", p=True)
    rest = LogRecord(n=1, t=5, s="out", m="c\n")
    chunk = Chunk([nothing, begun, nothing, rest, nothing], None)
    assert forms_of(chunk)[0] == b"abc\n"
    assert forms_of(*of_records(chunk.records)) == forms_of(chunk)


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
