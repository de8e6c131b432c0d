"""The audit as it is read: who did what to what, when, from where, and how it went."""

from __future__ import annotations

import msgspec

from runvoy_protocol.instants import Instant

REFUSED = "refused"
"""As the `outcome` that is asked for: every outcome that is an error code."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call or decision.

    `actor` is a user's name, `runner`, `platform`, `reconciler`, or empty for nobody known; `key_id` the key it was done by.
    `action` is the route's name or a step of an execution, of a call that nobody known made its method and path. `outcome`
    is `ok`, `accepted`, a state, or an error code. `subject` is what it was about, `execution_id` the execution. `source` is
    the network address it came from, empty where a delivery does not tell.
    """

    event_id: str
    at: Instant
    actor: str
    action: str
    outcome: str
    execution_id: str | None = None
    key_id: str | None = None
    subject: str = ""
    source: str = ""
    message: str = ""


class AuditPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET audit: newest first; `after` asks for the next page and is absent on the last."""

    entries: tuple[AuditEntry, ...]
    after: str | None = None
