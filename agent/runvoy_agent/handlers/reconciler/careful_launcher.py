"""The launcher as a round of the reconciler sees it: a platform that does not answer holds nothing up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from runvoy_agent.ports import Attempt, Clock, Launch, Launcher, LaunchOutcome, TaskState, Unavailable

log = logging.getLogger("runvoy.reconcile")

MOST_FAILED = 3
"""So many calls that fail one after another, and no more are made in this round: each was tried several times, and a platform
that throttles is not helped by more of them."""

LONGEST = timedelta(minutes=1)
"""How long a round looks at tasks one by one, and has them stopped: there is more to mend."""

R = TypeVar("R")


class Unanswered(Exception):
    """The platform was not asked, or did not answer. Not Unavailable, which would end the round."""


class CarefulLauncher:
    """One round's. `unanswered` counts what raised Unanswered."""

    def __init__(self, launcher: Launcher, clock: Clock) -> None:
        self._launcher = launcher
        self._clock = clock
        self._until: datetime | None = None
        self._failed = 0
        self.unanswered = 0

    @property
    def relaunch_window(self) -> timedelta | None:
        return self._launcher.relaunch_window

    def start(self, launch: Launch) -> LaunchOutcome:
        return self._launcher.start(launch)

    def stop(self, execution_id: str, attempt: int) -> None:
        self._ask(execution_id, lambda: self._launcher.stop(execution_id, attempt))

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        return self._ask(execution_id, lambda: self._launcher.describe(execution_id, attempt))

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        try:
            return self._launcher.survey(attempts)
        except Unavailable as error:
            log.warning("tasks could not be looked at together: %s", error)
            return {}

    def _ask(self, execution_id: str, ask: Callable[[], R]) -> R:
        now = self._clock.now()
        self._until = self._until or now + LONGEST
        if self._failed >= MOST_FAILED or now > self._until:
            self.unanswered += 1
            raise Unanswered(execution_id)
        try:
            answer = ask()
        except Unavailable as error:
            self._failed += 1
            self.unanswered += 1
            log.warning("the platform did not answer about the task of %s: %s", execution_id, error)
            raise Unanswered(execution_id) from error
        self._failed = 0
        return answer
