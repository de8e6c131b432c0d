"""How long the daemon waits before it tries again what failed: a deployment that is away is neither missed for long nor
pressed."""

from __future__ import annotations

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0
_MOST_DOUBLINGS = 8  # more than it takes to reach the longest pause; without a bound the power would become endless


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row, one at least: twice as long each time, up to half a minute."""
    return min(_FIRST_SECONDS * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), _LONGEST_SECONDS)
