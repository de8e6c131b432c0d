"""The Queue port on SQLite, with the receiving end for the embedded worker.

The file remembers messages, how often each was received, and the dead ones. What is due when is known in memory only: a
heap per queue, and a condition that receivers sleep on until a message is due or one is sent. Nothing polls. One process
at a time may own the file: it alone delivers, so what was in flight when it opens belongs to the dead and is due at once.
"""

from __future__ import annotations

import heapq
import sqlite3
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.database import Database
from runvoy_agent.ports import Clock, Message, QueueName, QueueState, Unavailable

LocalQueueName = Literal["ranges"] | QueueName
"""Ranges of batches are messages of the inbox queue. Here they lie apart, so that they stand before nobody's run request."""

QUEUES: tuple[LocalQueueName, ...] = ("ranges", *get_args(QueueName))

_SCHEMA = """
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, body BLOB NOT NULL,
                       sent_at INTEGER NOT NULL, due_at INTEGER NOT NULL,
                       receives INTEGER NOT NULL DEFAULT 0, died_at INTEGER);
CREATE INDEX dead_messages ON messages (queue, id) WHERE died_at IS NOT NULL
"""


_AFTER_A_FAULT_SECONDS = 1.0


class DeadLetter(NamedTuple):
    """A message that was received `receives` times and never acknowledged."""

    message_id: str
    body: bytes
    receives: int
    sent_at: datetime
    died_at: datetime


class QueueCounts(NamedTuple):
    """Messages of one queue: due now, due later, delivered and not yet acknowledged, given up."""

    visible: int
    delayed: int
    in_flight: int
    dead: int


class _Pending:
    """A living message. `due_at` is monotonic: when it may be delivered (again)."""

    __slots__ = ("due_at", "in_flight", "queue", "receives")

    def __init__(self, queue: LocalQueueName, due_at: float, receives: int) -> None:
        self.queue: LocalQueueName = queue
        self.due_at = due_at
        self.receives = receives
        self.in_flight = False


