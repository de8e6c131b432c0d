"""Between the thread that hears of runs and the disk: takes in spools and passes on what ended, and never forgets one.

Bells of one execution that come while it waits its turn are one: taking in a spool takes in all of it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from runvoy_agent.ports import Unavailable

log = logging.getLogger("runvoy.pump")

_THREADS = 2
_AFTER_A_FAULT_SECONDS = 1.0


class Pump:
    """`ingest(execution_id)` takes in a spool; `on_stopped(execution_id, attempt)` says that nothing of the run lives,
    after its spool was taken in. What fails (a full disk) is tried again until it works."""

    def __init__(self, ingest: Callable[[str], None], on_stopped: Callable[[str, int], None]) -> None:
        self._ingest = ingest
        self._on_stopped = on_stopped
        self._changed = threading.Condition()
        self._pending: OrderedDict[str, int | None] = OrderedDict()  # execution id → attempt that stopped, if it did
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"ingest-{number}", daemon=True) for number in range(_THREADS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def bell(self, execution_id: str) -> None:
        """There is something in the execution's spool. Only hands over; may be called before `start`."""
        with self._changed:
            self._pending.setdefault(execution_id, None)
            self._changed.notify()

    def stopped(self, execution_id: str, attempt: int) -> None:
        """Nothing of the run lives any more. Only hands over; may be called before `start`."""
        with self._changed:
            self._pending[execution_id] = attempt
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """End the threads; what was not passed on is found again by the next stack."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing.is_set())
                if self._closing.is_set():
                    return
                execution_id, attempt = self._pending.popitem(last=False)
            try:
                self._ingest(execution_id)
                if attempt is not None:
                    self._on_stopped(execution_id, attempt)
            except Unavailable as error:
                log.warning("the spool of execution %s waits: %s", execution_id, error)
                self._again(execution_id, attempt)
            except Exception:
                log.exception("the spool of execution %s could not be taken in; trying again", execution_id)
                self._again(execution_id, attempt)

    def _again(self, execution_id: str, attempt: int | None) -> None:
        self._closing.wait(_AFTER_A_FAULT_SECONDS)
        with self._changed:
            if attempt is not None or execution_id not in self._pending:
                self._pending[execution_id] = attempt
            self._changed.notify()
