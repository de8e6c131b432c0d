"""The routes about executions: one, many, and the grants to read their logs."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import partial

import msgspec

from runvoy_agent.core import projection
from runvoy_agent.core.model import Execution
from runvoy_agent.core.retention import LONGEST_LIFE
from runvoy_agent.handlers.admission import batches
from runvoy_agent.handlers.documents import listings, store
from runvoy_agent.handlers.documents.listings import Kind, Span
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.locks import queues
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_protocol import object_keys, receipts
from runvoy_protocol.control import (
    CHUNKS_PER_GRANT,
    MAX_STATUSES,
    ExecutionAnswer,
    ExecutionsPage,
    KnownExecution,
    OutboxGrant,
    OutboxGrantRequest,
    StatusesAnswer,
    StatusesRequest,
)
from runvoy_protocol.costs import so_far
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.explanations import explained
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import State

READ_GRANT_LIFETIME = timedelta(minutes=5)
CHANGES_FOR = LONGEST_LIFE + timedelta(days=2)
"""How long after its admission a changed execution is found: waiting and running for as long as may be asked for, and two days
until it is settled. One without a queue timeout may wait for longer: `updated_since` does not find it then, a list without it
does."""

_MOST_ANSWERED_BYTES = 3 * 1024 * 1024  # Lambda answers with 6 MB at most
_MOST_ID_CHARACTERS = 64
MAX_CHUNK_NUMBER = 10**8 - 1
EXECUTIONS = Kind(
    Execution, lambda execution: execution.admitted_at, lambda execution: execution.execution_id, store.execution_key
)


def show(call: Call) -> Response:
    """One execution: its status, or that it is pending, or why it was refused."""
    found, receipt = look_up(call, call.groups["execution_id"])
    if found is not None and found.document is not None:
        status = projection.project(found.document, found.version)
        if status.cost is not None:
            status = msgspec.structs.replace(status, cost=so_far(status.cost, call.ports.clock.now()))
        if found.document.state is State.QUEUED:
            locks = queues.waiting_locks(call.ports.records, found.document)
            status = explained(msgspec.structs.replace(status, locks=locks))
        return answer(ExecutionAnswer(state="admitted", status=status))
    return answer(ExecutionAnswer(state="refused" if receipt else "pending", receipt=receipt))


def show_many(call: Call) -> Response:
    """Many executions in one call: for who waits for a batch. It is one call for the audit, too."""
    asked = call.body(StatusesRequest).execution_ids
    if not 1 <= len(asked) <= MAX_STATUSES:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"1 to {MAX_STATUSES} execution ids can be asked for at once")
    call.concerns(subject=f"{len(asked)} executions")
    undecided: frozenset[str] | None = None
    found: list[KnownExecution] = []
    size = 0
    loaded = store.load_executions(call.ports.records, filter(is_execution_id, asked))
    for execution_id in asked:
        execution = loaded.get(execution_id)
        if execution is None or execution.document is None or not may_read(call, execution.document):
            if undecided is None:
                undecided = batches.undecided_ids(call.ports, call.key.key_id)
            known = _known_unadmitted(call, execution_id, undecided)
        else:
            status = projection.project(execution.document, execution.version)
            known = KnownExecution(execution_id=execution_id, state="admitted", status=status)
        size += len(msgspec.json.encode(known))
        if found and size > _MOST_ANSWERED_BYTES:
            break
        found.append(known)
    return answer(StatusesAnswer(executions=tuple(found)))


def _known_unadmitted(call: Call, execution_id: str, undecided: frozenset[str]) -> KnownExecution:
    if execution_id in undecided:
        return KnownExecution(execution_id=execution_id, state="pending")
    try:
        found, receipt = look_up(call, execution_id, undecided=undecided)
    except RunvoyError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        return KnownExecution(execution_id=execution_id[:_MOST_ID_CHARACTERS], state="unknown")
    if found is not None and found.document is not None:
        status = projection.project(found.document, found.version)
        return KnownExecution(execution_id=execution_id, state="admitted", status=status)
    return KnownExecution(execution_id=execution_id, state="refused" if receipt else "pending", receipt=receipt)


def find_readable(call: Call, execution_id: str) -> Loaded[Execution] | None:
    """An execution that the caller may read; None while it is undecided, and NOT_FOUND as `show` says it."""
    found, receipt = look_up(call, execution_id)
    if receipt is not None:
        raise RunvoyError(ErrorCode.NOT_FOUND, f"the request {execution_id} was refused ({receipt.code})")
    return found


def grant_outbox(call: Call) -> Response:
    """Reads of one execution: status and the next chunks once it is admitted, its receipt before."""
    asked = call.body(OutboxGrantRequest)
    call.concerns(execution_id=asked.execution_id)
    if not 1 <= asked.from_chunk <= MAX_CHUNK_NUMBER:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "from_chunk is not the number of a chunk")
    found, receipt = look_up(call, asked.execution_id, asked.object_sha256)
    expires_at = call.ports.clock.now() + READ_GRANT_LIFETIME
    outbox = call.ports.outbox
    if found is None and receipt is not None:
        return answer(OutboxGrant(state="refused", expires_at=expires_at, receipt=receipt))
    if found is None:
        receipt_url: str | None = None
        if asked.object_sha256:
            receipt_key = _receipt_key(call, asked.execution_id, asked.object_sha256)
            receipt_url = outbox.presign_get(receipt_key, expires_at=expires_at)
        return answer(OutboxGrant(state="pending", expires_at=expires_at, receipt_url=receipt_url))
    end = min(asked.from_chunk + CHUNKS_PER_GRANT, MAX_CHUNK_NUMBER + 1)
    chunk_keys = [object_keys.log_chunk(asked.execution_id, number) for number in range(asked.from_chunk, end)]
    return answer(
        OutboxGrant(
            state="admitted",
            expires_at=expires_at,
            status_url=outbox.presign_get(object_keys.status(asked.execution_id), expires_at=expires_at),
            from_chunk=asked.from_chunk,
            chunk_urls=tuple(outbox.presign_gets(chunk_keys, expires_at=expires_at)),
        )
    )


def _receipt_key(call: Call, execution_id: str, object_sha256: str) -> str:
    try:
        return object_keys.receipt(call.key.key_id, execution_id, object_sha256)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"object_sha256 is malformed: {error}") from error


def look_up(
    call: Call, execution_id: str, object_sha256: str | None = None, undecided: frozenset[str] | None = None
) -> tuple[Loaded[Execution] | None, Receipt | None]:
    """The execution, if the caller may see it; else the caller's own refusal; (None, None) while it is pending.

    Whose object is asked for by its digest gets the answer to that object: an id that conflicts with somebody else's
    execution is refused, not shown. NOT_FOUND when the caller may see nothing of that id. `undecided`: the ids in the caller's
    batches under way, where they are known already; to find them every such batch is read, verified and unpacked.
    """
    if not is_execution_id(execution_id):
        raise RunvoyError(ErrorCode.NOT_FOUND, f"{execution_id[:64]!r} is no execution id")
    key_id, inbox = call.key.key_id, call.ports.inbox
    own_key = object_keys.request(key_id, execution_id)
    if object_sha256 is not None:
        receipt = _receipt(call, execution_id, object_sha256)
        own_keys = (own_key, object_keys.batch(key_id, execution_id))
        if receipt is None and any(inbox.get(object_key) is not None for object_key in own_keys):
            # Undecided, even where an execution of this id exists: it may be another request's.
            return None, None
        if receipt is not None and receipt.outcome == "refused":
            return None, receipt
    found = store.load_execution(call.ports.records, execution_id)
    if found.document is not None and may_read(call, found.document):
        return found, None
    sent = inbox.get(own_key)
    if sent is not None:
        receipt = _receipt(call, execution_id, hashlib.sha256(sent.data).hexdigest())
        # An accepted one has a record; seeing none here means that it was read a moment too early.
        return None, receipt if receipt is not None and receipt.outcome == "refused" else None
    return None, _batched(call, execution_id, undecided)


def _batched(call: Call, execution_id: str, undecided: frozenset[str] | None) -> Receipt | None:
    """What became of a request that lies under no name of its own: its refusal; None while a batch of the caller's that has
    it is not done. NOT_FOUND if there is neither."""
    if undecided is None:
        undecided = batches.undecided_ids(call.ports, call.key.key_id)
    if execution_id in undecided:
        return None
    receipts_of_id = object_keys.receipts_prefix(call.key.key_id, execution_id)
    stored = [call.ports.outbox.get(info.key) for info in call.ports.outbox.list(receipts_of_id)]
    answers = [receipts.decode(one.data) for one in stored if one is not None]
    refusals = [one for one in answers if one.outcome == "refused"]
    if refusals:
        return max(refusals, key=lambda one: one.at)
    if answers:
        return None  # of a batch that was taken apart, whose id this is
    raise RunvoyError(ErrorCode.NOT_FOUND, f"there is no execution {execution_id} that {call.user.name} may see")


def may_read(call: Call, execution: Execution) -> bool:
    """Whether the caller may see an execution: their own, or anybody's by their role."""
    return call.member.owns(execution.owner, execution.key_id) or call.may_with_others()


