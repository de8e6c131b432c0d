"""The shapes of calls, read back from moto; and what AWS's errors become. Nothing here is about authorization or
concurrency, which moto does not have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from moto import mock_aws
from tests.servers.fixtures import ON_SERVERS
from tests.servers.ministack import MiniStack, table_request

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_agent.aws.faults import calling
from runvoy_agent.aws.records import DynamoRecords, _raise_for
from runvoy_agent.aws.secrets import SsmSecrets
from runvoy_agent.handlers.documents import store
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.ports import Check, Conflict, Delete, IndexEntry, Item, Put, Unavailable, Versioned
from runvoy_protocol import aws_layout

TABLE = "runvoy"


class Moto:
    """moto in this process, and every request that was sent to it."""

    def __init__(self) -> None:
        self.clients = Clients(region="eu-west-1", credentials=Credentials("id", "secret"))
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.clients.get("dynamodb").create_table(**table_request(TABLE))
        self.clients.get("dynamodb").meta.events.register("before-send.dynamodb", self._note)

    def _note(self, request: AWSRequest, **_: Any) -> None:
        operation = request.headers["X-Amz-Target"]
        name = operation.decode() if isinstance(operation, bytes) else operation
        self.sent.append((name.rpartition(".")[2], json.loads(request.body)))


@pytest.fixture
def moto() -> Iterator[Moto]:
    with mock_aws():
        yield Moto()


class SetClock(SystemClock):
    def __init__(self) -> None:
        super().__init__()
        self.moved = timedelta()

    def now(self) -> datetime:
        return super().now() + self.moved


def test_a_commit_is_one_transaction_with_a_token(moto: Moto) -> None:
    records = DynamoRecords(moto.clients, TABLE, SystemClock())
    places = {"day": IndexEntry("2026-05-04#01", "12:00"), "active": IndexEntry("01", "12:00")}
    records.commit([Put("a", Item(b"1", places), 0)])
    records.commit([Put("a", Item(b"2", {"day": places["day"]}), 1), Put("b", Item(b"x"), 0), Check("c", 0)])
    records.commit([Delete("a", 2)])
    assert [operation for operation, _ in moto.sent] == ["TransactWriteItems"] * 3
    assert len({request["ClientRequestToken"] for _, request in moto.sent}) == 3
    second = moto.sent[1][1]["TransactItems"]
    assert [next(iter(action)) for action in second] == ["Update", "Update", "ConditionCheck"]
    update = second[0]["Update"]
    assert update["Key"] == {"pk": {"S": "a"}}
    assert "#v = :v" in update["ConditionExpression"]
    assert "#ix_active_pk" in update["UpdateExpression"].partition("REMOVE")[2]
    assert records.get("a") is None
    assert records.get("b") == Versioned("b", b"x", 1)


def test_a_read_is_consistent(moto: Moto) -> None:
    DynamoRecords(moto.clients, TABLE, SystemClock()).get("a")
    assert moto.sent[-1] == ("GetItem", {"TableName": TABLE, "Key": {"pk": {"S": "a"}}, "ConsistentRead": True})


class Throttled:
    """A table that leaves out what is asked for in one call: it brings so many records of each answer, then of the next."""

    def __init__(self, moto: Moto, brings: list[int]) -> None:
        self._brings = iter(brings)
        moto.clients.get("dynamodb").meta.events.register("after-call.dynamodb.BatchGetItem", self._take_out)

    def _take_out(self, parsed: dict[str, Any], **_: Any) -> None:
        items = parsed["Responses"][TABLE]
        kept, left = items[: (count := next(self._brings, len(items)))], items[count:]
        parsed["Responses"] = {TABLE: kept} if kept else {}
        keys = [{"pk": item["pk"]} for item in left]
        parsed["UnprocessedKeys"] = {TABLE: {"Keys": keys, "ConsistentRead": True}} if keys else {}


class PatientClock(SystemClock):
    """Remembers for how long it was to sleep, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def many(moto: Moto, count: int) -> tuple[DynamoRecords, PatientClock, list[str]]:
    clock = PatientClock()
    records = DynamoRecords(moto.clients, TABLE, clock)
    keys = [f"k{number}" for number in range(count)]
    records.commit([Put(key, Item(key.encode()), 0) for key in keys])
    moto.sent.clear()
    return records, clock, keys


def test_many_reads_are_consistent_and_a_hundred_to_a_call(moto: Moto) -> None:
    records, clock, keys = many(moto, 60)
    found = records.get_many([*keys, *keys, *(f"none{number}" for number in range(60))])
    assert [one and one.key for one in found] == [*keys, *keys, *[None] * 60]
    requests = [request["RequestItems"][TABLE] for operation, request in moto.sent if operation == "BatchGetItem"]
    assert [(len(request["Keys"]), request["ConsistentRead"]) for request in requests] == [(100, True), (20, True)]
    assert clock.slept == []


