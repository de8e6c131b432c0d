"""Comparing what is counted of each user with the records, and putting it right (core.recounts says why that races with nothing).

The numbers are right by every commit of this version. Two versions of the functions at once, a record that somebody removed, or a bug
can make them wrong: too high, and a user is kept out by what is not there; too low, and a quota is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from runvoy_agent.core import recounts
from runvoy_agent.core.model import Execution, User
from runvoy_agent.core.progress import Recount, Suspicion
from runvoy_agent.core.recounts import Looked
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.ports import Add, Check, Conflict, Ports, Put, Versioned, Write

log = logging.getLogger("runvoy.recounts")

_MOST_USERS = 20
"""How many users that seem wrong one round of the reconciler counts: for each of them all unfinished executions are read
twice."""

_LONGEST = timedelta(seconds=40)
"""After so long a round counts no further users: a function has 300 s, and users who are always busy nearly always seem wrong."""

_TRIES = 5
_PAGE = 100

Audit = Callable[[str, str], Put]
"""The audit record of a correction: of which user, and what was put right."""

Hold = Callable[[], Sequence[Check]]
"""What else a commit depends on, anew for each try: who asked for it."""


class Recounted(NamedTuple):
    """What was found of one user."""

    user: str
    unfinished_before: int
    running_before: int
    unfinished_added: int  # to put the number right; negative if it was too high
    running_added: int
    unfinished_suspected: int = 0  # it still seems too high by this: whether it is shows when indexes show more
    running_suspected: int = 0

    @property
    def is_corrected(self) -> bool:
        return bool(self.unfinished_added or self.running_added)

    @property
    def words(self) -> str:
        """What was put right, for people."""
        both = (
            ("unfinished", self.unfinished_before, self.unfinished_added),
            ("running", self.running_before, self.running_added),
        )
        return ", ".join(f"{what}: {before} to {before + added}" for what, before, added in both if added)


class Round(NamedTuple):
    """What was found, by user, and how many users that seem wrong are left for the next round."""

    users: list[Recounted]
    left: int


class _Counted(NamedTuple):
    unfinished: int
    running: int


class _Shown(NamedTuple):
    """An execution as an index shows it."""

    unfinished: bool
    running: bool
    admitted_at: datetime


_Active = dict[str, _Shown]  # by id


def recount(ports: Ports, audit: Audit, user: str | None = None, hold: Hold = tuple) -> list[Recounted]:
    """Compare the numbers of all users, or of one, and put right what is wrong for certain. A user who is not in the answer has
    right numbers, or numbers that change too much to tell."""
    active = _active_by_owner(ports)
    wanted = _users(ports, active) if user is None else [user]
    return list(_recounted(ports, wanted, active, audit, hold))


def round_of(ports: Ports, audit: Audit) -> Round:
    """A part of a reconciler's round: those that seem wrong, as many as there is time for."""
    began = ports.clock.now()
    active = _active_by_owner(ports)
    seeming = _seeming_wrong(ports, _users(ports, active), active)
    if len(seeming) > 1:
        # In a random order, so that it is not always the same users who are left for the next round.
        seeming.sort(key=lambda _name: ports.clock.random(4))
    taken: list[str] = []

    def in_time() -> Iterator[str]:
        for name in seeming[:_MOST_USERS]:
            if taken and ports.clock.now() - began > _LONGEST:
                return
            taken.append(name)
            yield name

    told = list(_recounted(ports, in_time(), active, audit, tuple))
    return Round(told, len(seeming) - len(taken))


def _users(ports: Ports, active: Mapping[str, _Active]) -> list[str]:
    return sorted({one.name for one, _ in store.of_kind(ports.records, store.KIND_USER, User)} | active.keys())


def _recounted(
    ports: Ports, users: Iterable[str], active: Mapping[str, _Active], audit: Audit, hold: Hold
) -> Iterator[Recounted]:
    for name in users:
        found = _recount_one(ports, name, active.get(name, {}), audit, hold)
        if found is None:
            continue
        if found.is_corrected:
            log.warning("the count of %s was wrong and is put right: %s", name, found.words)
        yield found


def _active_by_owner(ports: Ports) -> dict[str, _Active]:
    """What indexes show as unfinished, by owner: where to look, and no more."""
    found: dict[str, _Active] = {}
    for execution in all_executions.active(ports.records):
        found.setdefault(execution.owner, {})[execution.execution_id] = _Shown(
            recounts.counts_as_unfinished(execution), recounts.counts_as_running(execution), execution.admitted_at
        )
    return found


def _seeming_wrong(ports: Ports, users: Sequence[str], active: Mapping[str, _Active]) -> list[str]:
    """Those whose numbers differ from what indexes show. That is cheap to tell, and true of few."""
    keys = [key for user in users for key in (counts.unfinished_key(user), counts.running_key(user))]
    kept = {key: counts.number(found, key).value for key, found in zip(keys, _read(ports, keys), strict=True)}
    return [
        user
        for user in users
        if kept[counts.unfinished_key(user)] != sum(one.unfinished for one in active.get(user, {}).values())
        or kept[counts.running_key(user)] != sum(one.running for one in active.get(user, {}).values())
    ]


def _read(ports: Ports, keys: Sequence[str]) -> Sequence[Versioned | None]:
    return ports.records.get_many(keys) if keys else ()


def _recount_one(ports: Ports, user: str, active: _Active, audit: Audit, hold: Hold) -> Recounted | None:
    """What was found of one user, if anything. Whoever changes too much meanwhile is left for another time."""
    for _ in range(_TRIES):
        try:
            return _compare(ports, user, active, audit, hold)
        except Conflict:
            log.info("the count of %s changed while it was to be put right", user)
    return None


