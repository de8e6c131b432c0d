"""Uploads that no delivery was handled for: found by the reconciler, and delivered again until they are answered.

A key's inbox holds all that it ever sent. Each round looks at *what is new*: of each key what was made lately, by the time in its
id, is listed, and what was written since the last round is read, as much of it as there is time for.

All is found by *sweeps*, which list and read a bounded part in each round (`inbox_sweeps`), and so hold up nothing, even where
somebody sends hundreds of thousands. Those of what is recent go back to where the last one began, however long ago that was, for
rounds may fail for hours; the others are of what has no time in its id, or another than that of its writing (it was made of a text,
or is sent again). A key that takes more than its share has sweeps of its own, until these have caught up with those of all others.

What sweeps found without an answer is remembered and looked at every ten minutes, for its delivery may be lost again. All of it
ends after LOOKED_FOR.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core import retention
from runvoy_agent.core.model import InboxGrantee
from runvoy_agent.core.progress import InboxSweep, Reconciled
from runvoy_agent.handlers.admission import batches
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.reconciler import inbox_sweeps
from runvoy_agent.handlers.reconciler.inbox_sweeps import (
    BUDGETS,
    HASTE,
    LISTED_AHEAD,
    LISTED_BACK,
    RECENT,
    STRETCHES,
    Allowance,
    Budget,
    Sweep,
)
from runvoy_agent.ports import ObjectInfo, Ports
from runvoy_protocol import ids, object_keys

log = logging.getLogger("runvoy.reconcile")

LOOK_EVERY = timedelta(minutes=10)

OVERLAP = timedelta(minutes=5)
"""What was written as the last round went by is none of its."""

LONGEST_LOOK = timedelta(seconds=20)
"""So long a round looks at what is remembered, of which the next begins with the rest, and so long at what is new, of which sweeps find
the rest. They take their time as well."""

NEW_OF_A_KEY = 200
"""As many new objects of one key are read in a round, and NEW_LISTED are listed: none takes all of the time."""

NEW_LISTED = 50_000

LOOKED_FOR = retention.SHORTEST_KEEP
"""For so long after it was written an upload is looked for; receipts live as long. An older one may have been answered, and its
answer forgotten; or the queue's dead letters hold it."""

MOST_REMEMBERED = 200
REMEMBERED_OF_A_KEY = 50
"""So many unanswered objects fit beside the mark, and of one key no more than leave others room. Where there are more, the next
sweeps of their keys begin where these did."""

MOST_APART = 20
"""So many keys may have sweeps of their own in a stretch: each has a mark beside the others."""

LISTED_AT_ONCE = 10_000
"""A page of what is new: to list a folder costs by all that is in it, whatever the page."""


