"""The seam between a run and what takes over its output: the spool on one machine, uploads on AWS."""

from __future__ import annotations

from abc import ABC, abstractmethod

FIRST_DELAY_SECONDS = 0.1


class Shipper(ABC):
    """Takes over named objects (`logs/00000001`, `started.json`, `result.json`) in the order they are put.

    `failure` is why the last try failed, for the log. `due` is when `tick` has something to do (monotonic).
    """

    failure = ""

    @property
    def is_behind(self) -> bool:
        """More was put than could be taken over so far: let the next chunk grow."""
        return False

    @property
    def is_busy(self) -> bool:
        """As much waits as may, and it is being taken over: read no further output now, so that the command waits."""
        return False

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """As much waits as may, and nothing is being taken over: drop output and count it."""

    @property
    def due(self) -> float | None:
        return None

    def delay_seconds(self) -> float:
        """How long a chunk may grow from its first byte on."""
        return FIRST_DELAY_SECONDS

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Take over `data` as `name`, now or as soon as that works, after what was put before."""

    def tick(self, now: float) -> None:  # noqa: B027 - most have nothing to do in time
        """Do what is due."""