def test_what_a_throttled_table_leaves_out_is_asked_for_again_later_each_time(moto: Moto) -> None:
    records, clock, keys = many(moto, 20)
    Throttled(moto, [7, 0, 0, 0, 5])
    assert [one and one.key for one in records.get_many(keys)] == keys
    asked = [len(request["RequestItems"][TABLE]["Keys"]) for _, request in moto.sent]
    assert asked == [20, 13, 13, 13, 13, 8]
    assert len(clock.slept) == 5
    assert clock.slept[1] < clock.slept[3], "who got nothing waits longer"


def test_a_table_that_gives_nothing_is_unavailable(moto: Moto) -> None:
    records, clock, keys = many(moto, 3)
    Throttled(moto, [1] + [0] * 20)
    with pytest.raises(Unavailable, match="throttled"):
        records.get_many(keys)
    assert len(moto.sent) < 10
    assert sum(clock.slept) < 10


def test_every_index_of_the_handlers_is_in_the_layout() -> None:
    wanted = {getattr(store, name) for name in dir(store) if name.startswith("INDEX_")}
    assert wanted == set(aws_layout.INDEXES)
    assert len(aws_layout.INDEXES) <= 20, "as many as a table may have"


def test_an_index_that_the_table_does_not_have_is_refused(moto: Moto) -> None:
    records = DynamoRecords(moto.clients, TABLE, SystemClock())
    with pytest.raises(ValueError, match="no index"):
        records.query("elsewhere", "x")
    with pytest.raises(ValueError, match="no index"):
        records.commit([Put("a", Item(b"", {"elsewhere": IndexEntry("x", "y")}), 0)])
    for entry in (IndexEntry("", "y"), IndexEntry("a\0", "y"), IndexEntry("a", "\0")):
        with pytest.raises(ValueError, match="NUL"):
            records.commit([Put("a", Item(b"", {"day": entry}), 0)])
    with pytest.raises(ValueError, match="not empty"):
        records.get("")


def test_a_document_that_dynamodb_does_not_hold_is_an_error_and_no_conflict(moto: Moto) -> None:
    records = DynamoRecords(moto.clients, TABLE, SystemClock())
    with pytest.raises((ValueError, ClientError)):
        records.commit([Put("a", Item(b"x" * 500_000), 0)])


@ON_SERVERS
def test_an_expired_record_is_absent_and_its_versions_go_on(ministack: MiniStack) -> None:
    """It counts as absent at once; DynamoDB forgets it a day later, and until then its old versions stay untrue."""
    clock, table = SetClock(), ministack.table()
    records = DynamoRecords(ministack.functions, table, clock)
    expires_at = clock.now() + timedelta(minutes=5)
    records.commit([Put("nonce", Item(b"1", expires_at=expires_at), 0)])
    with pytest.raises(Conflict):
        records.commit([Put("nonce", Item(b"2"), 0)])
    item = ministack.admin.get("dynamodb").get_item(TableName=table, Key={"pk": {"S": "nonce"}})["Item"]
    forgotten_at = datetime.fromtimestamp(int(item[aws_layout.TTL_ATTRIBUTE]["N"]), UTC)
    assert forgotten_at > expires_at + timedelta(hours=23)
    clock.moved = timedelta(minutes=6)
    assert records.get("nonce") is None
    for stale in (Check("nonce", 1), Put("nonce", Item(b"x"), 1), Delete("nonce", 1)):
        with pytest.raises(Conflict):
            records.commit([stale])
    records.commit([Check("nonce", 0), Put("other", Item(b""), 0)])
    records.commit([Put("nonce", Item(b"2"), 0)])
    assert records.get("nonce") == Versioned("nonce", b"2", 2)
    item = ministack.admin.get("dynamodb").get_item(TableName=table, Key={"pk": {"S": "nonce"}})["Item"]
    assert "expires_at" not in item
    assert aws_layout.TTL_ATTRIBUTE not in item


