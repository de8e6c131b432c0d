"""Waiting for executions and following their logs, by reads of the outbox.

A gateway honours `Prefer: wait=N`: a read blocks until its object, or a sibling of the same execution, changes. S3
ignores it and answers at once. So a read that comes back early and brings no news is followed by a pause that grows
from 100 ms to 1 s; news sets it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from runvoy_cli.deployment.client import Client
from runvoy_cli.following.chunks import chunk_of, one_large
from runvoy_cli.http.transport import Answer, NoAnswer
from runvoy_cli.input.problems import GaveUp
from runvoy_protocol.control import OutboxGrant
from runvoy_protocol.errors import ERRORS, ErrorCode, RunvoyError
from runvoy_protocol.logs import Chunk, LogRecord
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus

WAIT_SECONDS = 20.0
# Without a decision: the message about the upload may be lost, which is found in about a minute.
SEND_AGAIN_SECONDS = 30.0
PATIENCE_SECONDS = 60.0  # with a deployment that cannot be reached while we follow
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_OK = 200
_FIRST_OUTPUT_SECONDS = 3.0
_BEFORE_THE_START = (State.QUEUED, State.STARTING)
_SLACK_SECONDS = 1.0
_TAIL_SECONDS = 10.0  # an ended execution's last chunks may be ingested after its status
OnStatus = Callable[[ExecutionStatus], None]
OnRecord = Callable[[LogRecord], None]
OnChunk = Callable[[Chunk], None]


def _each(on_record: OnRecord) -> OnChunk:
    """For who takes records one by one: those that hold something."""

    def take(chunk: Chunk) -> None:
        for record in chunk.records:
            if record.data:
                on_record(record)

    return take


class Follower:
    """Reads one execution. `deadline` is of the monotonic clock; past it GaveUp is raised.

    `object_sha256` is known to who submitted the request: with it the receipt is waited for, not asked for. `send_again` is
    called once if it is not decided for long, or its object is gone; not by who is leaving. `grant`: reads that were granted
    before; others are asked for when these are used up. `chunks`: the log's first ones, which are here and need not be read.
    `interruptible` is entered where an exception, as Ctrl-C's, loses nothing: whoever was interrupted there, or gave up,
    can call the same method again and goes on with the next record.
    """

    def __init__(  # noqa: PLR0913 - as many as it can be asked for
        self,
        client: Client,
        execution_id: str,
        *,
        deadline: float | None = None,
        object_sha256: str | None = None,
        send_again: Callable[[], None] | None = None,
        grant: OutboxGrant | None = None,
        chunks: Sequence[bytes] = (),
        on_status: OnStatus | None = None,
        interruptible: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.execution_id = execution_id
        self.status: ExecutionStatus | None = None
        self.refusal: RunvoyError | None = None  # the deployment's answer, where it was raised: no trouble on the way
        self._client = client
        self.deadline = deadline
        self._object_sha256 = object_sha256
        self._send_again = send_again
        self._send_again_at = clock() + SEND_AGAIN_SECONDS
        self._on_status = on_status
        self._interruptible = interruptible
        self._clock = clock
        self._sleep = sleep
        self._grant = grant
        self._chunks = chunks
        self._status_etag = ""
        self._next_chunk = 1
        self._log_is_complete = False
        self._pause = _FIRST_PAUSE_SECONDS
        self._lost_since: float | None = None
        self._has_answered = object_sha256 is not None  # which it took
        self._is_leaving = False

    def leave_at(self, deadline: float | None) -> None:
        """Give up at that time even if a call is not answered by then; without one, do not give up any more."""
        self.deadline = deadline
        self._is_leaving = deadline is not None

    def receipt(self) -> Receipt | None:
        """Wait until the request is decided; its receipt if this client saw it, None if it is admitted.

        Raises the refusal as an error, and NOT_FOUND for an id nobody submitted.
        """
        while True:
            grant = self._next_look()
            if grant is not None:
                if grant.state == "admitted":
                    return grant.receipt
                receipt = grant.receipt or self._pending_receipt(grant)
                if receipt is not None:
                    return self._accepted(receipt)
            self._check_deadline()
            if self._clock() >= self._send_again_at:
                self._sent_again()

    def wait(self) -> ExecutionStatus:
        """Wait for the execution's end."""
        self.receipt()
        self._read_status()
        while self.status is None or not self.status.is_terminal:
            self._check_deadline()
            began = self._clock()
            if not self._read_status(wait=True):
                self._rest_if_early(began)
        return self.status

    def follow(self, on_record: OnRecord) -> ExecutionStatus:
        """Hand out the log as it grows, all of it, and wait for the execution's end."""
        on_chunk = _each(on_record)
        self.receipt()
        self._read_status()
        while self.status is None or not self.status.is_terminal:
            self._check_deadline()
            self._await_news(on_chunk)
        self._drain(on_chunk)
        tail_deadline = self._clock() + _TAIL_SECONDS
        while not self.log_is_whole and self._clock() < tail_deadline:
            self._rest()
            self._drain(on_chunk)
        return self.status

    def read_now(self, on_record: OnRecord) -> ExecutionStatus | None:
        """Hand out the log as far as it is there, without waiting; None while the request is not decided."""
        grant = self._regrant()
        if grant.state != "admitted":
            if grant.receipt is not None:
                self._accepted(grant.receipt)
            return None
        self._read_status()
        self._drain(_each(on_record))
        return self.status

    def look(self, on_chunk: OnChunk) -> ExecutionStatus | None:
        """Like `read_now`, in chunks, of an execution that is admitted, by the reads of the grant in hand: for who looks again
        and again. A status that was set from a list is not read again once it is terminal."""
        if self.status is None or not self.status.is_terminal:
            self._read_status()
        self._drain(on_chunk)
        return self.status

    def await_start(self, on_wait: Callable[[], None], on_record: OnRecord) -> None:
        """Wait until the run has begun and its first output is there, or it has ended; `on_wait` is told of the wait.

        A run that prints nothing is not waited for: a few seconds after its start that is what there is.
        """
        grant = self._regrant()
        if grant.receipt is not None:
            self._accepted(grant.receipt)
        if grant.state != "pending":
            self._read_status()
        if self.status is not None and self.status.state not in _BEFORE_THE_START:
            return
        on_wait()
        self.receipt()
        while self.status is None or self.status.state in _BEFORE_THE_START:
            self._check_deadline()
            began = self._clock()
            if not self._read_status(wait=True):
                self._rest_if_early(began)
        on_chunk = _each(on_record)
        first_deadline = self._clock() + _FIRST_OUTPUT_SECONDS
        while not self._take_chunk(on_chunk) and not self.status.is_terminal and self._clock() < first_deadline:
            self._check_deadline()
            self._rest()
            self._read_status()

    @property
    def log_is_whole(self) -> bool:
        """Whether all of an ended execution's log was handed out."""
        if self._log_is_complete:
            return True
        if self.status is None or not self.status.is_terminal:
            return False
        # No count: the log was never completed, the run never began or its task was lost. What is there was read.
        return self.status.chunks is None or self._has_all_chunks

    @property
    def _has_all_chunks(self) -> bool:
        """Whether the execution ended, its log's chunks were counted, and all of them were handed out."""
        if self.status is None or not self.status.is_terminal or self.status.chunks is None:
            return False
        return self._next_chunk > self.status.chunks

    def _await_news(self, on_chunk: OnChunk) -> None:
        """One blocking read of what changes next, then a look at the other.

        Before the run that is the status; during it the next chunk, for the last chunk comes before the end's status.
        A change between two reads would otherwise be noticed only when the blocking one ends.
        """
        began = self._clock()
        is_running = self.status is not None and self.status.state in (State.RUNNING, State.TERMINATING)
        if is_running and not self._log_is_complete:
            is_news = self._take_chunk(on_chunk, wait=True) or self._read_status()
        else:
            is_news = self._read_status(wait=True) or self._take_chunk(on_chunk)
        if not is_news:
            self._rest_if_early(began)

    def _drain(self, on_chunk: OnChunk) -> None:
        while self._take_chunk(on_chunk):
            pass

    def _take_chunk(self, on_chunk: OnChunk, wait: bool = False) -> bool:
        """Read the next chunk and hand it out; whether there was one."""
        if self._log_is_complete or self._has_all_chunks:
            return False
        if self._next_chunk <= len(self._chunks):
            raw = self._chunks[self._next_chunk - 1]
        else:
            answer = self._read(self._chunk_url, wait_seconds=self._span() if wait else 0.0)
            if answer is None or answer.status != _OK:
                return False
            raw = answer.body
        with one_large(raw):
            chunk = chunk_of(raw, self._next_chunk)
            self._next_chunk += 1
            self._pause = _FIRST_PAUSE_SECONDS
            self._log_is_complete = any(record.end for record in chunk.records)
            on_chunk(chunk)
            del chunk  # while it is held: what it takes is free before the next is decoded
        return True

    def _read_status(self, wait: bool = False) -> bool:
        """Read status.json; whether it was news."""
        answer = self._read(self._status_url, self._status_etag, self._span() if wait else 0.0)
        if answer is None or answer.status != _OK:
            return False
        self._status_etag = answer.etag
        status = self._client.parse(answer.body, ExecutionStatus)
        if self.status is not None and status.record_version <= self.status.record_version:
            return False
        self.status = status
        self._pause = _FIRST_PAUSE_SECONDS
        if self._on_status is not None:
            self._on_status(status)
        return True

    def _pending_receipt(self, grant: OutboxGrant) -> Receipt | None:
        """Wait a while for the receipt of a pending request."""
        began = self._clock()
        url = grant.receipt_url
        answer = self._read(lambda: url, wait_seconds=self._span()) if url is not None else None
        if answer is None or answer.status != _OK:
            self._rest_if_early(began)
            return None
        return self._client.parse(answer.body, Receipt)

    def _read(self, url_of: Callable[[], str | None], etag: str = "", wait_seconds: float = 0.0) -> Answer | None:
        """One read: 200, 304 or 404; None if there was no such answer, and the next read is to have a new grant."""
        try:
            url = url_of()
            if url is None:
                return None
            with self._interruptible():
                answer = self._in_time().read(url, etag, wait_seconds)
        except NoAnswer as lost:
            if not lost.reused:
                self._grant = None  # the embedded stack may come back on another port
                self._endure(lost.host, lost.reason)
            return None
        except RunvoyError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            self._endure("the deployment", error.message)
            return None
        if answer.status in (_OK, 304, 404):
            self._lost_since = None
            return answer
        self._grant = None  # 403: it has expired
        self._endure(url.split("/")[2], f"a read was answered with {answer.status}")
        return None

    def _endure(self, host: str, reason: str) -> None:
        """Bear with a read that failed: at once the first time, with pauses after that, and not for ever."""
        if self._lost_since is None:
            self._lost_since = self._clock()
            return
        if self._clock() - self._lost_since > PATIENCE_SECONDS:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"{host} cannot be read any more: {reason}",
                f"The execution goes on; come back with `runvoy logs --follow {self.execution_id}`.",
            )
        self._rest()

    def _regrant(self) -> OutboxGrant:
        with self._interruptible():
            self._grant = self._in_time().outbox_grant(self.execution_id, self._next_chunk, self._object_sha256)
        return self._grant

    def _sent_again(self) -> bool:
        """Send the request again, the same bytes under the same id, which starts nothing twice; False if it was before, or if
        we are leaving: an upload may take longer than is left."""
        if self._send_again is None or self._is_leaving:
            return False
        send_again, self._send_again = self._send_again, None
        with self._interruptible():
            send_again()
        return True

    def _next_look(self) -> OutboxGrant | None:
        """A new grant, or None if there is none for now, which is borne with where the deployment has answered us before."""
        try:
            grant = self._regrant()
        except RunvoyError as error:
            if error.code is ErrorCode.NOT_FOUND and self._sent_again():
                return None
            if error.code is not ErrorCode.UNAVAILABLE or not self._has_answered:
                raise
            self._endure("the deployment", error.message)
            return None
        self._has_answered = True
        if grant.receipt_url is None:
            self._lost_since = None  # no read will say that it is there again
        return grant

    def _admitted(self) -> OutboxGrant:
        # A grant from before the admission has no addresses to read: it is asked for again.
        return self._grant if self._grant is not None and self._grant.state == "admitted" else self._regrant()

    def _status_url(self) -> str | None:
        return self._admitted().status_url or self._regrant().status_url

    def _chunk_url(self) -> str | None:
        index = self._next_chunk - self._admitted().from_chunk
        if not 0 <= index < len(self._admitted().chunk_urls):
            index = self._next_chunk - self._regrant().from_chunk
        urls = self._admitted().chunk_urls
        return urls[index] if 0 <= index < len(urls) else None

    def _span(self) -> float:
        """How long a read may wait: less where the deadline is near."""
        if self.deadline is None:
            return WAIT_SECONDS
        return max(0.0, min(WAIT_SECONDS, self.deadline - self._clock()))

    def _in_time(self) -> Client:
        """The client, for a call that may not outlast the deadline if we leave then. A waiting read's answer comes just by it."""
        if self.deadline is None or not self._is_leaving:
            return self._client
        return self._client.within(max(0.0, self.deadline - self._clock()) + _SLACK_SECONDS)

    def _rest_if_early(self, began: float) -> None:
        if self._clock() - began < WAIT_SECONDS / 2:
            self._rest()

    def _rest(self) -> None:
        left = self._pause if self.deadline is None else self.deadline - self._clock()
        with self._interruptible():
            self._sleep(max(0.0, min(self._pause, left)))
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE_SECONDS)

    def _check_deadline(self) -> None:
        # Never before the first look, so that `--timeout 0` asks how it stands.
        if self.deadline is not None and self._clock() >= self.deadline:
            raise GaveUp

    def _accepted(self, receipt: Receipt) -> Receipt:
        self.refusal = receipt.error()
        if self.refusal is not None:
            if self._object_sha256 is not None:  # of who submitted it, and may submit another
                self.refusal.retryable = ERRORS[self.refusal.code].retryable
            raise self.refusal
        return receipt
