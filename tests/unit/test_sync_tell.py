"""The daemon's live rows: one for each running execution, as many as the terminal holds."""

from datetime import UTC, datetime, timedelta

from runvoy_cli.options import Settings
from runvoy_cli.render import Console
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


def test_more_than_the_terminal_holds_are_counted(monkeypatch):
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "80")
    teller = Teller(Console(Settings()), lambda: NOW)
    for number in range(30):
        teller.running(running(number), "")
    rows = told(teller)
    assert len(rows) == 8
    assert rows[-1] == "and 23 more"
