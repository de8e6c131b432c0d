"""Who waits for news of what: the gateway's waiting reads sleep here and are woken by the writes."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


def topic_of(object_key: str) -> str:
    """What an object is news of: its execution (log, status and result alike), else the object itself."""
    parts = object_key.split("/", 2)
    return f"{parts[0]}/{parts[1]}" if parts[0] == "executions" and len(parts) > 1 else object_key


class Changes:
    """Topics and the events of those who wait for them. At most `most_waiters` may wait at once."""

    def __init__(self, most_waiters: int) -> None:
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, set[threading.Event]] = defaultdict(set)
        self._places = threading.Semaphore(most_waiters)
        self._closed = False

    def announce(self, object_key: str) -> None:
        """Wake all who wait for news of the object's topic."""
        with self._lock:
            for event in self._waiting.get(topic_of(object_key), ()):
                event.set()

    @contextmanager
    def subscribed(self, object_key: str) -> Iterator[threading.Event | None]:
        """An event that any change of the topic from now on sets. Look at the object *after* entering: a change between
        a look and the subscription would be missed. None when as many wait already as may: then answer at once."""
        if not self._places.acquire(blocking=False):
            yield None
            return
        event = threading.Event()
        topic = topic_of(object_key)
        with self._lock:
            self._waiting[topic].add(event)
            if self._closed:
                event.set()
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]
            self._places.release()

    def close(self) -> None:
        """Wake everybody; nobody waits any more."""
        with self._lock:
            self._closed = True
            for events in self._waiting.values():
                for event in events:
                    event.set()
