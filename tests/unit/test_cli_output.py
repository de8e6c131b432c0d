"""What reaches a terminal, and how lines are put together."""

import pytest

from runvoy_cli.output import Lines, prefixed
from runvoy_cli.render import TerminalFilter, columns, printable, span
from runvoy_protocol.logs import LogRecord


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"plain\ttext\r\n\b", b"plain\ttext\r\n\b"),
        (b"\x1b[31mred\x1b[0m \x1b[38;5;1mx\x1b[m", b"\x1b[31mred\x1b[0m \x1b[38;5;1mx\x1b[m"),
        (b"a\x1b[2Jb\x1b[1;1Hc\x1b[?1049hd", b"abcd"),
        (b"a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", b"abc"),
        (b"a\x1bPq#0\x1b\\b\x1b_x\x1b\\c", b"abc"),
        (b"a\x1bcb\x1b(Bc", b"abc"),
        (b"a\x07\x00\x0e\x7fb", b"ab"),
        ("a\u009b2Jé".encode(), "a2Jé".encode()),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_escape_sequences_other_than_colours_do_not_reach_a_terminal(sent, shown, size):
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    terminal = TerminalFilter()
    assert b"".join(terminal.feed(piece) for piece in pieces) == shown


def test_an_endless_sequence_does_not_swallow_what_follows():
    terminal = TerminalFilter()
    shown = b"".join(terminal.feed(piece) for piece in (b"\x1b]0;" + b"x" * 5000, b"after\n"))
    assert shown.endswith(b"after\n")
    assert b"\x1b" not in shown


def test_messages_show_what_does_not_print():
    assert printable("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"


def record(n, stream, text, open_end=False):
    return LogRecord(n=n, t=n * 10, s=stream, m=text, p=open_end)


def test_lines_are_put_together_across_records_and_streams():
    lines = Lines()
    records = [
        record(1, "out", "one\ntw", open_end=True),
        record(3, "err", "oops\n"),
        record(2, "out", "o", open_end=True),
        record(2, "out", "\n"),
        record(4, "out", "end"),
    ]
    found = [(line.number, line.stream, line.data) for one in records for line in lines.feed(one)]
    assert found == [(1, "out", b"one"), (3, "err", b"oops"), (2, "out", b"two"), (4, "out", b"end")]
    assert lines.rest() == []


def test_a_line_whose_end_never_came_is_kept():
    lines = Lines()
    assert lines.feed(record(1, "out", "par", open_end=True)) == []
    assert [line.data for line in lines.rest()] == [b"par"]


def test_bytes_that_are_no_text_survive():
    lines = Lines()
    assert [line.data for line in lines.feed(LogRecord(n=1, t=0, s="out", b="/wo="))] == [b"\xff"]


def test_runvoys_own_words_are_marked_once():
    assert prefixed(b"lost 3 bytes\nrunvoy: again\n") == b"runvoy: lost 3 bytes\nrunvoy: again\n"


def test_tables_line_up_and_end_without_blanks():
    assert columns(("ID", "NAME"), [("1", "a"), ("22", "b\n")]) == ["ID  NAME", "1   a", "22  b\\n"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (12, "12s"), (185, "3m05s"), (7800, "2h10m"), (356400, "4d03h")],
)
def test_spans(seconds, text):
    assert span(seconds) == text