class SqliteQueue:
    """The queues in one file. Every method may be called from any thread."""

    def __init__(
        self, path: Path, *, visibility_seconds: float = 60, max_receives: int = 5, clock: Clock | None = None
    ) -> None:
        """Open the queues: what was in flight is due at once, or dead if that was its last receive."""
        self._visibility_seconds = visibility_seconds
        self._max_receives = max_receives
        self._clock = clock or SystemClock()
        self._database = Database(path, _SCHEMA, version=1)
        self._lock = threading.Lock()  # guards everything below
        self._changed = {queue: threading.Condition(self._lock) for queue in QUEUES}
        self._heaps: dict[LocalQueueName, list[tuple[float, int]]] = {queue: [] for queue in QUEUES}
        self._pending: dict[int, _Pending] = {}
        self._closed = False
        self._load()

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, queue: LocalQueueName, body: bytes, *, delay_seconds: float = 0) -> None:
        """As the port says. Sends of several threads share an fsync."""
        _check_queue(queue)
        sent_at = self._now_milliseconds()
        row = (queue, body, sent_at, sent_at + int(delay_seconds * 1000))
        number = self._database.write(lambda connection: _insert(connection, row))
        with self._lock:
            self._pending[number] = _Pending(queue, 0, 0)
            self._schedule(number, delay_seconds)

    def receive(self, queue: LocalQueueName, timeout: float | None = None) -> Message | None:
        """Wait for a message that is due and take it; None when `timeout` seconds passed, or after `close`.

        The message is in flight until it is acknowledged, released, or `visibility_seconds` passed. The receive is
        counted before this returns and survives the death of this process: what kills its reader ends up dead.
        Raises Unavailable; the message is then due again in a second.
        """
        _check_queue(queue)
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while True:
            number = self._take(queue, give_up_at)
            if number is None:
                return None
            try:
                row = self._database.write(
                    lambda connection, number=number: _count_receive(  # type: ignore[misc]
                        connection, number, self._max_receives, self._now_milliseconds()
                    ),
                    durable=False,
                )
            except BaseException as error:
                with self._lock:
                    self._return(number, _AFTER_A_FAULT_SECONDS)
                if self._closed and isinstance(error, Unavailable):
                    return None
                raise
            if row is not None:
                body, receives = row
                with self._lock:
                    if number in self._pending:
                        self._pending[number].receives = receives
                return Message(str(number), body, receives)
            self._forget(number)  # it died, or was acknowledged late by an earlier receiver

    def acknowledge(self, message_id: str) -> None:
        """The message is done with. Repeating it is no error; a crash of the machine may still bring it back."""
        number = int(message_id)
        self._database.write(lambda connection: _delete(connection, number), durable=False)
        self._forget(number)

    def release(self, message_id: str, delay_seconds: float = 0) -> None:
        """The delivery failed: due again after the delay, or dead if that was its last receive."""
        number, now = int(message_id), self._now_milliseconds()
        due_at = now + int(delay_seconds * 1000)
        dead = self._database.write(
            lambda connection: _release(connection, number, due_at, self._max_receives, now), durable=False
        )
        if dead:
            self._forget(number)
            return
        with self._lock:
            self._return(number, delay_seconds)

    def extend(self, message_id: str, seconds: float) -> None:
        """Keep a message that is in flight for `seconds` from now. Not if it was handed to another receiver already."""
        with self._lock:
            pending = self._pending.get(int(message_id))
            if pending is not None and pending.in_flight:
                self._schedule(int(message_id), seconds)

    def counts(self) -> dict[LocalQueueName, QueueCounts]:
        with self._database.read() as connection:
            dead = dict(
                connection.execute("SELECT queue, count(*) FROM messages WHERE died_at IS NOT NULL GROUP BY queue")
            )
        now = time.monotonic()
        found: Counter[tuple[LocalQueueName, str]] = Counter()
        with self._lock:
            for pending in self._pending.values():
                state = "visible" if pending.due_at <= now else "in_flight" if pending.in_flight else "delayed"
                found[pending.queue, state] += 1
        return {
            queue: QueueCounts(
                found[queue, "visible"], found[queue, "delayed"], found[queue, "in_flight"], dead.get(queue, 0)
            )
            for queue in QUEUES
        }

    def oldest_due(self) -> dict[LocalQueueName, float]:
        """Of each queue with messages that are due: for how many seconds the oldest has been."""
        now = self._now_milliseconds()
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT queue, min(due_at) FROM messages WHERE died_at IS NULL AND due_at <= ? GROUP BY queue", (now,)
            ).fetchall()
        return {queue: (now - due_at) / 1000 for queue, due_at in rows}

    def dead_letters(self, queue: LocalQueueName) -> list[DeadLetter]:
        """The dead of a queue, oldest first."""
        _check_queue(queue)
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT id, body, receives, sent_at, died_at FROM messages"
                " WHERE queue = ? AND died_at IS NOT NULL ORDER BY id",
                (queue,),
            ).fetchall()
        return [
            DeadLetter(str(number), body, receives, _time(sent_at), _time(died_at))
            for number, body, receives, sent_at, died_at in rows
        ]

    def redrive(self, queue: LocalQueueName, most: int | None = None) -> int:
        """Make the dead of a queue due again, as if they were new, the oldest `most` of them; how many."""
        _check_queue(queue)
        now = self._now_milliseconds()
        numbers = self._database.write(lambda connection: _revive(connection, queue, now, most))
        with self._lock:
            for number in numbers:
                self._pending[number] = _Pending(queue, 0, 0)
                self._schedule(number, 0)
        return len(numbers)

    def close(self) -> None:
        """Wake every receiver (they return None) and close the file."""
        with self._lock:
            self._closed = True
            for changed in self._changed.values():
                changed.notify_all()
        self._database.close()

    # -- what is due when

    def _load(self) -> None:
        now = self._now_milliseconds()
        self._database.write(lambda connection: _bury_spent(connection, self._max_receives, now), durable=False)
        with self._database.read() as connection, self._lock:
            for number, queue, sent_at, due_at, receives in connection.execute(
                "SELECT id, queue, sent_at, due_at, receives FROM messages WHERE died_at IS NULL ORDER BY due_at, id"
            ):
                self._pending[number] = _Pending(queue, 0, receives)
                # Sent in the future: the clock was set back since, and its times say nothing.
                self._schedule(number, 0 if sent_at > now else (due_at - now) / 1000)

    def _take(self, queue: LocalQueueName, give_up_at: float | None) -> int | None:
        """Wait for a message that is due and mark it as in flight."""
        changed = self._changed[queue]
        with self._lock:
            try:
                while not self._closed:
                    now = time.monotonic()
                    due_at = self._next_due_at(queue)
                    if due_at is not None and due_at <= now:
                        _, number = heapq.heappop(self._heaps[queue])
                        self._pending[number].in_flight = True
                        self._schedule(number, self._visibility_seconds)
                        return number
                    if give_up_at is not None and give_up_at <= now:
                        return None
                    wake_at = min((at for at in (due_at, give_up_at) if at is not None), default=None)
                    changed.wait(None if wake_at is None else max(0.0, wake_at - now))
                return None
            finally:
                # Whoever leaves passes the watch on: another receiver must now wait for the next due time.
                changed.notify()

    def _next_due_at(self, queue: LocalQueueName) -> float | None:
        heap = self._heaps[queue]
        while heap:
            due_at, number = heap[0]
            pending = self._pending.get(number)
            if pending is not None and pending.due_at == due_at:
                return due_at
            heapq.heappop(heap)  # acknowledged, or put off since
        return None

    def _schedule(self, number: int, delay_seconds: float) -> None:
        pending = self._pending[number]
        pending.due_at = time.monotonic() + delay_seconds
        heapq.heappush(self._heaps[pending.queue], (pending.due_at, number))
        self._changed[pending.queue].notify()

    def _return(self, number: int, delay_seconds: float) -> None:
        pending = self._pending.get(number)
        if pending is not None:
            pending.in_flight = False
            self._schedule(number, delay_seconds)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._pending.pop(number, None)

    def _now_milliseconds(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _check_queue(queue: str) -> None:
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}")


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _insert(connection: sqlite3.Connection, row: tuple[str, bytes, int, int]) -> int:
    cursor = connection.execute("INSERT INTO messages (queue, body, sent_at, due_at) VALUES (?, ?, ?, ?)", row)
    number = cursor.lastrowid
    assert number is not None  # noqa: S101  # an INSERT has one
    return number


