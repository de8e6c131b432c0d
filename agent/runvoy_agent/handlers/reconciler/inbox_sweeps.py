"""Listing what the keys' inboxes hold: a part of it in each round, from where the last one ended.

An inbox holds all that was ever sent, for years, and a listing is in the order of ids. So what a round may list is bounded, and
does not grow with what is kept; what grows is how many rounds it takes to be through. There are three stretches, each with a place
of its own, so that the small ones do not wait for the large ones:

- `recent`: ids that were made about when their objects were written, by the time in them.
- `odd`: ids outside of the time in which ids are made: of nearly all that hold no time, for they may begin with anything.
- `times`: all others. Nearly all of an inbox; what is looked for there was made long before it was written, or far ahead of it.

An object belongs to one stretch for good. The bounds of `odd` and `times` are fixed; `recent` goes by the times of id and writing,
and lists whatever may have been written since the time from which a sweep reads. A sweep reads what was written since the last one
of its stretch began: whatever comes while a sweep is under way, before the place where it is or behind it, is read by this or the
next.

A sweep goes from key to key. One that takes more than its share of a round is left where the sweep got to in it, and has a sweep of
its own from there on: so however much somebody sends, the sweep of all the others is soon through, and the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from runvoy_agent.core.progress import InboxSweep
from runvoy_agent.ports import ObjectInfo, Objects
from runvoy_protocol import ids, object_keys

EVERY = timedelta(minutes=10)
"""A sweep that is through rests until so long after it began."""

OVERLAP = timedelta(minutes=15)
"""With room for an upload that took long and counts as written when it began."""

LISTED_BACK = timedelta(minutes=70)
"""A grant lives for 55 minutes and a request for 60. An id that was made longer before its object was written is no recent one, and a key
may have uploads for so long after its grant."""

LISTED_AHEAD = timedelta(minutes=10)
"""How far a client's clock may be ahead: ids made later than this were made of something else than the time."""

