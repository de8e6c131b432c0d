"""What a person sees: a small terminal of our own shows the rows that are left after all that was written."""

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from runvoy_cli.commands import list as list_command
from runvoy_cli.commands import trace as trace_command
from runvoy_cli.deployment.session import Session
from runvoy_cli.following import announce, logview
from runvoy_cli.following.output import Line
from runvoy_cli.following.progress import Progress
from runvoy_cli.terminal import words
from runvoy_cli.terminal.sanitize import Sanitizer
from runvoy_cli.terminal.screen import Live, Screen, cells, clip, has_colour, is_capable
from runvoy_protocol import explanations
from runvoy_protocol.logs import LogRecord
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, LockStatus

NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
ID = "01890a5dac96774bbcceb302099a8057"
OTHER = "01890a5dac96774bbcceb302099a9999"
TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


def shown_rows(written, columns=80):
    """The rows of a terminal after `written`: it wraps, and knows \\r, \\n, cursor up, and erasing to the right and below."""
    rows, row, column = [[]], 0, 0
    end = 0
    for match in TOKEN.finditer(re.sub(r"\x1b\[[0-9;:]*m", "", written)):
        assert match.start() == end or not written
        end = match.end()
        text, count, final = match[0], match[1], match[2]
        if text == "\r":
            column = 0
        elif text == "\n":
            row, column = row + 1, 0
        elif final == "A":
            row = max(row - int(count or 1), 0)
        elif final == "K":
            del rows[row][column:]
        elif final == "J":
            del rows[row][column:]
            del rows[row + 1 :]
        else:
            assert not final, text
            if column == columns:
                row, column = row + 1, 0
                rows.extend([[]] * (row + 1 - len(rows)))
            rows[row] = [*rows[row][:column], *" " * (column - len(rows[row])), text, *rows[row][column + 1 :]]
            column += 1
        rows.extend([[] for _ in range(row + 1 - len(rows))])
    return ["".join(row) for row in rows]


class Terminal:
    """A screen of a given width over bytes that can be looked at, and a clock that is moved."""

    def __init__(self, columns=80, has_colour=False):
        self.bytes = io.BytesIO()
        self.time = 0.0
        self.columns = columns
        file = io.TextIOWrapper(self.bytes, encoding="utf-8", newline="", write_through=True)
        self.screen = Screen(file, is_rich=True, has_colour=has_colour, clock=lambda: self.time)
        self.screen.columns = lambda: columns  # type: ignore[method-assign]
        self.file = file.buffer

    def draw(self, *texts):
        self.time += 1
        self.screen.draw([[(text, "")] for text in texts], lambda: False)

    @property
    def written(self):
        return self.bytes.getvalue().decode()

    @property
    def rows(self):
        return shown_rows(self.written, self.columns)


def test_rows_give_way_to_lines_and_output_and_come_back():
    terminal = Terminal()
    sanitizer = Sanitizer()
    terminal.screen.write("begun\n")
    terminal.draw("waits", "one", "two")
    terminal.draw("waits", "one")
    assert terminal.rows == ["begun", "waits", "one"]
    terminal.screen.write("told\n")
    assert terminal.rows == ["begun", "told", ""]
    terminal.draw("waits", "one", "two")
    terminal.screen.show(terminal.file, sanitizer.feed(b"output\npart"), sanitizer)
    assert terminal.rows == ["begun", "told", "output", "part"]
    terminal.draw("nothing may be drawn over an unfinished line")
    assert terminal.rows[-1] == "part"
    terminal.screen.write("told\n")
    assert terminal.rows[-3:] == ["part", "told", ""]
    terminal.screen.erase()
    assert terminal.rows[-1] == ""


def test_rows_are_cut_to_the_width_and_wait_for_quiet():
    terminal = Terminal(columns=20)
    terminal.draw("x" * 100, "日本" * 20)
    assert [cells(row) <= 17 for row in terminal.rows] == [True, True]
    terminal.screen.show(terminal.file, b"busy\n", Sanitizer())
    terminal.screen.draw([[("too soon", "")]], lambda: False)
    assert terminal.rows == ["busy", ""]
    terminal.time += 1
    terminal.screen.draw([[("too late", "")]], lambda: True)
    assert terminal.rows == ["busy", ""]


def test_a_commands_colour_does_not_reach_our_lines_and_goes_on_after_them():
    terminal = Terminal()
    sanitizer = Sanitizer()
    terminal.screen.show(terminal.file, sanitizer.feed(b"\x1b[31mred\n"), sanitizer)
    before = len(terminal.written)
    terminal.screen.write("ours\n")
    assert terminal.written[before:] == "\x1b[0mours\n\x1b[31m"


