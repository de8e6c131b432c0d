"""How a run ends, as far as it is known."""

from __future__ import annotations


class Ending:
    """How the run ends. `outcome` is final once it is set: what came first is what it was."""

    def __init__(self) -> None:
        self.outcome = ""
        self.message = ""
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.survivors = 0

    def settle(self, outcome: str, message: str) -> None:
        if not self.outcome:
            self.outcome, self.message = outcome, message
