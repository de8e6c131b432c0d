"""How the handlers' CPU for one execution grows with the executions that are stored: admission, start, end, reconciler.

On SQLite's records, filled with copies of real ones; the CPU is that of the whole process, SQLite's included. On AWS the
table's part of it is DynamoDB's, and the functions' is the handlers': what they ask for, and how often.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runvoy_agent.ports import Item, Put

SMALL, LARGE = 1_000, 100_000
MEASURED = 200
_COMMIT = 96


def growth() -> None:
    small, large = (_cpu_per_execution(stored) for stored in (SMALL, LARGE))
    print(
        f"CPU per execution: {small * 1000:.2f} ms with {SMALL:,} stored, {large * 1000:.2f} ms with {LARGE:,}, "
        f"ratio {large / small:.2f}"
    )


def _cpu_per_execution(stored: int) -> float:
    from tests.unit.conftest import World

    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.clock.time = datetime.now(UTC)
        commits: list[Any] = []
        kept = world.records.commit

        def recording(writes: Any) -> None:
            kept(writes)
            commits.extend(writes)

        world.records.commit = recording
        first = _run(world)
        world.records.commit = kept
        _fill(world, first, [write for write in commits if isinstance(write, Put)], stored)
        taken = []
        for _ in range(MEASURED):
            world.clock.time += timedelta(milliseconds=20)
            began = time.process_time()
            _run(world)
            taken.append(time.process_time() - began)
        return statistics.median(taken)


def _run(world: Any) -> str:
    """One execution from its upload to the end of its task."""
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.leave_started(request.request_id)
    world.tell(request.request_id, "started")
    world.leave_result(request.request_id)
    world.tell(request.request_id, "result")
    world.tell(request.request_id, "stopped", 1)
    return str(request.request_id)


def _fill(world: Any, first: str, puts: list[Put], stored: int) -> None:
    """Copies of what one execution left, each under ids of its own."""
    last = {put.key: put for put in puts if first in put.key or first.encode() in put.item.body}
    made: list[Put] = []
    for _ in range(stored):
        own = world.clock.new_id()
        for put in last.values():
            key = put.key.replace(first, own) if first in put.key else f"{put.key}-{own}"
            body = put.item.body.replace(first.encode(), own.encode())
            made.append(Put(key, Item(body, _indexes(put, first, own)), 0))
        if len(made) > _COMMIT - len(last):
            world.records.commit(made)
            made = []
    world.records.commit(made)


def _indexes(put: Put, first: str, own: str) -> dict[str, Any]:
    return {
        name: entry._replace(partition=entry.partition.replace(first, own)) for name, entry in put.item.indexes.items()
    }
