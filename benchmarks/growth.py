"""How the handlers' CPU for one execution grows with the executions that are stored: from its upload to its end.

On SQLite's records, filled with copies of real ones; the CPU is that of the whole process, SQLite's and the kernel's for it included. On
AWS the table's part of it is DynamoDB's, and the functions' is the handlers': what they ask for, and how often.

The two worlds live side by side and take turns, for the larger part of the CPU is the kernel's for writing to a disk that others
use, too: measured one after the other they differ by what the others do meanwhile, and the one that was just filled by the
writing back of its hundreds of megabytes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runvoy_agent.ports import Item, Put

SMALL, LARGE = 1_000, 100_000
WARMING, ROUNDS, OF_A_ROUND = 50, 21, 20
_COMMIT = 96
_WRITERS = 8  # commits that meet share an fsync


def growth() -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, large = (_world(Path(folder) / str(stored), stored) for stored in (SMALL, LARGE))
        os.sync()  # what was filled in is not written back while something is measured
        for world in (small, large):
            _cpu_per_execution(world, WARMING)
        rounds = [_round(small, large, number) for number in range(ROUNDS)]
    ratios = _quartiles([of_large / of_small for of_small, of_large in rounds])
    for stored, taken in ((SMALL, [one for one, _ in rounds]), (LARGE, [one for _, one in rounds])):
        lower, median, upper = (seconds * 1000 for seconds in _quartiles(taken))
        print(f"CPU per execution with {stored:>7,} stored: {median:.2f} ms (quartiles {lower:.2f} and {upper:.2f})")
    print(f"their ratio: {ratios[1]:.2f} (quartiles {ratios[0]:.2f} and {ratios[2]:.2f} of {ROUNDS} rounds)")


def _round(small: Any, large: Any, number: int) -> tuple[float, float]:
    """Both, one right after the other; each second round the other way about."""
    if number % 2:
        of_large = _cpu_per_execution(large, OF_A_ROUND)
        return _cpu_per_execution(small, OF_A_ROUND), of_large
    return _cpu_per_execution(small, OF_A_ROUND), _cpu_per_execution(large, OF_A_ROUND)


def _quartiles(figures: Sequence[float]) -> list[float]:
    return statistics.quantiles(figures, n=4)


def _cpu_per_execution(world: Any, count: int) -> float:
    """The median, in seconds."""
    taken = []
    for _ in range(count):
        world.clock.time += timedelta(milliseconds=20)
        began = time.process_time()
        _run(world)
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def _world(folder: Path, stored: int) -> Any:
    """A deployment with so many executions that ended."""
    from tests.unit.conftest import World

    folder.mkdir()
    world = World(folder)
    world.clock.time = datetime.now(UTC)
    commits: list[Any] = []
    kept = world.records.commit

    def recording(writes: Any) -> None:
        kept(writes)
        commits.extend(writes)

    world.records.commit = recording  # type: ignore[method-assign]
    first = _run(world)
    world.records.commit = kept  # type: ignore[method-assign]
    _fill(world, first, [write for write in commits if isinstance(write, Put)], stored)
    return world


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

    def copy(own_ids: Sequence[str]) -> None:
        world.records.commit([_copy(put, first, own) for own in own_ids for put in last.values()])

    ids = [world.clock.new_id() for _ in range(stored)]
    each = _COMMIT // len(last)
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(copy, (ids[begun : begun + each] for begun in range(0, stored, each))))


def _copy(put: Put, first: str, own: str) -> Put:
    key = put.key.replace(first, own) if first in put.key else f"{put.key}-{own}"
    return Put(key, Item(put.item.body.replace(first.encode(), own.encode()), _indexes(put, first, own)), 0)


def _indexes(put: Put, first: str, own: str) -> dict[str, Any]:
    return {
        name: entry._replace(partition=entry.partition.replace(first, own)) for name, entry in put.item.indexes.items()
    }