def client_error(code: str, status: int = 400, reasons: list[str] | None = None) -> ClientError:
    response: dict[str, Any] = {
        "Error": {"Code": code, "Message": "said so"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    if reasons is not None:
        response["CancellationReasons"] = [{"Code": reason} for reason in reasons]
    return ClientError(response, "Operation")  # type: ignore[arg-type, no-untyped-call]


@pytest.mark.parametrize(
    ("reasons", "meaning"),
    [
        (["None", "ConditionalCheckFailed"], Conflict),
        (["TransactionConflict"], Conflict),
        (["ConditionalCheckFailed", "ThrottlingError"], Conflict),
        (["TransactionConflict", "ThrottlingError"], Unavailable),
        (["ProvisionedThroughputExceeded"], Unavailable),
        (["AccessDenied", "None"], Unavailable),
        (["ValidationError"], ValueError),
        (["ConditionalCheckFailed", "ItemCollectionSizeLimitExceeded"], ValueError),
        (["None"], Unavailable),
        ([], Unavailable),
    ],
)
def test_what_a_cancelled_transaction_means(reasons: list[str], meaning: type[Exception]) -> None:
    with pytest.raises(meaning):
        _raise_for(client_error("TransactionCanceledException", reasons=reasons))


def test_a_commit_that_is_under_way_already_leaves_it_open() -> None:
    with pytest.raises(Unavailable):
        _raise_for(client_error("TransactionInProgressException"))


@pytest.mark.parametrize(
    "error",
    [
        client_error("ThrottlingException"),
        client_error("AccessDenied", 403),
        client_error("InternalError", 500),
        client_error("ResourceNotFoundException"),
        client_error("ExpiredToken", 403),
        EndpointConnectionError(endpoint_url="http://x"),  # type: ignore[no-untyped-call]
        ConnectTimeoutError(endpoint_url="http://x"),  # type: ignore[no-untyped-call]
        ReadTimeoutError(endpoint_url="http://x"),  # type: ignore[no-untyped-call]
    ],
    ids=str,
)
def test_what_the_world_does_is_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable, match="writing a thing"), calling("writing a thing"):
        raise error


@pytest.mark.parametrize("code", ["ValidationException", "IdempotentParameterMismatchException"])
def test_what_we_do_wrong_is_no_outage(code: str) -> None:
    with pytest.raises(ClientError), calling("writing a thing"):
        raise client_error(code)


def test_clients_are_made_when_they_are_needed_and_once() -> None:
    clients = Clients(region="eu-west-1", credentials=Credentials("id", "secret"))
    assert clients._made == {}
    assert clients.get("sqs") is clients.get("sqs")
    assert [service for service, _ in clients._made] == ["sqs"]


# --- secrets in parts ---


@pytest.fixture
def stored(ministack: MiniStack) -> tuple[SsmSecrets, str]:
    path = f"/{ministack.name('secrets')}"
    return SsmSecrets(ministack.functions, path, ministack.key_arn), path


def parameters(ministack: MiniStack, path: str) -> list[dict[str, Any]]:
    pages = ministack.admin.get("ssm").get_paginator("get_parameters_by_path")
    return [one for page in pages.paginate(Path=path, Recursive=True) for one in page["Parameters"]]


LARGEST = bytes(range(256)) * 256  # 64 KiB


@ON_SERVERS
def test_the_largest_secret_is_replaced_whole_and_leaves_nothing(
    ministack: MiniStack, stored: tuple[SsmSecrets, str]
) -> None:
    secrets, path = stored
    secrets.put("a", LARGEST)
    assert len(parameters(ministack, path)) == 23
    assert {one["Type"] for one in parameters(ministack, path)} == {"SecureString"}
    secrets.put("a", LARGEST[::-1])
    assert secrets.get("a") == LARGEST[::-1]
    assert len(parameters(ministack, path)) == 23, "the parts of the old value are gone"
    secrets.put("a", b"short")
    assert len(parameters(ministack, path)) == 1
    secrets.put("a", LARGEST)
    secrets.delete("a")
    assert parameters(ministack, path) == []


@ON_SERVERS
def test_a_name_that_is_taken_costs_nothing(ministack: MiniStack, stored: tuple[SsmSecrets, str]) -> None:
    secrets, path = stored
    secrets.put("a", b"1")
    with pytest.raises(Exception, match="exists"):
        secrets.put("a", LARGEST, if_absent=True)
    assert len(parameters(ministack, path)) == 1
    assert secrets.get("a") == b"1"


@ON_SERVERS
def test_a_deletion_that_was_cut_off_is_finished_by_the_next(
    ministack: MiniStack, stored: tuple[SsmSecrets, str]
) -> None:
    secrets, path = stored
    secrets.put("a", LARGEST)
    parts = [one["Name"] for one in parameters(ministack, path) if one["Name"].count("/") > 2]
    ssm = ministack.admin.get("ssm")
    ssm.delete_parameters(Names=parts[:10])
    with pytest.raises(Unavailable, match="parts of it are missing"):
        secrets.get("a")
    for at in range(10, len(parts), 10):
        ssm.delete_parameters(Names=parts[at : at + 10])
    assert secrets.get("a") is None
    secrets.delete("a")
    secrets.put("a", b"anew", if_absent=True)
    assert secrets.get("a") == b"anew"


@ON_SERVERS
def test_a_parameter_that_somebody_else_wrote_is_no_value(ministack: MiniStack, stored: tuple[SsmSecrets, str]) -> None:
    secrets, path = stored
    secrets.put("a", b"1")
    (parameter,) = parameters(ministack, path)
    ministack.admin.get("ssm").put_parameter(
        Name=parameter["Name"], Value="=not base64!", Type="SecureString", KeyId=ministack.key_arn, Overwrite=True
    )
    with pytest.raises(Unavailable, match="not written by runvoy"):
        secrets.get("a")
