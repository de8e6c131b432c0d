"""What passes between the deployment and the runner: the payload in, started.json and result.json out.

The runner uses the standard library alone, so it writes these as plain JSON by its own code; tests hold both ends to the
same shapes. started.json and result.json are `{"body": "<JSON text>", "mac": "<hex>"}`: the MAC, HMAC-SHA256 under the
execution key over the kind, a newline and the body, proves that the object came from inside this execution.

A runner that uploads (it is no neighbour of the deployment's disk) has a RunGrant in its payload, and renews it by a call
that carries the same kind of MAC.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import datetime, timedelta
from typing import Annotated, Literal, TypeVar

import msgspec

from runvoy_protocol import ids
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.hidden import repr_without
from runvoy_protocol.instants import Instant
from runvoy_protocol.logs import MAX_LINE_NUMBER, MAX_TIME_MS

MAX_RUN_OBJECT_BYTES = 64 * 1024
GRACE_SECONDS = 30
MAX_CHUNK_OBJECT_BYTES = 16 * 1024 * 1024
CHUNK_CONTENT_TYPE = "application/gzip"
REPORT_CONTENT_TYPE = "application/json"
START_SECONDS = 600
SHIP_SECONDS = 600
GIT_SECONDS = 600
RUNNER_SCHEME = "Runvoy-Runner"
RUNNER_CALL_LIFETIME = timedelta(seconds=60)

# The command may hold the execution key, so a well-signed object may still say anything: a time no datetime can hold, or
# an exit code of 256, which would leave a client as 0.
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_LINE_NUMBER)]
_Commit = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")]


class UploadPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A presigned POST policy: one multipart form to `url`, `key` and `Content-Type`, then `fields`, then `file`."""

    url: str
    fields: dict[str, str]
    content_type: str
    max_bytes: int


class RunGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What lets a runner upload: chunks under `{key_prefix}logs/` by `logs`, started.json and result.json by `reports`.

    A POST to `renew_url`, signed as RunnerCall has it, gives the next one.
    """

    key_prefix: str
    logs: UploadPolicy
    reports: UploadPolicy
    expires_at: Instant
    renew_url: str


class GitCheckout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the runner clones before the command, which then begins in `path` of it. `depth` 0 is the whole history; no ref is
    the repository's own choice. All of it must be done within `timeout_seconds`."""

    repo: str
    ref: str = ""
    path: str = ""
    depth: int = 1
    timeout_seconds: int = GIT_SECONDS


class RunnerPayload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All a runner needs. Values of secrets are bytes, in JSON base64. Its repr hides what nobody may read in a log."""

    execution_id: str
    attempt: int
    execution_key: str  # hex
    command: tuple[str, ...] | str
    timeout_seconds: int
    grace_seconds: int = GRACE_SECONDS  # from SIGTERM to SIGKILL
    env: dict[str, str] = {}  # every variable that the run adds
    secrets: dict[str, bytes] = {}  # by variable: set for the command, and masked in its output
    start_seconds: int = START_SECONDS  # in a task: how long to wait for the command's container
    ship_seconds: int = SHIP_SECONDS  # in a task: how long after the command's end its output may still be uploaded
    grant: RunGrant | None = None  # by which to upload; None where the runner spools on the deployment's own disk
    git: GitCheckout | None = None
    # By the variables of git_sources.CREDENTIALS: for the clone alone, and masked.
    git_credentials: dict[str, bytes] = {}
    max_log_bytes: int = 0  # what the log keeps of the output, the rest is counted and lost; 0 is no bound

    def __repr__(self) -> str:
        return repr_without(self, "execution_key", "secrets", "grant", "git_credentials")


class RunStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """started.json: the command runs. `pid` is what its runner waits for: the command itself, the client of its container, or in
    a task the shell that runs it. `git_commit` is as in RunResult."""

    execution_id: str
    attempt: int
    started_at_ms: _TimeMs
    pid: int
    git_commit: _Commit | None = None


class RunResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """result.json: how the command ended. `exit_code` is its own (128 + n for signal n), null if it never ran. `git_commit` is
    the full SHA of what was checked out for it."""

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
    git_commit: _Commit | None = None


class _Signed(msgspec.Struct, frozen=True):
    body: str
    mac: str


B = TypeVar("B", RunStarted, RunResult)
_KINDS: dict[type[msgspec.Struct], bytes] = {RunStarted: b"started", RunResult: b"result"}


def execution_key(deployment_secret: bytes, execution_id: str, attempt: int) -> bytes:
    """The 32-byte key under which one attempt's runner signs."""
    return hmac.digest(deployment_secret, f"runvoy execution key v1\n{execution_id}\n{attempt}".encode(), "sha256")


def mac_of(key: bytes, kind: bytes, body: str) -> str:
    """The MAC of a runner's word, in hex. `kind` is `started`, `result` or `call`: none of them passes for another."""
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


class RunnerCall(msgspec.Struct, frozen=True, kw_only=True):
    """A runner's call of the control API: `Runvoy-Runner {execution_id}.{attempt}.{issued_at_ms}.{mac}`.

    The MAC is that of the kind `call` over method, target (as sent), issued_at_ms and the body's SHA-256 in hex, a line each.
    """

    execution_id: str
    attempt: int
    issued_at_ms: int
    mac: str

    def is_signed(self, key: bytes, method: str, target: str, body: bytes) -> bool:
        """Whether the MAC is right for this very call."""
        expected = mac_of(key, b"call", _call_text(method, target, self.issued_at_ms, body))
        return hmac.compare_digest(expected.encode(), self.mac.encode())

    def issued_near(self, now: datetime) -> bool:
        """Whether it was made within its lifetime, by a clock that is right."""
        return abs(now.timestamp() * 1000 - self.issued_at_ms) <= RUNNER_CALL_LIFETIME.total_seconds() * 1000


_CALL = re.compile(r"([0-9a-f]{32})\.([1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,14})\.([0-9a-f]{64})\Z")


def runner_authorization(
    key: bytes, execution_id: str, attempt: int, method: str, target: str, issued_at_ms: int, body: bytes = b""
) -> str:
    """The value of the Authorization header for a runner's call."""
    mac = mac_of(key, b"call", _call_text(method, target, issued_at_ms, body))
    return f"{RUNNER_SCHEME} {execution_id}.{attempt}.{issued_at_ms}.{mac}"


def parse_runner_authorization(header: str) -> RunnerCall:
    """The parts of the header, not yet verified; SIGNATURE_INVALID if it is none."""
    scheme, _, text = header.partition(" ")
    match = _CALL.match(text)
    if scheme != RUNNER_SCHEME or match is None or not ids.is_execution_id(match[1]):
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the call is not signed by a runner")
    return RunnerCall(execution_id=match[1], attempt=int(match[2]), issued_at_ms=int(match[3]), mac=match[4])


def _call_text(method: str, target: str, issued_at_ms: int, body: bytes) -> str:
    return f"{method}\n{target}\n{issued_at_ms}\n{hashlib.sha256(body).hexdigest()}"
