"""A home that an older version left, under this one: what waits goes on, what ran has an end, and what ended is as it was.

`worlds/` holds homes as the versions of then left them when their machine died, a stack and a command at once, at noon of DAY:
`first` is of the first command line that there was, `before_quotas` of the last version that counted nobody's executions, with a
batch and a secret. In both `running` holds the lock db, and the others wait for it. Nothing of them may be made anew.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.conftest import Machine

WORLDS = Path(__file__).parent / "worlds"
DAY = "2025-01-15"


class Left(NamedTuple):
    """The executions of a home."""

    ended: str
    running: str
    waiting: str
    batched: str | None = None
    says: str = "after it under 2\n"


LEFT = {
    "first": Left(
        "01a2160330e07a4386b3c4dd869f553b", "01a2160337d97ea99067e81e6936d128", "01a216033db7711b8b7f3a6e9b715562"
    ),
    "before_quotas": Left(
        "01a2160351c77ac7928e400ff95fb021",
        "01a2160365a2730f84a927e1985e97fc",
        "01a216036bb677fa8a2fc313de82c77a",
        "01a216036eab7b2a85ae7f10d7560811",
        "after it under 2 with ***\n",
    ),
}


def unpack(name: str, home: Path) -> None:
    """The home, with everything in it a day ago."""
    with tarfile.open(WORLDS / f"{name}.tar.gz") as world:
        world.extraction_filter = getattr(tarfile, "data_filter", None)  # there since Python 3.11.4
        world.extractall(home)
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    with closing(sqlite3.connect(home / "local" / "state.db")) as connection, connection:
        for table, columns in (("records", ("key",)), ("entries", ("partition", "sort", "key"))):
            for column in columns:
                connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (DAY, yesterday))
        body = "CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)"
        connection.execute(f"UPDATE records SET body = {body} WHERE body IS NOT NULL", (DAY, yesterday))
    for path in (home / "local").rglob("*.json"):
        path.write_text(path.read_text().replace(DAY, yesterday))


@pytest.mark.parametrize("name", LEFT)
def test_what_an_older_version_left_goes_on(machine: Machine, name: str) -> None:
    unpack(name, machine.home)
    left = LEFT[name]
    ended = machine("wait", left.ended)
    assert ended.returncode == 3, ended
    assert machine.ok("logs", left.ended) == "what the first said\n"
    lost = machine("wait", left.running)
    assert lost.returncode == 125, lost
    assert machine.status(left.running)["state"] == "UNKNOWN"
    assert machine.ok("logs", left.running) == "began\n"
    assert machine("wait", left.waiting).returncode == 0
    assert machine.ok("logs", left.waiting) == left.says
    if left.batched is not None:
        assert machine("wait", left.batched).returncode == 0
        assert machine.ok("logs", left.batched) == "batched 3\n"
    fence = int(machine.ok("run", "--lock", "db", "echo $RUNVOY_LOCK_FENCE"))
    assert fence == (3 if left.batched is None else 6)
    quota = json.loads(machine.ok("whoami", "--json"))["quota"]
    assert (quota["unfinished"], quota["running"]) == (0, 0), "what was never counted is not counted off"
    listed = json.loads(machine.ok("list", "--json"))
    assert {left.ended, left.running, left.waiting} < {one["execution_id"] for one in listed}


def test_a_home_of_a_newer_version_is_left_alone_and_says_so(machine: Machine) -> None:
    unpack("first", machine.home)
    state = machine.home / "local" / "state.db"
    with closing(sqlite3.connect(state)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    before = state.read_bytes()
    done = machine("status", LEFT["first"].ended)
    assert done.returncode == 1, done
    assert "written by a newer runvoy (schema 99; this one knows 1)" in done.stderr.decode()
    assert state.read_bytes() == before
