"""Uploads that no delivery was handled for: found by the reconciler, and delivered again until they are answered.

A key's inbox holds all that it ever sent. What was made lately, by the time in its id, is listed in every round, and what was
written since the last round is read. Every ten minutes a *whole look* reads all that was written in the last seventy, and goes back
to where the last such look ended, however long ago that was, for rounds may fail for hours.

What has no time in its id, or another than that of its writing (it was made of a text, or is sent again), is found by *sweeps* of the
rest of the inbox, which list a bounded part of it in each round (`inbox_sweeps`): no round costs more for what was kept for years.

What was found without an answer is remembered and looked at by the next whole looks, for its delivery may be lost again. All of it
ends after LOOKED_FOR.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core import retention
from runvoy_agent.core.model import InboxGrantee
from runvoy_agent.core.progress import InboxSweep, Reconciled
from runvoy_agent.handlers.admission import batches
from runvoy_agent.handlers.documents import messages, store
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_agent.handlers.reconciler import inbox_sweeps
from runvoy_agent.handlers.reconciler.inbox_sweeps import STRETCHES, Budget, Sweep
from runvoy_agent.ports import ObjectInfo, Ports
from runvoy_protocol import ids, object_keys

log = logging.getLogger("runvoy.reconcile")

LISTED_BACK = timedelta(minutes=70)
"""A grant lives for 55 minutes and a request for 60. Whatever was written in this time is read by every whole look, and a key
may have uploads for so long after its grant. An id that was made longer before it was written is a sweep's to find."""

LISTED_AHEAD = timedelta(minutes=10)
"""How far a client's clock may be ahead: ids made later than this were made of something else than the time."""

LOOK_EVERY = timedelta(minutes=10)

OVERLAP = timedelta(minutes=5)
"""What was written as the last round went by is none of its."""

LOOKS_OVERLAP = inbox_sweeps.OVERLAP
"""The same of whole looks."""

SLICE = LISTED_BACK
"""As much of what earlier rounds missed is read at once, beside what is new: a round that wanted all of a day might never end."""

LOOKED_FOR = retention.SHORTEST_KEEP
"""For so long after it was written an upload is looked for; receipts live as long. An older one may have been answered, and its
answer forgotten; or the queue's dead letters hold it."""

MOST_REMEMBERED = 200
"""So many unanswered objects fit beside the mark. With more of them the next look begins where this one did."""

LISTED_AT_ONCE = 10_000
"""A page of what is recent: to list a folder costs by all that is in it, whatever the page."""


