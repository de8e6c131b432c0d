"""Run requests: what a member signs to have a command run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from runvoy_protocol import codec, git_sources, ids, keys
from runvoy_protocol.envelope import PayloadType, seal
from runvoy_protocol.errors import ErrorCode, RunvoyError

MAX_LIFETIME = timedelta(hours=1)
MAX_CLOCK_SKEW = timedelta(minutes=5)
MAX_LOCKS = 8
MAX_SECRETS = 64
MAX_LABELS = 32
MAX_LABEL_VALUE_LENGTH = 256
MAX_ARGUMENT_BYTES = 128 * 1024  # Linux's MAX_ARG_STRLEN: execve refuses a longer argument or variable
MAX_ENV_VALUE_BYTES = 128 * 1024 - 1024
MAX_TIMEOUT_SECONDS = 7 * 24 * 3600
MIN_CPU_UNITS, MAX_CPU_UNITS = 64, 16_384  # at most what Fargate has: 16 vCPU
MIN_MEMORY_MIB, MAX_MEMORY_MIB = 64, 122_880  # at most what Fargate has: 120 GiB
MAX_IMAGE_LENGTH = 512
MAX_RUN_NAME_LENGTH = 128  # of a playbook's name, too
DEFAULT_TIMEOUT_SECONDS = 600
RESERVED_ENV_PREFIXES = ("RUNVOY_", "ECS_", "AWS_CONTAINER_")

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}\Z")
NO_TIME = datetime.fromtimestamp(0, UTC)
"""In the place of the times that a request gets when it is sent, and of those that its content digest leaves out."""
NO_ID = "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15
"""In the place of the id that a request gets when it is sent: a UUIDv7 of 1970."""


class GitSource(msgspec.Struct, frozen=True, array_like=True):
    """A repository to clone before the command: its address, a branch, tag or full SHA, and a folder within it (git_sources).

    Signed as it is since version 1: a further field would make another canonical form. How deep, and with which secret, is
    told by variables.
    """

    repo: str
    ref: str = ""
    path: str = ""


class RunRequest(msgspec.Struct, frozen=True, array_like=True):
    """One command to run. Immutable once signed; `version` is the schema's.

    `command` is an argv, or one string for `/bin/sh -c`. `expires_at` bounds admission only. `timeout_seconds` is the
    command's deadline, `queue_timeout_seconds` bounds waiting. `cpu` is in Fargate units (1024 = one vCPU).
    `isolation` is empty (the deployment decides), `process` or `container`.
    """

    version: int
    deployment_id: str
    request_id: str
    issued_at: datetime
    expires_at: datetime
    command: tuple[str, ...] | str
    image: str | None = None
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    if_locked: Literal["wait", "fail"] = "wait"
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS
    queue_timeout_seconds: int | None = None
    cpu: int | None = None
    memory_mib: int | None = None
    git: GitSource | None = None
    playbook: str | None = None
    labels: dict[str, str] = {}
    name: str | None = None
    isolation: Literal["", "process", "container"] = ""


SCHEMAS = {1: RunRequest}


def encode(request: RunRequest) -> bytes:
    """The canonical bytes of a request."""
    return codec.encode(request)


def decode(payload: bytes) -> RunRequest:
    """Decode verified bytes and check every field; INVALID_REQUEST or TOO_LARGE otherwise."""
    request = codec.decode(payload, SCHEMAS, "run request")
    check(request)
    return request


def seal_request(request: RunRequest, signing_key: keys.SigningKey) -> bytes:
    """Check, encode and sign a request: the bytes of the inbox object."""
    check(request)
    payload = encode(request)
    raw = seal(PayloadType.RUN_REQUEST, payload, signing_key)
    if len(raw) > codec.MAX_ENVELOPE_BYTES:
        raise RunvoyError(
            ErrorCode.TOO_LARGE,
            f"the signed request has {len(raw):,} bytes; at most {codec.MAX_ENVELOPE_BYTES:,} are allowed",
            "Fetch large inputs in the command, instead of carrying them in arguments or variables.",
        )
    codec.decode(payload, SCHEMAS, "run request")  # what the deployment will ask of these bytes, asked here first
    return raw


def content_digest(request: RunRequest) -> bytes:
    """SHA-256 of the canonical request with its times zeroed: what makes two tries the same request."""
    return hashlib.sha256(encode(msgspec.structs.replace(request, issued_at=NO_TIME, expires_at=NO_TIME))).digest()


def playbook_digest(request: RunRequest, parameters: Collection[str]) -> str:
    """SHA-256 in hex of all that a request of a playbook runs, but for the variables that the playbook leaves to its caller:
    two requests with the same digest differ at most in those, in labels and name, and in how they wait."""
    fixed = {name: value for name, value in request.env.items() if name not in parameters}
    template = msgspec.structs.replace(
        request,
        deployment_id="",
        request_id="",
        issued_at=NO_TIME,
        expires_at=NO_TIME,
        env=fixed,
        if_locked="wait",
        queue_timeout_seconds=None,
        labels={},
        name=None,
    )
    return hashlib.sha256(encode(template)).hexdigest()


def is_name(text: str) -> bool:
    """Whether a lock, a secret or a label can have this name."""
    return _NAME.match(text) is not None


def env_name_problem(name: str) -> str | None:
    """Why no variable of a run can have this name; None if one can."""
    if not _ENV_NAME.match(name):
        return f"{name[:64]!r} is no name for an environment variable (letters, digits and _ only)"
    if name.startswith(RESERVED_ENV_PREFIXES):
        return f"the variable {name} is reserved: no name may begin with {', '.join(RESERVED_ENV_PREFIXES)}"
    return None


def check(request: RunRequest) -> None:
    """Refuse a request that no deployment would accept, naming every problem found."""
    problems = list(_problems(request))
    if not problems:
        return
    code = ErrorCode.TOO_LARGE if all(problem.too_large for problem in problems) else ErrorCode.INVALID_REQUEST
    raise RunvoyError(code, "; ".join(problem.text for problem in problems[:5]))


class _Problem(NamedTuple):
    text: str
    too_large: bool = False


def _problems(request: RunRequest) -> Iterator[_Problem]:
    if not ids.is_execution_id(request.request_id):
        yield _Problem("request_id is not a UUIDv7 or UUIDv8 as 32 lower-case hex digits")
    if not is_name(request.deployment_id):
        yield _Problem("deployment_id is empty or holds other characters than letters, digits and ._/:@+-")
    yield from _time_problems(request)
    yield from _command_problems(request.command)
    yield from _env_problems(request.env)
    yield from _name_problems("locks", request.locks, MAX_LOCKS)
    yield from _name_problems("secrets", request.secrets, MAX_SECRETS)
    yield from _label_problems(request.labels)
    yield from _limit_problems(request)
    yield from _text_problems(request)


def _time_problems(request: RunRequest) -> Iterator[_Problem]:
    for name, at in (("issued_at", request.issued_at), ("expires_at", request.expires_at)):
        if at.tzinfo is None:
            yield _Problem(f"{name} has no time zone")
            return
    # Compared as a difference: a sum may pass the year 9999, and the times are the signer's choice.
    if not timedelta(0) < request.expires_at - request.issued_at <= MAX_LIFETIME:
        yield _Problem("expires_at must be after issued_at, by one hour at most")


def _command_problems(command: tuple[str, ...] | str) -> Iterator[_Problem]:
    words = (command,) if isinstance(command, str) else command
    if not words or not words[0]:
        yield _Problem("the command is empty")
    for position, word in enumerate(words):
        if "\0" in word:
            yield _Problem(f"word {position} of the command holds a NUL character")
        if not is_utf8(word):
            yield _Problem(f"word {position} of the command is not valid UTF-8, which is all a request can carry")
        elif len(word.encode()) >= MAX_ARGUMENT_BYTES:
            yield _Problem(f"word {position} of the command is over {MAX_ARGUMENT_BYTES:,} bytes", too_large=True)


def is_utf8(text: str) -> bool:
    """Whether `text` can be encoded: arguments that are not UTF-8 reach Python as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _env_problems(env: dict[str, str]) -> Iterator[_Problem]:
    for name, value in env.items():
        name_problem = env_name_problem(name)
        if name_problem is not None:
            yield _Problem(name_problem)
        if "\0" in value:
            yield _Problem(f"the value of {name[:64]!r} holds a NUL character")
        if not is_utf8(value):
            yield _Problem(f"the value of {name[:64]!r} is not valid UTF-8, which is all a request can carry")
        elif len(value.encode()) > MAX_ENV_VALUE_BYTES:
            yield _Problem(f"the value of {name[:64]!r} is over {MAX_ENV_VALUE_BYTES:,} bytes", too_large=True)


