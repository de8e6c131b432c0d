"""One execution's folder: its log as it grows, its status, and at the end its result.

Nothing is remembered of a log but the file itself. After a restart it is read from its first chunk again, and what the file
has already is compared and not written again: so whatever cut a write off, or edited the file, ends with the right bytes.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_cli.following.follow import Follower
from runvoy_cli.terminal.words import result_json
from runvoy_protocol.control import LogGrant, OutboxGrant
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.logs import Chunk
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.log_text import LogText
from runvoy_sync.tree import Tree, write_all

FOLDER = "executions"
RESULT = "result.json"
REQUEST = "request.json"
_NEVER = datetime.max.replace(tzinfo=UTC)  # a read that is refused is asked for again: nobody looks at the time
_FLUSH_BYTES = 1024 * 1024
_COMPARED_BYTES = 256 * 1024
_TAIL_SECONDS = 60.0  # an ended execution's last chunks may come after its status


class Disturbed(Exception):
    """Somebody else changed the file: it is to be copied from its beginning."""


class GrowingFile:
    """A file that is to hold certain bytes, which become known piece by piece. What the file has already is compared with them;
    writing begins where the two differ."""

    def __init__(self, tree: Tree, *path: str) -> None:
        self._tree = tree
        self._path = path
        self.position = 0
        self._known_size: int | None = None  # once nothing is left to compare
        self._pending = bytearray()

    def add(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was added. OSError leaves the file at the end of a whole line, or as it was found."""
        if self._pending:
            self._write(is_last=False)

    def finish(self) -> None:
        """Write the last piece. Everything is known then, so whatever the file has after it is cut off."""
        self._write(is_last=True)

    def _write(self, *, is_last: bool) -> None:
        with self._tree.appendable(*self._path) as descriptor:
            size = os.fstat(descriptor).st_size
            if self._known_size is not None and size != self._known_size:
                raise Disturbed
            data = memoryview(self._pending)
            same = self._compared(descriptor, data, size) if self.position < size else 0
            try:
                if same < len(data):
                    if self.position + same < size:
                        os.ftruncate(descriptor, self.position + same)
                    os.lseek(descriptor, self.position + same, os.SEEK_SET)
                    write_all(descriptor, data[same:])
            except OSError:
                if same < len(data):
                    os.ftruncate(descriptor, self.position)  # this needs no room: no torn line stays
                raise
            finally:
                data.release()
            end = self.position + len(self._pending)
            if is_last and size > end:
                os.ftruncate(descriptor, end)
        self.position = end
        if end >= size or is_last:
            self._known_size = end
        self._pending = bytearray()

    def _compared(self, descriptor: int, data: memoryview, size: int) -> int:
        """How many bytes of `data` stand in the file already."""
        same = 0
        while same < len(data) and self.position + same < size:
            there = os.pread(descriptor, min(_COMPARED_BYTES, len(data) - same), self.position + same)
            wanted = data[same : same + len(there)]
            if wanted != there:
                return same + next(i for i, (one, other) in enumerate(zip(wanted, there, strict=True)) if one != other)
            same += len(there)
        return same


class Step(NamedTuple):
    """What one look brought: whether the copy is done (all of it written, not durable yet, the result staged), and whether
    there was anything new."""

    is_done: bool
    is_news: bool


