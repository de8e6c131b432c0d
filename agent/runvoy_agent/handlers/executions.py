"""The routes about executions: one, many, and the grants to read their logs."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers import lock_queues, store
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_agent.handlers.store import Loaded
from runvoy_agent.ports import Position
from runvoy_protocol import object_keys, receipts
from runvoy_protocol.control import (
    CHUNKS_PER_GRANT,
    ExecutionAnswer,
    ExecutionsPage,
    OutboxGrant,
    OutboxGrantRequest,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.requests import MAX_TIMEOUT_SECONDS
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus

READ_GRANT_LIFETIME = timedelta(minutes=5)
MAX_PAGE = 200
DEFAULT_PAGE = 50
LONGEST_LIFE = 2 * timedelta(seconds=MAX_TIMEOUT_SECONDS) + timedelta(
    days=2
)  # in the queue, then running, then settled
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(9000, 1, 1, tzinfo=UTC)
MAX_CHUNK_NUMBER = 10**8 - 1


def show(call: Call) -> Response:
    """One execution: its status, or that it is pending, or why it was refused."""
    found, receipt = _look_up(call, call.groups["execution_id"])
    if found is not None and found.document is not None:
        status = lifecycle.project(found.document, found.version)
        if found.document.state is State.QUEUED:
            locks = lock_queues.waiting_locks(call.ports.records, found.document)
            status = msgspec.structs.replace(status, locks=locks)
        return answer(ExecutionAnswer(state="admitted", status=status))
    return answer(ExecutionAnswer(state="refused" if receipt else "pending", receipt=receipt))


def find_readable(call: Call, execution_id: str) -> Loaded[Execution] | None:
    """An execution that the caller may read; None while it is undecided, and NOT_FOUND as `show` says it."""
    found, receipt = _look_up(call, execution_id)
    if receipt is not None:
        raise RunvoyError(ErrorCode.NOT_FOUND, f"the request {execution_id} was refused ({receipt.code})")
    return found


def grant_outbox(call: Call) -> Response:
    """Reads of one execution: status and the next chunks once it is admitted, its receipt before."""
    asked = call.body(OutboxGrantRequest)
    if not 1 <= asked.from_chunk <= MAX_CHUNK_NUMBER:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "from_chunk is not the number of a chunk")
    found, receipt = _look_up(call, asked.execution_id, asked.object_sha256)
    expires_at = call.ports.clock.now() + READ_GRANT_LIFETIME
    outbox = call.ports.outbox
    if found is None:
        return answer(
            OutboxGrant(
                state="refused" if receipt else "pending",
                expires_at=expires_at,
                receipt=receipt,
                receipt_url=outbox.presign_get(_receipt_key(call, asked), expires_at=expires_at)
                if asked.object_sha256 and not receipt
                else None,
            )
        )
    last = min(asked.from_chunk + CHUNKS_PER_GRANT, MAX_CHUNK_NUMBER + 1)
    return answer(
        OutboxGrant(
            state="admitted",
            expires_at=expires_at,
            status_url=outbox.presign_get(object_keys.status(asked.execution_id), expires_at=expires_at),
            from_chunk=asked.from_chunk,
            chunk_urls=tuple(
                outbox.presign_get(object_keys.log_chunk(asked.execution_id, number), expires_at=expires_at)
                for number in range(asked.from_chunk, last)
            ),
        )
    )


def _receipt_key(call: Call, asked: OutboxGrantRequest) -> str:
    try:
        return object_keys.receipt(call.key.key_id, asked.execution_id, asked.object_sha256 or "")
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"object_sha256 is malformed: {error}") from error


def _look_up(
    call: Call, execution_id: str, object_sha256: str | None = None
) -> tuple[Loaded[Execution] | None, Receipt | None]:
    """The execution, if the caller may see it; else the caller's own refusal; (None, None) while it is pending.

    Whose object is asked for by its digest gets the answer to that object: an id that conflicts with somebody else's
    execution is refused, not shown. NOT_FOUND when the caller may see nothing of that id.
    """
    if not is_execution_id(execution_id):
        raise RunvoyError(ErrorCode.NOT_FOUND, f"{execution_id[:64]!r} is no execution id")
    own_key = object_keys.request(call.key.key_id, execution_id)
    if object_sha256 is not None:
        receipt = _receipt(call, execution_id, object_sha256)
        if receipt is None and call.ports.inbox.get(own_key) is not None:
            # Undecided, even where an execution of this id exists: it may be another request's.
            return None, None
        if receipt is not None and receipt.outcome == "refused":
            return None, receipt
    found = store.load_execution(call.ports.records, execution_id)
    if found.document is not None and _may_read(call, found.document):
        return found, None
    sent = call.ports.inbox.get(own_key)
    if sent is not None:
        receipt = _receipt(call, execution_id, hashlib.sha256(sent.data).hexdigest())
        # An accepted one has a record; seeing none here means that it was read a moment too early.
        return None, receipt if receipt is not None and receipt.outcome == "refused" else None
    raise RunvoyError(ErrorCode.NOT_FOUND, f"there is no execution {execution_id} that {call.user.name} may see")


def _may_read(call: Call, execution: Execution) -> bool:
    return call.member.owns(execution.owner, execution.key_id) or call.may_with_others()


def _receipt(call: Call, execution_id: str, object_sha256: str) -> Receipt | None:
    try:
        object_key = object_keys.receipt(call.key.key_id, execution_id, object_sha256)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"object_sha256 is malformed: {error}") from error
    stored = call.ports.outbox.get(object_key)
    return None if stored is None else receipts.decode(stored.data)


def list_executions(call: Call) -> Response:
    """A page of executions, newest first. Whoever may read only their own sees only these."""
    query = _Query(call)
    found: list[ExecutionStatus] = []
    last_cursor = None
    for execution, version, cursor in _newest_first(call, query):
        if not query.matches(execution):
            continue
        if len(found) == query.limit:
            return answer(ExecutionsPage(executions=tuple(found), after=last_cursor))
        found.append(lifecycle.project(execution, version))
        last_cursor = cursor
    return answer(ExecutionsPage(executions=tuple(found)))


class _Query:
    """The query of a list call: checked, and with the caller's rights applied."""

    def __init__(self, call: Call) -> None:
        query = dict(call.request.query)
        self.limit = _limit(query.pop("limit", None))
        self.after = _position(query.pop("after", None))
        self.states = _states(query.pop("status", None))
        self.label = query.pop("label", None)
        self.updated_since = _instant(query.pop("updated_since", None))
        self.owner = query.pop("owner", None)
        if query:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"there is no filter {min(query)[:64]!r}")
        if self.owner == "me":
            self.owner = call.user.name
        self.key_id = None if call.key.limits is None else call.key.key_id
        if not call.may_with_others():
            if self.owner not in (None, call.user.name):
                call.check_others()
            self.owner = call.user.name

    def matches(self, execution: Execution) -> bool:
        if self.states and execution.state not in self.states:
            return False
        if self.owner is not None and execution.owner != self.owner:
            return False
        if self.key_id is not None and execution.key_id != self.key_id:
            return False
        if self.updated_since is not None and execution.updated_at < self.updated_since:
            return False
        if self.label is not None:
            name, separator, value = self.label.partition("=")
            return name in execution.labels and (not separator or execution.labels[name] == value)
        return True


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"limit must be from 1 to {MAX_PAGE}")
    return int(text)


