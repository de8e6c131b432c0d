"""boto3, loaded when it is used, and its errors in words that say what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runvoy_protocol.errors import ErrorCode, RunvoyError

DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "UnauthorizedAccess",
    "AuthorizationError",
    "NotAuthorized",
    "403",
}
_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "AuthFailure",
    "RequestExpired",
}
_BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "InternalError", "SlowDown"}
_LOG_IN = "Check with `aws sts get-caller-identity`; set AWS_PROFILE, or log in again."


class Aws:
    """The clients of one account and region."""

    def __init__(self, region: str | None) -> None:
        """UNAVAILABLE without boto3; INVALID_REQUEST without a region."""
        boto3 = _boto3()
        with calling("reading the AWS configuration"):
            self._session = boto3.Session(region_name=region)
        if not self._session.region_name:
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST, "no AWS region is set", "Give --region, or set AWS_REGION or AWS_PROFILE."
            )
        self.region = str(self._session.region_name)
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str) -> Any:
        with self._lock, calling(f"opening a client of {service}"):
            if service not in self._clients:
                self._clients[service] = self._session.client(service)
            return self._clients[service]

    def account(self) -> str:
        with calling("asking AWS who you are"):
            return str(self.client("sts").get_caller_identity()["Account"])


def _boto3() -> Any:
    try:
        import boto3
    except ImportError as error:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            "`runvoy infra` needs boto3, which is not installed",
            "Install it with: pip install 'runvoy[aws]'",
        ) from error
    return boto3


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn boto3's errors into a RunvoyError that begins with `what` failed."""
    from botocore import exceptions

    try:
        yield
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
    ) as error:
        raise RunvoyError(ErrorCode.FORBIDDEN, f"{what}: there are no AWS credentials ({error})", _LOG_IN) from error
    except exceptions.ClientError as error:
        raise _told(what, error) from error
    except exceptions.ProfileNotFound as error:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST, f"{what}: {error}", "Set AWS_PROFILE to one that exists."
        ) from error
    except exceptions.BotoCoreError as error:
        # SSO tokens that ran out are among these.
        raise RunvoyError(ErrorCode.UNAVAILABLE, f"{what}: {error}", _LOG_IN) from error


def code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def message_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Message", "")) or str(error)


def _told(what: str, error: Any) -> RunvoyError:
    code, message = code_of(error), message_of(error)
    if code in DENIED:
        return RunvoyError(
            ErrorCode.FORBIDDEN,
            f"{what}: AWS does not allow it: {message}",
            "Use credentials with the rights that docs/aws.md lists under 'Rights to deploy'.",
        )
    if code in _CREDENTIALS:
        return RunvoyError(
            ErrorCode.FORBIDDEN, f"{what}: AWS does not take the credentials ({code}): {message}", _LOG_IN
        )
    if code in _BUSY:
        return RunvoyError(ErrorCode.UNAVAILABLE, f"{what}: AWS is busy ({code}): {message}", "Try again.")
    return RunvoyError(ErrorCode.UNAVAILABLE, f"{what}: {code}: {message}", "What AWS says is all there is to know.")
