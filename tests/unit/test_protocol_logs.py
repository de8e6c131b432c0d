"""Log chunks on hostile input: the command itself may have written them."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_protocol import logs
from runvoy_protocol.errors import ErrorCode, RunvoyError

LINE = b'{"n":1,"t":1,"s":"out","m":"x\\n"}\n'


def refusal(raw):
    with pytest.raises(RunvoyError) as caught:
        logs.decode_chunk(raw)
    return caught.value.code


def chunk(*records):
    return gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records))


def record(**fields):
    return {"n": 1, "t": 1, "s": "out", "m": "x\n"} | fields


text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(st.sampled_from(["out", "err", "sys"]), text)))
def test_text_comes_back_exactly(blocks):
    raw = chunk(*(record(s=stream, m=block) for stream, block in blocks))
    decoded = logs.decode_chunk(raw)
    assert [(read.s, read.m) for read in decoded] == blocks
    assert [read.data for read in decoded] == [block.encode() for _, block in blocks]


blocks = st.lists(st.fixed_dictionaries({"m": text}) | st.fixed_dictionaries({"b": st.just("//4K")}))


@given(blocks, st.booleans(), st.booleans(), st.sampled_from([0, 1, 2]))
def test_a_chunks_text_is_its_records_and_nothing_else(fields, is_last, ends, space):
    raw = [record(m="") | one for one in fields]
    if is_last:
        raw.append({"n": 9, "t": 1, "s": "sys", "end": True})
    lines = b"\n".join(json.dumps(one, separators=(",", ":" + " " * space)).encode() for one in raw)
    found = logs.read_chunk(gzip.compress(lines + (b"\n" if ends else b"")) if raw else gzip.compress(b""))
    assert [one.data for one in found.records] == [one.data for one in logs.decode_chunk(gzip.compress(lines))]
    held = [one for one in raw if one.get("m") or one.get("b")]
    if found.lines is None:
        assert held != fields, "only what holds nothing is left out"
    else:
        assert [json.loads(line) for line in found.lines.split(b"\n")[:-1]] == held
        assert not found.lines or found.lines.endswith(b"\n")


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace(b"}", b',"x":1}'),
        LINE.replace(b"{", b'{"x":"\xff",'),
        LINE.replace(b"{", b'{"\xff":1,'),
        LINE.replace(b",", b",\r"),
        LINE.replace(b"\n", b"\r\n"),
        LINE.replace(b"{", b'{"\\u006d2":[],'),
        b'{"n":1,"t":1,"s":"out"}\n' + LINE,
    ],
)
def test_a_chunk_that_holds_more_or_less_has_no_text(line):
    found = logs.read_chunk(gzip.compress(LINE + line + LINE))
    assert found.lines is None
    assert [one.m for one in found.records if one.data] == ["x\n"] * 3


def test_a_chunks_text_may_be_malformed_as_well():
    with pytest.raises(RunvoyError) as caught:
        logs.read_chunk(gzip.compress(LINE + b'{"n":0,"t":1,"s":"out","x":1}\n'))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_the_size_that_a_chunk_claims():
    assert logs.claimed_size(gzip.compress(LINE * 1000)) == 1000 * len(LINE)
    assert logs.claimed_size(b"") == 0


def test_bytes_that_are_not_utf_8_come_back_exactly():
    (read,) = logs.decode_chunk(chunk({"n": 1, "t": 1, "s": "out", "b": "//4K"}))
    assert read.data == b"\xff\xfe\n"
    assert read.text == "\ufffd\ufffd\n"


def test_an_empty_chunk_holds_nothing():
    assert logs.decode_chunk(gzip.compress(b"")) == []


def test_fields_of_a_later_version_are_passed_over():
    assert logs.decode_chunk(chunk(record(color="red")))[0].m == "x\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"n": -1},
        {"n": "1"},
        {"n": 1.5},
        {"n": None},
        {"n": 2**53},
        {"n": 10**400},
        {"t": -1},
        {"t": logs.MAX_TIME_MS + 1},
        {"s": "stdout"},
        {"s": None},
        {"m": 1},
        {"m": "x", "b": "eA=="},
        {"m": "", "b": "eA"},
        {"m": "", "b": "e A=="},
        {"m": "", "b": "ä==="},
        {"p": 1},
        {"end": "yes"},
    ],
    ids=str,
)
def test_a_record_of_wrong_types_or_values_is_malformed(fields):
    assert refusal(chunk(record(), record(**fields))) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        LINE + b"\n",
        LINE[:-3],
        LINE.replace(b"\n", b""),
        LINE.rstrip(b"\n") * 2,
        b"\xff\n",
        b'{"n":1,"t":1,"s":"out","m":"\xff"}\n',
        b'{"n":1,"t":1,"s":"out","m":"\\ud800"}\n',
        b'{"n":1,"t":1,"s":"out","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"n":1,"t":1,"s":"out","x":' + b'{"x":' * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_what_are_no_records_is_malformed(content):
    if content == LINE.replace(b"\n", b""):  # the last newline may be missing
        assert len(logs.decode_chunk(gzip.compress(content))) == 1
        return
    assert refusal(gzip.compress(content)) is ErrorCode.INVALID_REQUEST


def test_a_chunk_is_one_whole_gzip_member():
    whole = gzip.compress(LINE)
    assert len(logs.decode_chunk(whole)) == 1
    for length in range(len(whole)):
        assert refusal(whole[:length]) is ErrorCode.INVALID_REQUEST
    assert refusal(whole + whole) is ErrorCode.INVALID_REQUEST
    assert refusal(whole + b"\0") is ErrorCode.INVALID_REQUEST
    assert refusal(LINE) is ErrorCode.INVALID_REQUEST


def test_a_flipped_bit_never_passes_unseen():
    whole = gzip.compress(LINE * 20, mtime=0)
    for position in range(10, len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            try:  # a flipped distance may point at the same text: what is read is what was written
                assert logs.decode_chunk(bytes(flipped)) == logs.decode_chunk(whole)
            except RunvoyError as error:
                assert error.code is ErrorCode.INVALID_REQUEST


def test_a_bomb_is_refused_at_the_limit():
    bomb = gzip.compress(b" " * (logs.MAX_CHUNK_BYTES * 4))
    tracemalloc.start()
    try:
        assert refusal(bomb) is ErrorCode.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 4 * logs.MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_the_limit_itself_is_allowed():
    filler = record(m="a" * (logs.MAX_CHUNK_BYTES - 34))
    content = json.dumps(filler, separators=(",", ":")).encode()
    content = content + b" " * (logs.MAX_CHUNK_BYTES - len(content))
    assert len(content) == logs.MAX_CHUNK_BYTES
    assert len(logs.decode_chunk(gzip.compress(content, compresslevel=1))) == 1
    assert refusal(gzip.compress(content + b" ", compresslevel=1)) is ErrorCode.TOO_LARGE


def test_many_newlines_take_little_memory():
    tracemalloc.start()
    try:
        assert refusal(gzip.compress(b"\n" * (logs.MAX_CHUNK_BYTES - 1), 1)) is ErrorCode.INVALID_REQUEST
        assert tracemalloc.get_traced_memory()[1] < 4 * logs.MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(raw):
    for content in (raw, gzip.compress(raw)):
        try:
            logs.decode_chunk(content)
        except RunvoyError as error:
            assert error.code is ErrorCode.INVALID_REQUEST
