"""The last step of a copy, for all that are ready together: make them durable, enter them in the index, put their results.

The outbox is the record, and a copy can be fetched again: so nothing of one has to survive a loss of power before it is said to
be whole. That is what a line in executions.jsonl and a result.json say. So first all files of all of them reach the disk, then
their lines do, then their results get their names. ADR 0011 has the reasons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runvoy_protocol.errors import RunvoyError
from runvoy_sync.copies import FOLDER, RESULT
from runvoy_sync.index import Index
from runvoy_sync.tell import fault
from runvoy_sync.tree import Tree

MOST_AT_ONCE = 256
MOST_LINE_BYTES = 1024 * 1024  # of one batch in the index, unless one alone has more
_GATHER_SECONDS = 0.1
_FEW = 4  # so many are synced file by file: syncfs waits for what others wrote to the file system, too


Trouble = RunvoyError | OSError


class Finished(NamedTuple):
    """A copy of which all is written, its result staged. `done` is called after its last step, with None or with what kept it
    from that."""

    execution_id: str
    line: bytes  # of the index
    done: Callable[[Trouble | None], None]


class Finishing(threading.Thread):
    """Finishes copies in the order in which they come. While one batch is on its way to the disk the next gathers."""

    def __init__(self, tree: Tree, index: Index, expected: Callable[[], int]) -> None:
        """`expected`: how many copies are not finished yet and may be soon, those that wait here included."""
        super().__init__(name="finishing", daemon=True)
        self._expected = expected
        self._tree = tree
        self._index = index
        self._changed = threading.Condition()
        self._waiting: list[Finished] = []
        self._is_stopping = False

    def add(self, one: Finished) -> None:
        with self._changed:
            self._waiting.append(one)
            self._changed.notify()

    def stop(self) -> None:
        """End after what is at hand; what waits is left, as a kill would leave it."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def run(self) -> None:
        while batch := self._next():
            for one, error in self.finish(batch):
                one.done(error)

    def _next(self) -> list[Finished]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopping)
            # A sync takes about as long for many as for one: where more are coming it is worth waiting for them, a little.
            self._changed.wait_for(
                lambda: self._is_stopping or len(self._waiting) >= min(self._expected(), MOST_AT_ONCE), _GATHER_SECONDS
            )
            if self._is_stopping:
                return []
            count = size = 0
            for one in self._waiting[:MOST_AT_ONCE]:
                size += len(one.line)
                if count and size > MOST_LINE_BYTES:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            return batch

    def finish(self, batch: Sequence[Finished]) -> list[tuple[Finished, Trouble | None]]:
        """Take the last step with all of them; for each, None or what kept it from that. Trouble with one copy's own folder
        does not keep the others from it."""
        outcomes: list[tuple[Finished, Trouble | None]] = []

        def each(step: Callable[[Finished], None], ones: Sequence[Finished]) -> list[Finished]:
            done = []
            for one in ones:
                try:
                    step(one)
                    done.append(one)
                except OSError as error:
                    outcomes.append((one, error))
            return done

        ready = list(batch)
        try:
            if not self._sync_all(ready):
                ready = each(lambda one: self._tree.sync_files(FOLDER, one.execution_id), ready)
            self._index.append({one.execution_id: one.line for one in ready})
            with self._tree.holding(FOLDER):
                ready = each(lambda one: self._tree.publish(FOLDER, one.execution_id, RESULT), ready)
            if not self._sync_all(ready):
                ready = each(lambda one: self._tree.sync_names(FOLDER, one.execution_id), ready)
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them is to be told
            told = error if isinstance(error, (RunvoyError, OSError)) else fault(error)
            return [*outcomes, *((one, told) for one in ready)]
        self._index.forget(one.execution_id for one in ready)
        return [*outcomes, *((one, None) for one in ready)]

    def _sync_all(self, ones: Sequence[Finished]) -> bool:
        """Sync the whole file system where that is the better way; whether it was done."""
        return len(ones) > _FEW and self._tree.sync_file_system(FOLDER)
