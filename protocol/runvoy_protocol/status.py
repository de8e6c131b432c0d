"""status.json: a projection of an execution's record, with everything that a client shows."""

from __future__ import annotations

from typing import Literal, TypeGuard

import msgspec

from runvoy_protocol.costs import Cost
from runvoy_protocol.exit_codes import EXIT_FAILED, EXIT_KILLED, EXIT_TIMED_OUT
from runvoy_protocol.instants import Instant
from runvoy_protocol.states import TERMINAL, Reason, State


class LockStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One lock of an execution; `fence` is set once it was granted.

    Where the deployment is asked (not in status.json, which cannot know), a waiter's lock also has its `position` in the
    queue, the holder being 0, and the holder: its execution, whose it is, and since when it holds the lock (absent while
    the head of this queue itself waits for another lock).
    """

    name: str
    fence: int | None = None
    position: int | None = None
    holder: str | None = None
    holder_owner: str | None = None
    held_since: Instant | None = None


class GitStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The repository that was to be cloned for the command. `commit`, a full SHA, is what was checked out, once that is known."""

    repo: str
    ref: str = ""
    path: str = ""
    commit: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an execution waits, was refused or failed: `reason` for programs (see runvoy_protocol.explanations), `words` for
    people, and in `hint` what to do about it, if there is something."""

    reason: str
    words: str
    hint: str = ""


class ExecutionStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an execution. Times are aware UTC."""

    execution_id: str
    record_version: int  # only ever rises
    state: State
    owner: str
    key_id: str
    command: tuple[str, ...] | str  # shortened for display after 4,096 characters
    isolation: str
    timeout_seconds: int
    issued_at: Instant
    admitted_at: Instant
    version: int = 1
    reason: Reason | None = None
    message: str = ""
    name: str | None = None
    image: str | None = None  # the reference that runs
    image_name: str | None = None  # what it is registered as
    cpu: int | None = None
    memory_mib: int | None = None
    platform: str | None = None
    task_role: str | None = None
    labels: dict[str, str] = {}
    locks: tuple[LockStatus, ...] = ()
    starting_at: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    # The command's own (128 + n for signal n); None if it did not exit by itself, or nobody knows.
    exit_code: int | None = None
    signal: int | None = None
    attempt: int = 0
    lines: int | None = None  # of the log, once it is complete; so are `chunks`
    chunks: int | None = None
    lost_bytes: int = 0
    git: GitStatus | None = None
    playbook: str | None = None  # which it was made of
    cost: Cost | None = None
    explanation: Explanation | None = None  # why it waits or how it failed; None of one that runs or succeeded

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


def encode(status: ExecutionStatus) -> bytes:
    return msgspec.json.encode(status)


def decode(raw: bytes) -> ExecutionStatus:
    """Raises msgspec.ValidationError or DecodeError: the outbox is written by the deployment alone."""
    return msgspec.json.decode(raw, type=ExecutionStatus)


def exit_code_of(status: ExecutionStatus) -> int:
    """The exit code of `run` and `wait` for an execution that ended: the command's own, or 123 to 125."""
    if status.state is State.SUCCEEDED:
        return 0
    if status.state is State.STOPPED:
        return EXIT_KILLED
    if status.state is State.TIMED_OUT:
        return EXIT_TIMED_OUT
    if status.state is State.FAILED and _is_failure(status.exit_code):
        return status.exit_code
    return EXIT_FAILED


def decided_by(status: ExecutionStatus) -> Literal["command", "runvoy"]:
    """Whose exit code `exit_code_of` is; `--json` shows it, for a command may exit 124 by itself."""
    if status.state is State.SUCCEEDED or (status.state is State.FAILED and _is_failure(status.exit_code)):
        return "command"
    return "runvoy"


def _is_failure(exit_code: int | None) -> TypeGuard[int]:
    """Whether a process can exit with this code and have failed: 256 would leave the client as 0, a success."""
    return exit_code is not None and 1 <= exit_code <= 255
