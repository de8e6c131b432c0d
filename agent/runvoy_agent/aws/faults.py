"""What AWS's errors mean in the words of the ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from runvoy_agent.ports import Unavailable

# The request itself is wrong, whatever the state of the world: a bug, or a value that somebody let through.
_BUGS = frozenset(
    {
        "IdempotentParameterMismatchException",
        "InvalidAction",
        "InvalidParameterValue",
        "MissingParameter",
        "SerializationException",
        "ValidationException",
    }
)

THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})
"""The call was not made, and may be made later."""


def code_of(error: ClientError) -> str:
    """The error's code, without what some services put before it or after."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code.rpartition("#")[2].partition(":")[0]


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def tries_of(error: ClientError) -> int:
    """How often the client made the call that this is the answer to."""
    return 1 + int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def message_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", "")) or code_of(error)


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn what a call raises into Unavailable, but for bugs, which stay, and wrong values, which are ValueErrors.

    A call that means something by an error catches it inside.
    """
    try:
        yield
    except ParamValidationError as error:
        raise ValueError(f"{what}: {error}") from error
    except ClientError as error:
        if code_of(error) in _BUGS:
            raise
        raise Unavailable(f"{what}: {code_of(error)}: {message_of(error)}") from error
    except BotoCoreError as error:
        raise Unavailable(f"{what}: {error}") from error


def reasons_of(error: ClientError) -> list[str]:
    """The code of each write that a cancelled transaction names; the others are left out."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])
    return [str(reason["Code"]) for reason in reasons if reason.get("Code", "None") != "None"]
