"""The sending end of the Queue port on SQS, and of the queue where ranges of batches lie apart; and looking after them all.

A message's body is the text itself, so that a dead letter can be read; only what SQS would not carry as it is (binary, an
empty body, characters outside of XML's) goes as base64 behind a mark.
"""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Mapping
from typing import Any, Literal, cast

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling
from runvoy_agent.ports import QueueName, QueueState

AwsQueueName = QueueName | Literal["ranges"]

MAX_DELAY_SECONDS = 900
_REDRIVE_SECONDS = 4.0
"""The function that redrives lives for 30 s, and serves all five queues in them."""

_MARK = "base64:"
_PLAIN = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+\\Z")


class SqsQueue:
    """The queues, by their URLs."""

    def __init__(self, clients: Clients, urls: Mapping[AwsQueueName, str]) -> None:
        self._clients = clients
        self._urls = urls

    def send(self, queue: AwsQueueName, body: bytes, *, delay_seconds: float = 0) -> None:
        """As the port says; ValueError for a delay that SQS does not know (over 15 minutes)."""
        url = self._urls.get(queue)
        if url is None:
            raise ValueError(f"there is no queue {queue!r}")
        if not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
            raise ValueError(f"a message can be delayed by {MAX_DELAY_SECONDS} s at most, not {delay_seconds:g}")
        with calling(f"sending to the queue {queue}"):
            self._client.send_message(QueueUrl=url, MessageBody=encode(body), DelaySeconds=math.ceil(delay_seconds))

    @property
    def _client(self) -> Any:
        return self._clients.get("sqs")


class SqsQueueCare:
    """The queues and their dead letters, by their URLs (ports.QueueCare). SQS does not tell how old a message is: the
    alarms on its age do."""

    def __init__(
        self, clients: Clients, urls: Mapping[AwsQueueName, str], dead_letters: Mapping[AwsQueueName, str]
    ) -> None:
        self._clients = clients
        self._urls = urls
        self._dead_letters = dead_letters

    def states(self) -> list[QueueState]:
        found = []
        for name, url in self._urls.items():
            counts, dead = self._counts(url), self._counts(self._dead_letters[name])
            # One that somebody received and has not deleted is a dead letter still.
            found.append(QueueState(name, *counts, sum(dead)))
        return found

    def redrive(self, queue: str, most: int) -> int:
        """Sent before it is deleted: who dies in between leaves both, and deliveries may repeat."""
        if queue not in self._urls:
            raise ValueError(f"there is no queue {queue!r}")
        source, target = self._dead_letters[cast("AwsQueueName", queue)], self._urls[cast("AwsQueueName", queue)]
        moved = 0
        give_up_at = time.monotonic() + _REDRIVE_SECONDS
        while moved < most and time.monotonic() < give_up_at:
            with calling(f"receiving dead letters of {queue}"):
                answer = self._client.receive_message(
                    QueueUrl=source, MaxNumberOfMessages=min(10, most - moved), WaitTimeSeconds=1
                )
            messages = answer.get("Messages", ())
            if not messages:
                break
            for message in messages:
                with calling(f"sending a dead letter of {queue} again"):
                    self._client.send_message(QueueUrl=target, MessageBody=message["Body"])
                    self._client.delete_message(QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
        return moved

    def _counts(self, url: str) -> tuple[int, int, int]:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible")]
        with calling("counting messages"):
            found = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        visible, delayed, in_flight = (int(found.get(name, 0)) for name in names)
        return visible, delayed, in_flight

    @property
    def _client(self) -> Any:
        return self._clients.get("sqs")


def encode(body: bytes) -> str:
    """The text that carries a body."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text.startswith(_MARK) or not _PLAIN.match(text):
        return _MARK + base64.b64encode(body).decode()
    return text


def decode(text: str) -> bytes:
    """The body that a text carries; ValueError for a mark with no base64 behind it."""
    if not text.startswith(_MARK):
        return text.encode()
    return base64.b64decode(text.removeprefix(_MARK), validate=True)
