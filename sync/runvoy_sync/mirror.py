"""The executions that are being copied, by a few threads. What is complete is forgotten, so memory does not grow with history."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_protocol.control import LogGrant
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.logs import claimed_size
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus, exit_code_of
from runvoy_sync.copies import FOLDER, RESULT, Copy, Disturbed
from runvoy_sync.ended import LARGE_BYTES, copy_ended, is_all
from runvoy_sync.finishing import Finished, Finishing
from runvoy_sync.index import Index, line_of
from runvoy_sync.retries import pause_after
from runvoy_sync.tell import Teller, fault
from runvoy_sync.tree import Tree

WORKERS = 12  # most of their time goes into waiting for answers and for the disk
WRITERS = 2  # of logs that are at hand: a second one writes while the first decodes
MOST_WATCHED = 1_000  # more that have not ended are seen by the listing alone, until they end
MOST_PENDING = 512  # ended ones that wait to be copied; whoever lists waits with them
MOST_BYTES_AT_HAND = 8 * 1024 * 1024  # of such logs, as they came
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 0.7  # of one that runs: a line is to be there 1.5 s after it was printed
_WAITING_PAUSE_SECONDS = 1.0  # of one that has not begun
HANDED_OVER = -1.0  # in place of a delay: its last step is Finishing's, and it is looked at again only if that fails
_GONE = (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN)

OnEnd = Callable[[str, int], None]


class _Watched:
    """One execution's place in a worker's plan. `copy` is None before the first look and after a failure."""

    __slots__ = (
        *("copy", "execution_id", "failures", "is_handed_over", "is_linked", "is_new", "is_over", "is_pending", "log"),
        *("pause", "status", "worker"),
    )

    def __init__(
        self, execution_id: str, status: ExecutionStatus | None, log: LogGrant | None, worker: _Worker, *, is_new: bool
    ) -> None:
        self.execution_id = execution_id
        self.status = status
        self.log = log  # what a listing brought of its log, until it is used
        self.worker = worker
        self.copy: Copy | None = None
        self.pause = _FIRST_PAUSE_SECONDS
        self.failures = 0
        self.is_new = is_new  # its folder was made for it, and nothing of it is there
        self.is_linked = False
        self.is_handed_over = False  # for the last step, which is taken once; plans made before may still be there
        self.is_over = False  # a plan made while it was looked at the last time may still be there
        # It counts as one that only needs copying until it is known to run on.
        self.is_pending = status is None or status.is_terminal


class Mirror:
    """Copies what it is told to watch. `on_end` is called, by a worker, with the exit code of each that is complete."""

    def __init__(self, tree: Tree, client: Client, teller: Teller, on_end: OnEnd) -> None:
        self._tree = tree
        self._teller = teller
        self._on_end = on_end
        self._index = Index(tree)
        self._changed = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._pending_count = 0
        self._bytes_at_hand = 0
        self.is_stopping = False
        self._finishing = Finishing(tree, self._index, self.pending)
        self._workers = [_Worker(self, client.sibling()) for _ in range(WORKERS)]
        self._writers = [_Worker(self, client.sibling()) for _ in range(WRITERS)]
        self.threads: list[threading.Thread] = [*self._workers, *self._writers, self._finishing]

    def start(self) -> None:
        self._index.recover()
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Let the workers end after what they are at."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify_all()
        for worker in (*self._workers, *self._writers):
            worker.wake()
        self._finishing.stop()

    def resume(self) -> bool:
        """Watch what an earlier daemon left incomplete; False if that is more than can be watched."""
        for name in self._tree.names(FOLDER):
            if self.is_stopping:
                return True
            if is_execution_id(name) and not self.is_complete(name):
                if self.count() >= MOST_WATCHED:
                    return False
                self.watch(name)
        return True

    def is_watched(self, execution_id: str) -> bool:
        with self._changed:
            return execution_id in self._watched

    def watch(self, execution_id: str, status: ExecutionStatus | None = None, log: LogGrant | None = None) -> bool:
        """Copy an execution until it is complete; False if that is being done."""
        with self._changed:
            known = self._watched.get(execution_id)
            if known is not None:
                if status is not None and known.status is not None and status.state is not known.status.state:
                    known.worker.plan(known, 0.0)
                return False
        is_new = self._tree.make_folder(FOLDER, execution_id)  # from here on a restart finds it
        entry = _Watched(execution_id, status, log, self._worker_for(execution_id, log), is_new=is_new)
        with self._changed:
            # One look: a result is there before its execution is forgotten, so what is neither known nor complete is new.
            if execution_id in self._watched or (not is_new and self.is_complete(execution_id)):
                return False
            self._watched[execution_id] = entry
            self._pending_count += entry.is_pending
            self._bytes_at_hand += _size_of(log)
        entry.worker.plan(entry, 0.0)
        return True

    def is_complete(self, execution_id: str) -> bool:
        return self._tree.exists(FOLDER, execution_id, RESULT)

    def exit_code_of(self, execution_id: str) -> int:
        """Of a complete one."""
        return int(self.result_of(execution_id)["exit_code"])

    def result_of(self, execution_id: str) -> dict[str, Any]:
        """What result.json of a complete one holds, an exit code at least; INTERNAL if somebody damaged it."""
        raw = self._tree.read(FOLDER, execution_id, RESULT)
        try:
            found = msgspec.json.decode(raw or b"", type=dict[str, Any])
            int(found["exit_code"])
            return found
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
            raise RunvoyError(ErrorCode.INTERNAL, f"{FOLDER}/{execution_id}/{RESULT} is damaged") from error

    def count(self) -> int:
        with self._changed:
            return len(self._watched)

    def pending(self) -> int:
        """How many are not known to run on: ended ones, and those nothing is known of yet."""
        with self._changed:
            return self._pending_count

    def await_room(self) -> None:
        """Wait until few ended ones wait to be copied, with little of their logs at hand."""

        def has_room() -> bool:
            return self._pending_count < MOST_PENDING and self._bytes_at_hand < MOST_BYTES_AT_HAND

        with self._changed:
            self._changed.wait_for(lambda: self.is_stopping or has_room())

    def _worker_for(self, execution_id: str, log: LogGrant | None) -> _Worker:
        number = int(execution_id[-8:], 16)
        if log is None or not log.chunks:
            return self._workers[number % WORKERS]
        # With its log at hand it waits for nobody, and a history does not hold up those that run. Of small logs one thread writes more
        # than two that wait for each other.
        return self._writers[number % WRITERS if sum(map(claimed_size, log.chunks)) >= LARGE_BYTES else 0]

    # -- for the workers

    def look(self, client: Client, one: _Watched) -> float | None:
        """One look at an execution; in how many seconds the next is due: HANDED_OVER, or None if there is none to come."""
        if one.is_over:
            return None
        if one.is_handed_over:
            return HANDED_OVER
        try:
            if self._step(client, one):
                return HANDED_OVER
        except Disturbed:
            one.copy = None
            return 0.0
        except (RunvoyError, OSError) as error:
            return self._failed(one, error)
        except Exception as error:  # noqa: BLE001 - a fault with one execution must not end the thread, unseen
            return self._failed(one, fault(error))
        if one.failures:
            one.failures = 0
            self._teller.fine("copying")
        return one.pause

    def forget(self, one: _Watched) -> None:
        if one.is_over:
            return
        one.is_over = True
        self._teller.ended(one.execution_id)
        with self._changed:
            if self._watched.pop(one.execution_id, None) is not None:
                self._pending_count -= one.is_pending
            self._changed.notify_all()

    def _step(self, client: Client, one: _Watched) -> bool:
        if self._was_copied_at_once(client, one):
            return True
        if one.copy is None:
            one.copy = Copy(self._tree, client, one.execution_id, one.status, self._log_of(one))
        step = one.copy.step()
        status = one.copy.status
        if status is None:
            return False
        if not one.is_linked:
            self._index.link(status)
            one.is_linked = True
        if step.is_done:
            self._complete(one, status, one.copy.log_is_whole)
            return True
        self._note(one, status)
        if status.state in (State.RUNNING, State.TERMINATING):
            self._teller.running(status, one.copy.last_line)
        longest = _WAITING_PAUSE_SECONDS if status.state is State.QUEUED else _LONGEST_PAUSE_SECONDS
        one.pause = _FIRST_PAUSE_SECONDS if step.is_news else min(one.pause * 1.5, longest)
        return False

    def _was_copied_at_once(self, client: Client, one: _Watched) -> bool:
        """Copy an execution that has ended into its new folder, if that can be done; tried once, before anything else."""
        is_new, one.is_new = one.is_new, False
        if not is_new or one.status is None or one.log is None or not is_all(one.status, one.log):
            return False
        log = self._log_of(one)
        if log is None or not copy_ended(self._tree, client, one.status, log):
            return False
        self._index.link(one.status)
        self._complete(one, one.status, log_is_whole=True)
        return True

    def _log_of(self, one: _Watched) -> LogGrant | None:
        """Take what a listing brought of its log, to be used now: it is given out once."""
        log, one.log = one.log, None
        with self._changed:
            self._bytes_at_hand -= _size_of(log)
            self._changed.notify_all()
        return log

    def _note(self, one: _Watched, status: ExecutionStatus) -> None:
        with self._changed:
            one.status = status
            if one.is_pending != status.is_terminal:
                one.is_pending = status.is_terminal
                self._pending_count += 1 if one.is_pending else -1
                self._changed.notify_all()

    def _complete(self, one: _Watched, status: ExecutionStatus, log_is_whole: bool) -> None:
        """Hand it over for the last step: it is looked at again only if that fails."""

        def done(error: RunvoyError | OSError | None) -> None:
            if error is not None:
                delay = self._failed(one, error)
                one.is_handed_over = False
                one.worker.plan(one, delay or 0.0)
                return
            self._teller.over(status, log_is_whole=log_is_whole)
            self.forget(one)  # before its end is told: who is woken by that looks at what is left
            self._on_end(one.execution_id, exit_code_of(status))

        one.is_handed_over = True
        self._finishing.add(Finished(one.execution_id, line_of(status), done))

    def _failed(self, one: _Watched, error: RunvoyError | OSError) -> float | None:
        one.copy = None
        if isinstance(error, RunvoyError) and error.code in _GONE:
            self._teller.lost(one.execution_id, error)
            self._on_end(one.execution_id, error.exit_code)
            return None
        self._teller.trouble("copying", error)
        one.failures += 1
        return pause_after(one.failures)


def _size_of(log: LogGrant | None) -> int:
    return 0 if log is None else sum(map(len, log.chunks))


class _Worker(threading.Thread):
    """Looks at its executions when they are due, with a connection of its own."""

    def __init__(self, mirror: Mirror, client: Client) -> None:
        super().__init__(name="mirror", daemon=True)
        self._mirror = mirror
        self._client = client
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, _Watched]] = []
        self._planned: dict[str, float] = {}
        self._order = itertools.count()
        self._look_seconds = 0.0

    def plan(self, one: _Watched, delay: float) -> None:
        """Look at it then; an earlier plan of the same execution stands if it is earlier."""
        at = time.monotonic() + delay
        with self._condition:
            if self._planned.get(one.execution_id, at + 1) <= at:
                return
            self._planned[one.execution_id] = at
            heapq.heappush(self._due, (at, next(self._order), one))
            self._condition.notify()

    def wake(self) -> None:
        with self._condition:
            self._condition.notify()

    def run(self) -> None:
        while True:
            one = self._next()
            if one is None:
                return
            began = time.monotonic()
            delay = self._mirror.look(self._client, one)
            if delay is None:
                self._mirror.forget(one)
                continue
            if delay == HANDED_OVER:
                continue
            self._look_seconds += (time.monotonic() - began - self._look_seconds) / 8
            # Half of the time at most is spent on looking, however many there are.
            self.plan(one, max(delay, 2 * self._look_seconds * len(self._planned)))

    def _next(self) -> _Watched | None:
        with self._condition:
            while True:
                if self._mirror.is_stopping:
                    return None
                if not self._due:
                    self._condition.wait()
                    continue
                at, _, one = self._due[0]
                left = at - time.monotonic()
                if left > 0:
                    self._condition.wait(left)
                    continue
                heapq.heappop(self._due)
                if self._planned.get(one.execution_id) == at:
                    del self._planned[one.execution_id]
                    return one
