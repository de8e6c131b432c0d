"""What ends a command otherwise than by an error of the deployment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runvoy_protocol.errors import ERRORS, ErrorCode, RunvoyError

SEE_HELP = "See `runvoy --help`, or `--help` after the command's name."
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell shows for any other program whose reader went away


class UsageProblem(RunvoyError):
    """The command line, the environment or the configuration is wrong; nothing was sent. Exit 2 in every command."""

    def __init__(self, message: str, hint: str = "", code: ErrorCode = ErrorCode.INVALID_REQUEST) -> None:
        super().__init__(code, message, hint or SEE_HELP)

    def __reduce__(self) -> tuple[type[UsageProblem], tuple[str, str, ErrorCode]]:  # type: ignore[override]
        return type(self), (self.message, self.hint, self.code)


@contextlib.contextmanager
def called_wrongly() -> Iterator[None]:
    """Around a check of what the command line says: what it finds wrong is a UsageProblem."""
    try:
        yield
    except RunvoyError as error:
        raise UsageProblem(error.message, "" if error.hint == ERRORS[error.code].hint else error.hint) from error


class ReaderGone(Exception):
    """Nobody reads stdout any more. No OSError: what bears with a broken connection must not bear with this. Exit 141."""


class GaveUp(Exception):
    """`--timeout` passed while waiting; the execution goes on. Exit 120."""


class Refused(Exception):
    """A refusal that a command waited for: its own exit code counts, in `submit` too."""

    def __init__(self, error: RunvoyError) -> None:
        super().__init__(str(error))
        self.error = error
