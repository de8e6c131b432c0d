"""Lists, newest first, over time indexes that are split by day and by shard: in pages without gap or repeat, each of bounded
work. A cursor is where the last shown one stands: its time and its id."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

import msgspec

from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Position, Records
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.requests import NO_ID

MAX_PAGE = 200
DEFAULT_PAGE = 50
MOST_EXAMINED = 5_000
MOST_DAYS = 100
"""What one page may look at: one that finds too little within it ends early, with a cursor to go on from."""

CLOCKS_APART = timedelta(minutes=5)
_MOST_DIGITS = 18
_LONGEST_SORT = 64  # of a time as text; DynamoDB refuses to look behind what is too long for a place in an index
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(9000, 1, 1, tzinfo=UTC)
_LOWEST_ID = NO_ID  # of 1970: before that of everything that is listed

D = TypeVar("D", bound=msgspec.Struct)


class Kind(NamedTuple, Generic[D]):
    """What is listed: its documents, when each was, its id, and the key of the record with that id."""

    schema: type[D]
    at: Callable[[D], datetime]
    id_of: Callable[[D], str]
    key_of: Callable[[str], str]


class Row(NamedTuple, Generic[D]):
    """One that was found, and the cursor that continues after it."""

    document: D
    version: int
    cursor: str


class Span(NamedTuple):
    """What to look through: `partitions` of each day (as (index, partition)) from `oldest` to `newest`, from `after` on.
    `oldest` is None where all of it is in the same partitions, whatever day it was."""

    partitions: Callable[[str], Sequence[tuple[str, str]]]
    oldest: datetime | None
    newest: datetime
    after: Position | None

    def days(self) -> list[str]:
        """The days, newest first."""
        if self.oldest is None:
            return [""]
        newest = self.newest if self.after is None else min(self.newest, _day_of(self.after))
        count = (newest.date() - self.oldest.date()).days + 1
        return [store.day(newest - timedelta(days=number)) for number in range(count)]


def page(
    records: Records, kind: Kind[D], span: Span, limit: int, matches: Callable[[D], bool]
) -> tuple[list[Row[D]], str | None]:
    """At most `limit` that match, and the cursor of the next page; None on the last."""
    found: list[Row[D]] = []
    examined = 0
    days = span.days()
    for of_day in days[:MOST_DAYS]:
        streams = [
            _partition(records, kind, index, partition, span.after) for index, partition in span.partitions(of_day)
        ]
        for _, _, row in heapq.merge(*streams, key=lambda item: item[:2], reverse=True):
            examined += 1
            if matches(row.document):
                if len(found) == limit:
                    return found, found[-1].cursor
                found.append(row)
            if examined == MOST_EXAMINED:
                return found, row.cursor
    # Below all of the last day that was looked at.
    return found, f"{days[MOST_DAYS - 1]}T00:00:00.000~{_LOWEST_ID}" if len(days) > MOST_DAYS else None


def _partition(
    records: Records, kind: Kind[D], index: str, partition: str, after: Position | None
) -> Iterator[tuple[str, str, Row[D]]]:
    while True:
        found = records.query(index, partition, after=after, limit=50, descending=True)
        for record in found.records:
            document = msgspec.json.decode(record.body, type=kind.schema)
            sort, own_id = store.stamp(kind.at(document)), kind.id_of(document)
            yield sort, own_id, Row(document, record.version, f"{sort}~{own_id}")
        after = found.after
        if after is None:
            return


def limit_of(text: str | None, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> int:
    """The `limit` of a query."""
    return default if text is None else number_of("limit", text, 1, most)


def number_of(name: str, text: str, least: int, most: int) -> int:
    """The whole number that a query's parameter gives; INVALID_REQUEST unless it is from `least` to `most`."""
    # Its length as well: Python refuses to read a number of thousands of digits.
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not is_number or not least <= int(text) <= most:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{name} must be from {least} to {most}")
    return int(text)


def instant_of(name: str, text: str | None) -> datetime | None:
    """The time that a query's parameter gives."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{name} is no RFC 3339 time") from error
    if at.tzinfo is None:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"{name} has no time zone")
    # Bounded before anything is reckoned from it: dates end in the year 1 and 9999.
    return max(at, _FIRST_DAY).astimezone(UTC) if at < _LAST_DAY else _LAST_DAY


def position_of(cursor: str | None, kind: Kind[D]) -> Position | None:
    """Where in each partition a cursor stands, the `after` of a query."""
    if cursor is None:
        return None
    sort, separator, own_id = cursor.partition("~")
    if not separator or not is_execution_id(own_id) or len(sort) > _LONGEST_SORT:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "after is no cursor of this list")
    position = Position(sort, kind.key_of(own_id))
    _day_of(position)
    return position


def refuse_others(query: dict[str, str]) -> None:
    """INVALID_REQUEST if something is left of a query of which all that is known was taken out."""
    if query:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"there is no filter {min(query)[:64]!r}")


def _day_of(position: Position) -> datetime:
    try:
        return datetime.strptime(position.sort[:10], "%Y-%m-%d").replace(tzinfo=UTC, hour=23, minute=59)
    except ValueError as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "after is no cursor of this list") from error
