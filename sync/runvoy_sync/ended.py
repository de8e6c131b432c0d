"""The copy of an execution that had ended when it was found, into a folder that was made for it.

Nothing is there to be compared and nothing more will come: so each file is written from its beginning, at once. Whatever goes
wrong, or cuts this off, leaves a folder without a result, which is copied as any other is (see `copies`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runvoy_cli.client import Client
from runvoy_cli.follow import chunk_of
from runvoy_cli.transport import Answer, NoAnswer
from runvoy_protocol.control import LogGrant
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.copies import FOLDER, request_of, stage_result, write_request, write_status
from runvoy_sync.log_text import LogText
from runvoy_sync.tree import Tree, write_all

_OK = 200
_PIECE_BYTES = 128 * 1024
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
        text = _Gathered(text_descriptor)
        for number, raw in enumerate(chunks, 1):
            chunk = chunk_of(raw, number)
            forms = made.feed(chunk)
            for piece in forms.text:
                text.add(piece)
            for start in range(0, len(forms.json), _PIECE_BYTES):
                write_all(json_descriptor, memoryview(forms.json)[start : start + _PIECE_BYTES])
            if any(record.end for record in chunk.records):
                break
        text.add(made.rest())
        text.flush()


class _Gathered:
    """Writes what is added in pieces of a few records: memory that was used just now is used again, where a log's whole would be
    new to the processor each time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        write_all(self._descriptor, b"".join(self._pieces))
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
