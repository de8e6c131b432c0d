"""What Lambda's event source mappings do, for functions that run on a machine: polls queues and hands on what is in them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.functions import Event
from runvoy_agent.aws.queue import AwsQueueName

log = logging.getLogger("runvoy.polling")

_BATCH = 10
_WAIT_SECONDS = 5
# After a kill -9 what was taken comes again only then. Handling may take longer: every handler bears a delivery twice.
_INVISIBLE_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 60
_OUTAGE_PAUSE_SECONDS = 2.0


class Poller:
    """One thread for each queue. `invoke(queue, event)` is the function that a queue feeds: it gets the event that Lambda
    would make of the messages, and answers with those that failed. They come again, later each time, until the queue
    makes them dead letters; the others are deleted. `is_ready(queue)` waits for room, and says whether there is any."""

    def __init__(
        self,
        clients: Clients,
        urls: Mapping[AwsQueueName, str],
        invoke: Callable[[AwsQueueName, Event], Any],
        is_ready: Callable[[AwsQueueName], bool],
    ) -> None:
        self._clients = clients
        self._invoke = invoke
        self._is_ready = is_ready
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._poll, args=place, name=f"poll-{place[0]}", daemon=True)
            for place in urls.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Hand on nothing more, wait for what is under way, and give back what was taken meanwhile."""
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _poll(self, queue: AwsQueueName, url: str) -> None:
        while not self._closing.is_set():
            try:
                if self._is_ready(queue):
                    self._take(queue, url)
            except (ClientError, BotoCoreError) as error:
                log.warning("the queue %s cannot be polled: %s", queue, error)
                self._closing.wait(_OUTAGE_PAUSE_SECONDS)
            except Exception:
                log.exception("the function of the queue %s failed", queue)
                self._closing.wait(_OUTAGE_PAUSE_SECONDS)

    def _take(self, queue: AwsQueueName, url: str) -> None:
        sqs = self._clients.get("sqs")
        messages = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=_BATCH,
            WaitTimeSeconds=_WAIT_SECONDS,
            VisibilityTimeout=_INVISIBLE_SECONDS,
            MessageSystemAttributeNames=["All"],
        ).get("Messages", ())
        if not messages:
            return
        closing = self._closing.is_set()
        answer = {} if closing else self._invoke(queue, {"Records": [_record(message, url) for message in messages]})
        failed = {failure["itemIdentifier"] for failure in answer.get("batchItemFailures", ())}
        for message in messages:
            place = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
            if closing:
                sqs.change_message_visibility(VisibilityTimeout=0, **place)
            elif message["MessageId"] in failed:
                pause = min(2 ** int(message["Attributes"]["ApproximateReceiveCount"]), _LONGEST_PAUSE_SECONDS)
                sqs.change_message_visibility(VisibilityTimeout=pause, **place)
            else:
                sqs.delete_message(**place)


def _record(message: Mapping[str, Any], url: str) -> Event:
    """A message as Lambda puts it into an event. Of the ARN only the queue's name is read."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:::{url.rpartition('/')[2]}",
    }
