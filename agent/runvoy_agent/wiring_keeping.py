"""What the embedded stack keeps, and for how long: executions, what died writers left, and its own log."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.handlers import retention
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.retention import Removing, Swept
from runvoy_agent.handlers.routes import Call, Response
from runvoy_agent.local.durable import cut_log
from runvoy_agent.local.home import Home
from runvoy_agent.local.ingest import SpoolIngest
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import Ports
from runvoy_protocol.errors import ErrorCode, RunvoyError

log = logging.getLogger("runvoy.keeping")

LOG_KEPT_BYTES = 4 * 1024 * 1024


class GcRequest(msgspec.Struct, frozen=True):
    """POST stack/gc. Without `keep_seconds` what `runvoy local up --keep` said holds."""

    keep_seconds: int | None = None
    dry_run: bool = False


class Keeping:
    """One sweep at a time: once a day where it was told how long to keep, and whenever it is asked."""

    def __init__(
        self,
        home: Home,
        ports: Ports,
        inbox: FolderObjects,
        outbox: FolderObjects,
        ingest: SpoolIngest,
        oldest: datetime,
    ) -> None:
        self._home = home
        self._ports = ports
        self._inbox = inbox
        self._outbox = outbox
        self._ingest = ingest
        self._oldest = oldest
        self._sweeping = threading.Lock()

    def keep_up(self) -> None:
        """What is due of it now; called every minute."""
        keep_seconds = self._home.settings().keep_seconds
        if keep_seconds is None:
            return
        removing = Removing(self._inbox.remove, self._outbox.remove)
        with self._sweeping:
            swept = retention.keep_up(self._ports, self._oldest, timedelta(seconds=keep_seconds), removing)
        if swept is not None and (swept.executions or swept.requests):
            log.info("forgot %d executions, %d requests, %d bytes", swept.executions, swept.requests, swept.bytes)

    def serve(self, call: Call) -> Response:
        """Sweep now, or tell what that would remove."""
        asked = call.body(GcRequest)
        keep_seconds = self._home.settings().keep_seconds if asked.keep_seconds is None else asked.keep_seconds
        if keep_seconds is None:
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST,
                "nobody said how long executions are kept",
                "Give --keep 90d, or tell the stack for good: runvoy local up --keep 90d",
            )
        call.concerns(subject=f"what ended more than {keep_seconds} s ago")
        call.hold()
        swept = self._sweep(timedelta(seconds=keep_seconds), dry_run=asked.dry_run)
        leftovers = log_bytes = 0
        if not asked.dry_run:
            leftovers = self._inbox.sweep() + self._outbox.sweep() + self._forget_orphaned_claims()
            log_bytes = cut_log(self._home.log, LOG_KEPT_BYTES)
            message = f"{swept.executions} executions, {swept.requests} requests, {swept.bytes} bytes"
            # Done, and so on record, even if the caller was revoked meanwhile.
            call.ports.records.commit([call.audit("gc", message=message)])
        body = {**swept._asdict(), "leftovers": leftovers, "log_bytes": log_bytes}
        del body["oldest_left"]
        return Response(200, msgspec.json.encode(body), audited=not asked.dry_run)

    def _sweep(self, keep: timedelta, *, dry_run: bool) -> Swept:
        removing = Removing(self._inbox.remove, self._outbox.remove)
        with self._sweeping:
            return retention.sweep(self._ports, self._oldest, keep, removing, dry_run=dry_run)

    def _forget_orphaned_claims(self) -> int:
        """Claims of runs whose executions are forgotten: no start of one can be on its way, and without a record none begins."""
        count = 0
        for execution_id in self._ingest.removed():
            if store.load_execution(self._ports.records, execution_id).document is None:
                self._ingest.forget(execution_id)
                count += 1
        return count