def _states(text: str | None) -> frozenset[State]:
    if text is None:
        return frozenset()
    try:
        return frozenset(State(name.strip().upper()) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(State)
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"status takes some of {known}") from error


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "updated_since is no RFC 3339 time") from error
    if at.tzinfo is None:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "updated_since has no time zone")
    # Bounded before anything is reckoned from it: dates end in the year 1 and 9999.
    return max(at, _FIRST_DAY).astimezone(UTC) if at < _LAST_DAY else _LAST_DAY


def _newest_first(call: Call, query: _Query) -> Iterator[tuple[Execution, int, str]]:
    """Executions from the cursor on, newest admission first, each with the cursor that continues after it."""
    oldest = call.deployment.created_at
    newest = call.ports.clock.now() if query.after is None else min(call.ports.clock.now(), _day_of(query.after))
    if query.updated_since is not None:
        # Nothing that was admitted before it by more than the longest run can have changed since.
        oldest = max(oldest, query.updated_since - LONGEST_LIFE)
    for days in range((newest.date() - oldest.date()).days + 1):
        of_day = store.day(newest - timedelta(days=days))
        streams = [_partition(call, index, partition, query.after) for index, partition in _partitions(query, of_day)]
        for sort, execution_id, execution, version in heapq.merge(*streams, key=lambda row: row[:2], reverse=True):
            yield execution, version, f"{sort}~{execution_id}"


def _partitions(query: _Query, of_day: str) -> list[tuple[str, str]]:
    if query.owner is not None:
        return [(store.INDEX_OWNER, store.owner_partition(query.owner, of_day))]
    return [(store.INDEX_DAY, store.shard_partition(of_day, shard)) for shard in range(store.SHARDS)]


def _partition(
    call: Call, index: str, partition: str, after: Position | None
) -> Iterator[tuple[str, str, Execution, int]]:
    while True:
        page = call.ports.records.query(index, partition, after=after, limit=50, descending=True)
        for record in page.records:
            execution = msgspec.json.decode(record.body, type=Execution)
            yield store.stamp(execution.admitted_at), execution.execution_id, execution, record.version
        after = page.after
        if after is None:
            return


def _position(cursor: str | None) -> Position | None:
    """Where in each partition a cursor of this list stands."""
    if cursor is None:
        return None
    sort, separator, execution_id = cursor.partition("~")
    if not separator or not is_execution_id(execution_id):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "after is no cursor of this list")
    position = Position(sort, store.execution_key(execution_id))
    _day_of(position)
    return position


def _day_of(position: Position) -> datetime:
    try:
        return datetime.strptime(position.sort[:10], "%Y-%m-%d").replace(tzinfo=UTC, hour=23, minute=59)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "after is no cursor of this list") from error
