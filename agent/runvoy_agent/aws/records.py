"""The Records port on one DynamoDB table.

An item is

    pk              the record's key
    version         a number that rises by one at each put and is never taken back while the item is there
    body            the document, or as a number of DynamoDB's what Add counts; without it the item is a tombstone, which only
                    keeps the version
    expires_at      milliseconds since 1970; from then on the record counts as absent
    forget_at       seconds since 1970; from then on DynamoDB may delete the item
    ix_…_pk, ix_…_sk   its place in each index; sort and key in one attribute, so that the index itself orders by both

DynamoDB deletes an item a day or more after the record ended. A record put again before that counts on from the old
version, and nobody holds a version that long, so an old version never comes true twice.

Every commit is a transaction, even of one write: with its token a repeated request (the network lost the answer) does
nothing twice, while a plain conditional write would meet its own first try as a conflict.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling, code_of, message_of, reasons_of
from runvoy_agent.ports import (
    Add,
    Check,
    Clock,
    Conflict,
    Delete,
    IndexEntry,
    Page,
    Position,
    Put,
    Unavailable,
    Versioned,
    Write,
    check_writes,
    may_be_key,
)
from runvoy_protocol import aws_layout

FORGET_AFTER = timedelta(days=1)
INDEX_LAG = timedelta(minutes=5)
"""AWS promises no bound, and says a fraction of a second: this allows for a table under load."""

_MOST_KEYS = 100  # of one BatchGetItem
_TRIES_IN_VAIN = 6
_SHORTEST_PAUSE_SECONDS = 0.05
_CONFLICTS = frozenset({"ConditionalCheckFailed", "TransactionConflict"})
_BUGS = frozenset({"ItemCollectionSizeLimitExceeded", "ValidationError"})
_SEPARATOR = "\0"
_NAMES = {
    "#k": aws_layout.KEY_ATTRIBUTE,
    "#v": "version",
    "#b": "body",
    "#e": "expires_at",
    "#f": aws_layout.TTL_ATTRIBUTE,
}
_ABSENT = "(attribute_not_exists(#b) OR #e <= :now)"
_LIVES = "(attribute_exists(#b) AND (attribute_not_exists(#e) OR #e > :now))"

_Values = dict[str, dict[str, Any]]


class DynamoRecords:
    """Records in one table. Partitions and sorts hold no NUL, and a partition is not empty."""

    def __init__(self, clients: Clients, table: str, clock: Clock) -> None:
        self._clients = clients
        self._table = table
        self._clock = clock

    @property
    def index_lag(self) -> timedelta:
        return INDEX_LAG

    def get(self, key: str) -> Versioned | None:
        _check_text(key)
        if not may_be_key(key):
            return None  # DynamoDB would refuse the call
        with calling("reading a record"):
            answer = self._client.get_item(TableName=self._table, Key=_key(key), ConsistentRead=True)
        item = answer.get("Item")
        return _versioned(item) if item is not None and self._lives(item) else None

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        _check_text(*keys)
        every = list(dict.fromkeys(filter(may_be_key, keys)))  # DynamoDB refuses a key that stands there twice
        found: dict[str, Versioned] = {}
        for begun in range(0, len(every), _MOST_KEYS):
            for item in self._items(every[begun : begun + _MOST_KEYS]):
                if self._lives(item):
                    record = _versioned(item)
                    found[record.key] = record
        return [found.get(key) for key in keys]

    def commit(self, writes: Sequence[Write]) -> None:
        writes = tuple(writes)
        check_writes(writes)
        for write in writes:
            _check_text(write.key)
            if isinstance(write, Put):
                _check_indexes(write.item.indexes)
        if not writes:
            return
        now = self._clock.now()
        actions = [self._action(write, now) for write in writes]
        with calling("committing records"):
            try:
                self._client.transact_write_items(TransactItems=actions, ClientRequestToken=secrets.token_hex(16))
            except ClientError as error:
                _raise_for(error)
                raise

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        """As the port says; ValueError for a limit under 1 or an index that the table does not have."""
        if limit < 1:
            raise ValueError("the limit of a query is at least 1")
        _check_indexes({index: IndexEntry(partition, "")})
        if not may_be_key(partition):
            return Page([], None)
        condition, values = "#p = :p", {":p": {"S": partition}}
        names = {"#p": aws_layout.partition_attribute(index)}
        if after is not None:
            condition += f" AND #s {'<' if descending else '>'} :s"
            names["#s"] = aws_layout.sort_attribute(index)
            values[":s"] = {"S": after.sort + _SEPARATOR + after.key}
        with calling("querying records"):
            answer = self._client.query(
                TableName=self._table,
                IndexName=aws_layout.index_name(index),
                KeyConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ScanIndexForward=not descending,
                Limit=limit + 1,  # one more tells whether there are more
            )
        items = answer["Items"]
        more = len(items) > limit or "LastEvaluatedKey" in answer
        items = items[:limit]
        return Page([_versioned(item) for item in items], _position(index, items[-1]) if more and items else None)

    @property
    def _client(self) -> Any:
        return self._clients.get("dynamodb")

    def _items(self, keys: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """What the table has of these keys. Those that DynamoDB leaves out, because it is throttled or the answer is full, are
        asked for again after a pause; Unavailable when several answers in a row bring nothing."""
        asked: Mapping[str, Any] = {self._table: {"Keys": [_key(key) for key in keys], "ConsistentRead": True}}
        in_vain = 0
        while True:
            with calling("reading records"):
                answer = self._client.batch_get_item(RequestItems=asked)
            items = answer["Responses"].get(self._table, ())
            yield from items
            asked = answer.get("UnprocessedKeys") or {}
            if not asked:
                return
            in_vain = 0 if items else in_vain + 1
            if in_vain >= _TRIES_IN_VAIN:
                raise Unavailable("reading records: the table is throttled")
            longest = _SHORTEST_PAUSE_SECONDS * 2**in_vain
            self._clock.sleep(longest * (0.5 + self._clock.random(1)[0] / 512))

    def _lives(self, item: Mapping[str, Any]) -> bool:
        if "body" not in item:
            return False
        return "expires_at" not in item or int(item["expires_at"]["N"]) > _milliseconds(self._clock.now())

    def _action(self, write: Write, now: datetime) -> dict[str, Any]:
        if isinstance(write, Add):
            return self._add(write)
        values: _Values = {":now": _number(_milliseconds(now))}
        if write.version == 0:
            condition = _ABSENT
        else:
            condition = f"#v = :v AND {_LIVES}"
            values[":v"] = _number(write.version)
        match write:
            case Check():
                return {"ConditionCheck": self._expression(write.key, condition, values)}
            case Delete():
                values[":f"] = _number(_seconds(now + FORGET_AFTER))
                remove = ", ".join(_index_names())
                update = f"SET #f = :f REMOVE #b, #e, {remove}"
                return {"Update": self._expression(write.key, condition, values, update, _index_names())}
            case Put():
                return self._put(write, condition, values)

    def _put(self, put: Put, condition: str, values: _Values) -> dict[str, Any]:
        """An update rather than a put, because the version of what may be a tombstone is known to the table alone."""
        sets: _Values = {"#b": {"B": put.item.body}}
        gone = dict(_index_names())
        names: dict[str, str] = {}
        for index, entry in put.item.indexes.items():
            places = {
                aws_layout.partition_attribute(index): entry.partition,
                aws_layout.sort_attribute(index): entry.sort + _SEPARATOR + put.key,
            }
            for attribute, text in places.items():
                del gone[f"#{attribute}"]
                names[f"#{attribute}"] = attribute
                sets[f"#{attribute}"] = {"S": text}
        removes = list(gone)
        if put.item.expires_at is None:
            removes += ["#e", "#f"]
        else:
            sets["#e"] = _number(_milliseconds(put.item.expires_at))
            sets["#f"] = _number(_seconds(put.item.expires_at + FORGET_AFTER))
        assignments = ["#v = if_not_exists(#v, :zero) + :one"]
        values |= {":zero": _number(0), ":one": _number(1)}
        for number, (name, value) in enumerate(sets.items()):
            values[f":x{number}"] = value
            assignments.append(f"{name} = :x{number}")
        update = f"SET {', '.join(assignments)}" + (f" REMOVE {', '.join(removes)}" if removes else "")
        return {"Update": self._expression(put.key, condition, values, update, names | gone)}

    def _add(self, add: Add) -> dict[str, Any]:
        """The table does the sum: whoever reads a number first would find it changed whenever others add at the same time."""
        values: _Values = {":zero": _number(0), ":one": _number(1), ":amount": _number(add.amount)}
        update = "SET #v = if_not_exists(#v, :zero) + :one, #b = if_not_exists(#b, :zero) + :amount"
        condition = ""
        if add.at_most is not None:
            values[":most"] = _number(add.at_most - add.amount)
            condition = "attribute_not_exists(#b) OR #b <= :most" if add.amount <= add.at_most else "#b <= :most"
        return {"Update": self._expression(add.key, condition, values, update)}

    def _expression(
        self,
        key: str,
        condition: str,
        values: _Values,
        update: str | None = None,
        more_names: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        text = f"{condition} {update or ''}"
        names = {name: attribute for name, attribute in _NAMES.items() if name in text} | dict(more_names or {})
        expressions = {"ConditionExpression": condition, "UpdateExpression": update}
        return {
            "TableName": self._table,
            "Key": _key(key),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            **{name: text for name, text in expressions.items() if text},
        }


def _raise_for(error: ClientError) -> None:
    """What a cancelled transaction means; returns for what is no such thing."""
    code = code_of(error)
    if code == "TransactionInProgressException":
        raise Unavailable("committing records: the same commit is still under way") from error
    if code != "TransactionCanceledException":
        return
    reasons = set(reasons_of(error))
    if reasons & _BUGS:
        raise ValueError(f"DynamoDB refuses the commit: {message_of(error)}") from error
    if reasons and (reasons <= _CONFLICTS or "ConditionalCheckFailed" in reasons):
        raise Conflict(message_of(error)) from error
    raise Unavailable(f"committing records: {message_of(error)}") from error


def _index_names() -> dict[str, str]:
    """Every index attribute, by its placeholder."""
    attributes = [
        attribute(index)
        for index in aws_layout.INDEXES
        for attribute in (aws_layout.partition_attribute, aws_layout.sort_attribute)
    ]
    return {f"#{attribute}": attribute for attribute in attributes}


def _check_indexes(indexes: Mapping[str, IndexEntry]) -> None:
    for index, entry in indexes.items():
        if index not in aws_layout.INDEXES:
            raise ValueError(f"the table has no index {index!r}")
        _check_text(*entry)
        if not entry.partition or _SEPARATOR in entry.partition + entry.sort:
            raise ValueError("a partition is not empty, and neither it nor a sort holds NUL")


def _check_text(*texts: str) -> None:
    for text in texts:
        text.encode()  # UnicodeEncodeError is a ValueError


def _key(key: str) -> dict[str, Any]:
    if not key:
        raise ValueError("a record's key is not empty")
    return {aws_layout.KEY_ATTRIBUTE: {"S": key}}


def _versioned(item: Mapping[str, Any]) -> Versioned:
    body = item["body"]
    held = body["N"].encode() if "N" in body else bytes(body["B"])
    return Versioned(item[aws_layout.KEY_ATTRIBUTE]["S"], held, int(item["version"]["N"]))


def _position(index: str, item: Mapping[str, Any]) -> Position:
    key = item[aws_layout.KEY_ATTRIBUTE]["S"]
    both = item[aws_layout.sort_attribute(index)]["S"]
    return Position(both.removesuffix(_SEPARATOR + key), key)


def _number(value: int) -> dict[str, Any]:
    return {"N": str(value)}


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _seconds(at: datetime) -> int:
    return int(at.timestamp()) + 1