def test_live_rows_end_with_the_block():
    terminal = Terminal()
    terminal.time = 10.0
    with Live(terminal.screen, lambda number: [[(f"drawing {number}", "bold")]]):
        for _ in range(500):
            if "drawing 2" in terminal.written:
                break
            import time

            time.sleep(0.02)
    left = terminal.written
    assert terminal.rows == [""]
    assert "drawing 2" in left


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("a", 0, ""),
    ],
)
def test_clipping_counts_columns(text, columns, shown):
    assert clip(text, columns) == shown
    assert cells(shown) <= max(columns, 0)


def test_what_is_remote_cannot_move_the_cursor_in_a_row():
    assert Terminal().screen.text_of([("a\x1b[2J\r\nb", "")]) == "a\\x1b[2J\\r\\nb"


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environ", "capable", "colour"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
    ],
)
def test_which_terminals_get_escapes(environ, capable, colour):
    assert (is_capable(Tty(), environ), has_colour(Tty(), environ)) == (capable, colour)
    assert not is_capable(io.StringIO(), environ)


def status(state=State.RUNNING, **fields):
    given: dict[str, Any] = {"execution_id": ID, "record_version": 1, "owner": "ann", "key_id": "k", "command": "x"}
    times = {"issued_at": NOW, "admitted_at": NOW}
    return ExecutionStatus(
        **{**given, **times, "isolation": "process", "timeout_seconds": 600, "state": state, **fields}
    )


def waiting(*locks):
    return status(State.QUEUED, reason=Reason.LOCK, locks=tuple(LockStatus(name=name) for name in locks))


def rows_of(progress, terminal):
    return [terminal.screen.text_of(row, terminal.screen.live_columns()) for row in progress.rows(0)]


def test_what_a_waiter_waits_for_is_asked_and_shown():
    held = LockStatus(name="prod", position=1, holder=OTHER, holder_owner="bob", held_since=NOW - timedelta(seconds=90))
    behind = LockStatus(name="db", position=3, holder=OTHER, holder_owner="bob")
    asked = []

    def look(execution_id):
        asked.append(execution_id)
        return (held, behind, LockStatus(name="mine", position=0))

    terminal = Terminal()
    progress = Progress(terminal.screen, lambda: NOW + timedelta(seconds=5), look)
    assert rows_of(progress, terminal) == ["⠋ submitted 0.0s"]
    progress.on_status(waiting("prod", "db", "mine"))
    assert rows_of(progress, terminal) == [
        "⠋ QUEUED 5.0s  waits for 2 locks",
        "  prod: next, held by bob for 1m35s, 01890a5d…9999",
        "  db: 3rd, bob waits too, 01890a5d…9999",
    ]
    rows_of(progress, terminal)
    assert asked == [ID]  # every two seconds, not at every drawing
    progress.on_status(status(started_at=NOW))
    assert rows_of(progress, terminal) == ["⠋ RUNNING 5.0s"]
    assert asked == [ID]
    progress.begin("2 of 3  ")
    assert rows_of(progress, terminal) == ["⠋ 2 of 3  submitted 0.0s"]


def test_a_deployment_that_does_not_say_more_leaves_the_names():
    terminal = Terminal(columns=40)
    progress = Progress(terminal.screen, lambda: NOW, lambda _: ())
    progress.on_status(waiting("prod", "db"))
    assert rows_of(progress, terminal) == ["⠋ QUEUED 0.0s  waits for prod; db"]


def request(**fields):
    given: dict[str, Any] = {"version": 1, "deployment_id": "d", "request_id": ID, "issued_at": NOW, "expires_at": NOW}
    return RunRequest(**{**given, "command": ("make", "test it"), **fields})


def session(terminal, web_url=None, is_embedded=True):
    class Console:
        screen = terminal.screen

    console: Any = Console()
    client: Any = None
    return Session(client, console, 600, is_embedded, web_url)


def test_what_runs_is_shown_in_few_rows_and_the_id_whole():
    terminal = Terminal()
    announce.show_beginning(session(terminal), request(name="n", locks=("a", "b")))
    assert terminal.rows == ["▸ n: make 'test it'", f"  {ID}  this machine  locks a, b", ""]
    terminal = Terminal(columns=40)
    announce.show_beginning(session(terminal, "https://w.example/", is_embedded=False), request(command="x " * 99))
    assert terminal.rows[0] == "▸ " + "x " * 18 + "…"
    assert terminal.rows[1:3] == [f"  {ID}", "  default image"]
    assert "".join(terminal.rows[3:]) == f"  https://w.example/?execution_id={ID}"


