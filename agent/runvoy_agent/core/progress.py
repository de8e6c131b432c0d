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
    """When the last whole round of the reconciler began (`at`): the next one looks at what changed since.

    The rest is about the inbox. `listed_at`: when the last round began that looked at everything recent. `looked_until`: what was
    written before that time was looked at. `unanswered`: the objects that had no answer then, each with when it was written.
    `sweeps`: by their stretches, and those of single keys by stretch, slash and key. `busy_until`: another round looks at the
    inbox, until then at most.
    """

    at: datetime
    listed_at: datetime | None = None
    looked_until: datetime | None = None
    unanswered: dict[str, datetime] = {}
    sweeps: dict[str, InboxSweep] = {}
    busy_until: datetime | None = None


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user's numbers seemed too high at `at`: by `unfinished` and by `running`. `version` is what the number of unfinished
    ones was at then; `known` are the recently admitted executions that were looked at. See core.recounts."""

    at: datetime
    version: int
    unfinished: int = 0
    running: int = 0
    known: tuple[str, ...] = ()


class Recount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is suspected of a user's numbers. Every commit that corrects them writes this record, so of two at once one fails."""

    user: str
    suspicion: Suspicion | None = None


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """The last sweep for executions to be forgotten: when it began (`at`), from which time of admission on the next one has to
    look (`oldest`), and whether it left some that were due (`more`)."""

    at: datetime
    oldest: datetime
    more: bool = False
