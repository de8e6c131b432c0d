"""The embedded stack's threads: each takes from one queue and runs that queue's handler."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from runvoy_agent.local.queue import LocalQueueName, SqliteQueue
from runvoy_agent.ports import Message, Unavailable

log = logging.getLogger("runvoy.worker")

THREADS: Mapping[LocalQueueName, int] = {"inbox": 2, "ranges": 1, "starts": 3, "bulk": 2, "ends": 3}
_LONGEST_PAUSE_SECONDS = 30.0
# Once there is room on the disk again, who waits for a run's end shall not wait for this.
_LONGEST_OUTAGE_PAUSE_SECONDS = 5.0


class Worker:
    """Runs the handlers until it is closed. A delivery is acknowledged when its handler returned, and released to come
    again, later each time, when it raised. While the world fails (a full disk) it is held: an outage is no fault of the
    message, and must not bury it among the dead letters.

    What batches bring has threads of its own, for admission and for starts: it takes no turn of anybody else's."""

    def __init__(
        self,
        queue: SqliteQueue,
        handlers: Mapping[LocalQueueName, Callable[[bytes], None]],
        wait_for_room: Callable[[LocalQueueName], bool],
    ) -> None:
        self._queue = queue
        self._handlers = handlers
        self._wait_for_room = wait_for_room
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(name,), name=f"{name}-{number}", daemon=True)
            for name, count in THREADS.items()
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Close the queue and wait for the deliveries under way. What is not done by then is delivered again."""
        self._closing.set()
        self._queue.close()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _work(self, name: LocalQueueName) -> None:
        while not self._queue.closed:
            try:
                self._work_once(name)
            except Unavailable:
                log.exception("the queue %s cannot be read", name)
            except Exception:
                log.exception("the worker of %s failed", name)

    def _work_once(self, name: LocalQueueName) -> None:
        # Not taking a start while there is no room for it keeps the order in which they came.
        if name in ("starts", "bulk") and not self._wait_for_room(name):
            return
        message = self._queue.receive(name)
        if message is None:
            return
        try:
            self._handle(name, message)
        except Exception:
            log.exception("delivery %s of %s failed (receive %d)", message.message_id, name, message.receives)
            self._queue.release(message.message_id, min(0.5 * 2**message.receives, _LONGEST_PAUSE_SECONDS))
        else:
            self._queue.acknowledge(message.message_id)

    def _handle(self, name: LocalQueueName, message: Message) -> None:
        pause_seconds = 0.5
        while True:
            try:
                return self._handlers[name](message.body)
            except Unavailable as error:
                log.warning("delivery %s of %s waits: %s", message.message_id, name, error)
            self._queue.extend(message.message_id, _LONGEST_PAUSE_SECONDS * 2)
            if self._closing.wait(pause_seconds):
                raise Unavailable("the stack is stopping")
            pause_seconds = min(pause_seconds * 2, _LONGEST_OUTAGE_PAUSE_SECONDS)
