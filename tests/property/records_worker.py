"""A process that commits what it is told, one JSON line each, and answers one line each; killed by the machine's tests.

An order is {"commits": [...], "die_at": n}: with n it kills itself, as kill -9 would, before its n-th SQL statement.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.property.records_model import from_plain

from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.ports import Conflict


def main(path: str) -> None:
    records = SqliteRecords(Path(path))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order["die_at"]:
            _die_at(records, order["die_at"])
        for commit in order["commits"]:
            try:
                records.commit(from_plain(commit))
            except Conflict:
                print("conflict", flush=True)
            except ValueError:
                print("invalid", flush=True)
            else:
                print("done", flush=True)
        print("end", flush=True)


def _die_at(records: SqliteRecords, statement: int) -> None:
    seen = 0

    def count(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    records._database._writer.set_trace_callback(count)


if __name__ == "__main__":
    main(sys.argv[1])
