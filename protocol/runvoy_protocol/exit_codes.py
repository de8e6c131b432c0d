"""The exit codes of `run` and `wait` that are not the command's own (docs/cli.md)."""

from __future__ import annotations

EXIT_GAVE_UP = 120
EXIT_REFUSED = 121
EXIT_LOCK_HELD = 122
EXIT_KILLED = 123
EXIT_TIMED_OUT = 124
EXIT_FAILED = 125

EXIT_CODES_OF_RUNVOY = {
    EXIT_GAVE_UP: "gave up waiting",
    EXIT_REFUSED: "refused",
    EXIT_LOCK_HELD: "lock held",
    EXIT_KILLED: "killed",
    EXIT_TIMED_OUT: "timed out",
    EXIT_FAILED: "runvoy or the platform failed",
}
