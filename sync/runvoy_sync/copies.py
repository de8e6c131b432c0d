"""One execution's folder: its log as it grows, its status, and at the end its result.

Nothing is remembered of a log but the file itself. After a restart it is read from its first chunk again, and what the file
has already is compared and not written again: so whatever cut a write off, or edited the file, ends with the right bytes.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import msgspec

from runvoy_cli.client import Client
from runvoy_cli.follow import Follower
from runvoy_cli.output import Line, Lines, prefixed
from runvoy_cli.words import result_json
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.logs import LogRecord
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.tree import Tree, write_all

FOLDER = "executions"
RESULT = "result.json"
_FLUSH_BYTES = 1024 * 1024
_COMPARED_BYTES = 256 * 1024
_TAIL_SECONDS = 60.0  # an ended execution's last chunks may come after its status
_SHOWN_CHARACTERS = 200


_encoder = msgspec.json.Encoder()


class _JsonLine(msgspec.Struct):
    """A line of log.jsonl, with the fields of Line.as_json."""

    n: int
    t: int
    s: str
    text: str


class Disturbed(Exception):
    """Somebody else changed the file: it is to be copied from its beginning."""


class GrowingFile:
    """A file that is to hold certain bytes, which become known bit by bit. It is written behind a prefix that was verified."""

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
        if not self._pending:
            return
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
        self.position += len(self._pending)
        if self.position >= size:
            self._known_size = self.position
        self._pending.clear()

    def finish(self) -> None:
        """All is known: what stands behind it goes, and the rest is made durable."""
        self.flush()
        with self._tree.appendable(*self._path) as descriptor:
            if os.fstat(descriptor).st_size > self.position:
                os.ftruncate(descriptor, self.position)
            os.fsync(descriptor)

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
    """What one look brought. `is_done`: all of it is on disk but for the result, which is the caller's to write."""

    is_done: bool
    is_news: bool


class Copy:
    """The folder of one execution. Used by one thread; its client, too."""

    def __init__(self, tree: Tree, client: Client, execution_id: str, status: ExecutionStatus | None) -> None:
        self.execution_id = execution_id
        self._tree = tree
        self._client = client
        self._follower = Follower(client, execution_id)
        self._follower.status = status
        self._lines = Lines()
        self._text = GrowingFile(tree, FOLDER, execution_id, "log.txt")
        self._json = GrowingFile(tree, FOLDER, execution_id, "log.jsonl")
        self._written_version = 0
        self._ended_at: float | None = None
        self.last_line = ""

    @property
    def status(self) -> ExecutionStatus | None:
        return self._follower.status

    @property
    def log_is_whole(self) -> bool:
        return self._follower.log_is_whole

    def step(self) -> Step:
        """Take what is new. After any error the copy is of no use any more: another one goes on where the files end."""
        if self._follower.status is None:
            self._follower.status = self._shown()
        before = self._text.position
        found = self._follower.look(self._on_record)
        if found is None:
            return Step(is_done=False, is_news=False)
        self._text.flush()
        self._json.flush()
        is_news = before != self._text.position or found.record_version != self._written_version
        if not found.is_terminal:
            self._write_status(found)
            return Step(is_done=False, is_news=is_news)
        self._ended_at = self._ended_at or time.monotonic()
        if not self._follower.log_is_whole and time.monotonic() - self._ended_at < _TAIL_SECONDS:
            return Step(is_done=False, is_news=is_news)
        for line in self._lines.rest():
            self._on_line(line)
        self._text.finish()
        self._json.finish()
        self._write_status(found)
        return Step(is_done=True, is_news=True)

    def write_result(self) -> None:
        """The mark that all of it is there, so it comes last."""
        found = self._follower.status
        if found is None:
            raise RunvoyError(ErrorCode.INTERNAL, f"{self.execution_id} has no status to make a result of")
        document = {**result_json(found), "log_is_whole": self.log_is_whole}
        self._tree.write(FOLDER, self.execution_id, RESULT, content=_pretty(document), is_name_durable=True)

    def _shown(self) -> ExecutionStatus:
        answer = self._client.show(self.execution_id)
        if answer.status is None:
            refusal = answer.receipt.error() if answer.receipt is not None else None
            raise refusal or RunvoyError(ErrorCode.UNAVAILABLE, f"{self.execution_id} is not decided yet")
        return answer.status

    def _write_status(self, status: ExecutionStatus) -> None:
        if status.record_version == self._written_version:
            return
        if self._written_version == 0 and not self._tree.exists(FOLDER, self.execution_id, "request.json"):
            write_request(self._tree, self.execution_id, request_of(status))
        write_status(self._tree, status)
        self._written_version = status.record_version

    def _on_record(self, record: LogRecord) -> None:
        if record.b or record.p or self._lines.has_begun(record.s):
            for line in self._lines.feed(record):
                self._on_line(line)
            return
        # Whole lines of text, as nearly all records are: taken as a block, a line at a time would be ten times slower.
        texts = record.m.split("\n")
        if not texts[-1]:
            texts.pop()
        if not texts:
            return
        data = record.m.encode()
        data = data if data.endswith(b"\n") else data + b"\n"
        self._text.add(prefixed(data) if record.s == "sys" else data)
        lines = [_JsonLine(record.n + index, record.t, record.s, text) for index, text in enumerate(texts)]
        self._json.add(_encoder.encode_lines(lines))
        self.last_line = texts[-1][:_SHOWN_CHARACTERS]

    def _on_line(self, line: Line) -> None:
        data = line.data + b"\n"
        self._text.add(prefixed(data) if line.stream == "sys" else data)
        self._json.add(msgspec.json.encode(line.as_json()) + b"\n")
        self.last_line = line.data[:_SHOWN_CHARACTERS].decode(errors="replace")


def write_status(tree: Tree, status: ExecutionStatus) -> None:
    tree.write(FOLDER, status.execution_id, "status.json", content=_pretty(status))


def write_request(tree: Tree, execution_id: str, document: dict[str, object]) -> None:
    tree.write(FOLDER, execution_id, "request.json", content=_pretty(document))


def request_of(status: ExecutionStatus) -> dict[str, object]:
    """What a status tells of the request, for one that did not come through the inbox here."""
    fields = ("command", "image", "isolation", "timeout_seconds", "cpu", "memory_mib", "labels", "name")
    found = {field: getattr(status, field) for field in fields}
    return {"execution_id": status.execution_id, **found, "locks": [lock.name for lock in status.locks]}


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
