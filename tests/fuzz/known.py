"""What fuzzing found and is not mended yet: it must not hide what it has not found.

An entry goes when its bug goes; tests/fuzz/test_fuzz_found.py holds an input of each and fails once it is mended.
"""

from __future__ import annotations

import traceback
from typing import NamedTuple


class Known(NamedTuple):
    target: str
    error: type[BaseException]
    function: str  # the innermost function of ours that it came through
    reason: str


KNOWN: tuple[Known, ...] = ()

# Pairs of a target and a bomb that would end the process of the tests, as long as they are not mended.
DEADLY: set[tuple[str, str]] = set()


def reason_of(target: str, error: BaseException) -> str | None:
    """Why an error of a target is let pass; None if it is not."""
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    for known in KNOWN:
        if known.target == target and isinstance(error, known.error) and known.function in functions:
            return known.reason
    return None
