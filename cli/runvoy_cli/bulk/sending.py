"""Submitting a whole file: everything checked first, then one signed object for each 10,000 runs, or one for each run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from runvoy_cli.bulk import reader
from runvoy_cli.bulk.reader import BadBulk, Problem
from runvoy_cli.bulk.requests import Maker
from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.following.follow import Follower
from runvoy_cli.input.problems import EXIT_INTERRUPTED, GaveUp, Refused, UsageProblem
from runvoy_cli.submission import request as request_options
from runvoy_cli.submission import submitting
from runvoy_cli.submission.submitting import Submitted
from runvoy_cli.terminal.render import NotWritten, write_stderr, written_whole
from runvoy_cli.terminal.sanitize import json_text
from runvoy_protocol import batches, ids, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import RunRequest

if TYPE_CHECKING:
    from typer._click import Context

DECISION_SECONDS = 5.0
_TELL_SECONDS = 10.0


class _Numbered(NamedTuple):
    """A request, and the line of the file that it begins in."""

    line: int
    request: RunRequest


def submit(context: Context, place: str, *, as_batch: bool) -> int:
    """Submit the runs in a file, and print their ids in order, those of each object once it is durable; the exit code."""
    name, text = reader.read(place)
    problems: list[Problem] = []
    entries = reader.parse(text, name, problems)
    if not entries and not problems:
        raise UsageProblem(f"there are no runs in {name}", "Write one JSON object a line, or YAML documents.")
    base = request_options.build(context, ("true",), os.environ)  # each line has its own command
    maker = Maker(base, request_options.id_text(context))
    made = [(entry.line, maker.make(entry, number, problems)) for number, entry in enumerate(entries, start=1)]
    if problems:
        raise BadBulk(name, problems)
    session = open_session(context.obj, calls_are_limited=False)
    client = session.client
    client.call("GET", "/whoami")  # learns the deployment's time: a batch by a wrong clock is refused line by line
    default_seconds = session.default_timeout_seconds if context.obj.timeout_seconds is None else None
    now = client.now()
    numbered = [
        _Numbered(line, one.addressed(client.target, now, default_seconds)) for line, one in made if one is not None
    ]
    has_ids = all(one.id_text is not None for _, one in made if one is not None)
    return _Sending(session, name, numbered, context.obj.json, has_ids).through(as_batch)


class _Sending:
    """The way of a file's requests into the inbox, and how far it got."""

    def __init__(
        self, session: Session, name: str, numbered: Sequence[_Numbered], as_json: bool, has_ids: bool
    ) -> None:
        self._session = session
        self._name = name
        self._numbered = numbered
        self._as_json = as_json
        self._has_ids = has_ids
        self._durable = 0
        self._is_sending = False

    def through(self, as_batch: bool) -> int:
        try:
            if as_batch:
                for portion in batches.portions(self._batched()):
                    self._send(portion)
            else:
                self._send_each()
        except KeyboardInterrupt:
            write_stderr(f"\nrunvoy: {self._where_it_stands()}\nhint: {self._way_on()}\n")
            return EXIT_INTERRUPTED
        except RunvoyError as error:
            refused = Refused(self._told(error))
            if isinstance(error, _BatchRefused):
                raise refused from error
            raise self._told(error) from error
        return 0

    def _current(self) -> Iterator[RunRequest]:
        """The requests, each issued at the moment that it is asked for."""
        for _, request in self._numbered:
            now = self._session.client.now()
            yield msgspec.structs.replace(request, issued_at=now, expires_at=now + requests.MAX_LIFETIME)

    def _batched(self) -> Iterator[BatchedRequest]:
        for request in self._current():
            yield BatchedRequest(request.request_id, requests.encode(request))

    def _send_each(self) -> None:
        client = self._session.client
        signing_key = client.target.signing_key
        sealed = ((one.request_id, requests.seal_request(one, signing_key)) for one in self._current())
        self._is_sending = True
        told_at = time.monotonic()
        for execution_id in client.upload_each(sealed):
            self._print([execution_id])
            if time.monotonic() - told_at >= _TELL_SECONDS:
                told_at = time.monotonic()
                self._session.console.remark(f"{self._durable:,} of {len(self._numbered):,} submitted")
        self._is_sending = False

    def _send(self, portion: Sequence[BatchedRequest]) -> None:
        client = self._session.client
        batch_id = ids.uuid7(client.now(), os.urandom(10))
        sealed = batches.seal_batch(Batch(1, batch_id, tuple(portion)), client.target.signing_key)
        self._is_sending = True
        client.upload_batch(batch_id, sealed)
        self._session.console.detail(f"the batch {batch_id} is durable ({len(portion):,} runs, {len(sealed):,} bytes)")
        self._see_the_decision(batch_id, sealed)
        self._is_sending = False
        self._print([one.request_id for one in portion])
        if self._durable < len(self._numbered):
            self._session.console.remark(f"{self._durable:,} of {len(self._numbered):,} submitted")

    def _print(self, execution_ids: Sequence[str]) -> None:
        texts = []
        for execution_id in execution_ids:
            line = self._numbered[self._durable].line
            row = {"execution_id": execution_id, "line": line}
            texts.append(json_text(msgspec.json.encode(row)) if self._as_json else execution_id)
            self._durable += 1
        self._session.client.cache.last_submitted = execution_ids[-1]
        with written_whole():
            sys.stdout.write("".join(f"{text}\n" for text in texts))
            sys.stdout.flush()

    def _see_the_decision(self, batch_id: str, sealed: bytes) -> None:
        """Raise the refusal of the batch as a whole, if it is told in time."""
        client = self._session.client
        submitted = Submitted(batch_id, sealed)
        follower = Follower(
            client,
            batch_id,
            deadline=time.monotonic() + DECISION_SECONDS,
            object_sha256=submitted.object_sha256,
            send_again=partial(submitting.send_again, self._session, submitted, client.upload_batch),
        )
        try:
            follower.receipt()
        except GaveUp:
            self._session.console.remark("not decided yet; `runvoy wait` tells what becomes of it")
        except RunvoyError as error:
            if error is follower.refusal:
                raise _BatchRefused(error.code, error.message, error.hint, error.details) from error
            self._session.console.remark(f"the decision could not be seen: {error.message}")

    def _told(self, error: RunvoyError) -> RunvoyError:
        details = {**error.details, "submitted": self._durable, "of": len(self._numbered)}
        hint = error.hint
        if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL):
            # Of an output that cannot be written the hint is about commands that do one thing.
            hint = self._way_on(error) if isinstance(error, NotWritten) else f"{self._way_on(error)} {error.hint}"
        told = RunvoyError(error.code, f"{error.message}; {self._where_it_stands(error)}", hint, details)
        told.retryable = told.retryable and self._may_be_repeated(error)
        return told

    def _way_on(self, error: RunvoyError | None = None) -> str:
        if self._has_ids:
            return "Send the same file again: its runs have ids of their own, and none is started twice."
        if self._may_be_repeated(error):
            return "Send the same file again."
        return "`runvoy list` shows what is there: the same file would start it once more, for its runs have no `id`."

    def _may_be_repeated(self, error: RunvoyError | None) -> bool:
        """Whether nothing runs twice if the whole file is sent again: runs without ids of their own get new ones."""
        return self._has_ids or not (self._durable or self._is_open(error))

    def _where_it_stands(self, error: RunvoyError | None = None) -> str:
        total = len(self._numbered)
        text = f"{self._durable:,} of the {total:,} runs in {self._name} are submitted"
        return text + (", the next may or may not be" if self._is_open(error) else "")

    def _is_open(self, error: RunvoyError | None) -> bool:
        """Whether something may have arrived that was not told."""
        return self._is_sending and not isinstance(error, _BatchRefused)


class _BatchRefused(RunvoyError):
    """The deployment refused a batch as a whole."""