def test_what_became_of_it_is_shown_with_the_way_back():
    terminal = Terminal()
    ended = status(State.FAILED, exit_code=127, reason=Reason.EXIT, started_at=NOW, ended_at=NOW)
    announce.show_end(terminal.screen, ended, NOW, "Check it.")
    assert terminal.rows[:2] == ["✗ FAILED, exit code 127 (command not found), 0.0s", f"  again: runvoy logs {ID}"]
    assert terminal.rows[2] == "  hint: Check it."


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        ({"state": State.SUCCEEDED, "exit_code": 0}, "success"),
        ({"state": State.FAILED, "exit_code": 1}, "failure"),
        ({"state": State.FAILED, "exit_code": 137, "signal": 9}, "killed by SIGKILL"),
        ({"state": State.FAILED, "exit_code": 163, "signal": 35}, "killed by signal 35"),
        ({"state": State.FAILED, "exit_code": 143}, "as after SIGTERM"),
        ({"state": State.FAILED, "exit_code": 255}, "failure"),
        ({"state": State.STOPPED, "exit_code": 143, "signal": 15}, "killed"),
        ({"state": State.TIMED_OUT}, "timed out"),
        ({"state": State.UNKNOWN}, "runvoy or the platform failed"),
    ],
)
def test_exit_codes_in_words(fields, meaning):
    assert explanations.exit_meaning(status(**fields)) == meaning


def test_every_reason_has_words():
    assert set(explanations.REASONS) == set(Reason)


@pytest.mark.parametrize(
    ("position", "text"), [(1, "next"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_places(position, text):
    assert explanations.place(position) == text


def log_view(columns=80):
    terminal = Terminal(columns)
    return terminal, logview.LogView(terminal.screen, terminal.file, has_colour=False)


def record(n, stream, text, t=1_000, p=False):
    return LogRecord(n=n, t=t, s=stream, m=text, p=p)


HEADER = " line  time (UTC)     message"


def test_a_log_has_numbers_times_and_marks():
    terminal, view = log_view()
    view(record(1, "out", "one\ntwo\n"))
    view(record(3, "err", "oops\n", t=3_723_004))
    view(record(4, "sys", "lost\n"))
    view.line(Line(12345, 0, "out", b"late"))
    view.finish()
    assert terminal.rows == [
        HEADER,
        "    1  00:00:01.000   one",
        "    2  00:00:01.000   two",
        "    3  01:02:03.004 ! oops",
        "    4  00:00:01.000 * lost",
        "12345  00:00:00.000   late",
        "",
    ]


def test_a_beginning_is_shown_at_once_and_gone_on_with():
    terminal, view = log_view()
    view(record(1, "out", "Sure? ", p=True))
    assert terminal.rows[-1] == "    1  00:00:01.000   Sure? "
    view(record(1, "out", "y", p=True))
    assert terminal.rows[-1] == "    1  00:00:01.000   Sure? y"
    view(record(2, "err", "cut\n"))
    view(record(1, "out", "es\n"))
    view(record(3, "out", "no end", p=True))
    view.finish()
    assert terminal.rows[1:] == [
        "    1  00:00:01.000   Sure? y",
        "    2  00:00:01.000 ! cut",
        "    1  00:00:01.000   …es",
        "    3  00:00:01.000   no end",
        "",
    ]


def test_a_return_hides_nothing_and_looks_like_no_line():
    terminal, view = log_view()
    view(record(1, "out", "10%\r    2  00:00:01.000   forged\x1b[2A\n"))
    view.finish()
    assert terminal.rows[1:] == ["    1  00:00:01.000   10%", " " * 22 + "    2  00:00:01.000   forged", ""]


def test_a_colour_ends_with_its_line_and_begins_again_with_the_next():
    terminal, view = log_view()
    view(record(1, "out", "\x1b[31mone\ntwo\x1b[0m\n"))
    assert "\x1b[31mone\x1b[0m\n" in terminal.written
    assert "   \x1b[31mtwo\x1b[0m\n" in terminal.written


def test_statuses_as_json_are_complete():
    ended = status(State.STOPPED, exit_code=143)
    found = words.status_json(ended)
    assert (found["exit_code"], found["exit_code_of"], found["decided_by"]) == (143, 123, "runvoy")
    assert msgspec.json.decode(msgspec.json.encode(words.result_json(ended, 120)))["exit_meaning"] == "gave up waiting"
    assert "exit_meaning" not in words.status_json(status())


def test_a_list_shows_a_playbook_by_its_name_and_not_by_what_it_was_made_into():
    def command_of(**fields):
        return list_command._row(status(State.RUNNING, **fields), NOW)[-1]

    assert command_of(command="line 1\nline 2", playbook="deploy", name="deploy") == "playbook deploy"
    assert command_of(command="line 1\nline 2", playbook="deploy", name="again") == "again: playbook deploy"
    assert command_of(command=("make", "a b"), name="build") == "build: make 'a b'"


def test_what_happened_in_one_millisecond_is_told_in_the_order_of_things():
    def line(what, microsecond):
        at = NOW.replace(microsecond=microsecond)
        return trace_command._Line(at, trace_command._rank(what), "", what, "", "", "", "", None)

    told = [line("joined-locks", 321_000), line("start", 322_000), line("admit", 321_400)]
    assert [one.what for one in sorted(told, key=trace_command._order)] == ["admit", "joined-locks", "start"]
