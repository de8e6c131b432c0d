"""The copy of an execution that had ended when it was found, into a folder that was made for it.

Nothing is there to be compared and nothing more will come: so each file is written from its beginning, at once. Whatever goes
wrong, or cuts this off, leaves a folder without a result, which is copied as any other is (see `copies`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runvoy_cli.deployment.client import Client
from runvoy_cli.following.chunks import chunk_of, one_large
from runvoy_cli.http.transport import Answer, NoAnswer
from runvoy_protocol.control import LogGrant
from runvoy_protocol.logs import Chunk
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.copies import FOLDER, request_of, stage_result, write_request, write_status
from runvoy_sync.log_text import LogText
from runvoy_sync.tree import Tree, begin_writing, write_all

_OK = 200
_PIECE_BYTES = 256 * 1024
_MOST_GATHERED = 4_096  # pieces of a few bytes, each of which takes a hundred more until it is written
LARGE_BYTES = 128 * 1024  # of a log that is worth a thread of its own, and being sent to the disk on its own
_TRIES = 2  # the other end may have closed a kept connection


def is_all(status: ExecutionStatus, log: LogGrant) -> bool:
    """Whether an execution has ended and its whole log is to be had by this grant."""
    return status.is_terminal and status.chunks == len(log.chunks or log.chunk_urls)


def copy_ended(tree: Tree, client: Client, status: ExecutionStatus, log: LogGrant) -> bool:
    """Write all files of the execution into its new folder, its result staged; False if its log could not be read by this
    grant. OSError, as False, leaves the log's files empty."""
    one = status.execution_id
    with tree.holding(FOLDER, one):
        try:
            _write_log(tree, one, _chunks(client, log))
        except _Unread:
            return False
        write_request(tree, one, request_of(status), is_durable=False)
        write_status(tree, status, is_durable=False)
        stage_result(tree, status, log_is_whole=True)
    return True


def _write_log(tree: Tree, execution_id: str, chunks: Iterable[bytes]) -> None:
    made = LogText()
    with (
        tree.fresh(FOLDER, execution_id, "log.txt") as text_descriptor,
        tree.fresh(FOLDER, execution_id, "log.jsonl") as json_descriptor,
    ):
        text, lines = _Gathered(text_descriptor), _Gathered(json_descriptor)
        for number, raw in enumerate(chunks, 1):
            with one_large(raw):
                is_last = _add(chunk_of(raw, number), made, text, lines)
            if is_last:
                break
        text.add(made.rest())
        text.finish()
        lines.finish()


def _add(chunk: Chunk, made: LogText, text: _Gathered, lines: _Gathered) -> bool:
    """Whether it is the log's last."""
    forms = made.feed(chunk)
    for piece in forms.text:
        text.add(piece)
    lines.add(forms.json)
    return any(record.end for record in chunk.records)


class _Gathered:
    """Writes what is added in pieces of a few records. A larger piece would need as much memory of the system's in a row, which it
    looks for long where there is little; smaller ones would be more calls."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pieces: list[bytes | memoryview] = []
        self._size = 0
        self._written = 0

    def add(self, data: bytes) -> None:
        if self._size + len(data) < _PIECE_BYTES:
            self._append(data)  # a view of each would take longer, and more memory, than a line does
            return
        view = memoryview(data)
        while self._size + len(view) >= _PIECE_BYTES:
            fitting = _PIECE_BYTES - self._size
            self._append(view[:fitting])
            self._flush()
            view = view[fitting:]
        self._append(bytes(view))  # and not all that it is a part of

    def finish(self) -> None:
        self._flush()
        if self._written >= LARGE_BYTES:
            begin_writing(self._descriptor)

    def _append(self, data: bytes | memoryview) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if len(self._pieces) >= _MOST_GATHERED:
            self._flush()

    def _flush(self) -> None:
        write_all(self._descriptor, self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
        self._written += self._size
        self._pieces.clear()
        self._size = 0


class _Unread(Exception):
    """A chunk is not to be had by its address (any more)."""


def _chunks(client: Client, log: LogGrant) -> Iterator[bytes]:
    yield from log.chunks
    for url in log.chunk_urls:
        answer = _read(client, url)
        if answer is None or answer.status != _OK:
            raise _Unread
        yield answer.body


def _read(client: Client, url: str) -> Answer | None:
    for _ in range(_TRIES):
        try:
            return client.read(url)
        except NoAnswer as lost:
            if not lost.reused:
                break
    return None
