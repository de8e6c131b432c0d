"""Sealing, verifying, dead letters and forgetting, on the adapters of AWS: MiniStack's DynamoDB, S3 and SQS."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from tests.aws.conftest import Deployment
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.handlers.audit import seals
from runvoy_agent.handlers.documents import store
from runvoy_agent.local.clock import SystemClock
from runvoy_cli.deployment.client import Client
from runvoy_cli.proofs.audit import DayCheck, DayProof
from runvoy_cli.proofs.signed_request import check_request
from runvoy_protocol import aws_layout, control, ids, object_keys
from runvoy_protocol.seals import SealHead

if TYPE_CHECKING:
    from runvoy_protocol.requests import RunRequest

pytestmark = ON_SERVERS

M = TypeVar("M", bound=msgspec.Struct)


class LaterClock(SystemClock):
    """A clock that is ahead, so that what was recorded just now is old enough."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=12)


class _Target(NamedTuple):
    deployment_id: str


class FunctionClient:
    """What the checks ask of a client, answered by the control function."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.target = _Target(deployment.environment[aws_layout.ENV_DEPLOYMENT])

    def ask(
        self, kind: type[M], method: str, path: str, body: bytes = b"", query: Mapping[str, str] | None = None
    ) -> M:
        target = f"/api/v1{path}" + (f"?{urlencode(query)}" if query else "")
        answer = self.deployment.call(method, target, body)
        if answer["statusCode"] != 200:
            error = control.parse_error(answer["body"].encode())
            assert error is not None
            raise error
        return msgspec.json.decode(answer["body"].encode(), type=kind)


def client_of(deployment: Deployment) -> Client:
    return cast(Client, cast(Any, FunctionClient(deployment)))


def admitted(deployment: Deployment, **fields: object) -> RunRequest:
    request = deployment.request(**fields)
    object_key = object_keys.request(deployment.signing_key.key_id, request.request_id)
    services = deployment.services
    services.ports.inbox.put(object_key, deployment.sealed(request), content_type="")
    body = json.dumps({"object_key": object_key, "version": None})
    assert deployment.invoke("inbox", body) == []
    return request


def test_what_is_sealed_in_the_table_is_verified_and_tampering_is_found(deployment: Deployment) -> None:
    request = admitted(deployment)
    for _ in range(4):
        deployment.call("GET", "/api/v1/whoami")
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ports = deployment.services.ports
    assert seals.seal(ports._replace(clock=LaterClock())) == 0
    client = client_of(deployment)
    kept = client.ask(SealHead, "GET", "/audit/head")
    proof = DayCheck(client, day, kept.hash).run()
    assert (touched(proof), proof.seals > 0, proof.records > 5) == ([], True, True)

    found = store.partition_records(ports.records, store.INDEX_AUDIT_EXECUTION, request.request_id)
    victim = next(iter(found)).key
    table = deployment.environment[aws_layout.ENV_TABLE]
    dynamodb = deployment.server.admin.get("dynamodb")
    dynamodb.delete_item(TableName=table, Key={aws_layout.KEY_ATTRIBUTE: {"S": victim}})
    assert touched(DayCheck(client, day, kept.hash).run()) == [("removed", victim)]


def touched(proof: DayProof) -> list[tuple[str, str]]:
    """The findings, but for the calls of the check itself: to the clock that sealed they are of a minute long sealed."""
    return [(one.problem, f"audit#{one.subject}") for one in proof.findings if one.problem != "added"]


def test_a_signed_request_is_verified_by_the_version_that_was_admitted(deployment: Deployment) -> None:
    request = admitted(deployment)
    client = client_of(deployment)
    assert check_request(client, request.request_id).holds
    object_key = object_keys.request(deployment.signing_key.key_id, request.request_id)
    other = deployment.sealed(msgspec.structs.replace(request, command=("rm", "-rf", "/")))
    deployment.services.ports.inbox.put(object_key, other, content_type="")
    assert check_request(client, request.request_id).holds, "the former version is what was admitted"


def test_dead_letters_are_told_and_put_back(deployment: Deployment) -> None:
    sqs = deployment.server.functions.get("sqs")
    for number in range(3):
        url = deployment.environment[aws_layout.dead_letters_variable("ends")]
        sqs.send_message(QueueUrl=url, MessageBody=f'{{"number":{number}}}')
    told = json.loads(deployment.call("GET", "/api/v1/health/queues")["body"])
    assert {one["name"]: one["dead"] for one in told["queues"]} == {
        "inbox": 0,
        "ranges": 0,
        "starts": 0,
        "bulk": 0,
        "ends": 3,
    }
    answer = json.loads(deployment.call("POST", "/api/v1/health/redrive", b"{}")["body"])
    assert {one["queue"]: one["redriven"] for one in answer["queues"]} == {
        "inbox": 0,
        "ranges": 0,
        "starts": 0,
        "bulk": 0,
        "ends": 3,
    }
    assert sorted(deployment.taken("ends")) == [f'{{"number":{number}}}' for number in range(3)]


def test_the_reconciler_forgets_records_where_it_is_told_to(deployment: Deployment) -> None:
    # An id that tells when it was made is kept for as long from then on.
    request = admitted(deployment, request_id=ids.uuid8(secrets.token_bytes(16)))
    assert deployment.call("DELETE", f"/api/v1/executions/{request.request_id}")["statusCode"] == 200
    current = store.load_execution(deployment.services.ports.records, request.request_id)
    assert current.document is not None
    assert not current.document.is_active
    long_ago = datetime.now(UTC) - timedelta(days=100)
    changed = msgspec.structs.replace(
        current.document, admitted_at=long_ago, updated_at=long_ago, ended_at=long_ago, stopped_at=long_ago
    )
    deployment.services.ports.records.commit([store.put(current, changed)])
    deployment.reconcile()
    assert deployment.services.ports.records.get(store.execution_key(request.request_id)) is not None
    deployment.environment[aws_layout.ENV_KEEP_DAYS] = "90"
    deployment.services = deployment.another_process()
    deployment.reconcile()
    for key in (store.execution_key(request.request_id), store.request_key(request.request_id)):
        assert deployment.services.ports.records.get(key) is None