def _receipt(call: Call, execution_id: str, object_sha256: str) -> Receipt | None:
    stored = call.ports.outbox.get(_receipt_key(call, execution_id, object_sha256))
    return None if stored is None else receipts.decode(stored.data)


def list_executions(call: Call) -> Response:
    """A page of executions, newest first. Whoever may read only their own sees only these."""
    query = _Query(call)
    rows, after = listings.page(call.ports.records, EXECUTIONS, query.span(), query.limit, query.matches)
    found = tuple(projection.project(row.document, row.version) for row in rows)
    return answer(ExecutionsPage(executions=found, after=after))


def owner_of(call: Call, asked: str | None) -> str | None:
    """Whose executions a call is about that asks for `asked` (`me`: the caller): None is everybody's. Whoever may see only
    their own gets these if they ask for nobody's, and FORBIDDEN if for somebody else's."""
    owner = call.user.name if asked == "me" else asked
    if owner == call.user.name or call.may_with_others():
        return owner
    if owner is not None:
        call.check_others()
    return call.user.name


def partitions_of(owner: str | None, of_day: str) -> list[tuple[str, str]]:
    """The partitions, as (index, partition), with the executions that were admitted on a day: of one owner, or of all."""
    if owner is not None:
        return [(store.INDEX_OWNER, store.owner_partition(owner, of_day))]
    return [(store.INDEX_DAY, store.shard_partition(of_day, shard)) for shard in range(store.SHARDS)]


class _Query:
    """The query of a list call: checked, and with the caller's rights applied."""

    def __init__(self, call: Call) -> None:
        query = dict(call.request.query)
        self.limit = listings.limit_of(query.pop("limit", None))
        self.after = listings.position_of(query.pop("after", None), EXECUTIONS)
        self.states = _states(query.pop("status", None))
        self.label = query.pop("label", None)
        self.updated_since = listings.instant_of("updated_since", query.pop("updated_since", None))
        owner = query.pop("owner", None)
        listings.refuse_others(query)
        self.owner = owner_of(call, owner)
        self.key_id = None if call.key.limits is None else call.key.key_id
        self._oldest = call.deployment.created_at
        if self.updated_since is not None:
            self._oldest = max(self._oldest, self.updated_since - CHANGES_FOR)
        self._newest = call.ports.clock.now() + listings.CLOCKS_APART

    def span(self) -> Span:
        return Span(partial(partitions_of, self.owner), self._oldest, self._newest, self.after)

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


def _states(text: str | None) -> frozenset[State]:
    if text is None:
        return frozenset()
    try:
        return frozenset(State(name.strip().upper()) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(State)
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"status takes some of {known}") from error
