"""The sending end of the Queue port on SQS, and of the queue where ranges of batches lie apart.

A message's body is the text itself, so that a dead letter can be read; only what SQS would not carry as it is (binary, an
empty body, characters outside of XML's) goes as base64 behind a mark.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling
from runvoy_agent.ports import QueueName

AwsQueueName = QueueName | Literal["ranges"]

MAX_DELAY_SECONDS = 900
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
