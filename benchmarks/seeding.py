"""Executions put straight into the home of an embedded stack that does not run, through its own records and framing: where
making them by running them would take longer than the measurement.

Each is a copy of one that really ran, under an id, labels and a log of its own.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from runvoy_agent.core import projection
from runvoy_agent.handlers.documents import store
from runvoy_agent.local.home import Home
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.ports import Put
from runvoy_agent.runner.framing import Framer
from runvoy_protocol import ids, object_keys, status

_COMMIT = 90
_CHUNK_BYTES = 4 * 1024 * 1024


def seed(runvoy_home: Path, model_id: str, label: str, contents: Iterable[bytes]) -> int:
    """Copies of the execution `model_id` with the label kind=`label`, whose logs are the contents; how many."""
    home = Home(runvoy_home / "local")
    records = SqliteRecords(home.records)
    try:
        loaded = store.load_execution(records, model_id)
        assert loaded.document is not None
        began = datetime.now(UTC)
        puts: list[Put] = []
        count = 0
        for content in contents:
            at = began + timedelta(microseconds=100 * count)
            execution_id = ids.uuid7(at, count.to_bytes(10, "big"))
            chunks, lines = _chunks(content, int(at.timestamp() * 1000))
            execution = msgspec.structs.replace(
                loaded.document,
                execution_id=execution_id,
                labels={"kind": label},
                admitted_at=at,
                updated_at=at,
                chunks=len(chunks),
                lines=lines,
            )
            for number, chunk in enumerate(chunks, 1):
                _put(home, object_keys.log_chunk(execution_id, number), chunk)
            _put(home, object_keys.status(execution_id), status.encode(projection.project(execution, 1)))
            puts.append(store.put_new(store.execution_key(execution_id), execution))
            if len(puts) == _COMMIT:
                records.commit(puts)
                puts = []
            count += 1
        if puts:
            records.commit(puts)
        return count
    finally:
        records.close()


def _chunks(content: bytes, now_ms: int) -> tuple[list[bytes], int]:
    """A log as its runner leaves it: the chunks, and the number of lines."""
    chunks: list[bytes] = []
    pending: list[bytes] = []
    size = 0

    def emit(record: bytes, length: int) -> None:
        nonlocal size
        pending.append(record)
        size += length
        if size >= _CHUNK_BYTES:
            close()

    def close() -> None:
        nonlocal size
        chunks.append(gzip.compress(b"".join(pending), 1))
        pending.clear()
        size = 0

    framer = Framer(emit)
    framer.feed("out", content, now_ms)
    framer.end(now_ms)
    if pending:
        close()
    return chunks, framer.lines


def _put(home: Home, object_key: str, data: bytes) -> None:
    """An object of the outbox: a file by the name of its key (see FolderObjects), without the fsyncs."""
    path = home.outbox / object_key
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