class Look:
    """One round's look at the inbox. `last` is the mark that the last one left; `budgets` are by stretch."""

    def __init__(
        self,
        ports: Ports,
        last: Reconciled | None,
        *,
        starting_up: bool,
        budgets: Mapping[str, Budget] = BUDGETS,
    ) -> None:
        self._ports = ports
        self._last = last
        self._budgets = budgets
        self._began = began = ports.clock.now()
        listed_at = last.listed_at if last else None
        self._remembers = starting_up or listed_at is None or began >= listed_at + LOOK_EVERY
        self._sweeps = [sweep for stretch in STRETCHES for sweep in self._sweeps_of(stretch, at_once=starting_up)]
        # What is remembered stands first in what is remembered next: nothing else leads back to it.
        self._remembered_now: dict[str, datetime] = dict(last.unanswered) if last and not self._remembers else {}
        self._forgotten: set[tuple[str, str]] = set()  # stretch and key
        self._looked_at: set[str] = set()

    def _sweeps_of(self, stretch: str, *, at_once: bool) -> Iterator[Sweep]:
        """That of all keys, and those of keys that have their own."""
        last, began = self._last, self._began
        oldest = began - LOOKED_FOR
        # Where there are no sweeps yet: an earlier version left none of what is recent.
        looked_until = (last.looked_until or last.listed_at) if last else None
        since = oldest if looked_until is None else max(oldest, looked_until - inbox_sweeps.OVERLAP)
        marks = last.sweeps if last else {}
        of_all = Sweep(stretch, marks.get(stretch), began, oldest, since, at_once=at_once)
        yield of_all
        for name, mark in marks.items():
            of_stretch, _, key_id = name.partition("/")
            if of_stretch == stretch and key_id and not (of_all.begins and _has_caught_up(mark, of_all)):
                yield Sweep(stretch, mark, began, oldest, since, at_once=at_once, key_id=key_id)

    def deliver_again(self) -> Iterator[str]:
        """Deliver again what was not answered; yields the objects' keys."""
        if self._remembers:
            yield from self._remembered()
        grantees = self._grantees()
        for stretch in STRETCHES:
            yield from self._swept(stretch, grantees)
        yield from self._new(grantees)

    def reached(self) -> Reconciled:
        """The mark of a look that came through."""
        apart = {(sweep.stretch, sweep.key_id) for sweep in self._sweeps if sweep.key_id}
        sweeps: dict[str, InboxSweep] = {}
        for sweep in self._sweeps:
            of_it = {(sweep.stretch, sweep.key_id)} if sweep.key_id else self._forgotten - apart
            forgets_some = any(stretch == sweep.stretch for stretch, _ in self._forgotten & of_it)
            name = f"{sweep.stretch}/{sweep.key_id}" if sweep.key_id else sweep.stretch
            sweeps[name] = sweep.reached(forgets_some=forgets_some)
        return Reconciled(
            at=self._began,
            listed_at=self._began if self._remembers or self._last is None else self._last.listed_at,
            looked_until=min(sweep.looked_until for sweep in self._sweeps if sweep.stretch == RECENT),
            unanswered=self._remembered_now,
            sweeps=sweeps,
        )

    def _grantees(self) -> list[InboxGrantee]:
        """The keys that may have uploads which this round looks for."""
        sinces = [sweep.since for sweep in self._sweeps if not sweep.is_idle]
        earliest = min([self._since_last_round(), *sinces])
        found = []
        for shard in range(store.SHARDS):
            partition = store.shard_partition("", shard)
            # The newest first: there is one for every key that ever was.
            for record in store.partition_records(
                self._ports.records, store.INDEX_GRANTEES, partition, descending=True
            ):
                grantee = msgspec.json.decode(record.body, type=InboxGrantee)
                if grantee.granted_at + LISTED_BACK < earliest:
                    break
                found.append(grantee)
        return found

    def _remembered(self) -> Iterator[str]:
        ends = self._ports.clock.now() + LONGEST_LOOK
        left: dict[str, datetime] = {}
        for object_key, written_at in (self._last.unanswered if self._last else {}).items():
            if written_at < self._began - LOOKED_FOR:
                log.warning("%s was never answered, and is not looked for any more", object_key)
            elif self._ports.clock.now() >= ends:
                left[object_key] = written_at
            elif self._delivers_again(object_key):
                self._remembered_now[object_key] = written_at
                yield object_key
        self._remembered_now = left | self._remembered_now

    def _swept(self, stretch: str, grantees: list[InboxGrantee]) -> Iterator[str]:
        """The uploads of a stretch, as far as this round lists it: first those of all keys, then of those apart, with what is left,
        in an order that is drawn anew each time."""
        of_all, *apart = [sweep for sweep in self._sweeps if sweep.stretch == stretch]
        times = HASTE if any(sweep.is_late for sweep in (of_all, *apart)) else 1
        allowance = Allowance(self._budgets[stretch], times, self._ports.clock.now)
        if not of_all.is_idle:
            own = {sweep.key_id for sweep in apart}
            others = [one for one in grantees if one.key_id not in own]
            # All keys may be so many that those apart would wait as long as there are others.
            half = allowance.part(2) if any(not sweep.is_idle for sweep in apart) else allowance
            yield from self._swept_by(of_all, others, half, MOST_APART - len(apart))
            self._sweeps += of_all.apart
            apart += of_all.apart
        if len(apart) > 1:
            apart.sort(key=lambda _sweep: self._ports.clock.random(4))
        for sweep in apart:
            if not sweep.is_idle:
                own_alone = [one for one in grantees if one.key_id == sweep.key_id]
                yield from self._swept_by(sweep, own_alone, allowance, 0)

    def _swept_by(
        self, sweep: Sweep, grantees: list[InboxGrantee], allowance: Allowance, most_apart: int
    ) -> Iterator[str]:
        key_ids = [one.key_id for one in grantees if one.granted_at + LISTED_BACK >= sweep.since]

        def is_wanted(info: ObjectInfo) -> bool:
            is_remembered = self._remembered_now.get(info.key) == info.modified_at
            is_of_it = inbox_sweeps.tells_its_time(info) is (sweep.stretch == RECENT)
            return info.modified_at >= sweep.since and not is_remembered and is_of_it

        for info in sweep.objects(self._ports.inbox, key_ids, allowance, is_wanted, most_apart):
            if self._delivers_again(info.key):
                self._remember(sweep.stretch, info)
                yield info.key

    def _remember(self, stretch: str, info: ObjectInfo) -> None:
        key_id = _key_id_of(info.key)
        of_key = sum(_key_id_of(known) == key_id for known in self._remembered_now)
        is_known = info.key in self._remembered_now
        if is_known or (len(self._remembered_now) < MOST_REMEMBERED and of_key < REMEMBERED_OF_A_KEY):
            self._remembered_now[info.key] = info.modified_at
        else:
            self._forgotten.add((stretch, key_id))

    def _new(self, grantees: list[InboxGrantee]) -> Iterator[str]:
        """What was written since the last round, and has an id that was made lately. Each time other keys come first, so that it is
        nobody's fate to be left."""
        ends = self._ports.clock.now() + LONGEST_LOOK
        since = self._since_last_round()
        key_ids = [one.key_id for one in grantees if one.granted_at + LISTED_BACK >= since]
        if len(key_ids) > 1:
            key_ids.sort(key=lambda _key_id: self._ports.clock.random(4))
        for key_id in key_ids:
            left = NEW_OF_A_KEY
            for info in self._listed_lately(key_id, ends):
                if info.modified_at < since or info.key in self._looked_at:
                    continue
                if not left or self._ports.clock.now() >= ends:
                    break
                left -= 1
                if self._delivers_again(info.key):
                    yield info.key

    def _listed_lately(self, key_id: str, ends: datetime) -> Iterator[ObjectInfo]:
        """A key's objects by their ids."""
        made = (self._began - LISTED_BACK, self._began + LISTED_AHEAD)
        after, up_to = (object_keys.request(key_id, ids.uuid7(at, bytes(10))) for at in made)
        prefix = object_keys.inbox_prefix(key_id)
        for _ in range(NEW_LISTED // LISTED_AT_ONCE):
            if self._ports.clock.now() >= ends:
                return
            page = self._ports.inbox.list(prefix, after=after, up_to=up_to, limit=LISTED_AT_ONCE)
            yield from page
            if len(page) < LISTED_AT_ONCE:
                return
            after = page[-1].key

    def _since_last_round(self) -> datetime:
        earliest = self._began - LISTED_BACK
        return max(earliest, (self._last.at if self._last else earliest) - OVERLAP)

    def _delivers_again(self, object_key: str) -> bool:
        """Deliver an object again, if it has no answer; whether that was so."""
        self._looked_at.add(object_key)
        version = _unanswered_version(self._ports, object_key)
        if version is None:
            return False
        # That very version: another may be uploaded before it is answered.
        delivery = InboxDelivery(object_key=object_key, version=version)
        self._ports.queue.send("inbox", messages.encode(delivery))
        return True


def _has_caught_up(mark: InboxSweep, of_all: Sweep) -> bool:
    """Whether a key's own sweep has read all that the one of all keys will not."""
    return not mark.reached and mark.next_since >= of_all.since


def _key_id_of(object_key: str) -> str:
    return object_keys.split(object_key)[1]


def _unanswered_version(ports: Ports, object_key: str) -> str | None:
    """The version of this very object if it has no receipt: one of the same id may have been answered otherwise before."""
    place, batch = object_keys.parse_request(object_key), object_keys.parse_batch(object_key)
    stored = ports.inbox.get(object_key) if place or batch else None
    if stored is None:
        return None
    digest = hashlib.sha256(stored.data).hexdigest()
    if batch is not None:
        is_answered = batches.is_answered(ports, batch, digest)
    else:
        key_id, request_id = place or ("", "")
        is_answered = ports.outbox.get(object_keys.receipt(key_id, request_id, digest)) is not None
    return None if is_answered else stored.version
