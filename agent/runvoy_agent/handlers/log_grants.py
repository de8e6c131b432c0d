"""Reads of many ended executions' logs, granted by one call: for who copies a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runvoy_agent.core.model import Execution
from runvoy_agent.handlers import executions, store
from runvoy_agent.handlers.executions import READ_GRANT_LIFETIME
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_agent.ports import MAX_COMMIT_WRITES
from runvoy_protocol import object_keys
from runvoy_protocol.control import (
    CHUNKS_PER_GRANT,
    MAX_LOG_GRANTS,
    LogGrant,
    LogGrantsAnswer,
    LogGrantsRequest,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id

_MOST_URLS = 1_024  # of one answer: S3's have under 2 KB each, and Lambda answers with 6 MB at most
_MOST_INLINE_BYTES = 2 * 1024 * 1024  # of one answer
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
        inline_bytes = sum(map(len, log.chunks))
        if logs and (len(log.unread) > urls_left or inline_bytes > bytes_left):
            break
        urls_left -= len(log.unread)
        bytes_left -= inline_bytes
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
    return answer(LogGrantsAnswer(expires_at=expires_at, executions=granted))


class _Log(NamedTuple):
    """What a caller gets of a log: the keys of chunks to read, or the chunks."""

    execution_id: str
    unread: Sequence[str] = ()
    chunks: tuple[bytes, ...] = ()


def _log_of(call: Call, execution_id: str, found: Execution | None) -> _Log:
    """An ended execution's log, as far as one grant reaches; nothing of it if the caller may not read it."""
    if found is None or not found.is_terminal or not executions.may_read(call, found):
        return _Log(execution_id)
    last = min(found.chunks or 0, CHUNKS_PER_GRANT)
    chunk_keys = [object_keys.log_chunk(execution_id, number) for number in range(1, last + 1)]
    if last == found.chunks and last <= _MOST_INLINE_CHUNKS:
        chunks = _inline(call, chunk_keys, call.deployment.inline_log_bytes)
        if chunks is not None:
            return _Log(execution_id, chunks=chunks)
    return _Log(execution_id, unread=chunk_keys)


def _inline(call: Call, chunk_keys: Sequence[str], most_bytes: int) -> tuple[bytes, ...] | None:
    """All the chunks, if they are there and have so few bytes together."""
    chunks: list[bytes] = []
    for object_key in chunk_keys if most_bytes > 0 else ():
        stored = call.ports.outbox.get(object_key)
        if stored is None or len(stored.data) > most_bytes:
            return None
        most_bytes -= len(stored.data)
        chunks.append(stored.data)
    return tuple(chunks) or None


def _note(call: Call, granted: Sequence[str]) -> None:
    """Before it is answered: who was given reads of an execution's log is found by the execution."""
    for start in range(0, len(granted), MAX_COMMIT_WRITES):
        part = granted[start : start + MAX_COMMIT_WRITES]
        call.ports.records.commit([call.audit("grant-logs", execution_id=execution_id) for execution_id in part])
