"""The story of one execution: what the audit and its own record tell of it."""

from __future__ import annotations

import msgspec

from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.instants import Instant


class TraceStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, as the execution's record holds it. `who` is `deployment`, `runner` or `platform`."""

    at: Instant
    who: str
    what: str
    about: str = ""


class TracePage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET trace/{execution_id}: `entries` of the audit, oldest first, and on the first page the `steps` of its record. `after`
    asks for the next page and is absent on the last."""

    entries: tuple[AuditEntry, ...]
    steps: tuple[TraceStep, ...] = ()
    after: str | None = None