class Copy:
    """The folder of one execution, kept up to date until it ends. One thread alone uses it and its client. `log`: the first
    chunks of its log, or URLs of them, where a listing brought them."""

    def __init__(
        self,
        tree: Tree,
        client: Client,
        execution_id: str,
        status: ExecutionStatus | None,
        log: LogGrant | None = None,
    ) -> None:
        self.execution_id = execution_id
        self._tree = tree
        self._client = client
        grant = OutboxGrant(state="admitted", expires_at=_NEVER, chunk_urls=log.chunk_urls) if log is not None else None
        self._follower = Follower(client, execution_id, grant=grant, chunks=log.chunks if log is not None else ())
        self._follower.status = status
        self._log = LogText()
        self._text = GrowingFile(tree, FOLDER, execution_id, "log.txt")
        self._json = GrowingFile(tree, FOLDER, execution_id, "log.jsonl")
        self._written_version = 0
        self._ended_at: float | None = None

    @property
    def last_line(self) -> str:
        return self._log.last_line

    @property
    def status(self) -> ExecutionStatus | None:
        return self._follower.status

    @property
    def log_is_whole(self) -> bool:
        return self._follower.log_is_whole

    def step(self) -> Step:
        """Take what is new. After any error this object is of no more use: a new one goes on from what is in the files."""
        if self._follower.status is None:
            self._follower.status = self._shown()
        before = self._text.position
        found = self._follower.look(self._on_chunk)
        if found is None:
            return Step(is_done=False, is_news=False)
        if found.is_terminal:
            self._ended_at = self._ended_at or time.monotonic()
            if self._follower.log_is_whole or time.monotonic() - self._ended_at >= _TAIL_SECONDS:
                with self._tree.holding(FOLDER, self.execution_id):
                    self._finish(found)
                return Step(is_done=True, is_news=True)
        self._text.flush()
        self._json.flush()
        is_news = before != self._text.position or found.record_version != self._written_version
        if not found.is_terminal:
            self._write_status(found)
        return Step(is_done=False, is_news=is_news)

    def _finish(self, found: ExecutionStatus) -> None:
        """Write the rest of it. The result, the mark that all of it is there, is only staged: it is put last."""
        self._text.add(self._log.rest())
        self._text.finish()
        self._json.finish()
        self._write_status(found)
        stage_result(self._tree, found, log_is_whole=self.log_is_whole)

    def _shown(self) -> ExecutionStatus:
        answer = self._client.show(self.execution_id)
        if answer.status is None:
            refusal = answer.receipt.error() if answer.receipt is not None else None
            raise refusal or RunvoyError(ErrorCode.UNAVAILABLE, f"{self.execution_id} is not decided yet")
        return answer.status

    def _write_status(self, status: ExecutionStatus) -> None:
        if status.record_version == self._written_version:
            return
        # A file that replaces none need not be durable at once: it is, before the result gets its name.
        is_durable = not status.is_terminal or self._written_version != 0
        if self._written_version == 0 and not self._has_request():
            write_request(self._tree, self.execution_id, request_of(status), is_durable=is_durable)
        write_status(self._tree, status, is_durable=is_durable)
        self._written_version = status.record_version

    def _has_request(self) -> bool:
        """Whether there is a request.json, and no loss of power tore it."""
        found = self._tree.read(FOLDER, self.execution_id, REQUEST)
        try:
            return found is not None and isinstance(msgspec.json.decode(found), dict)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False

    def _on_chunk(self, chunk: Chunk) -> None:
        forms = self._log.feed(chunk)
        for piece in forms.text:
            self._text.add(piece)
        self._json.add(forms.json)


def write_status(tree: Tree, status: ExecutionStatus, *, is_durable: bool = True) -> None:
    tree.write(FOLDER, status.execution_id, "status.json", content=_pretty(status), is_durable=is_durable)


def write_request(tree: Tree, execution_id: str, document: dict[str, object], *, is_durable: bool = True) -> None:
    tree.write(FOLDER, execution_id, REQUEST, content=_pretty(document), is_durable=is_durable)


def stage_result(tree: Tree, status: ExecutionStatus, *, log_is_whole: bool) -> None:
    """Write an ended execution's result under its temporary name: the last step of all gives it its own."""
    result = _pretty({**result_json(status), "log_is_whole": log_is_whole})
    tree.stage(FOLDER, status.execution_id, RESULT, content=result)


def request_of(status: ExecutionStatus) -> dict[str, object]:
    """What a status tells of the request, for one that did not come through the inbox here."""
    fields = ("command", "image", "isolation", "timeout_seconds", "cpu", "memory_mib", "labels", "name")
    found = {field: getattr(status, field) for field in fields}
    return {"execution_id": status.execution_id, **found, "locks": [lock.name for lock in status.locks]}


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
