"""What a round of the reconciler tells of."""

from __future__ import annotations

from typing import NamedTuple


class Repair(NamedTuple):
    """What was wrong with what, and what was done."""

    subject: str
    problem: str
    action: str
