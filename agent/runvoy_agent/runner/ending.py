"""How a run ends, as far as it is known, and the clock by which it is timed."""

from __future__ import annotations

import time


class Clock:
    """The machine's time when the command was started, and a monotonic clock from there: whoever sets the machine's time
    moves no deadline, and no run ends before it began."""

    def __init__(self) -> None:
        self.started_at_ms = time.time_ns() // 1_000_000
        self.started = time.monotonic()

    def now_ms(self) -> int:
        return self.started_at_ms + round((time.monotonic() - self.started) * 1000)


class Ending:
    """How the run ends. `outcome` is final once it is set: what came first is what it was."""

    def __init__(self) -> None:
        self.outcome = ""
        self.message = ""
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.at_ms: int | None = None  # when the command itself was seen to have ended
        self.survivors = 0

    def settle(self, outcome: str, message: str) -> None:
        if not self.outcome:
            self.outcome, self.message = outcome, message
