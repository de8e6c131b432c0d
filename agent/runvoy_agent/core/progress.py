"""How far the reconciler has come: what it keeps from one round to the next. Times are aware UTC."""

from __future__ import annotations

from datetime import datetime

import msgspec


class InboxSweep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the reconciler has listed a stretch of the inbox: it does so a part in each round.

    What was written from `since` on is read; from `next_since` on, by the sweep that comes after this one. `reached`: the object
    key up to which this one has come; empty when it is through.
    """

    began_at: datetime
    since: datetime
    next_since: datetime
    reached: str = ""


class Reconciled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When the last whole round of the reconciler began: the next looks at what changed since.

    Of the inbox: `listed_at`, when the last round began that looked at all that is recent; `looked_until`: what was written before
    then was looked at; `unanswered`: the objects that had no answer then, with when they were written; `sweeps`: by their stretches,
    and those of keys apart by stretch, slash and key; `busy_until`: another round looks at it, until then at most.
    """

    at: datetime
    listed_at: datetime | None = None
    looked_until: datetime | None = None
    unanswered: dict[str, datetime] = {}
    sweeps: dict[str, InboxSweep] = {}
    busy_until: datetime | None = None


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user's numbers seemed too high: by how many, beyond all that was looked at. `version` is that of the number of unfinished ones
    then; `known`: the executions admitted of late that were looked at."""

    at: datetime
    version: int
    unfinished: int = 0
    running: int = 0
    known: tuple[str, ...] = ()


class Recount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a user's numbers being wrong. Every commit that puts them right writes it: of two at once one fails."""

    user: str
    suspicion: Suspicion | None = None


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """When the last sweep for executions to be forgotten began, from which admission on the next has to look, and whether it left
    some to be forgotten."""

    at: datetime
    oldest: datetime
    more: bool = False
