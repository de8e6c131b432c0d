"""SqliteQueue beyond the contract: order, dead letters, crashes, closing, and sleeping without polling."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runvoy_agent.local.queue import QueueCounts, SqliteQueue
from runvoy_agent.ports import Message, QueueName, Unavailable

PATIENCE = 30.0


def taken(queue: SqliteQueue, name: QueueName = "inbox") -> Message:
    message = queue.receive(name, PATIENCE)
    assert message is not None
    return message


def test_first_in_first_out(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    for number in range(20):
        queue.send("inbox", b"%d" % number)
    queue.close()
    queue = SqliteQueue(tmp_path / "q")
    for number in range(20, 30):
        queue.send("inbox", b"%d" % number)
    assert [taken(queue).body for _ in range(30)] == [b"%d" % number for number in range(30)]


def test_release_brings_it_back_after_the_delay(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    queue.send("inbox", b"a")
    message = taken(queue)
    released_at = time.monotonic()
    queue.release(message.message_id, 1.0)  # on a busy disk the commit alone takes a part of it
    assert queue.counts()["inbox"].delayed == 1
    again = taken(queue)
    assert time.monotonic() - released_at >= 0.999
    assert (again.message_id, again.receives) == (message.message_id, 2)
    queue.acknowledge(again.message_id)
    queue.release(again.message_id)  # of one that is gone
    assert queue.receive("inbox", 0) is None


@pytest.mark.parametrize("how", ["release", "let it lapse"])
def test_after_its_last_receive_a_message_is_dead(tmp_path: Path, how: str) -> None:
    queue = SqliteQueue(tmp_path / "q", visibility_seconds=0.05, max_receives=3)
    queue.send("ends", b"poison")
    for receives in (1, 2, 3):
        message = taken(queue, "ends")
        assert message.receives == receives
        if how == "release":
            queue.release(message.message_id)
    assert queue.receive("ends", 0.2) is None
    (dead,) = queue.dead_letters("ends")
    assert (dead.message_id, dead.body, dead.receives) == (message.message_id, b"poison", 3)
    assert dead.sent_at <= dead.died_at
    assert queue.counts()["ends"] == QueueCounts(0, 0, 0, 1)
    assert queue.dead_letters("inbox") == []
    queue.close()
    queue = SqliteQueue(tmp_path / "q")
    assert queue.receive("ends", 0) is None
    assert queue.redrive("ends") == 1
    assert queue.redrive("ends") == 0
    assert taken(queue, "ends").receives == 1
    assert queue.dead_letters("ends") == []


def test_late_acknowledgement_saves_it_from_the_dead(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q", visibility_seconds=0.05, max_receives=1)
    queue.send("inbox", b"slow")
    message = taken(queue)
    assert queue.receive("inbox", 0.2) is None
    assert len(queue.dead_letters("inbox")) == 1
    queue.acknowledge(message.message_id)
    assert queue.dead_letters("inbox") == []


def test_extend_keeps_it_in_flight(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q", visibility_seconds=0.3)
    queue.send("inbox", b"long")
    message = taken(queue)
    queue.extend(message.message_id, 600)
    assert queue.receive("inbox", 0.6) is None
    assert queue.counts()["inbox"] == QueueCounts(0, 0, 1, 0)
    queue.extend("999", 1)


def test_counts(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    for _ in range(3):
        queue.send("bulk", b"")
    queue.send("bulk", b"", delay_seconds=600)
    taken(queue, "bulk")
    assert queue.counts() == {
        "ranges": QueueCounts(0, 0, 0, 0),
        "inbox": QueueCounts(0, 0, 0, 0),
        "starts": QueueCounts(0, 0, 0, 0),
        "bulk": QueueCounts(2, 1, 1, 0),
        "ends": QueueCounts(0, 0, 0, 0),
    }


def test_what_was_in_flight_is_due_when_the_queue_opens(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    queue.send("inbox", b"a")
    queue.send("inbox", b"later", delay_seconds=600)
    assert taken(queue).receives == 1
    queue.close()
    queue = SqliteQueue(tmp_path / "q")
    assert queue.counts()["inbox"] == QueueCounts(1, 1, 0, 0)
    assert (taken(queue).receives, queue.receive("inbox", 0)) == (2, None)


def test_close_wakes_receivers(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    queue.send("starts", b"", delay_seconds=600)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(queue.receive, name, None) for name in ("inbox", "inbox", "starts", "ends")]
        assert not queue.closed
        queue.close()
        assert [future.result(PATIENCE) for future in waiting] == [None] * 4
    assert queue.closed
    assert queue.receive("inbox") is None
    with pytest.raises(Unavailable):
        queue.send("inbox", b"")


def test_waiting_receivers_each_get_their_message(tmp_path: Path) -> None:
    """Due times that change while receivers sleep: none may be missed, whoever had the watch."""
    queue = SqliteQueue(tmp_path / "q")
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(queue.receive, "inbox", PATIENCE) for _ in range(6)]
        for number, delay in enumerate((0.4, 0.2, 0, 0.3, 0.1, 0)):
            queue.send("inbox", b"%d" % number, delay_seconds=delay)
        bodies = [message.body for future in waiting if (message := future.result(PATIENCE))]
    assert sorted(bodies) == [b"%d" % number for number in range(6)]


def test_a_receiver_that_leaves_passes_the_watch_on(tmp_path: Path) -> None:
    """The one that was told of a due time gives up before it; the other, asleep without a limit, must take over."""
    queue = SqliteQueue(tmp_path / "q")
    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(queue.receive, "inbox", 0.6)
        assert not hasty.done()
        time.sleep(0.1)  # the hasty one should sleep first; if it does not, the test is only easier to pass
        patient = pool.submit(queue.receive, "inbox", None)
        time.sleep(0.1)
        queue.send("inbox", b"later", delay_seconds=1.2)
        try:
            assert hasty.result(PATIENCE) is None
            message = patient.result(PATIENCE)
        finally:
            queue.close()
    assert message is not None
    assert message.body == b"later"


def test_an_idle_receiver_sleeps(tmp_path: Path) -> None:
    """No polling: a receiver with nothing to wait for uses no processor time at all."""
    queue = SqliteQueue(tmp_path / "q")
    used: list[float] = []
    started = threading.Event()

    def receive() -> None:
        started.set()
        before = time.thread_time()
        queue.receive("inbox")
        used.append(time.thread_time() - before)

    thread = threading.Thread(target=receive)
    thread.start()
    assert started.wait(PATIENCE)
    thread.join(0.5)
    queue.close()
    thread.join(PATIENCE)
    assert used[0] < 0.05


POISON = """
import os, signal, sys
from pathlib import Path
from runvoy_agent.local.queue import SqliteQueue
queue = SqliteQueue(Path(sys.argv[1]))
message = queue.receive("inbox", 0)
if message is None:
    sys.exit(7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_message_that_kills_its_reader_ends_up_dead(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "q")
    queue.send("inbox", b"poison")
    queue.close()
    codes = [
        subprocess.run([sys.executable, "-c", POISON, str(tmp_path / "q")], check=False).returncode for _ in range(6)
    ]
    assert codes == [-signal.SIGKILL] * 5 + [7]
    (dead,) = SqliteQueue(tmp_path / "q").dead_letters("inbox")
    assert (dead.body, dead.receives) == (b"poison", 5)


SEND_FOREVER = """
import sys
from pathlib import Path
from runvoy_agent.local.queue import SqliteQueue
queue = SqliteQueue(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    queue.send("inbox", b"%d" % number)
    print(number, flush=True)
    number += 1
"""


def test_kill_loses_no_message_that_was_sent(tmp_path: Path) -> None:
    told: set[bytes] = set()
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", SEND_FOREVER, str(tmp_path / "q"), str(round_number * 10_000)],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            for _ in range(5 + 31 * round_number):
                told.add(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            told.update(line.strip() for line in process.stdout.read().splitlines(keepends=True) if b"\n" in line)
    queue = SqliteQueue(tmp_path / "q")
    received: set[bytes] = set()
    while (message := queue.receive("inbox", 0)) is not None:
        queue.acknowledge(message.message_id)
        received.add(message.body)
    assert told <= received
    assert len(received - told) <= 4