_FIRST_IDS, _LAST_IDS = datetime(2025, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""No id is made at another time than in these years, unless by a clock that is out of its mind. One in a hundred of those that hold no
time begins as if it were."""

PATIENCE = timedelta(hours=6)
HASTE = 10
"""A sweep that takes longer than PATIENCE lists and reads so many times as much in each round. Uploads are looked for for a day: by
then it is through, if there are a hundred million objects."""

MOST_PAGES = 50
"""So many are listed at once, for all of what is listed is held in memory."""

_SHARES = 4
"""A key may take a quarter of what a round may do for a sweep of several keys."""


RECENT, ODD, TIMES = "recent", "odd", "times"
STRETCHES = (RECENT, ODD, TIMES)


class Budget(NamedTuple):
    """What a round may do for one stretch: list so many full pages, of so many objects, and read so many of these. A page that is
    not full ends a range, and is free: of keys that were granted lately there are few enough to look at each in every round.
    `longest` ends it sooner: a read is two calls, and a round that has no time left leaves no mark, so that the next would
    begin where it did, for ever."""

    pages: int = 10
    page: int = 1000
    reads: int = 500
    longest: timedelta = timedelta(seconds=40)


BUDGETS: Mapping[str, Budget] = {
    # Somebody may send a thousand in each minute, and whoever reads fewer is never through.
    RECENT: Budget(pages=100, reads=5000),
    # A million such are gone through within the hour in which a request is valid.
    ODD: Budget(pages=30),
    TIMES: Budget(),
}


class Allowance:
    """What is left of a round's budget for one stretch, or of a part of it."""

    def __init__(self, budget: Budget, times: int, now: Callable[[], datetime], whole: Allowance | None = None) -> None:
        """`times`: so many times the pages and reads. `whole`: that of which this is a part."""
        self._budget, self._times, self._now, self._whole = budget, times, now, whole
        self._pages, self._reads = budget.pages * times, budget.reads * times
        self._ends = now() + budget.longest
        self._has_read = False
        self.page = budget.page

    def part(self, of: int) -> Allowance:
        """One of `of` equal parts, and no more than is left of the whole."""
        pages, reads = (max(1, many // of) for many in (self._budget.pages, self._budget.reads))
        budget = self._budget._replace(pages=pages, reads=reads, longest=self._budget.longest / of)
        return Allowance(budget, self._times, self._now, self)

    @property
    def pages(self) -> int:
        """How many full pages may be listed."""
        if self._now() >= self._ends:
            return 0
        return self._pages if self._whole is None else min(self._pages, self._whole.pages)

    @property
    def may_read(self) -> bool:
        """One object may be read, however long it took to list."""
        may = self._reads > 0 and not (self._has_read and self._now() >= self._ends)
        return may and (self._whole is None or self._whole.may_read)

    @property
    def is_spent(self) -> bool:
        return not self.pages or not self.may_read

    def listed(self, pages: int) -> None:
        self._pages -= pages
        if self._whole is not None:
            self._whole.listed(pages)

    def read(self) -> None:
        self._reads -= 1
        self._has_read = True
        if self._whole is not None:
            self._whole.read()


class Sweep:
    """One stretch, as far as this round gets. `mark` is what the last round left of it; without one, `since` says what is read.
    `key_id`: the one key whose objects it lists. `apart`: the sweeps of keys that took more than their share in this round."""

    def __init__(
        self,
        stretch: str,
        mark: InboxSweep | None,
        began: datetime,
        oldest: datetime,
        since: datetime,
        *,
        at_once: bool,
        key_id: str | None = None,
    ) -> None:
        self.stretch = stretch
        self.key_id = key_id
        self._began = began
        is_due = mark is None or (not mark.reached and (at_once or began >= mark.began_at + EVERY))
        self.begins = is_due
        self.is_idle = mark is not None and not mark.reached and not is_due
        if mark is None or is_due:
            since = since if mark is None else max(oldest, mark.next_since)
            mark = InboxSweep(began_at=began, since=since, next_since=began - OVERLAP)
        self._mark = mark
        self.apart: list[Sweep] = []

    @property
    def since(self) -> datetime:
        return self._mark.since

    @property
    def is_late(self) -> bool:
        return not self.is_idle and self._began - self._mark.began_at > PATIENCE

    def objects(
        self,
        inbox: Objects,
        key_ids: Sequence[str],
        allowance: Allowance,
        is_wanted: Callable[[ObjectInfo], bool],
        most_apart: int = 0,
    ) -> Iterator[ObjectInfo]:
        """What is to be read of these keys' objects, until this round has done enough. Whoever stops earlier has looked at
        nothing after what they were given last. `most_apart` keys at most are left to sweeps of their own."""
        for key_id in sorted(key_ids):
            has_share = len(key_ids) > 1 and len(self.apart) < most_apart
            share = allowance.part(_SHARES) if has_share else allowance
            place = yield from self._objects_of(inbox, key_id, share, is_wanted)
            if place and (not has_share or allowance.is_spent):
                return self._reach(place)
            if place:
                mark = msgspec.structs.replace(self._mark, reached=place)
                own = Sweep(self.stretch, mark, self._began, mark.since, mark.since, at_once=False, key_id=key_id)
                self.apart.append(own)
        return self._reach("")

    def _objects_of(
        self, inbox: Objects, key_id: str, allowance: Allowance, is_wanted: Callable[[ObjectInfo], bool]
    ) -> Generator[ObjectInfo, None, str]:
        """Returns the place that was reached, empty if all of the key's objects were listed."""
        for after, up_to in self._ranges(key_id):
            begin = max(after, self._mark.reached)
            while up_to is None or begin < up_to:
                most = min(allowance.pages, MOST_PAGES) * allowance.page
                if not most:
                    return begin
                found = inbox.list(object_keys.inbox_prefix(key_id), after=begin, up_to=up_to, limit=most)
                allowance.listed(len(found) // allowance.page)
                for info in found:
                    if is_wanted(info):
                        if not allowance.may_read:
                            return begin
                        allowance.read()
                        yield info
                    begin = info.key
                if len(found) < most:
                    break
        return ""

    def _ranges(self, key_id: str) -> Iterable[tuple[str, str | None]]:
        if self.stretch != RECENT:
            return _bounds(self.stretch, key_id)
        made = (self._mark.since - LISTED_BACK, self._mark.began_at + LISTED_AHEAD)
        first, last = (object_keys.request(key_id, ids.uuid7(at, bytes(10))) for at in made)
        return [(first, last)]

    def _reach(self, place: str) -> None:
        self._mark = msgspec.structs.replace(self._mark, reached=place)

    def reached(self, *, forgets_some: bool) -> InboxSweep:
        """The mark for the next round. `forgets_some`: something that was found without an answer is not remembered, so that the
        next sweep has to find it again."""
        return msgspec.structs.replace(self._mark, next_since=self._mark.since) if forgets_some else self._mark

    @property
    def looked_until(self) -> datetime:
        """What was written before that was read."""
        return (self._mark.since if self._mark.reached else self._mark.next_since) + OVERLAP


def tells_its_time(info: ObjectInfo) -> bool:
    """Whether its id was made about when the object was written."""
    place = object_keys.parse_request(info.key) or object_keys.parse_batch(info.key)
    made_at = ids.made_at(place[1]) if place else None
    if made_at is None:
        return False
    return info.modified_at - LISTED_BACK <= made_at <= info.modified_at + LISTED_AHEAD


def _bounds(stretch: str, key_id: str) -> Iterator[tuple[str, str | None]]:
    """The ranges of a key's objects, each after a key and up to another, in their order."""
    prefix = object_keys.inbox_prefix(key_id)
    first, last = (object_keys.request(key_id, ids.uuid7(at, bytes(10))) for at in (_FIRST_IDS, _LAST_IDS))
    if stretch == TIMES:
        yield first, last
    else:
        yield prefix, first
        yield last, None
