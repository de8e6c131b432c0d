"""The inbox: what stands still there is submitted, and moves to `.done` with its receipt or to `.rejected` with the reason."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runvoy_cli.deployment.session import Session
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_sync import names
from runvoy_sync.outgoing import Entry, Outgoing
from runvoy_sync.retries import pause_after
from runvoy_sync.submission import NotDecided, Submission, check_size
from runvoy_sync.tell import Teller, fault
from runvoy_sync.tree import Identity, Tree

FOLDER = "inbox"
DONE = (FOLDER, ".done")
REJECTED = (FOLDER, ".rejected")
SETTLE_SECONDS = 0.5
BAD_SETTLE_SECONDS = 5.0  # of a file that is no request as it stands: it may be half of one
_TOLD = float("inf")
_WORKERS = 4
_MOST_QUEUED = 256

OnDecided = Callable[[str, str | None, int], None]


class _Seen(NamedTuple):
    """A file as the last look found it: unchanged `since` then (monotonic seconds), and whether it was no request as it stood."""

    identity: Identity
    since: float
    is_bad: bool = False


class Inbox:
    """Looks at the inbox, and submits what stands still there, by a few threads.

    `on_decided` is called with a file's name, the execution's id if it was accepted (else None), and the exit code to show if
    not. `skip` are the names that are not the inbox's own: those that Git tracks.
    """

    def __init__(
        self,
        tree: Tree,
        session: Session,
        submission: Submission,
        teller: Teller,
        on_decided: OnDecided,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._session = session
        self._submission = submission
        self._outgoing = Outgoing(tree)
        self._teller = teller
        self._on_decided = on_decided
        self._wake = wake
        self._seen: dict[str, _Seen] = {}
        self._others: dict[str, float] | None = None  # when what is no request was first seen
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._retry_at = 0.0
        self._failures = 0
        self.workers = [threading.Thread(target=self._work, name="submit", daemon=True) for _ in range(_WORKERS)]
        self.skip: frozenset[str] = frozenset()
        self.trouble: RunvoyError | OSError | None = None

    def start(self) -> None:
        with self._tree.folder(FOLDER):
            pass
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Let the workers end after what they are at."""
        with self._lock:
            self._retry_at = float("inf")  # what is queued stays in the inbox
        for _ in self.workers:
            self._queue.put(None)

    def scan(self) -> bool:
        """Look at all there is; whether anything is left to be done."""
        now = time.monotonic()
        wanted: dict[str, Identity | None] = {}
        others: list[str] = []
        for name, identity in self._tree.identities(FOLDER):
            if names.is_request(name):
                if name not in self.skip:
                    wanted[name] = identity
            elif not names.is_hidden(name):
                others.append(name)
        self._tell_of_others(others, now)
        with self._lock:
            busy = set(self._busy)
            self._seen = {name: seen for name, seen in self._seen.items() if name in wanted}
            room = 0 if now < self._retry_at else _MOST_QUEUED - len(busy)
        for name in sorted(wanted.keys() - busy):
            identity = wanted[name]
            if identity is None:
                self._reject_thing(name)
            elif self._is_still(name, identity, now) and room > 0 and not self._tree.is_being_written(FOLDER, name):
                room -= 1
                with self._lock:
                    self._busy.add(name)
                self._queue.put(name)
        return bool(wanted)

    def _tell_of_others(self, others: list[str], now: float) -> None:
        """Tell, once, of what lies there and is no request by its name. What an editor puts there for a moment is let be."""
        is_first_look = self._others is None
        known = self._others or {}
        self._others = {name: known.get(name, now) for name in others}
        for name, since in self._others.items():
            if since != _TOLD and (is_first_look or now - since >= BAD_SETTLE_SECONDS):
                self._others[name] = _TOLD
                self._teller.ignored(f"{FOLDER}/{name}")

    def _is_still(self, name: str, identity: Identity, now: float) -> bool:
        """Whether a file has not changed for a while."""
        with self._lock:
            seen = self._seen.get(name)
            if seen is None or seen.identity != identity:
                self._seen[name] = _Seen(identity, now)
                return False
        return now - seen.since >= (BAD_SETTLE_SECONDS if seen.is_bad else SETTLE_SECONDS)

    # -- the workers

    def _work(self) -> None:
        session = self._session._replace(client=self._session.client.sibling())
        while (name := self._queue.get()) is not None:
            try:
                if time.monotonic() >= self._retry_at:
                    self._handle(name, session)
            except (RunvoyError, OSError) as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a fault with one file must not end the thread, unseen
                self._failed(fault(error))
            finally:
                with self._lock:
                    self._busy.discard(name)
                self._wake()

    def _failed(self, error: RunvoyError | OSError) -> None:
        self._teller.trouble("submitting", error)
        with self._lock:
            self.trouble = error
            pause = pause_after(self._failures + 1)
            if time.monotonic() >= self._retry_at:  # several workers meet the same trouble
                self._failures += 1
            self._retry_at = max(self._retry_at, time.monotonic() + pause)

    def _handle(self, name: str, session: Session) -> None:
        with self._lock:
            seen = self._seen.get(name)
        content = self._tree.read(FOLDER, name, most=names.MAX_REQUEST_BYTES)
        if content is None or seen is None or self._tree.identity(FOLDER, name) != seen.identity:
            return  # it went, or it changed: it is looked at again
        tag = self._outgoing.tag(name, content)
        try:
            entry = self._outgoing.get(tag) or self._begin(name, content, tag, session, is_last_word=seen.is_bad)
            if entry is None:
                return
            if entry.receipt is None:
                entry = self._submission.decide(tag, entry, session)
        except UsageProblem as problem:
            self._reject(name, content, tag, problem)
            return
        except NotDecided:
            self._teller.trouble(name, "the deployment has not decided yet")
            return
        self._finish(tag, entry)
        self._teller.fine("submitting")
        with self._lock:
            self._failures = 0
            self.trouble = None

    def _begin(self, name: str, content: bytes, tag: str, session: Session, *, is_last_word: bool) -> Entry | None:
        """The entry of a new request, on disk; None for a file that may still become one."""
        try:
            check_size(f"{FOLDER}/{name}", content)
            from runvoy_sync import request_file  # with all of YAML: only where there is a request

            wanted = request_file.read(Path(FOLDER, name), content)
            return self._submission.begin(tag, name, content, wanted, session)
        except UsageProblem:
            if is_last_word:
                raise
            with self._lock:
                seen = self._seen.get(name)
                if seen is not None:
                    self._seen[name] = seen._replace(is_bad=True)
            return None

    # -- where files go

    def recover(self, session: Session) -> None:
        """Finish what an earlier daemon began and whose file is not in the inbox any more.

        One that cannot be finished now does not keep others from it: the first error is raised when all were tried.
        """
        trouble: RunvoyError | OSError | None = None
        for tag in self._outgoing.tags():
            try:
                self._recover_one(tag, session)
            except (RunvoyError, OSError) as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _recover_one(self, tag: str, session: Session) -> None:
        entry = self._outgoing.get(tag)
        if entry is None or entry.committed is not None:
            return
        if entry.receipt is None:
            if self._tree.read(FOLDER, entry.file_name, most=names.MAX_REQUEST_BYTES) == entry.content:
                return  # the scan comes to it
            try:
                entry = self._submission.ask(tag, entry, session)
            except NotDecided as error:
                raise RunvoyError(
                    ErrorCode.UNAVAILABLE, f"the request of {tag} is not decided yet, and its file is gone"
                ) from error
            if entry is None:
                self._outgoing.remove(tag)  # it was never sent, and its file was taken away
                return
        self._finish(tag, entry)

    def _finish(self, tag: str, entry: Entry) -> None:
        """Put a decided request's file and its receipt where they belong."""
        receipt = entry.receipt
        if receipt is None:
            raise RunvoyError(ErrorCode.INTERNAL, f"{entry.file_name} is to be finished and not decided")
        name = entry.file_name
        error = receipt.error()
        if error is not None:
            self._reject(name, entry.content, receipt.execution_id, error)
            self._outgoing.remove(tag)
            return
        kept = names.kept(name, receipt.execution_id)
        self._submission.accepted(entry, receipt.execution_id)
        self._submission.keep_receipt((*DONE, names.beside(kept, "receipt.json")), receipt)
        self._move(name, entry.content, (*DONE, kept))
        self._outgoing.remove(tag)
        self._teller.forget(name)
        self._teller.submitted(f"{FOLDER}/{name}", receipt.execution_id)
        self._on_decided(name, receipt.execution_id, 0)

    def _reject(self, name: str, content: bytes, tag: str, error: RunvoyError) -> None:
        kept = names.kept(name, tag)
        self._tree.write(*REJECTED, names.beside(kept, "reason.txt"), content=reason_of(error))
        self._move(name, content, (*REJECTED, kept))
        self._teller.forget(name)
        self._teller.rejected(f"{FOLDER}/{name}", error)
        self._on_decided(name, None, error.exit_code)

    def _reject_thing(self, name: str) -> None:
        """What is no file: moved as it is, without a look at what is in it or behind it."""
        problem = "it is a symbolic link, a folder or a pipe"
        kept = names.kept(name, os.urandom(8).hex())
        text = f"{problem}: a request is a regular file\n"
        self._tree.write(*REJECTED, names.beside(kept, "reason.txt"), content=text.encode())
        if self._tree.move((FOLDER, name), (*REJECTED, kept)):
            error = RunvoyError(ErrorCode.INVALID_REQUEST, problem, "A request is a regular file.")
            self._teller.rejected(f"{FOLDER}/{name}", error)
            self._on_decided(name, None, error.exit_code)

    def _move(self, name: str, content: bytes, target: tuple[str, ...]) -> None:
        """Move a file whose content was read; what was put in its place meanwhile is not moved away unread."""
        if self._tree.read(FOLDER, name, most=names.MAX_REQUEST_BYTES) == content and self._tree.move(
            (FOLDER, name), target
        ):
            if self._tree.read(*target, most=names.MAX_REQUEST_BYTES) == content:
                return
            # Replaced between the look and the move: it goes back, under its own name unless that was taken again.
            if not self._tree.move_if_free(target, (FOLDER, name)):
                self._tree.move_if_free(target, (FOLDER, f"{os.urandom(4).hex()}-{name}"))
        if not self._tree.exists(*target):
            self._tree.write(*target, content=content)


def reason_of(error: RunvoyError) -> bytes:
    """What a rejected file's reason.txt says."""
    text = f"{error.message} ({error.code.value})\n" + (f"hint: {error.hint}\n" if error.hint else "")
    return text.encode(errors="replace")
