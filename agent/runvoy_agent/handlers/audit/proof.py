"""The routes by which a client proves the audit for itself: seals, records as they are stored, and the signed request of an
execution as it was kept. What is handed out is not judged here: whoever asks does that, with a hash or a key of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import AuditHead, Execution, Key, StoredRequest
from runvoy_agent.handlers.documents import listings, store
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Position, Records, StoredObject, Versioned
from runvoy_protocol import object_keys, seals
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.evidence import PIECE_BYTES, Evidence
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.seals import (
    MAX_LOOKED_UP,
    FoundRecords,
    KeptRecord,
    KeptRecords,
    RecordsRequest,
    Seal,
    SealHead,
    SealsAnswer,
)

_MOST_ANSWERED_BYTES = 3 * 1024 * 1024  # Lambda answers with 6 MB at most, and bytes grow by a third on their way
_MOST_SEALS = 1000
_SEALS_AT_ONCE = 50
_RECORDS_PAGE = 500
_MOST_ADMISSIONS = 8  # of one id: others may have been refused for it
_MOST_NUMBER = 10**12 - 1  # of a seal, and of bytes: more than there will be of either
_LONGEST_CURSOR = 256  # of a time as text and a record's key


def audit_head(call: Call) -> Response:
    """The end of the chain: what to keep elsewhere."""
    return answer(_head(call))


def list_seals(call: Call) -> Response:
    """Seals from one number on, or from the one that covers a time."""
    query = dict(call.request.query)
    asked_from, at = query.pop("from", None), query.pop("at", None)
    with_leaves = query.pop("leaves", "yes")
    limit = listings.limit_of(query.pop("limit", None), most=_MOST_SEALS)
    listings.refuse_others(query)
    if (asked_from is None) == (at is None) or with_leaves not in ("yes", "no"):
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST, "seals are asked for by from=NUMBER or by at=PLACE; leaves=yes or no"
        )
    head = _head(call)
    if at is not None:
        seals.parse_place(at)
        first = _covering(call.ports.records, head.number, at)
    else:
        first = listings.number_of("from", asked_from or "", 0, _MOST_NUMBER)
    found: list[Seal] = []
    size = 0
    for kept in _seals(call.ports.records, range(max(first, 1), min(first + limit, head.number + 1))):
        one = kept if with_leaves == "yes" else msgspec.structs.replace(kept, leaves=None)
        size += len(one.leaves or b"") + 512
        if found and size > _MOST_ANSWERED_BYTES:
            break
        found.append(one)
    return answer(SealsAnswer(seals=tuple(found), first=first, head=head))


def _head(call: Call) -> SealHead:
    head = store.load(call.ports.records, store.AUDIT_HEAD_KEY, AuditHead).document
    if head is None:
        began = store.stamp(call.deployment.created_at)
        return SealHead(number=0, hash=seals.GENESIS, began=began, sealed_until=began)
    return SealHead(number=head.number, hash=head.hash, began=head.began, sealed_until=head.scanned_to)


def _seal(records: Records, number: int) -> Seal | None:
    """A seal; None where there is none, or nothing that is one."""
    return _decoded(records.get(store.seal_key(number)))


def _seals(records: Records, numbers: Sequence[int]) -> Iterator[Seal]:
    """Those that there are. A chain of years is read for one day of it, so not one by one."""
    for begun in range(0, len(numbers), _SEALS_AT_ONCE):
        keys = [store.seal_key(number) for number in numbers[begun : begun + _SEALS_AT_ONCE]]
        for found in records.get_many(keys):
            one = _decoded(found)
            if one is not None:
                yield one


def _decoded(found: Versioned | None) -> Seal | None:
    try:
        return None if found is None else msgspec.json.decode(found.body, type=Seal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _covering(records: Records, newest: int, at: str) -> int:
    """The number of the first seal that ends after `at`, by binary search; one more than the newest if none does. Where seals are
    gone it is one near by, and whoever asked sees that some are missing."""
    low, high = 1, newest + 1
    while low < high:
        middle = (low + high) // 2
        probe = middle
        found = _seal(records, probe)
        while found is None and probe + 1 < high:
            probe += 1
            found = _seal(records, probe)
        if found is not None and found.ends <= at:
            low = probe + 1
        else:
            high = middle
    return low


def list_records(call: Call) -> Response:
    """The records of a day as they are stored, part by part of its index: `part` counts from 0 to 15."""
    query = dict(call.request.query)
    day, part_text, after = query.pop("day", ""), query.pop("part", ""), query.pop("after", None)
    listings.refuse_others(query)
    at = listings.instant_of("day", f"{day}T00:00:00+00:00")
    part = listings.number_of("part", part_text, 0, store.SHARDS - 1)
    if at is None or store.day(at) != day:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "day is written as 2030-01-31")
    position = None
    if after is not None:
        sort, _, key = after.partition("~")
        if len(after) > _LONGEST_CURSOR:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, "after is no cursor of this list")
        position = Position(sort, key)
    page = call.ports.records.query(
        store.INDEX_AUDIT, store.shard_partition(day, part), after=position, limit=_RECORDS_PAGE
    )
    kept = tuple(_kept(record.key, record.body) for record in page.records)
    following = None if page.after is None else f"{page.after.sort}~{page.after.key}"
    return answer(KeptRecords(part=part, records=kept, after=following))


def find_records(call: Call) -> Response:
    """Records by their ids."""
    asked = call.body(RecordsRequest).event_ids
    if not 1 <= len(asked) <= MAX_LOOKED_UP or not all(map(is_execution_id, asked)):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"1 to {MAX_LOOKED_UP} ids of records can be asked for at once")
    call.concerns(subject=f"{len(asked)} records")
    found = call.ports.records.get_many([store.audit_key(event_id) for event_id in asked])
    return answer(FoundRecords(records=tuple(_kept(one.key, one.body) for one in found if one is not None)))


def _kept(key: str, body: bytes) -> KeptRecord:
    return KeptRecord(key.removeprefix(store.audit_key("")), body)


def show_evidence(call: Call) -> Response:
    """The signed request of an execution as the inbox keeps it, and what the records say of it and of what ran."""
    execution_id = call.groups["execution_id"]
    query = dict(call.request.query)
    offset = listings.number_of("offset", query.pop("offset", "0"), 0, _MOST_NUMBER)
    listings.refuse_others(query)
    records = call.ports.records
    execution = store.load_execution(records, execution_id).document if is_execution_id(execution_id) else None
    if execution is None:
        raise RunvoyError(ErrorCode.NOT_FOUND, f"there is no execution {execution_id[:64]!r}")
    key = store.load(records, store.key_key(execution.key_id), Key).document
    stored = store.load(records, store.request_key(execution_id), StoredRequest).document
    kept = _kept_object(call, execution)
    return answer(
        Evidence(
            execution_id=execution_id,
            deployment_id=call.deployment.deployment_id,
            object_key=_object_key(execution),
            object_bytes=0 if kept is None else len(kept.data),
            offset=offset,
            piece=b"" if kept is None else kept.data[offset : offset + PIECE_BYTES],
            object_sha256=execution.object_sha256,
            batch_id=execution.batch_id,
            key_id=execution.key_id,
            public_key=b"" if key is None else key.public_key,
            key_user="" if key is None else key.user,
            launched_request=b"" if stored is None else stored.payload,
            owner=execution.owner,
            command=execution.command,
            image=execution.image,
            image_name=execution.image_name,
            locks=tuple(lock.name for lock in execution.locks),
            secrets=execution.secrets,
            timeout_seconds=execution.timeout_seconds,
            isolation=execution.isolation,
            labels=execution.labels,
            name=execution.name,
            admissions=_admissions(records, execution_id),
        )
    )


def _object_key(execution: Execution) -> str:
    if execution.batch_id is not None:
        return object_keys.batch(execution.key_id, execution.batch_id)
    return object_keys.request(execution.key_id, execution.execution_id)


def _kept_object(call: Call, execution: Execution) -> StoredObject | None:
    """The very version that was admitted; of an execution that does not know it, what lies there now."""
    object_key = _object_key(execution)
    stored = call.ports.inbox.get(object_key, execution.object_version) if execution.object_version else None
    if stored is not None and hashlib.sha256(stored.data).hexdigest() == execution.object_sha256:
        return stored
    return stored or call.ports.inbox.get(object_key)


def _admissions(records: Records, execution_id: str) -> tuple[KeptRecord, ...]:
    """The audit's records of its admission, as they are stored."""
    found = store.partition_records(records, store.INDEX_AUDIT_EXECUTION, execution_id)
    admissions = (one for one in found if b'"action":"admit"' in one.body)
    return tuple(_kept(one.key, one.body) for one in islice(admissions, _MOST_ADMISSIONS))


ROUTES: tuple[Route, ...] = (
    route("GET", "/audit/head", Action.READ_AUDIT, audit_head),
    route("GET", "/audit/seals", Action.READ_AUDIT, list_seals),
    route("GET", "/audit/records", Action.READ_AUDIT, list_records),
    route("POST", "/audit/records", Action.READ_AUDIT, find_records),
    route("GET", "/audit/evidence/{execution_id}", Action.READ_AUDIT, show_evidence),
)