class _Measured(NamedTuple):
    """The numbers at one moment, and by how many they seem too high (negative: are too low)."""

    at: datetime
    version: int
    unfinished: int
    running: int
    unfinished_excess: int
    running_excess: int
    known: tuple[str, ...] | None

    @property
    def suspicion(self) -> Suspicion | None:
        unfinished, running = max(0, self.unfinished_excess), max(0, self.running_excess)
        if self.known is None or not (unfinished or running):
            return None
        return Suspicion(at=self.at, version=self.version, unfinished=unfinished, running=running, known=self.known)


def _compare(ports: Ports, user: str, active: _Active, audit: Audit, hold: Hold) -> Recounted | None:
    """One measurement, and the commit of what it shows. Raises Conflict, and then nothing was changed."""
    checks = hold()
    # Read first: whoever put something right since the measurement began has written it.
    held = store.load(ports.records, store.recount_key(user), Recount)
    before = None if held.document is None else held.document.suspicion
    measured = _measure(ports, user, active)
    suspicion = before if _still_counts(ports, before) else measured.suspicion
    confirmed = _Counted(0, 0)
    if suspicion is not None and recounts.is_ripe(suspicion, ports.records.index_lag, ports.clock.now()):
        unknown = recounts.unknown(suspicion, _admitted(ports, user, suspicion))
        confirmed = _Counted(max(0, suspicion.unfinished - unknown), max(0, suspicion.running - unknown))
        suspicion = None if suspicion is not before else measured.suspicion
    added = _Counted(
        recounts.correction(measured.unfinished_excess, confirmed.unfinished),
        recounts.correction(measured.running_excess, confirmed.running),
    )
    if measured.suspicion is None or any(added):
        suspicion = None  # it was a matter of what was not shown yet; or what is left is measured anew
    told = Recounted(
        user,
        measured.unfinished,
        measured.running,
        *added,
        0 if suspicion is None else suspicion.unfinished,
        0 if suspicion is None else suspicion.running,
    )
    _commit(ports, held, Recount(user=user, suspicion=suspicion), told, audit, checks)
    return told if told.is_corrected or suspicion is not None else None


def _still_counts(ports: Ports, suspicion: Suspicion | None) -> bool:
    return suspicion is not None and not recounts.is_stale(suspicion, ports.clock.now())


def _commit(
    ports: Ports, held: Loaded[Recount], noted: Recount, told: Recounted, audit: Audit, checks: Sequence[Check]
) -> None:
    if not told.is_corrected and (held.document or Recount(user=told.user)) == noted:
        return
    writes: list[Write] = [store.put(held, noted), *checks]
    if told.is_corrected:
        both = (
            (counts.unfinished_key(told.user), told.unfinished_added),
            (counts.running_key(told.user), told.running_added),
        )
        writes += [Add(key, amount) for key, amount in both if amount]
        writes.append(audit(told.user, told.words))
    ports.records.commit(writes)


def _measure(ports: Ports, user: str, active: _Active) -> _Measured:
    """Look twice at all that may count, and read the numbers in between."""
    at = ports.clock.now()
    since = at - ports.records.index_lag - recounts.JUDGED_WITHIN
    recent = dict.fromkeys(execution_id for execution_id, one in active.items() if one.admitted_at >= since)
    for execution in _owned_since(ports, user, since, at):
        if len(recent) > recounts.MOST_KNOWN:
            break
        recent[execution.execution_id] = None
    is_complete = len(recent) <= recounts.MOST_KNOWN  # by either index: they lag on their own
    known = list(dict.fromkeys([*active, *recent]))
    first = _look(ports, known)
    # In this order: what is admitted after the number of unfinished ones was read takes a place after that.
    running_key, unfinished_key = counts.running_key(user), counts.unfinished_key(user)
    running = counts.number(ports.records.get(running_key), running_key)
    unfinished = counts.number(ports.records.get(unfinished_key), unfinished_key)
    last = _look(ports, known)
    return _Measured(
        at,
        unfinished.version,
        unfinished.value,
        running.value,
        recounts.excess(unfinished.value, recounts.unfinished(first, last)),
        recounts.excess(running.value, recounts.running(first, last)),
        tuple(recent) if is_complete else None,
    )


def _look(ports: Ports, execution_ids: Sequence[str]) -> dict[str, Looked]:
    found = {}
    for begun in range(0, len(execution_ids), _PAGE):
        page = store.load_executions(ports.records, execution_ids[begun : begun + _PAGE])
        for execution_id, one in page.items():
            if one.document is not None:
                found[execution_id] = recounts.looked_at(one.document, one.version)
    return found


def _admitted(ports: Ports, user: str, suspicion: Suspicion) -> Iterator[Execution]:
    """What of theirs indexes may not have shown when the suspicion came up."""
    since = recounts.admitted_since(suspicion, ports.records.index_lag)
    return _owned_since(ports, user, since, suspicion.at)


def _owned_since(ports: Ports, user: str, since: datetime, until: datetime) -> Iterator[Execution]:
    """A user's executions, those that have ended included, that were admitted since then, the last ones first. `until` is now, or what
    nothing that is looked for was admitted long after."""
    day = until.date() + timedelta(days=1)  # by a clock that goes before
    while day >= since.date():
        partition = store.owner_partition(user, day.isoformat())
        for record in store.partition_records(ports.records, store.INDEX_OWNER, partition, descending=True):
            execution = msgspec.json.decode(record.body, type=Execution)
            if execution.admitted_at < since:
                return
            yield execution
        day -= timedelta(days=1)
