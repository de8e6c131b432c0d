"""What the deployment keeps: the documents behind the record keys. Times are aware UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from runvoy_protocol.costs import Rate
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.playbooks import PublishedPlaybook
from runvoy_protocol.states import TERMINAL, Reason, State
from runvoy_protocol.status import GitStatus

Isolation = Literal["process", "container"]


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A member. `name` is what executions are owned by, in this one form everywhere. `life` counts how often the user came
    back after a revocation: keys and claims of an earlier life are worth nothing. No time, for clocks disagree.
    `lives_ended_at` is when each earlier one was revoked, for people to read and for no decision. `max_unfinished` and
    `max_running`: how many unfinished executions they may have, and how many at once with a task;
    `max_log_mib`: how much the log of one keeps; None is the deployment's default."""

    name: str
    role: Role
    created_at: datetime
    created_by: str = ""
    revoked_at: datetime | None = None
    life: int = 0
    lives_ended_at: tuple[datetime, ...] = ()
    max_unfinished: int | None = None
    max_running: int | None = None
    max_log_mib: int | None = None


class StopAll(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An admin revoked a user and had all of theirs stopped: by whom, and when. `life` is the user's then: what keys of a later one
    submit is not meant. The reconciler looks for those that no index showed at that moment."""

    user: str
    by: str
    at: datetime
    life: int = 0


class DefaultQuotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The quotas of users who have none of their own. None is what runvoy comes with."""

    max_unfinished: int | None = None
    max_running: int | None = None
    max_log_mib: int | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The public half of a member's key. `limits` make it narrower than its user; they never change. `life` is the user's
    when it was made. `replaces`: the key in whose place it came, which it may revoke. `made_by`: the key whose call made it, or
    the token that it was registered with; empty where no call did."""

    key_id: str
    public_key: bytes
    user: str
    created_at: datetime
    life: int = 0
    name: str = ""
    limits: KeyLimits | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaces: str | None = None
    made_by: str = ""

    @property
    def lifetime_seconds(self) -> int | None:
        return None if self.expires_at is None else int((self.expires_at - self.created_at).total_seconds())


class KeyUse(msgspec.Struct, frozen=True, kw_only=True):
    """When a key was last used, to the minute. Apart from the key, whose version commits hold on to."""

    key_id: str
    used_at: datetime


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a claim token is good for: one key of one user. The record's key is an HMAC of the token, which is kept nowhere.

    `created_by_key` is the admin's key that made it, empty where no call did: a token dies with what made it. `used_by` is
    the key that was registered with it: that one may ask again, its answer may have been lost.
    """

    user: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    created_by_key: str = ""
    life: int = 0
    key_name: str = ""
    key_lifetime_seconds: int | None = None
    limits: KeyLimits | None = None
    used_by: str | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registered image: what a run gets that names it. `platform` None is the deployment's own, cpu and memory its usual.

    An unregistered one keeps its record, so that its version never restarts: a commit that relied on it would otherwise
    take one of the same name that came after for it.
    """

    name: str
    reference: str
    registered_by: str
    registered_at: datetime
    updated_by: str
    updated_at: datetime
    cpu: int | None = None
    memory_mib: int | None = None
    platform: str | None = None
    task_role: str | None = None
    description: str = ""
    unregistered_at: datetime | None = None

    @property
    def is_registered(self) -> bool:
        return self.unregistered_at is None


class DefaultImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name of the image of runs that name none. The one record that says so: there cannot be two defaults."""

    name: str | None = None


class PlaybookSet(msgspec.Struct, frozen=True, kw_only=True):
    """All playbooks that a user has published, by name."""

    user: str
    playbooks: tuple[PublishedPlaybook, ...]


class MinuteNote(msgspec.Struct, frozen=True, kw_only=True):
    """Something that its sender can repeat at will happened in this minute: one audit record tells of every time."""

    at: datetime


class InboxGrantee(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may have uploads under way: the reconciler looks for lost ones under its prefix."""

    key_id: str
    granted_at: datetime


class Secret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret but for its value, which lies in the Secrets port at `value_ref`: a name that no other value ever had.

    `shared_with`: users who may use it, or "*" for everybody who may run.
    """

    name: str
    env_name: str
    owner: str
    value_ref: str
    created_at: datetime
    updated_at: datetime
    updated_by: str
    description: str = ""
    shared_with: tuple[str, ...] = ()


class DiscardedValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value in the Secrets port that no secret refers to: not yet, any more, or never.

    `replaced`: a run that was fixed to it may still need it. `condemned`: it is being deleted, so no secret may come to
    refer to it now.
    """

    ref: str
    name: str
    at: datetime
    replaced: bool = False
    condemned: bool = False


class FixedSecret(msgspec.Struct, frozen=True):
    """A secret as a run gets it: the value that its name stood for when the run was to start."""

    name: str
    env_name: str
    value_ref: str


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
    """The record of an execution's life. It is *active*, and holds its locks, until its task was seen stopped: whatever its
    state.

    Fields with a default came later, or are not known from the beginning; a default means what their absence means.
    """

    execution_id: str
    state: State
    owner: str
    key_id: str
    content_digest: str
    object_sha256: str
    command: tuple[str, ...] | str  # shortened for display: StoredRequest has it whole
    isolation: Isolation
    timeout_seconds: int
    issued_at: datetime
    admitted_at: datetime
    updated_at: datetime
    granted: bool  # it heads the queue of every lock it named, or named none: it may start
    granted_at: datetime | None = None
    locks: tuple[ExecutionLock, ...] = ()
    queue_timeout_seconds: int | None = None
    name: str | None = None
    image: str | None = None  # the reference that runs
    # The name it was registered under: cpu, memory, platform and role are that one's, or the request's.
    image_name: str | None = None
    cpu: int | None = None
    memory_mib: int | None = None
    platform: str | None = None
    task_role: str | None = None
    labels: dict[str, str] = {}
    secrets: tuple[str, ...] = ()  # the names it asked for
    fixed_secrets: tuple[FixedSecret, ...] = ()  # what they stood for when it was to start
    reason: Reason | None = None
    message: str = ""
    attempt: int = 0
    starting_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    stopped_at: datetime | None = None  # its task was seen stopped, or it never had one
    # The first look at which the platform knew no task of it: one look may be mistaken.
    missing_since: datetime | None = None
    launches: int = 0  # those of its attempt that were begun and, for all that is known, did not come to nothing
    exit_code: int | None = None
    signal: int | None = None
    lines: int | None = None
    chunks: int | None = None
    lost_bytes: int = 0
    bulk: bool = False  # it came in a batch, and is pushed on a queue of its own
    git: GitStatus | None = None  # what is cloned for it, with the commit once the runner told it
    playbook: str | None = None
    rate: Rate | None = None  # what an hour of it costs, as it was known at admission
    pull_started_at: datetime | None = None  # with the next: the time that the platform charges for, as far as it told
    task_stopped_at: datetime | None = None
    batch_id: str | None = None  # of the batch that it came in
    object_version: str = ""  # of the object in the inbox that it came in
    # While active it counts among its owner's unfinished ones; not what came before there were quotas.
    counted: bool = False
    # While active it counts among its owner's running ones: it has a task, or may be being launched.
    placed: bool = False
    # When the deployment learned that it runs; `started_at` is by the runner's clock.
    running_since: datetime | None = None
    unproven_start: str = ""  # the etag of an object that lay in the place of started.json and proved nothing
    counted_from: int = 0  # the version at which its admission read the number of its owner's unfinished ones
    # It was to be launched and waits for a place of its owner's: it is pushed when there is one.
    for_place: bool = False
    max_log_mib: int | None = None  # what its log keeps; None of what older versions started
    limited: bool = False  # its owner's places were limited when it took one: others may wait for it

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_active(self) -> bool:
        return self.stopped_at is None

    @property
    def waits_for_place(self) -> bool:
        return self.for_place and self.state is State.STARTING


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The canonical bytes of the request that was admitted, exactly as they were signed. Never changes."""

    execution_id: str
    payload: bytes


class TakenBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch that was verified and taken apart. `count`: how many requests it holds; `range_size`: how many of them a range
    has, the last one aside. `done`: the first request of each range whose requests were all answered. `reached`, of a range by
    its first request: where the next delivery of it goes on, if one had no time for all of it. `sent_again_at`: when ranges that
    were taken for lost were last sent again."""

    key_id: str
    batch_id: str
    object_sha256: str
    object_version: str
    count: int
    range_size: int
    taken_at: datetime
    updated_at: datetime
    done: tuple[int, ...] = ()
    reached: dict[int, int] = {}
    sent_again_at: datetime | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one object in the inbox, or one request of a batch, was refused, so that every delivery of it gets the same answer.
    `batch_id`: of the batch that such a request came in."""

    key_id: str
    request_id: str
    object_sha256: str
    at: datetime
    code: ErrorCode
    message: str
    hint: str = ""
    batch_id: str | None = None


class Nonce(msgspec.Struct, frozen=True, kw_only=True):
    """A control call that was used up."""

    key_id: str
    used_at: datetime


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call or decision: who (by which key), what, to what, when, from where and how it went. Written in the same commit
    as what it tells of. `source` is the network address that the call came from."""

    event_id: str
    at: datetime
    actor: str
    action: str
    outcome: str
    execution_id: str | None = None
    key_id: str | None = None
    subject: str = ""
    source: str = ""
    message: str = ""


class AuditHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of the audit's chain of seals: the newest seal's `number` and `hash`, and where it `ends` (places, as in
    runvoy_protocol.seals). `scanned_to`: until where there was nothing more to seal. `late_looked_at`: when it was last looked
    for records that came after their minute was sealed."""

    number: int
    hash: str
    began: str
    ends: str
    scanned_to: str
    late_looked_at: datetime | None = None
