"""The AWS adapters on MiniStack, as implementations for the contract suites."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.servers.ministack import MiniStack

from runvoy_agent.aws import queue as aws_queue
from runvoy_agent.aws.objects import S3Objects
from runvoy_agent.aws.presigning import Presigner
from runvoy_agent.aws.queue import SqsQueue
from runvoy_agent.aws.records import DynamoRecords
from runvoy_agent.aws.secrets import SsmSecrets
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.ports import Message, Objects, QueueName, Records, Secrets

_LONG_POLL_SECONDS = 1


class OnMiniStack(NamedTuple):
    """A maker that needs the server."""

    make: Callable[[MiniStack], Any]


class ReceivedSqs(SqsQueue):
    """With a test's poller as the receiving end, in Lambda's place."""

    def __init__(self, server: MiniStack, urls: dict[QueueName, str]) -> None:
        super().__init__(server.functions, {name: url for name, url in urls.items()})  # noqa: C416 - a wider type of key
        self._sqs = server.functions.get("sqs")
        self._handles: dict[str, tuple[str, str]] = {}

    def receive(self, queue: QueueName, timeout: float | None = None) -> Message | None:
        url = self._urls[queue]
        tries = max(1, round((timeout or 0) / _LONG_POLL_SECONDS))
        for _ in range(tries):
            answer = self._sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=1,
                WaitTimeSeconds=_LONG_POLL_SECONDS if timeout else 0,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
            for message in answer.get("Messages", ()):
                self._handles[message["MessageId"]] = (url, message["ReceiptHandle"])
                receives = int(message["Attributes"]["ApproximateReceiveCount"])
                return Message(message["MessageId"], aws_queue.decode(message["Body"]), receives)
        return None

    def acknowledge(self, message_id: str) -> None:
        url, handle = self._handles[message_id]
        # AWS says yes to deleting what is deleted already; MiniStack does not.
        with contextlib.suppress(self._sqs.exceptions.ReceiptHandleIsInvalid):
            self._sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)


def records(server: MiniStack) -> Iterator[Records]:
    table = server.table()
    yield DynamoRecords(server.functions, table, SystemClock())
    server.admin.get("dynamodb").delete_table(TableName=table)


def _objects(server: MiniStack, *, versioned: bool) -> Iterator[Objects]:
    presigner = Presigner(server.functions, server.presign_role, SystemClock())
    yield S3Objects(server.functions, server.bucket(versioned=versioned), presigner)


def objects(server: MiniStack) -> Iterator[Objects]:
    yield from _objects(server, versioned=False)


def versioned_objects(server: MiniStack) -> Iterator[Objects]:
    yield from _objects(server, versioned=True)


def queue(server: MiniStack) -> Iterator[ReceivedSqs]:
    names: tuple[QueueName, ...] = ("inbox", "starts", "bulk", "ends")
    urls = {name: server.queue(visibility_seconds=1) for name in names}
    yield ReceivedSqs(server, urls)
    for url in urls.values():
        server.admin.get("sqs").delete_queue(QueueUrl=url)


def secrets(server: MiniStack) -> Iterator[Secrets]:
    yield SsmSecrets(server.functions, f"/{server.name('secrets')}", server.key_arn)
