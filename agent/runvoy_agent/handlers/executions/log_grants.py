"""Reads of many ended executions' logs, granted by one call: for who copies a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.executions import reads
from runvoy_agent.handlers.executions.reads import READ_GRANT_LIFETIME
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_agent.ports import MAX_COMMIT_WRITES
from runvoy_protocol import object_keys
from runvoy_protocol.control import (
    CHUNKS_PER_GRANT,
    MAX_LOG_GRANTS,
    MSGPACK,
    LogGrant,
    LogGrantsAnswer,
    LogGrantsRequest,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id

_MOST_URLS = 1_024  # of one answer: S3's have under 2 KB each, and Lambda answers with 6 MB at most
_MOST_INLINE_BYTES = 4 * 1024 * 1024  # of one answer
_MOST_INLINE_CHUNKS = 4
_MOST_ID_CHARACTERS = 64


def grant_logs(call: Call) -> Response:
    """A grant for each execution that has ended and that the caller may read; an empty one for every other id, of which
    nothing is told, not even whether there is such an execution. Each that was granted has an audit record of its own."""
    asked = call.body(LogGrantsRequest).execution_ids
    if not 1 <= len(asked) <= MAX_LOG_GRANTS or len(set(asked)) != len(asked):
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"1 to {MAX_LOG_GRANTS} execution ids can be asked for at once, each of them once",
        )
    call.concerns(subject=f"{len(asked)} executions")
    logs: list[_Log] = []
    urls_left, bytes_left = _MOST_URLS, _MOST_INLINE_BYTES
    loaded = store.load_executions(call.ports.records, filter(is_execution_id, asked))
    for execution_id in asked:
        known = loaded.get(execution_id)
        log = _log_of(call, execution_id, None if known is None else known.document)
        if logs and (len(log.unread) > urls_left or log.inline_bytes > bytes_left):
            break
        log = _read(call, log)
        urls_left -= len(log.unread)
        bytes_left -= log.inline_bytes
        logs.append(log)
    expires_at = call.ports.clock.now() + READ_GRANT_LIFETIME
    unread = [object_key for log in logs for object_key in log.unread]
    urls = iter(call.ports.outbox.presign_gets(unread, expires_at=expires_at) if unread else ())
    granted = tuple(
        LogGrant(
            execution_id=log.execution_id[:_MOST_ID_CHARACTERS],
            chunk_urls=tuple(next(urls) for _ in log.unread),
            chunks=log.chunks,
        )
        for log in logs
    )
    _note(call, [log.execution_id for log in logs if log.chunks or log.unread])
    return _answer(call, LogGrantsAnswer(expires_at=expires_at, executions=granted))


class _Log(NamedTuple):
    """What a caller gets of a log: chunks to read by URLs (`unread`), or, once it is read, the `chunks`. `inline_bytes`: how many
    bytes they have together that are handed out within the answer; then `small` are their keys."""

    execution_id: str
    unread: Sequence[str] = ()
    small: Sequence[str] = ()
    inline_bytes: int = 0
    chunks: tuple[bytes, ...] = ()


def _log_of(call: Call, execution_id: str, found: Execution | None) -> _Log:
    """An ended execution's log, as far as one grant reaches; nothing of it if the caller may not read it."""
    if found is None or not found.is_terminal or not reads.may_read(call, found):
        return _Log(execution_id)
    last = min(found.chunks or 0, CHUNKS_PER_GRANT)
    chunk_keys = [object_keys.log_chunk(execution_id, number) for number in range(1, last + 1)]
    if call.deployment.inline_log_bytes and last == found.chunks and 0 < last <= _MOST_INLINE_CHUNKS:
        there = call.ports.outbox.list(object_keys.log_prefix(execution_id), limit=_MOST_INLINE_CHUNKS + 1)
        total = sum(one.size for one in there)
        if [one.key for one in there] == chunk_keys and total <= call.deployment.inline_log_bytes:
            return _Log(execution_id, small=chunk_keys, inline_bytes=total)
    return _Log(execution_id, unread=chunk_keys)


def _read(call: Call, log: _Log) -> _Log:
    """With the chunks that are handed out within the answer, if they are what they were a moment ago."""
    found = [call.ports.outbox.get(object_key) for object_key in log.small]
    chunks = tuple(stored.data for stored in found if stored is not None)
    if len(chunks) == len(log.small) and sum(map(len, chunks)) == log.inline_bytes:
        return log._replace(chunks=chunks)
    return _Log(log.execution_id, unread=log.small)


def _answer(call: Call, document: LogGrantsAnswer) -> Response:
    """As JSON; with chunks in it as msgpack for who takes that, for base64 costs either end more than sending it."""
    if MSGPACK in call.request.headers.get("accept", "") and any(one.chunks for one in document.executions):
        return Response(200, msgspec.msgpack.encode(document), MSGPACK)
    return answer(document)


def _note(call: Call, granted: Sequence[str]) -> None:
    """Before it is answered: who was given reads of an execution's log is found by the execution."""
    for start in range(0, len(granted), MAX_COMMIT_WRITES):
        part = granted[start : start + MAX_COMMIT_WRITES]
        call.ports.records.commit([call.audit("grant-logs", execution_id=execution_id) for execution_id in part])
