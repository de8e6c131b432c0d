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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Budget(NamedTuple):
    """What a round may do for one stretch: list so many full pages, of so many objects, and read so many of these. A page that is
    not full ends a range, and is free: of keys that were granted lately there are few enough to look at each in every round.

    Of `recent` it may list and read `recent_times` as much: somebody may send a thousand in each minute, and whoever reads fewer is
    never through. Of `odd` it may list `odd_times` as much: a million such are gone through within the hour in which a request is
    valid. `longest` ends it sooner: a read is two calls, and a round that has no time left leaves no mark, so that the next would
    begin where it did, for ever."""

    pages: int = 10
    page: int = 1000
    reads: int = 500
    longest: timedelta = timedelta(seconds=40)
    recent_times: int = 10
    odd_times: int = 3


class Sweep:
    """One stretch, as far as this round gets. `mark` is what the last round left of it; without one, `since` says what is read."""

    def __init__(
        self,
        stretch: str,
        mark: InboxSweep | None,
        began: datetime,
        oldest: datetime,
        since: datetime,
        *,
        at_once: bool,
    ) -> None:
        self._stretch = stretch
        self._began = began
        is_due = mark is None or (not mark.reached and (at_once or began >= mark.began_at + EVERY))
        self.is_idle = mark is not None and not mark.reached and not is_due
        if mark is None or is_due:
            since = since if mark is None else max(oldest, mark.next_since)
            mark = InboxSweep(began_at=began, since=since, next_since=began - OVERLAP)
        self._mark = mark

    @property
    def since(self) -> datetime:
        return self._mark.since

    def objects(
        self,
        inbox: Objects,
        key_ids: Sequence[str],
        budget: Budget,
        is_wanted: Callable[[ObjectInfo], bool],
        now: Callable[[], datetime],
    ) -> Iterator[ObjectInfo]:
        """What is to be read of these keys' objects, until this round has done enough. Whoever stops earlier has looked at
        nothing after what they were given last."""
        ends = now() + budget.longest
        times = HASTE if self._began - self._mark.began_at > PATIENCE else 1
        times *= budget.recent_times if self._stretch == RECENT else 1
        pages, most_reads = budget.pages * times, budget.reads * times
        pages *= budget.odd_times if self._stretch == ODD else 1
        reads = most_reads
        for key_id in sorted(key_ids):
            for after, up_to in self._ranges(key_id):
                begin = max(after, self._mark.reached)
                while up_to is None or begin < up_to:
                    if not pages or now() >= ends:
                        return self._reach(begin)
                    most = min(pages, MOST_PAGES) * budget.page
                    found = inbox.list(object_keys.inbox_prefix(key_id), after=begin, up_to=up_to, limit=most)
                    pages -= len(found) // budget.page
                    for info in found:
                        if is_wanted(info):
                            # One is read, however long it took to list.
                            if not reads or (reads < most_reads and now() >= ends):
                                return self._reach(begin)
                            reads -= 1
                            yield info
                        begin = info.key
                    if len(found) < most:
                        break
        return self._reach("")

    def _ranges(self, key_id: str) -> Iterable[tuple[str, str | None]]:
        if self._stretch != RECENT:
            return _bounds(self._stretch, key_id)
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


RECENT = "recent"
ODD = "odd"
STRETCHES = (ODD, "times")
"""Those whose ids tell nothing of when their objects were written."""


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
    if stretch == "times":
        yield first, last
    else:
        yield prefix, first
        yield last, None
