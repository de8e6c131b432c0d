"""The daemon's live rows: one for each running execution, as many as the terminal holds."""

import contextlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.unit.sync_cases import ended

from runvoy_cli.input.options import Settings
from runvoy_cli.terminal.render import Console
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import uuid7
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.tell import Teller

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def running(number):
    return ExecutionStatus(
        execution_id=uuid7(NOW, number.to_bytes(10, "big")),
        record_version=3,
        state=State.RUNNING,
        owner="ann",
        key_id="k" * 32,
        command=("make", "all"),
        isolation="process",
        timeout_seconds=600,
        issued_at=NOW,
        admitted_at=NOW,
        started_at=NOW,
    )


def told(teller):
    return ["".join(text for text, _ in row) for row in teller.rows(0)]


def test_a_row_for_each_until_it_ends():
    teller = Teller(Console(Settings()), lambda: NOW + timedelta(seconds=75))
    assert told(teller) == []
    for number in (1, 2):
        teller.running(running(number), f"line of {number}")
    teller.running(running(1), "its next line")
    first, second = told(teller)
    assert "RUNNING 1m15s" in first.replace(" 1m 15s", " 1m15s")
    assert first.endswith("make all  its next line")
    assert second.endswith("line of 2")
    teller.ended(running(1).execution_id)
    assert told(teller) == [second]


def said(capsys):
    """What was said for people since the last look, without the program's name."""
    printed = capsys.readouterr()
    assert printed.out == ""
    return [line.removeprefix("runvoy: ") for line in printed.err.splitlines()]


def ended_at(number, moment, **fields):
    return msgspec.structs.replace(ended(number), started_at=moment, ended_at=moment, **fields)


def test_what_had_ended_before_is_told_in_a_number(capsys):
    teller = Teller(Console(Settings()), lambda: NOW)
    for number in range(40):
        state, code = (State.FAILED, 7) if number % 10 == 0 else (State.SUCCEEDED, 0)
        teller.over(ended_at(number, NOW - timedelta(days=1), state=state, exit_code=code), log_is_whole=True)
    assert told(teller) == ["copying what had ended before: 40"]
    assert said(capsys) == []
    for _ in range(2):
        teller.caught_up()
    assert said(capsys) == ["what had ended before is copied: 4 FAILED, 36 SUCCEEDED"]
    assert told(teller) == []
    teller.over(ended_at(41, NOW - timedelta(days=1)), log_is_whole=True)
    teller.caught_up(is_whole=False)
    assert said(capsys) == ["what had ended before is copied in part, and the next start goes on: 1 SUCCEEDED"]
    teller.over(ended_at(50, NOW + timedelta(seconds=1), name="nightly"), log_is_whole=True)
    (line,) = said(capsys)
    assert line.startswith("nightly: ")
    assert "SUCCEEDED, exit code 0" in line


def test_with_verbose_each_that_had_ended_before_is_told(capsys):
    settings = Settings()
    settings.verbose = True
    Teller(Console(settings), lambda: NOW).over(ended_at(1, NOW - timedelta(days=1)), log_is_whole=True)
    (line,) = said(capsys)
    assert "SUCCEEDED" in line


def test_what_was_submitted_here_is_told_by_its_file_whenever_it_ended(capsys):
    teller = Teller(Console(Settings()), lambda: NOW)
    one = ended_at(1, NOW - timedelta(seconds=2), name="nightly")  # the deployment's clock may be behind
    teller.submitted("inbox/n.yml", one.execution_id)
    teller.over(one, log_is_whole=True)
    first, second = said(capsys)
    assert first == f"inbox/n.yml is submitted as {one.execution_id}"
    assert second.startswith(f"inbox/n.yml: {one.execution_id} SUCCEEDED")


def test_with_json_each_is_an_event_whenever_it_ended(capsys):
    teller = Teller(Console(Settings()), lambda: NOW, as_json=True)
    teller.over(ended_at(1, NOW - timedelta(days=1)), log_is_whole=True)
    assert event(teller, capsys)["event"] == "ended"
    teller.caught_up()
    assert capsys.readouterr() == ("", "")


def test_a_bad_file_is_named_once_a_line(capsys):
    text = "inbox/a.yml, line 1, column 2: this\ninbox/a.yml, line 3, column 4: that"
    Teller(Console(Settings()), lambda: NOW).rejected("inbox/a.yml", RunvoyError(ErrorCode.INVALID_REQUEST, text))
    assert said(capsys) == [
        "inbox/a.yml is rejected: line 1, column 2: this",
        "inbox/a.yml: line 3, column 4: that",
    ]


REFUSED = RunvoyError(ErrorCode.FORBIDDEN, "not you", "Ask.")


def event(teller, capsys):
    """What the last call printed: one event, and nothing for people."""
    printed = capsys.readouterr()
    assert printed.err == ""
    (line,) = printed.out.splitlines()
    return json.loads(line)


def test_with_json_each_event_is_a_line_on_stdout_and_nothing_is_said(capsys):
    teller = Teller(Console(Settings()), lambda: NOW, as_json=True)
    teller.submitted("inbox/a\udcff.yml", "01")
    assert event(teller, capsys) == {"event": "submitted", "file": "inbox/a?.yml", "execution_id": "01"}
    teller.rejected("inbox/b.yml", REFUSED)
    assert event(teller, capsys) == {
        "event": "rejected",
        "file": "inbox/b.yml",
        "code": "FORBIDDEN",
        "message": "not you",
        "hint": "Ask.",
    }
    teller.known("inbox/c.yml", "02")
    assert event(teller, capsys) == {"event": "known", "file": "inbox/c.yml", "execution_id": "02"}
    teller.over(ended(1), log_is_whole=False)
    told = event(teller, capsys)
    assert (told["event"], told["exit_code"], told["log_is_whole"]) == ("ended", 0, False)
    assert told["status"]["execution_id"] == told["execution_id"]
    teller.lost("03", REFUSED)
    assert event(teller, capsys) == {"event": "lost", "execution_id": "03", "code": "FORBIDDEN", "message": "not you"}


def test_a_trouble_that_lasts_is_one_event_and_its_end_another(capsys):
    teller = Teller(Console(Settings()), lambda: NOW, as_json=True)
    for _ in range(3):
        teller.trouble("listing", OSError(5, "I/O error", "x"))
    assert event(teller, capsys) == {
        "event": "trouble",
        "subject": "listing",
        "message": "x: i/o error",
        "is_over": False,
    }
    teller.fine("listing")
    assert event(teller, capsys) == {"event": "trouble", "subject": "listing", "message": "", "is_over": True}
    teller.fine("listing")
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_events_that_cannot_be_written_are_told_of_once_and_nothing_fails(capsys):
    teller = Teller(Console(Settings()), lambda: NOW, as_json=True)
    raw = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - closed below, before what wraps it would flush again
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, write_through=True)):
        for number in range(3):
            teller.submitted("inbox/a.yml", str(number))
    raw.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "stdout cannot be written: no space left on device; from here on there are no events" in line


def test_more_than_the_terminal_holds_are_counted(monkeypatch):
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "80")
    teller = Teller(Console(Settings()), lambda: NOW)
    for number in range(30):
        teller.running(running(number), "")
    rows = told(teller)
    assert len(rows) == 8
    assert rows[-1] == "and 23 more"