def _name_problems(field: str, names: tuple[str, ...], most: int) -> Iterator[_Problem]:
    if len(names) > most:
        yield _Problem(f"{len(names)} {field} are named; at most {most} are allowed")
    if len(set(names)) != len(names):
        yield _Problem(f"{field} names one thing twice")
    for name in names:
        if not is_name(name):
            yield _Problem(f"{name[:64]!r} in {field} is no valid name (letters, digits and ._/:@+-, at most 128)")


def _label_problems(labels: dict[str, str]) -> Iterator[_Problem]:
    if len(labels) > MAX_LABELS:
        yield _Problem(f"{len(labels)} labels are set; at most {MAX_LABELS} are allowed")
    for name, value in labels.items():
        if not is_name(name) or len(value) > MAX_LABEL_VALUE_LENGTH or not value.isprintable():
            yield _Problem(f"the label {name[:64]!r} has an invalid name, or a value that is too long or not printable")


def _limit_problems(request: RunRequest) -> Iterator[_Problem]:
    if not 1 <= request.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        yield _Problem(f"timeout_seconds must be from 1 to {MAX_TIMEOUT_SECONDS:,}")
    if request.queue_timeout_seconds is not None and not 1 <= request.queue_timeout_seconds <= MAX_TIMEOUT_SECONDS:
        yield _Problem(f"queue_timeout_seconds must be from 1 to {MAX_TIMEOUT_SECONDS:,}")
    if request.cpu is not None and not MIN_CPU_UNITS <= request.cpu <= MAX_CPU_UNITS:
        yield _Problem(f"cpu must be from {MIN_CPU_UNITS} to {MAX_CPU_UNITS:,} units (1,024 are one vCPU)")
    if request.memory_mib is not None and not MIN_MEMORY_MIB <= request.memory_mib <= MAX_MEMORY_MIB:
        yield _Problem(f"memory_mib must be from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB:,}")


def _text_problems(request: RunRequest) -> Iterator[_Problem]:
    for field, text, most in (
        ("image", request.image, MAX_IMAGE_LENGTH),
        ("playbook", request.playbook, MAX_RUN_NAME_LENGTH),
        ("name", request.name, MAX_RUN_NAME_LENGTH),
    ):
        if text is not None and (not text or len(text) > most or not text.isprintable()):
            yield _Problem(f"{field} is empty, over {most} characters or not printable")
    if request.git is not None:
        for problem in git_sources.problems(request.git.repo, request.git.ref, request.git.path):
            yield _Problem(problem)
        if depth_problem := git_sources.depth_problem(request.env):
            yield _Problem(depth_problem)
