"""What passes between the deployment and the runner: the payload in, started.json and result.json out.

The runner uses the standard library alone, so it writes these as plain JSON by its own code; tests hold both ends to the
same shapes. started.json and result.json are `{"body": "<JSON text>", "mac": "<hex>"}`: the MAC, HMAC-SHA256 under the
execution key over the kind, a newline and the body, proves that the object came from inside this execution.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Literal, TypeVar

import msgspec

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.hidden import repr_without
from runvoy_protocol.logs import MAX_LINE_NUMBER, MAX_TIME_MS

MAX_RUN_OBJECT_BYTES = 64 * 1024
GRACE_SECONDS = 30

# The command may hold the execution key, so a well-signed object may still say anything: a time no datetime can hold, or
# an exit code of 256, which would leave a client as 0.
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_LINE_NUMBER)]


class RunnerPayload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All a runner needs. `env` holds every variable the run adds, `secrets` the values (base64 in JSON) to be set as
    variables and masked in the output."""

    execution_id: str
    attempt: int
    execution_key: str
    command: tuple[str, ...] | str
    timeout_seconds: int
    grace_seconds: int = GRACE_SECONDS
    env: dict[str, str] = {}
    secrets: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return repr_without(self, "execution_key", "secrets")


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    execution_id: str
    attempt: int
    started_at_ms: _TimeMs
    pid: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the command ended. `exit_code` is its own (128 + n for signal n), null if it never was there."""

    execution_id: str
    attempt: int
    outcome: Literal["exited", "signalled", "exec_failed", "setup_failed", "timed_out", "killed"]
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None
    message: str
    started_at_ms: _TimeMs | None
    ended_at_ms: _TimeMs
    lines: _Count
    chunks: _Count
    lost_bytes: _Count


class _Signed(msgspec.Struct, frozen=True):
    body: str
    mac: str


B = TypeVar("B", RunStarted, RunResult)
_KINDS: dict[type[msgspec.Struct], bytes] = {RunStarted: b"started", RunResult: b"result"}


def execution_key(deployment_secret: bytes, execution_id: str, attempt: int) -> bytes:
    """The 32-byte key under which one attempt's runner signs."""
    return hmac.digest(deployment_secret, f"runvoy execution key v1\n{execution_id}\n{attempt}".encode(), "sha256")


def mac_of(key: bytes, kind: bytes, body: str) -> str:
    return hmac.new(key, kind + b"\n" + body.encode(), hashlib.sha256).hexdigest()


def open_signed(raw: bytes, schema: type[B], key: bytes, execution_id: str, attempt: int) -> B:
    """Verify and decode started.json or result.json; SIGNATURE_INVALID or INVALID_REQUEST if it is not this attempt's."""
    if len(raw) > MAX_RUN_OBJECT_BYTES:
        raise RunvoyError(ErrorCode.TOO_LARGE, f"{schema.__name__} is over {MAX_RUN_OBJECT_BYTES:,} bytes")
    try:
        signed = msgspec.json.decode(raw, type=_Signed)
        expected = mac_of(key, _KINDS[schema], signed.body)
        if not hmac.compare_digest(expected.encode(), signed.mac.encode()):
            raise RunvoyError(ErrorCode.SIGNATURE_INVALID, f"{schema.__name__} was not made inside this execution")
        opened = msgspec.json.decode(signed.body, type=schema)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{schema.__name__} is malformed: {error}") from error
    if (opened.execution_id, opened.attempt) != (execution_id, attempt):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{schema.__name__} is of another execution or attempt")
    return opened