def _count_receive(
    connection: sqlite3.Connection, number: int, max_receives: int, now_milliseconds: int
) -> tuple[bytes, int] | None:
    """The message with this receive counted; None if it is gone, dead, or dies of having used up its receives."""
    row = connection.execute(
        "SELECT body, receives FROM messages WHERE id = ? AND died_at IS NULL", (number,)
    ).fetchone()
    if row is None:
        return None
    body, receives = row
    if receives >= max_receives:
        connection.execute("UPDATE messages SET died_at = ? WHERE id = ?", (now_milliseconds, number))
        return None
    connection.execute("UPDATE messages SET receives = ? WHERE id = ?", (receives + 1, number))
    return body, receives + 1


def _delete(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("DELETE FROM messages WHERE id = ?", (number,))


def _release(
    connection: sqlite3.Connection, number: int, due_at: int, max_receives: int, now_milliseconds: int
) -> bool:
    """Whether the message is dead now."""
    row = connection.execute("SELECT receives FROM messages WHERE id = ? AND died_at IS NULL", (number,)).fetchone()
    if row is None or row[0] >= max_receives:
        connection.execute(
            "UPDATE messages SET died_at = ? WHERE id = ? AND died_at IS NULL", (now_milliseconds, number)
        )
        return True
    connection.execute("UPDATE messages SET due_at = ? WHERE id = ?", (due_at, number))
    return False


def _bury_spent(connection: sqlite3.Connection, max_receives: int, now_milliseconds: int) -> None:
    connection.execute(
        "UPDATE messages SET died_at = ? WHERE died_at IS NULL AND receives >= ?", (now_milliseconds, max_receives)
    )


def _revive(connection: sqlite3.Connection, queue: str, now_milliseconds: int, most: int | None) -> list[int]:
    dead = connection.execute(
        "SELECT id FROM messages WHERE queue = ? AND died_at IS NOT NULL ORDER BY id LIMIT ?",
        (queue, -1 if most is None else most),
    )
    numbers = [number for (number,) in dead.fetchall()]
    connection.executemany(
        "UPDATE messages SET died_at = NULL, receives = 0, due_at = ? WHERE id = ?",
        [(now_milliseconds, number) for number in numbers],
    )
    return numbers


class LocalQueueCare:
    """The queues of one file, looked at (ports.QueueCare)."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue

    def states(self) -> list[QueueState]:
        oldest = self._queue.oldest_due()
        return [
            QueueState(name, counts.visible, counts.delayed, counts.in_flight, counts.dead, oldest.get(name))
            for name, counts in self._queue.counts().items()
        ]

    def redrive(self, queue: str, most: int) -> int:
        _check_queue(queue)
        return self._queue.redrive(cast("LocalQueueName", queue), most)
