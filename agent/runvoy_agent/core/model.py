"""What the deployment keeps: the documents behind the record keys. Times are aware UTC."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.states import TERMINAL, Reason, State

Isolation = Literal["process", "container"]


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A member. `name` is what executions are owned by, in this one form everywhere."""

    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The public half of a member's key."""

    key_id: str
    public_key: bytes
    user: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class InboxGrantee(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may have uploads under way: the reconciler looks for lost ones under its prefix."""

    key_id: str
    granted_at: datetime


class Reconciled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When the last whole round of the reconciler began: the next looks at what changed since. `listed_at`, of the inbox:
    when the last one began that looked through all of it."""

    at: datetime
    listed_at: datetime | None = None


class ExecutionLock(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lock an execution asked for; `fence` is set when it was granted."""

    name: str
    fence: int | None = None


class LockRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lock's queue of execution ids, its head first. `fence` rises at each grant and never restarts."""

    name: str
    queue: tuple[str, ...] = ()
    fence: int = 0


class Execution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of an execution's life.

    `granted`: it heads the queue of every lock it named (or named none), so it may start. `stopped_at`: its task was seen
    stopped, or it never had one, and its locks are released; until then it is active, whatever its state. `missing_since`:
    the first look at which the platform knew no task of it; one look may be mistaken. `launches`: how many of its launches
    may be under way or went through, that is, were begun and did not come to nothing for all that is known.
    """

    execution_id: str
    state: State
    owner: str
    key_id: str
    content_digest: str
    object_sha256: str
    command: tuple[str, ...] | str
    isolation: Isolation
    timeout_seconds: int
    issued_at: datetime
    admitted_at: datetime
    updated_at: datetime
    granted: bool
    granted_at: datetime | None = None
    locks: tuple[ExecutionLock, ...] = ()
    queue_timeout_seconds: int | None = None
    name: str | None = None
    image: str | None = None
    cpu: int | None = None
    memory_mib: int | None = None
    labels: dict[str, str] = {}
    reason: Reason | None = None
    message: str = ""
    attempt: int = 0
    starting_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    stopped_at: datetime | None = None
    missing_since: datetime | None = None
    launches: int = 0
    exit_code: int | None = None
    signal: int | None = None
    lines: int | None = None
    chunks: int | None = None
    lost_bytes: int = 0

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_active(self) -> bool:
        return self.stopped_at is None


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The canonical bytes of the request that was admitted, exactly as they were signed. Never changes."""

    execution_id: str
    payload: bytes


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one object in the inbox was refused, so that every delivery of it gets the same answer."""

    key_id: str
    request_id: str
    object_sha256: str
    at: datetime
    code: ErrorCode
    message: str
    hint: str = ""


class Nonce(msgspec.Struct, frozen=True, kw_only=True):
    """A control call that was used up."""

    key_id: str
    used_at: datetime


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision: who, what, when and how it went. Written in the same commit as what it tells of."""

    event_id: str
    at: datetime
    actor: str
    action: str
    outcome: str
    execution_id: str | None = None
    key_id: str | None = None
    message: str = ""
