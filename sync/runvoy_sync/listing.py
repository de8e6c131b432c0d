"""Which executions there are: new ones soon, changes of others by sweeps over all that changed since the last one.

Sweeps are timed by the deployment's clock, which their `updated_since` is compared with: a jump of ours loses nothing. Where a
sweep takes long, for there is much to look through, it is made more rarely.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_protocol.control import MAX_LOG_GRANTS, ExecutionsPage, LogGrant
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.instants import Instant
from runvoy_protocol.status import ExecutionStatus, decode
from runvoy_sync.copies import FOLDER, write_status
from runvoy_sync.mirror import MOST_WATCHED, Mirror
from runvoy_sync.retries import pause_after
from runvoy_sync.tell import Teller, fault
from runvoy_sync.tree import STATE, Tree

_OVERLAP = timedelta(minutes=2)  # listings may lag, and clocks of a deployment's parts differ
_PAGE = 200
_FIRST_GRANTS = 10
_NEWEST_SECONDS = 0.5
_RARELY = 10  # a sweep may take a tenth of the time
_SAVE_SECONDS = 30.0


class _State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`swept_until`: everything that changed before it has its folder. `query` is what was swept for."""

    deployment_id: str
    query: dict[str, str] = {}
    swept_until: Instant | None = None


class Listing(threading.Thread):
    """Finds executions and has them mirrored, until it is stopped."""

    def __init__(
        self,
        tree: Tree,
        client: Client,
        mirror: Mirror,
        teller: Teller,
        query: dict[str, str],
        on_swept: Callable[[], None],
    ) -> None:
        super().__init__(name="listing", daemon=True)
        self._tree = tree
        self._client = client
        self._mirror = mirror
        self._teller = teller
        self._query = query
        self._on_swept = on_swept
        self._state = _State(deployment_id=client.target.deployment_id, query=query)
        self._is_stopping = threading.Event()
        self._sweep_at = 0.0
        self._saved_at = 0.0
        self._grants_many = True
        self._begun = 0
        self._ended = 0
        self._done = threading.Lock()
        self._is_wanted = threading.Event()
        self.trouble: RunvoyError | OSError | None = None

    def load(self) -> str | None:
        """Go on from where an earlier daemon was; the deployment that the folder belongs to, None for a new folder."""
        raw = self._tree.read(*STATE, "state.json")
        try:
            found = None if raw is None else msgspec.json.decode(raw, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = None  # everything is swept anew: what is complete is passed over
        if found is None:
            self._save()
            return None
        if found.query == self._query and found.deployment_id == self._state.deployment_id:
            self._state = found
        return found.deployment_id

    def stop(self) -> None:
        self._is_stopping.set()
        self._is_wanted.set()

    def sweep_now(self) -> int:
        """Have a sweep begin as soon as may be; a mark for `has_swept_since`."""
        with self._done:
            self._sweep_at = 0.0
            self._is_wanted.set()
            return self._begun

    def has_swept_since(self, mark: int) -> bool:
        """Whether a sweep that began after the mark is over; 0 is the mark of the first one."""
        with self._done:
            return self._ended > mark

    def run(self) -> None:
        failures = 0
        has_resumed = False
        while not self._is_stopping.is_set():
            try:
                has_resumed = has_resumed or self._resume()
                self._round()
                self._teller.fine("listing")
                failures = 0
                self.trouble = None
                self._is_wanted.wait(_NEWEST_SECONDS)
            except Exception as error:  # noqa: BLE001 - told about, whatever it is: a thread that ends is not seen
                self.trouble = error if isinstance(error, (RunvoyError, OSError)) else fault(error)
                self._teller.trouble("listing", self.trouble)
                failures += 1
                self._is_stopping.wait(pause_after(failures))

    def _resume(self) -> bool:
        """Have mirrored what an earlier daemon left incomplete; True, for it was done."""
        if not self._mirror.resume():
            self._state.swept_until = None  # too many to be watched: a sweep over all finds them again
        return True

    def _round(self) -> None:
        with self._done:
            is_due = time.monotonic() >= self._sweep_at
            self._is_wanted.clear()
            self._begun += is_due
            number = self._begun
        if not is_due:
            self._look_at_the_newest()
            return
        began = time.monotonic()
        server_time = self._client.health()[0].time
        if not self._sweep(server_time):
            return
        took = time.monotonic() - began
        with self._done:
            self._ended = number
            if not self._is_wanted.is_set():
                self._sweep_at = time.monotonic() + max(_NEWEST_SECONDS, took * _RARELY)
        self._on_swept()

    def _sweep(self, server_time: datetime) -> bool:
        """Have everything mirrored that changed since the last sweep; False if it was stopped before the last page."""
        since = self._state.swept_until
        query = dict(self._query)
        if since is not None:
            # The earlier of the two: the deployment's clock may have been set back.
            query["updated_since"] = (min(since, server_time) - _OVERLAP).isoformat()
        after: str | None = None
        while not self._is_stopping.is_set():
            page = self._page(query, after)
            self._take(page.executions)
            after = page.after
            if after is None and not self._is_stopping.is_set():
                self._state.swept_until = server_time
                if since is None or time.monotonic() - self._saved_at > _SAVE_SECONDS:
                    self._save()
                return True
        return False

    def _look_at_the_newest(self) -> None:
        after: str | None = None
        while not self._is_stopping.is_set():
            page = self._page(self._query, after)
            new = self._take(page.executions)
            after = page.after
            if new < len(page.executions) or after is None:
                return

    def _page(self, query: dict[str, str], after: str | None) -> ExecutionsPage:
        paging = {"limit": str(_PAGE)} | ({"after": after} if after else {})
        return self._client.ask(ExecutionsPage, "GET", "/executions", query={**query, **paging})

    def _take(self, statuses: Sequence[ExecutionStatus]) -> int:
        """Have them mirrored; how many were not known before."""
        with self._tree.holding(FOLDER):
            incomplete = [status for status in statuses if not self._mirror.is_complete(status.execution_id)]
        new = 0
        while incomplete and not self._is_stopping.is_set():
            if any(one.is_terminal for one in incomplete):
                self._mirror.await_room()
            # Until the first grants are here nobody has anything to copy: so the first call asks for a few only.
            most = _FIRST_GRANTS if self._mirror.pending() == 0 else len(incomplete)
            part, grants = self._granted(incomplete[:most])
            incomplete = incomplete[len(part) :]
            with self._tree.holding(FOLDER):
                new += sum(self._found(status, grants.get(status.execution_id)) for status in part)
        return new

    def _found(self, status: ExecutionStatus, log: LogGrant | None) -> bool:
        """Have it mirrored; whether it was not known before."""
        if self._is_stopping.is_set():
            return False
        if not status.is_terminal and self._mirror.count() >= MOST_WATCHED:
            return self._note(status)
        return self._mirror.watch(status.execution_id, status, log)

    def _granted(self, statuses: Sequence[ExecutionStatus]) -> tuple[Sequence[ExecutionStatus], dict[str, LogGrant]]:
        """The first of them, with reads of the logs of those that have ended: as many as one call grants, for a call for each
        would take longer than reading them."""
        ended = [
            one.execution_id for one in statuses if one.is_terminal and not self._mirror.is_watched(one.execution_id)
        ]
        if not ended or not self._grants_many:
            return statuses, {}
        try:
            answer = self._client.log_grants(ended[:MAX_LOG_GRANTS]).executions
        except RunvoyError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            self._grants_many = False  # an older deployment has no such call
            return statuses, {}
        left = set(ended[len(answer) :])
        part = list(itertools.takewhile(lambda one: one.execution_id not in left, statuses))
        return part, {one.execution_id: one for one in answer if one.chunk_urls or one.chunks}

    def _note(self, status: ExecutionStatus) -> bool:
        """Write the status alone of an execution that is one too many to be watched; whether it was not known before."""
        raw = self._tree.read(FOLDER, status.execution_id, "status.json")
        if raw is not None:
            try:
                if decode(raw).record_version >= status.record_version:
                    return False
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass
        write_status(self._tree, status)
        return raw is None

    def _save(self) -> None:
        self._tree.sync_names(FOLDER)  # the folders of all that was found, before it is said that they are there
        self._tree.write(*STATE, "state.json", content=msgspec.json.encode(self._state))
        self._saved_at = time.monotonic()
