"""The deployment's documents as records: their keys, their places in indexes, and how they are read and written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

import msgspec

from runvoy_agent.core import batches
from runvoy_agent.core.model import (
    AuditEvent,
    AuditHead,
    Claim,
    DefaultImage,
    DefaultQuotas,
    DiscardedValue,
    Execution,
    Image,
    InboxGrantee,
    Key,
    KeyUse,
    LockRecord,
    MinuteNote,
    Nonce,
    PlaybookSet,
    Refusal,
    Secret,
    StopAll,
    StoredRequest,
    TakenBatch,
    User,
)
from runvoy_agent.core.progress import Reconciled, Recount, Retained
from runvoy_agent.ports import Check, Clock, Delete, IndexEntry, Item, Position, Put, Records, Versioned
from runvoy_protocol.seals import Seal

SHARDS = 16

INDEX_DAY = "day"  # every execution, by the day it was admitted
INDEX_UPDATED = "updated_hour"  # every execution, by the hour of its last change
INDEX_OWNER = "owner"  # every execution, by owner and day
INDEX_ACTIVE = "active"  # executions whose task was not yet seen stopped, and no others
INDEX_AUDIT = "audit_day"
INDEX_AUDIT_EXECUTION = "audit_execution"
INDEX_GRANTEES = "grantees"
INDEX_LOCKS = "locks"  # locks with somebody in their queue, and no others
INDEX_KIND = "kind"  # what there are few of, by what it is (the constants below), in the order of its name; and what waits for a place
KIND_USER = "user"
KIND_IMAGE = "image"
KIND_SECRET = "secret"
KIND_DISCARDED_VALUE = "discarded_value"
KIND_STOP_ALL = "stop_all"  # those of late, by user
KIND_BATCH = "batch"  # those that are not done, and no others; by key

NONCE_LIFETIME = timedelta(minutes=5)
"""Longer than a call is valid for, the allowed clock skew of both sides included."""

D = TypeVar("D", bound=msgspec.Struct)


class Loaded(NamedTuple, Generic[D]):
    """A document with the version it was read at; `document` is None and `version` 0 where there is none."""

    key: str
    document: D | None
    version: int

    @property
    def check(self) -> Check:
        return Check(self.key, self.version)

    @property
    def delete(self) -> Delete:
        return Delete(self.key, self.version)


RECONCILED_KEY = "reconciled"
DEFAULT_IMAGE_KEY = "default_image"
DEFAULT_QUOTAS_KEY = "default_quotas"
RECONCILED_INBOX_KEY = "reconciled#inbox"
RECONCILED_COUNTS_KEY = "reconciled#counts"
AUDIT_HEAD_KEY = "audit_head"
RETAINED_KEY = "retained"


def execution_key(execution_id: str) -> str:
    return f"execution#{execution_id}"


def request_key(execution_id: str) -> str:
    return f"request#{execution_id}"


def lock_key(name: str) -> str:
    return f"lock#{name}"


def user_key(name: str) -> str:
    return f"user#{name}"


def stop_all_key(user: str) -> str:
    return f"stop_all#{user}"


def recount_key(user: str) -> str:
    return f"recount#{user}"


def key_key(key_id: str) -> str:
    return f"key#{key_id}"


def key_use_key(key_id: str) -> str:
    return f"key_use#{key_id}"


def claim_key(token_mac: str) -> str:
    return f"claim#{token_mac}"


def secret_key(name: str) -> str:
    return f"secret#{name}"


def discarded_value_key(ref: str) -> str:
    return f"discarded_value#{ref}"


def audit_key(event_id: str) -> str:
    return f"audit#{event_id}"


def seal_key(number: int) -> str:
    return f"seal#{number}"


def minute_key(what: str, minute: str) -> str:
    return f"minute#{what}#{minute}"


def image_key(name: str) -> str:
    return f"image#{name}"


def playbooks_key(user: str) -> str:
    return f"playbooks#{user}"


def keys_partition(user: str) -> str:
    """The partition of the kind index with a user's keys."""
    return f"key#{user}"


def places_partition(user: str) -> str:
    """The partition of the kind index with a user's executions that wait for a place of theirs, in the order in which they get one:
    those of batches last."""
    return f"place#{user}"


def refusal_key(key_id: str, request_id: str, object_sha256: str) -> str:
    return f"refusal#{key_id}#{request_id}#{object_sha256}"


