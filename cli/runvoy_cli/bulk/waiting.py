"""Waiting for many executions: by calls that tell of 500 at a time, not by a read of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from runvoy_cli.deployment.client import Client
from runvoy_cli.terminal.render import span
from runvoy_cli.terminal.screen import Row, Screen
from runvoy_protocol import ids
from runvoy_protocol.control import MAX_STATUSES, KnownExecution
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.states import TERMINAL, State
from runvoy_protocol.status import ExecutionStatus, exit_code_of

PATIENCE_SECONDS = 60.0
"""With a deployment that cannot be reached, and with ids that it does not know yet: their batch may be on its way."""

_ON_ITS_WAY = timedelta(minutes=70)  # an upload older than this is not on its way any more
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_BAR_CELLS = 24
_PENDING = "PENDING"


class Ended(NamedTuple):
    """What became of one execution: its status, or why there is none."""

    execution_id: str
    status: ExecutionStatus | None
    error: RunvoyError | None

    @property
    def exit_code(self) -> int:
        if self.status is not None:
            return exit_code_of(self.status)
        return 0 if self.error is None else self.error.exit_code


class BulkWait:
    """Follows many executions to their ends. `deadline` is of the monotonic clock."""

    def __init__(
        self,
        client: Client,
        wanted: Sequence[str],
        deadline: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.total = len(set(wanted))
        self.last: dict[str, ExecutionStatus] = {}
        self._client = client
        self._open = dict.fromkeys(wanted)
        self._deadline = deadline
        self._clock = clock
        self._sleep = sleep
        self._states = dict.fromkeys(self._open, _PENDING)
        self._news_at = clock()
        self._lost_since: float | None = None

    @property
    def left(self) -> Sequence[str]:
        """Those that have not ended, in the order given."""
        return list(self._open)

    def counts(self) -> Counter[str]:
        """How many are in each state; of those that were refused or are unknown, REFUSED."""
        return Counter(list(self._states.values()))

    def ends(self) -> Iterator[Ended]:
        """Each execution when it is seen to have ended. Stops at the deadline; `left` are the others then."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            is_news = False
            for page in self._look():
                for known in page:  # all of it, before anybody leaves at the first end in it
                    is_news = self._note(known) or is_news
                for ended in filter(None, map(self._end_of, page)):
                    if ended.status is None:
                        self._states[ended.execution_id] = "REFUSED"
                    del self._open[ended.execution_id]
                    yield ended
            if not self._open:
                return
            pause = _FIRST_PAUSE_SECONDS if is_news else min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            left = pause if self._deadline is None else min(pause, self._deadline - self._clock())
            if left <= 0:
                return
            self._sleep(left)

    def _look(self) -> Iterator[Sequence[KnownExecution]]:
        """What is known of all that have not ended, once round, answer by answer."""
        asked = list(self._open)
        while asked:
            try:
                found = self._client.statuses(asked[:MAX_STATUSES])
            except RunvoyError as error:
                if error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL) or not self._endure():
                    raise
                return
            self._lost_since = None
            yield found
            asked = asked[len(found) :]
            if asked and self._deadline is not None and self._clock() >= self._deadline:
                return

    def _endure(self) -> bool:
        if self._lost_since is None:
            self._lost_since = self._clock()
        return self._clock() - self._lost_since <= PATIENCE_SECONDS

    def _note(self, known: KnownExecution) -> bool:
        """Keep what is known; whether it is news."""
        state = _PENDING if known.status is None else known.status.state.value
        is_news = self._states.get(known.execution_id) != state
        self._states[known.execution_id] = state
        if known.status is not None:
            self.last[known.execution_id] = known.status
        if is_news:
            self._news_at = self._clock()
        return is_news

    def _end_of(self, known: KnownExecution) -> Ended | None:
        if known.status is not None:
            return Ended(known.execution_id, known.status, None) if known.status.state in TERMINAL else None
        if known.receipt is not None:
            return Ended(known.execution_id, None, known.receipt.error())
        if known.state == "unknown" and not self._may_be_on_its_way(known.execution_id):
            text = f"there is no execution {known.execution_id} that you may see"
            return Ended(known.execution_id, None, RunvoyError(ErrorCode.NOT_FOUND, text))
        return None

    def _may_be_on_its_way(self, execution_id: str) -> bool:
        made_at = ids.made_at(execution_id)
        if made_at is not None and made_at < self._client.now() - _ON_ITS_WAY:
            return False
        return self._clock() - self._news_at < PATIENCE_SECONDS


class BulkProgress:
    """A bar with counts by state, for a terminal."""

    def __init__(self, screen: Screen, waiting: BulkWait, now: Callable[[], datetime]) -> None:
        self._screen = screen
        self._waiting = waiting
        self._now = now
        self._began = now()

    def rows(self, _number: int) -> list[Row]:
        counts = self._waiting.counts()
        total = self._waiting.total
        ended = total - len(self._waiting.left)
        full, empty = ("█", "░") if self._screen.has_symbols else ("#", ".")
        cells = _BAR_CELLS * ended // total if total else _BAR_CELLS
        row = [
            (full * cells, "cyan"),
            (empty * (_BAR_CELLS - cells), "dim"),
            (f" {ended:,} of {total:,}", "bold"),
            (f" {span((self._now() - self._began).total_seconds())}", ""),
        ]
        for state in (_PENDING, *State, "REFUSED"):
            if counts[state]:
                row.append((f"  {state} {counts[state]:,}", _STYLES.get(state, "")))
        return [row]


_STYLES = {State.SUCCEEDED: "green", State.FAILED: "red", State.UNKNOWN: "red", "REFUSED": "red", _PENDING: "dim"}


def counted(counts: Counter[str]) -> str:
    """Counts by state in words: `SUCCEEDED 9,990, FAILED 10`."""
    return ", ".join(f"{state} {counts[state]:,}" for state in (_PENDING, *State, "REFUSED") if counts[state])
