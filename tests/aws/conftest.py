"""A deployment on AWS's adapters: MiniStack for all but ECS, which is tests/aws/fake_ecs.py; and its functions, called as
Lambda calls them."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.aws.fake_ecs import FakeEcs, Idle, serving
from tests.servers.fixtures import ministack, server_cache
from tests.servers.ministack import ACCOUNT, MiniStack

from runvoy_agent.aws import settings
from runvoy_agent.aws.clients import Clients
from runvoy_agent.core.model import Execution, Key, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.wiring_aws import AwsServices
from runvoy_protocol import aws_layout, control, keys, requests
from runvoy_protocol.control import ControlCall
from runvoy_protocol.members import Role
from runvoy_protocol.requests import RunRequest

__all__ = ["ministack", "server_cache"]  # fixtures

IMAGE = "docker.io/library/alpine:3"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/deployer"
DOMAIN = "url-id.lambda-url.eu-west-1.on.aws"
EVENTS = Path(__file__).parents[1] / "events"


class Context:
    """What Lambda tells of an invocation."""

    _numbers = itertools.count(1)

    def __init__(self, function: str, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms
        self.function_name = function
        self.memory_limit_in_mb = 512
        self.invoked_function_arn = f"arn:aws:lambda:eu-west-1:000000000000:function:{function}"
        self.aws_request_id = f"invocation-{next(self._numbers)}"

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


def http_event(method: str, target: str, body: bytes = b"", authorization: str = "") -> dict[str, Any]:
    """A call of the function URL."""
    path, _, query = target.partition("?")
    return {
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"Authorization": authorization} if authorization else {},
        "requestContext": {"domainName": DOMAIN, "http": {"method": method, "sourceIp": "203.0.113.7"}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


class Deployment:
    """One deployment and an admin's key."""

    def __init__(self, server: MiniStack, ecs: FakeEcs) -> None:
        self.server = server
        self.ecs = ecs
        self.clock = SystemClock()
        self.environment = self._environment()
        self.services = self.another_process()
        self.signing_key = self._add_user("ada")
        assert self.call("POST", "/api/v1/images", json.dumps({"reference": IMAGE}).encode())["statusCode"] == 200

    def another_process(self) -> AwsServices:
        """The functions as a process of their own has them."""
        functions = self.server.functions
        clients = Clients(
            region=functions._region,
            credentials=functions._credentials,
            endpoints={**(functions._endpoints), "ecs": self.ecs.url},
        )
        return AwsServices(settings.read(self.environment), clients, self.clock)

    def _environment(self) -> dict[str, str]:
        deployment_id = self.server.name("deployment")
        urls = {}
        for queue in aws_layout.QUEUES:
            urls[aws_layout.queue_variable(queue)] = self.server.queue()
            urls[aws_layout.dead_letters_variable(queue)] = self.server.queue()
        return urls | {
            aws_layout.ENV_DEPLOYMENT: deployment_id,
            aws_layout.ENV_TABLE: self.server.table(),
            aws_layout.ENV_INBOX_BUCKET: self.server.bucket(versioned=True),
            aws_layout.ENV_OUTBOX_BUCKET: self.server.bucket(),
            aws_layout.ENV_STAGING_BUCKET: self.server.bucket(),
            aws_layout.ENV_PRESIGN_ROLE: self.server.presign_role,
            aws_layout.ENV_ENCRYPTION_KEY: self.server.key_arn,
            aws_layout.ENV_CLUSTER: self.ecs.cluster,
            aws_layout.ENV_SUBNETS: "subnet-1,subnet-2",
            aws_layout.ENV_SECURITY_GROUPS: "sg-1",
            aws_layout.ENV_EXECUTION_ROLE: f"arn:aws:iam::{ACCOUNT}:role/execution",
            aws_layout.ENV_TASK_ROLE: f"arn:aws:iam::{ACCOUNT}:role/task",
            aws_layout.ENV_TASK_ROLES: ROLE,
            aws_layout.ENV_TASK_LOG_GROUP: "tasks",
            aws_layout.ENV_RUNNER_IMAGE: "python@sha256:1",
            aws_layout.ENV_RUNNER_ENDPOINT: f"https://{DOMAIN}/",
        }

    def _add_user(self, name: str) -> keys.SigningKey:
        signing_key = keys.SigningKey(self.clock.random(32))
        now = self.clock.now()
        key = Key(key_id=signing_key.key_id, public_key=signing_key.public_key, user=name, created_at=now)
        user = User(name=name, role=Role.ADMIN, created_at=now)
        records = self.services.ports.records
        records.commit(
            [store.put_new(store.key_key(signing_key.key_id), key), store.put_new(store.user_key(name), user)]
        )
        return signing_key

    # -- requests

    def request(self, **fields: object) -> RunRequest:
        now = self.clock.now()
        values: dict[str, object] = {
            "version": 1,
            "deployment_id": self.environment[aws_layout.ENV_DEPLOYMENT],
            "request_id": self.clock.new_id(),
            "issued_at": now,
            "expires_at": now + timedelta(minutes=15),
            "command": ("true",),
            "image": IMAGE,
        }
        return RunRequest(**(values | fields))  # type: ignore[arg-type]

    def sealed(self, request: RunRequest) -> bytes:
        return requests.seal_request(request, self.signing_key)

    # -- the functions

    def invoke(self, queue: str, *bodies: str, remaining_ms: int = 60_000) -> Any:
        """Deliver messages of a queue to its function in one batch; the ids of those that failed."""
        function = aws_layout.FED_BY[queue]  # type: ignore[index]
        queue = self.environment[aws_layout.queue_variable(queue)].rpartition("/")[2]
        template = json.loads((EVENTS / "sqs_batch.json").read_text())["Records"][0]
        records = [
            template
            | {
                "messageId": f"message-{number}",
                "body": body,
                "eventSourceARN": f"arn:aws:sqs:eu-west-1:000000000000:{queue}",
            }
            for number, body in enumerate(bodies)
        ]
        answer = getattr(self.services, function)({"Records": records}, Context(function, remaining_ms))
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def control(self, event: Mapping[str, Any]) -> Any:
        return self.services.control(dict(event), Context("control"))

    def call(self, method: str, target: str, body: bytes = b"") -> Any:
        """A signed call of the control API through the function's URL; the function's answer."""
        return self.control(self.call_event(method, target, body))

    def call_event(self, method: str, target: str, body: bytes = b"") -> dict[str, Any]:
        call = ControlCall(
            version=1,
            deployment_id=self.environment[aws_layout.ENV_DEPLOYMENT],
            method=method,
            target=target,
            body_sha256=control.body_digest(body),
            issued_at=self.clock.now(),
            nonce=self.clock.random(16),
        )
        return http_event(method, target, body, control.authorization(call, self.signing_key))

    def reconcile(self) -> Any:
        return self.services.reconcile(json.loads((EVENTS / "schedule.json").read_text()), Context("reconcile"))

    def taken(self, queue: str) -> list[str]:
        """What is in a queue, taken out of it as an event source does."""
        sqs, url = self.server.functions.get("sqs"), self.environment[aws_layout.queue_variable(queue)]
        found = []
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message["Body"])
        return found

    # -- looking

    def staged(self) -> list[str]:
        bucket = self.environment[aws_layout.ENV_STAGING_BUCKET]
        listed = self.server.functions.get("s3").list_objects_v2(Bucket=bucket)
        return [item["Key"] for item in listed.get("Contents", ())]

    def execution(self, execution_id: str) -> Execution:
        found = store.load_execution(self.services.ports.records, execution_id).document
        assert found is not None
        return found


class CurrentStdout:
    """A function has one stdout for life; here every phase of a test has another."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture
def deployment(ministack: MiniStack) -> Iterator[Deployment]:
    logger = logging.getLogger("runvoy")
    with serving(FakeEcs(Idle())) as ecs:
        made = Deployment(ministack, ecs)
        for handler in logger.handlers:
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(CurrentStdout())
        yield made
    # A process has one logger for life; a test leaves none behind.
    logger.handlers.clear()
    for mark in ("init", "powertools_handler"):
        logger.__dict__.pop(mark, None)