def batch_key(key_id: str, batch_id: str, object_sha256: str) -> str:
    return f"batch#{key_id}#{batch_id}#{object_sha256}"


def nonce_key(key_id: str, nonce: bytes) -> str:
    return f"nonce#{key_id}#{nonce.hex()}"


def grantee_key(key_id: str) -> str:
    return f"grantee#{key_id}"


def shard_of(text: str) -> int:
    """Spreads a hot partition (a day, an hour, all that is active) over 16."""
    return hashlib.sha256(text.encode()).digest()[0] % SHARDS


def day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")


def hour(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H")


def shard_partition(base: str, shard: int) -> str:
    return f"{base}#{shard:02d}" if base else f"{shard:02d}"


def owner_partition(owner: str, of_day: str) -> str:
    return f"{owner}#{of_day}"


def stamp(at: datetime) -> str:
    """A time that sorts as text."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}"


def load(records: Records, key: str, schema: type[D]) -> Loaded[D]:
    """Read one document."""
    return loaded(records.get(key), key, schema)


def load_many(records: Records, keys: Iterable[str], schema: type[D]) -> list[Loaded[D]]:
    """Read documents of one kind, in the order of their keys."""
    wanted = list(keys)
    found = records.get_many(wanted) if wanted else ()
    return [loaded(one, key, schema) for key, one in zip(wanted, found, strict=True)]


class Several:
    """Records of several kinds that were read in one call."""

    def __init__(self, records: Records, keys: Sequence[str]) -> None:
        self._found = dict(zip(keys, records.get_many(keys), strict=True))

    def document(self, key: str, schema: type[D]) -> Loaded[D]:
        """One of them; KeyError for one that was not read."""
        return loaded(self._found[key], key, schema)

    def record(self, key: str) -> Versioned | None:
        return self._found[key]


def loaded(found: Versioned | None, key: str, schema: type[D]) -> Loaded[D]:
    if found is None:
        return Loaded(key, None, 0)
    return Loaded(key, msgspec.json.decode(found.body, type=schema), found.version)


def load_execution(records: Records, execution_id: str) -> Loaded[Execution]:
    return load(records, execution_key(execution_id), Execution)


def load_executions(records: Records, execution_ids: Iterable[str]) -> dict[str, Loaded[Execution]]:
    """By their ids; those that there are not are there without a document."""
    return _load_by_name(records, execution_ids, execution_key, Execution)


def load_lock(records: Records, name: str) -> Loaded[LockRecord]:
    return load(records, lock_key(name), LockRecord)


def load_locks(records: Records, names: Iterable[str]) -> dict[str, Loaded[LockRecord]]:
    """By their names; those that nobody ever asked for are there without a document."""
    return _load_by_name(records, names, lock_key, LockRecord)


def load_secret(records: Records, name: str) -> Loaded[Secret]:
    return load(records, secret_key(name), Secret)


def load_secrets(records: Records, names: Iterable[str]) -> dict[str, Loaded[Secret]]:
    """By their names; those that there are not are there without a document."""
    return _load_by_name(records, names, secret_key, Secret)


def _load_by_name(
    records: Records, names: Iterable[str], key_of: Callable[[str], str], schema: type[D]
) -> dict[str, Loaded[D]]:
    wanted = list(names)
    return dict(zip(wanted, load_many(records, map(key_of, wanted), schema), strict=True))


def put(target: Loaded[D], document: D, expires_at: datetime | None = None) -> Put:
    """Write a new state of what was loaded, if it is still what was loaded."""
    return Put(target.key, _item(document, expires_at), target.version)


def put_new(key: str, document: msgspec.Struct, expires_at: datetime | None = None) -> Put:
    """Write a document whose key must be free."""
    return Put(key, _item(document, expires_at), 0)


def audit(  # noqa: PLR0913 - as many as the record has fields
    clock: Clock,
    actor: str,
    action: str,
    outcome: str,
    *,
    at: datetime | None = None,
    execution_id: str | None = None,
    key_id: str | None = None,
    subject: str = "",
    source: str = "",
    message: str = "",
) -> Put:
    """The record of a decision, for the commit that makes it; `at` is when it was made, now if it is not given. Texts are cut to
    a bounded length: some are a stranger's."""
    event_id = clock.new_id()
    event = AuditEvent(
        event_id=event_id,
        at=clock.now() if at is None else at,
        actor=actor,
        action=_short(action, 200),
        outcome=outcome,
        execution_id=execution_id,
        key_id=key_id,
        subject=_short(subject, 512),
        source=_short(source, 64),
        message=_short(message, 512),
    )
    return put_new(audit_key(event_id), event)


def _short(text: str, most: int) -> str:
    # Lone surrogates can be in a path and not in a document.
    return text[:most].encode(errors="replace").decode()


def _item(document: msgspec.Struct, expires_at: datetime | None = None) -> Item:
    return Item(msgspec.json.encode(document), _indexes(document), expires_at)


def _indexes(document: msgspec.Struct) -> dict[str, IndexEntry]:
    match document:
        case Execution():
            return _execution_indexes(document)
        case AuditEvent(event_id=event_id, at=at, execution_id=execution_id):
            entry = IndexEntry(shard_partition(day(at), shard_of(event_id)), stamp(at))
            indexes = {INDEX_AUDIT: entry}
            if execution_id is not None:
                indexes[INDEX_AUDIT_EXECUTION] = IndexEntry(execution_id, stamp(at))
            return indexes
        case InboxGrantee(key_id=key_id, granted_at=at):
            return {INDEX_GRANTEES: IndexEntry(shard_partition("", shard_of(key_id)), stamp(at))}
        case LockRecord(name=name, queue=queue):
            return {INDEX_LOCKS: IndexEntry(shard_partition("", shard_of(name)), name)} if queue else {}
        case User(name=name):
            return {INDEX_KIND: IndexEntry(KIND_USER, name)}
        case Key(user=user, created_at=at):
            return {INDEX_KIND: IndexEntry(keys_partition(user), stamp(at))}
        case Image(name=name, unregistered_at=unregistered_at):
            return {} if unregistered_at is not None else {INDEX_KIND: IndexEntry(KIND_IMAGE, name)}
        case DefaultImage() | DefaultQuotas():
            return {}
        case Secret(name=name):
            return {INDEX_KIND: IndexEntry(KIND_SECRET, name)}
        case StopAll(user=user):
            return {INDEX_KIND: IndexEntry(KIND_STOP_ALL, user)}
        case DiscardedValue(at=at):
            return {INDEX_KIND: IndexEntry(KIND_DISCARDED_VALUE, stamp(at))}
        case TakenBatch(key_id=key_id, batch_id=batch_id):
            is_over = not batches.missing(document)
            return {} if is_over else {INDEX_KIND: IndexEntry(KIND_BATCH, f"{key_id}#{batch_id}")}
        case AuditHead() | Claim() | KeyUse() | MinuteNote() | Nonce() | Reconciled() | Recount() | Refusal() | Seal():
            return {}
        case PlaybookSet() | Retained() | StoredRequest():
            return {}
    raise TypeError(f"{type(document).__name__} is no record")


def _execution_indexes(execution: Execution) -> dict[str, IndexEntry]:
    shard = shard_of(execution.execution_id)
    admitted = stamp(execution.admitted_at)
    of_day = day(execution.admitted_at)
    indexes = {
        INDEX_DAY: IndexEntry(shard_partition(of_day, shard), admitted),
        INDEX_UPDATED: IndexEntry(shard_partition(hour(execution.updated_at), shard), stamp(execution.updated_at)),
        INDEX_OWNER: IndexEntry(owner_partition(execution.owner, of_day), admitted),
    }
    if execution.is_active:
        indexes[INDEX_ACTIVE] = IndexEntry(shard_partition("", shard), admitted)
    if execution.waits_for_place:
        indexes[INDEX_KIND] = IndexEntry(places_partition(execution.owner), f"{int(execution.bulk)}#{admitted}")
    return indexes


def partition_records(records: Records, index: str, partition: str, *, descending: bool = False) -> Iterator[Versioned]:
    """Every record of a partition, read page by page as it is asked for."""
    after: Position | None = None
    while True:
        page = records.query(index, partition, after=after, limit=200, descending=descending)
        yield from page.records
        after = page.after
        if after is None:
            return


def of_kind(records: Records, partition: str, schema: type[D]) -> Iterator[tuple[D, int]]:
    """Every document of a partition of the kind index, with its version, in the order of its sort."""
    for record in partition_records(records, INDEX_KIND, partition):
        yield msgspec.json.decode(record.body, type=schema), record.version