class Look:
    """One round's look at the inbox. `last` is the mark that the last one left."""

    def __init__(
        self, ports: Ports, last: Reconciled | None, *, starting_up: bool, budget: Budget | None = None
    ) -> None:
        self._ports = ports
        self._last = last
        self._budget = budget or Budget()
        self._began = began = ports.clock.now()
        self._recent = began - LISTED_BACK
        oldest = began - LOOKED_FOR
        listed_at = last.listed_at if last else None
        self._is_whole = starting_up or listed_at is None or began >= listed_at + LOOK_EVERY
        looked_until = (last.looked_until or listed_at) if last else None
        self._since = oldest if looked_until is None else max(oldest, looked_until - LOOKS_OVERLAP)
        # The first look of all has nothing to go on from, and reads all at once.
        self._until = began if looked_until is None else max(oldest, looked_until) + SLICE
        marks = last.sweeps if last else {}
        self._sweeps = {
            stretch: Sweep(stretch, marks.get(stretch), began, oldest, self._since, at_once=starting_up)
            for stretch in STRETCHES
        }
        # What is remembered stands first in what is remembered next: nothing else leads back to it.
        self._remembered_now: dict[str, datetime] = dict(last.unanswered) if last and not self._is_whole else {}
        self._delivered: set[str] = set()

    def deliver_again(self) -> Iterator[str]:
        """Deliver again what was not answered; yields the objects' keys."""
        if self._is_whole:
            yield from self._remembered()
        grantees = self._grantees()
        for sweep in self._sweeps.values():
            yield from self._swept(sweep, grantees)
        earliest = min(self._since, self._recent) if self._is_whole else self._since_last_round()
        for grantee in grantees:
            if grantee.granted_at + LISTED_BACK >= earliest:
                yield from self._look_at(grantee.key_id)

    def reached(self) -> Reconciled:
        """The mark of a look that came through."""
        last = self._last
        is_full = len(self._remembered_now) > MOST_REMEMBERED
        unanswered = dict(list(self._remembered_now.items())[:MOST_REMEMBERED])
        sweeps: dict[str, InboxSweep] = {
            stretch: sweep.reached(forgets_some=is_full) for stretch, sweep in self._sweeps.items()
        }
        if not self._is_whole and last is not None:
            return msgspec.structs.replace(last, at=self._began, unanswered=unanswered, sweeps=sweeps)
        is_behind = self._until < self._recent
        listed_at: datetime | None = self._began
        looked_until = self._until if is_behind else self._began
        if is_full:
            looked_until = self._since + LOOKS_OVERLAP
        elif is_behind and last is not None:
            listed_at = last.listed_at  # the next round looks on
        return Reconciled(
            at=self._began, listed_at=listed_at, looked_until=looked_until, unanswered=unanswered, sweeps=sweeps
        )

    def _grantees(self) -> list[InboxGrantee]:
        """The keys that may have uploads which this round looks for."""
        sinces = [sweep.since for sweep in self._sweeps.values() if not sweep.is_idle]
        earliest = min(self._since, self._recent, *sinces)
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
        for object_key, written_at in (self._last.unanswered if self._last else {}).items():
            if written_at < self._began - LOOKED_FOR:
                log.warning("%s was never answered, and is not looked for any more", object_key)
            else:
                yield from self._deliver_unanswered(object_key, written_at, remember=True)

    def _swept(self, sweep: Sweep, grantees: list[InboxGrantee]) -> Iterator[str]:
        """The uploads whose ids tell nothing of when they were written, as far as this round lists them."""
        if sweep.is_idle:
            return
        key_ids = [one.key_id for one in grantees if one.granted_at + LISTED_BACK >= sweep.since]

        def is_wanted(info: ObjectInfo) -> bool:
            is_remembered = self._remembered_now.get(info.key) == info.modified_at
            return info.modified_at >= sweep.since and not is_remembered and not _tells_its_time(info)

        for info in sweep.objects(self._ports.inbox, key_ids, self._budget, is_wanted, self._ports.clock.now):
            yield from self._deliver_unanswered(info.key, info.modified_at, remember=True)

    def _look_at(self, key_id: str) -> Iterator[str]:
        """The uploads of a key whose ids say that they were made lately; a whole look's lately goes back to where it begins."""
        made = (
            (min(self._since, self._recent) - LISTED_BACK if self._is_whole else self._recent),
            (self._began + LISTED_AHEAD),
        )
        after, up_to = (object_keys.request(key_id, ids.uuid7(at, bytes(10))) for at in made)
        while True:
            page = self._ports.inbox.list(
                object_keys.inbox_prefix(key_id), after=after, up_to=up_to, limit=LISTED_AT_ONCE
            )
            for info in page:
                if info.key not in self._delivered and self._is_wanted(info.modified_at):
                    yield from self._deliver_unanswered(info.key, info.modified_at, remember=self._is_whole)
            if len(page) < LISTED_AT_ONCE:
                return
            after = page[-1].key

    def _is_wanted(self, written_at: datetime) -> bool:
        if not self._is_whole:
            return written_at >= self._since_last_round()
        return written_at >= self._recent or self._since <= written_at < self._until

    def _since_last_round(self) -> datetime:
        return max(self._recent, (self._last.at if self._last else self._recent) - OVERLAP)

    def _deliver_unanswered(self, object_key: str, written_at: datetime, *, remember: bool) -> Iterator[str]:
        version = _unanswered_version(self._ports, object_key)
        if version is not None:
            # That very version: another may be uploaded before it is answered.
            delivery = InboxDelivery(object_key=object_key, version=version)
            self._ports.queue.send("inbox", messages.encode(delivery))
            self._delivered.add(object_key)
            if remember:
                self._remembered_now[object_key] = written_at
            yield object_key


def _tells_its_time(info: ObjectInfo) -> bool:
    """Whether its id was made about when the object was written, so that looks at what is recent came by it."""
    place = object_keys.parse_request(info.key) or object_keys.parse_batch(info.key)
    made_at = ids.made_at(place[1]) if place else None
    if made_at is None:
        return False
    return info.modified_at - LISTED_BACK <= made_at <= info.modified_at + LISTED_AHEAD


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
