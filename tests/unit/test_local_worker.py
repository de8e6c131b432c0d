"""The embedded worker and the pump: faults delay work, and lose none of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runvoy_agent.local.pump import Pump
from runvoy_agent.local.queue import QUEUES, SqliteQueue
from runvoy_agent.local.worker import Worker
from runvoy_agent.ports import Unavailable

PATIENCE_SECONDS = 30


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    made = SqliteQueue(tmp_path / "queue.db", max_receives=2)
    yield made
    made.close()


class Failing:
    """A handler that fails some times before it works."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error = error
        self.left = times
        self.done = threading.Event()

    def __call__(self, body: bytes) -> None:
        if self.left:
            self.left -= 1
            raise self.error
        self.done.set()


def run(queue: SqliteQueue, handler: Failing) -> Worker:
    worker = Worker(queue, dict.fromkeys(QUEUES, handler), lambda _name: True)
    worker.start()
    return worker


def test_an_outage_buries_nothing(queue: SqliteQueue) -> None:
    handler = Failing(Unavailable("the disk is full"), times=3)
    queue.send("inbox", b"x")
    worker = run(queue, handler)
    assert handler.done.wait(PATIENCE_SECONDS)
    assert queue.dead_letters("inbox") == []
    worker.close(PATIENCE_SECONDS)


def test_a_delivery_that_fails_comes_again_and_then_no_more(queue: SqliteQueue) -> None:
    handler = Failing(ValueError("poison"), times=99)
    queue.send("ends", b"poison")
    worker = run(queue, handler)
    for _ in range(PATIENCE_SECONDS * 20):
        if queue.dead_letters("ends"):
            break
        threading.Event().wait(0.05)
    [letter] = queue.dead_letters("ends")
    assert (letter.body, letter.receives) == (b"poison", 2)
    worker.close(PATIENCE_SECONDS)


def test_the_pump_passes_on_a_stop_after_its_spool_and_tries_until_it_works() -> None:
    seen: list[str] = []
    done = threading.Event()
    faults = [Unavailable("full"), Unavailable("full")]

    def ingest(execution_id: str) -> None:
        if faults:
            raise faults.pop()
        seen.append(f"ingest {execution_id}")

    def on_stopped(execution_id: str, attempt: int) -> None:
        seen.append(f"stopped {execution_id} {attempt}")
        done.set()

    pump = Pump(ingest, on_stopped)
    pump.bell("a")
    pump.stopped("a", 1)
    pump.bell("a")  # must not make it forget that the run stopped
    pump.start()
    assert done.wait(PATIENCE_SECONDS)
    pump.close(PATIENCE_SECONDS)
    assert seen == ["ingest a", "stopped a 1"]
