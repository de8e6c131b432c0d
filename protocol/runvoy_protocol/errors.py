"""The closed set of error codes, and the one exception that carries them.

Receipts, control calls and the command line all speak in these codes; customers match on them, so a code is never
renamed and rarely added. docs/errors.md is generated from `ERRORS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from runvoy_protocol.exit_codes import EXIT_FAILED, EXIT_LOCK_HELD, EXIT_REFUSED


class ErrorCode(StrEnum):
    """Why something was refused or failed."""

    INVALID_REQUEST = "INVALID_REQUEST"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_EXPIRED = "KEY_EXPIRED"
    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    CLOCK_SKEW = "CLOCK_SKEW"
    WRONG_DEPLOYMENT = "WRONG_DEPLOYMENT"
    FORBIDDEN = "FORBIDDEN"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    SECRET_NOT_FOUND = "SECRET_NOT_FOUND"
    SECRET_EXISTS = "SECRET_EXISTS"
    LOCK_HELD = "LOCK_HELD"
    LOCK_QUEUE_FULL = "LOCK_QUEUE_FULL"
    ID_CONFLICT = "ID_CONFLICT"
    CONFLICT = "CONFLICT"
    TOO_LARGE = "TOO_LARGE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    UNAVAILABLE = "UNAVAILABLE"
    CAPACITY = "CAPACITY"
    INTERNAL = "INTERNAL"


class ErrorSpec(NamedTuple):
    """What is true of every error of a code.

    `exit_code` is that of `run` and `wait`; every other command exits 1. `retryable` means that the same call may succeed
    later, unchanged.
    """

    meaning: str
    hint: str
    retryable: bool
    exit_code: int


ERRORS: Mapping[ErrorCode, ErrorSpec] = {
    ErrorCode.INVALID_REQUEST: ErrorSpec(
        "The request is malformed or asks for something that is not allowed in any deployment.",
        "Mend what the message names; `runvoy version` shows both ends' versions if a field is unknown to the deployment.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.SIGNATURE_INVALID: ErrorSpec(
        "The signature does not match the signed bytes, or the object lies under another key's prefix.",
        "Check that the API key is whole and belongs to this deployment.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.KEY_UNKNOWN: ErrorSpec(
        "No key with this id is registered in the deployment.",
        "Check RUNVOY_API_KEY, RUNVOY_ENDPOINT and the profile: it may be another deployment's key. Or ask an admin for a new one.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.KEY_REVOKED: ErrorSpec(
        "The key, or the user it belongs to, was revoked.", "Ask an admin for a new key.", False, EXIT_REFUSED
    ),
    ErrorCode.KEY_EXPIRED: ErrorSpec(
        "The key's own expiry has passed.",
        "Make a new one with another key of yours (`runvoy keys create`), or ask an admin for one.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.REQUEST_EXPIRED: ErrorSpec(
        "The request arrived after its expires_at; it was not started.",
        "Submit it again; it is signed anew with the same id. If that comes again, set this machine's clock.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.CLOCK_SKEW: ErrorSpec(
        "The client's clock is too far from the server's.",
        "Set this machine's clock; the message carries the server's time.",
        True,
        EXIT_REFUSED,
    ),
    ErrorCode.WRONG_DEPLOYMENT: ErrorSpec(
        "The request was signed for another deployment.",
        "Check RUNVOY_DEPLOYMENT, RUNVOY_ENDPOINT and the profile; `runvoy version` shows which deployment answers.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.FORBIDDEN: ErrorSpec(
        "The user's role, or a limit on the key, does not allow this.",
        "Ask an admin for the role the message names.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.IMAGE_NOT_FOUND: ErrorSpec(
        "No such image is registered, or it cannot be pulled.", "See `runvoy images list`.", False, EXIT_REFUSED
    ),
    ErrorCode.SECRET_NOT_FOUND: ErrorSpec(
        "A secret the request names does not exist, or its owner has not shared it.",
        "See `runvoy secrets list`.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.SECRET_EXISTS: ErrorSpec(
        "A secret of this name exists.", "Choose another name, or update it.", False, EXIT_REFUSED
    ),
    ErrorCode.LOCK_HELD: ErrorSpec(
        "A lock is held by another execution and the request asked not to wait.",
        "Submit it without `if_locked: fail` to wait for it.",
        True,
        EXIT_LOCK_HELD,
    ),
    ErrorCode.LOCK_QUEUE_FULL: ErrorSpec(
        "A lock has as many waiters as a lock may have (1,000).",
        "Try again when the queue is shorter.",
        True,
        EXIT_REFUSED,
    ),
    ErrorCode.ID_CONFLICT: ErrorSpec(
        "Another request already has this id; that one is untouched.",
        "Use another `id`, or the very same content to get the first one's result.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.CONFLICT: ErrorSpec(
        "Somebody else changed this at the same time.", "Look at it again, then repeat the change.", True, EXIT_FAILED
    ),
    ErrorCode.TOO_LARGE: ErrorSpec(
        "A message, a field or an upload is over its limit.",
        "The message names the limit. A command can fetch large inputs itself.",
        False,
        EXIT_REFUSED,
    ),
    ErrorCode.QUOTA_EXCEEDED: ErrorSpec(
        "A quota of the deployment is used up: its owner has as many unfinished executions as they may.",
        "Try again when some have ended, or ask an admin; `runvoy whoami` shows yours.",
        True,
        EXIT_REFUSED,
    ),
    ErrorCode.NOT_FOUND: ErrorSpec(
        "There is no such thing, or you may not see it.", "Check the id and the deployment.", False, EXIT_REFUSED
    ),
    ErrorCode.UNAVAILABLE: ErrorSpec(
        "The deployment cannot be reached, or lacks something it needs.",
        "Try again; see the message.",
        True,
        EXIT_FAILED,
    ),
    ErrorCode.CAPACITY: ErrorSpec(
        "The platform has no room for another task now.", "Try again later.", True, EXIT_FAILED
    ),
    ErrorCode.INTERNAL: ErrorSpec(
        "Something in runvoy failed that should not.", "Please report it with what `--debug` prints.", True, EXIT_FAILED
    ),
}


OF_CLOCKS = frozenset({ErrorCode.CLOCK_SKEW, ErrorCode.REQUEST_EXPIRED})
"""What may be a wrong clock's doing: such an error carries the server's time, and a client that keeps the offset may try again."""


class RunvoyError(Exception):
    """An error of a known code: what happened, why, and what to do.

    `details` holds JSON values for programs, e.g. `server_time` of a CLOCK_SKEW. `retryable` is its code's, unless it is set
    to False: where the call may have been carried out, and would be once more.
    """

    def __init__(
        self, code: ErrorCode, message: str, hint: str = "", details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint or ERRORS[code].hint
        self.details: dict[str, object] = dict(details or {})
        self.retryable = ERRORS[code].retryable

    @property
    def exit_code(self) -> int:
        """The exit code of `run` and `wait`."""
        return ERRORS[self.code].exit_code

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[type[RunvoyError], tuple[ErrorCode, str, str, dict[str, object]], dict[str, object]]:
        return type(self), (self.code, self.message, self.hint, self.details), {"retryable": self.retryable}
