"""What reaches a terminal, and how lines are put together."""

import pytest

from runvoy_cli.following.output import Lines, prefixed
from runvoy_cli.terminal.render import columns, facts, span
from runvoy_protocol.logs import LogRecord


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


ROWS = [("0" * 32, "SUCCEEDED", "echo hi"), ("1" * 32, "FAILED", "make all the things that there are")]


def test_a_table_s_last_column_is_cut_to_the_room_there_is():
    lines = columns(("ID", "STATE", "COMMAND"), ROWS, room=70)
    assert lines[1].endswith("SUCCEEDED  echo hi")
    assert lines[2] == "1" * 32 + "  FAILED     make all the things that…"
    assert max(map(len, lines)) == 70


def test_what_does_not_fit_into_a_narrow_terminal_goes_on_below():
    lines = columns(("ID", "STATE", "COMMAND"), ROWS, room=56)
    assert lines == [
        "ID" + " " * 32 + "STATE      COMMAND",
        "0" * 32 + "  SUCCEEDED  echo hi",
        "1" * 32 + "  FAILED",
        "    make all the things that there are",
    ]
    assert columns(("ID", "STATE", "COMMAND"), ROWS, room=35)[4:] == ["1" * 32, "    FAILED  make all the things th…"]
    assert all(len(line) <= 35 for line in columns(("ID", "STATE", "COMMAND"), ROWS, room=35))


def test_a_narrow_terminal_shows_ids_in_short_and_a_wide_one_whole():
    one = "01890a5dac96774bbcceb302099a8057"
    rows = [(one, "SUCCEEDED", "make all the things that there are"), ("no id", "", one)]
    assert columns(("ID", "STATE", "COMMAND"), rows, room=52) == [
        "ID             STATE      COMMAND",
        "01890a5d…8057  SUCCEEDED  make all the things that …",
        "no id                     01890a5d…8057",
    ]
    for room in (0, 90):
        assert columns(("ID", "STATE", "COMMAND"), rows, room=room)[1].startswith(one)
    # Where that is not enough the header goes on below as its rows do.
    assert columns(("ID", "STATE", "COMMAND"), rows, room=30)[:4] == [
        "ID             STATE",
        "    COMMAND",
        "01890a5d…8057  SUCCEEDED",
        "    make all the things that …",
    ]


def test_wide_characters_take_two_cells_in_a_table():
    assert columns(("NAME", "WHAT"), [("東京", "a"), ("x", "b")]) == ["NAME  WHAT", "東京  a", "x     b"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (12, "12s"), (185, "3m05s"), (7800, "2h10m"), (356400, "4d03h")],
)
def test_spans(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize("name", ["::set-output name=x::evil", "  ::add-mask::x", "a ##[error]b", "##[error]b"])
def test_a_table_of_others_words_commands_no_ci_job(monkeypatch, name):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for line in (*columns(("NAME", "RUNS"), [(name, "1")]), *facts([("name", name)])):
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    assert columns(("NAME", "RUNS"), [(name, "1")])[1].startswith(name)


def test_what_is_too_long_for_a_terminal_goes_on_below_its_value() -> None:
    pairs = [("id", "0" * 32), ("why", "it waits for the lock prod, next in line"), ("command", "a long command, " * 3)]
    assert facts(pairs, 36) == [
        f"id       {'0' * 32}",
        "why      it waits for the lock prod,",
        "         next in line",
        f"command  {'a long command, ' * 3}",
    ]
    assert facts(pairs, 0) == facts(pairs, 20) == [f"{name.ljust(9)}{value}" for name, value in pairs]
