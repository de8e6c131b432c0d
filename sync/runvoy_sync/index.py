"""What lies over the executions' folders: executions.jsonl, a line for each that ended, and the links to find them by."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from runvoy_cli.terminal.words import result_json
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.status import ExecutionStatus, decode
from runvoy_sync import names
from runvoy_sync.copies import FOLDER, RESULT
from runvoy_sync.tree import Tree, write_all

NAME = "executions.jsonl"
_TAIL_BYTES = 4 * 1024 * 1024  # holds all lines whose results may have been cut off: those of one batch of Finishing


class Index:
    """For all threads.

    The line of an execution is written, and durable, before its result: whoever sees a result finds the line. So a crash may
    leave the last lines without results; those executions come again, and their lines are known.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._latest_lock = threading.Lock()
        self._written: set[str] = set()  # executions without a result, whose lines are there
        self._latest: tuple[datetime, str] | None = None

    def recover(self) -> None:
        """Look at what an earlier daemon left."""
        with self._tree.appendable(NAME) as descriptor:
            size = _cut_torn(descriptor)
            start = max(0, size - _TAIL_BYTES)
            tail = os.pread(descriptor, size - start, start)
        lines = tail.split(b"\n")[1 if start else 0 :]
        for line in lines:
            execution_id = _id_of(line)
            if execution_id and not self._tree.exists(FOLDER, execution_id, RESULT):
                self._written.add(execution_id)
        self._latest = self._linked()

    def append(self, lines: Mapping[str, bytes]) -> None:
        """Enter executions, by their ids; durable when it returns. Those without a result that were entered before are passed
        over."""
        with self._lock:
            new = {one: line for one, line in lines.items() if one not in self._written}
            if new:
                self._write(b"".join(new.values()))
                self._written |= new.keys()

    def forget(self, execution_ids: Iterable[str]) -> None:
        """They have their results: nobody enters them again."""
        with self._lock:
            self._written.difference_update(execution_ids)

    def _write(self, lines: bytes) -> None:
        with self._tree.appendable(NAME) as descriptor:
            size = _cut_torn(descriptor)
            try:
                os.lseek(descriptor, size, os.SEEK_SET)
                write_all(descriptor, lines)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise

    def link(self, status: ExecutionStatus) -> None:
        """The links to an execution: `latest`, if it is, and one for each of its labels."""
        one = status.execution_id
        for name, value in status.labels.items():
            self._tree.link(
                "by-label", names.of_text(name), names.of_text(value), one, target=f"../../../{FOLDER}/{one}"
            )
        with self._latest_lock:
            if self._latest is None or (status.admitted_at, one) > self._latest:
                self._tree.link("latest", target=f"{FOLDER}/{one}")
                self._latest = (status.admitted_at, one)

    def _linked(self) -> tuple[datetime, str] | None:
        target = self._tree.link_target("latest") or ""
        one = target.removeprefix(f"{FOLDER}/")
        raw = self._tree.read(FOLDER, one, "status.json") if is_execution_id(one) else None
        try:
            return None if raw is None else (decode(raw).admitted_at, one)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def line_of(status: ExecutionStatus) -> bytes:
    """The line of an execution that ended."""
    verdict = result_json(status)
    del verdict["status"]
    facts = ("name", "owner", "command", "labels", "admitted_at", "started_at", "ended_at", "lines")
    return msgspec.json.encode({**verdict, **{name: getattr(status, name) for name in facts}}) + b"\n"


def _id_of(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line).get("execution_id")
    except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) and is_execution_id(found) else None


def _cut_torn(descriptor: int) -> int:
    """Take away a last line without its end; the file's size then."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    position = size
    while position > 0:
        start = max(0, position - 64 * 1024)
        found = os.pread(descriptor, position - start, start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < size:
        os.ftruncate(descriptor, position)
    return position
