"""The poller in the place of Lambda's event source mappings, on MiniStack's queues."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.servers.fixtures import ON_SERVERS
from tests.servers.ministack import MiniStack

from runvoy_agent.aws.polling import Poller

pytestmark = [ON_SERVERS, pytest.mark.slow]


def test_what_failed_comes_again_and_nothing_else_does(ministack: MiniStack) -> None:
    url = ministack.queue()
    clients = ministack.admin
    sqs = clients.get("sqs")
    for body in ("good", "bad", "fine"):
        sqs.send_message(QueueUrl=url, MessageBody=body)
    seen: list[tuple[str, int]] = []
    again = threading.Event()

    def function(queue: str, event: dict[str, Any]) -> dict[str, Any]:
        failed = []
        for record in event["Records"]:
            receives = int(record["attributes"]["ApproximateReceiveCount"])
            assert record["eventSourceARN"].rpartition(":")[2] == url.rpartition("/")[2]
            seen.append((record["body"], receives))
            if record["body"] == "bad" and receives == 1:
                failed.append({"itemIdentifier": record["messageId"]})
            elif record["body"] == "bad":
                again.set()
        return {"batchItemFailures": failed}

    poller = Poller(clients, {"starts": url}, function, lambda _: True)
    poller.start()
    assert again.wait(60)
    poller.close(30)
    assert sorted(seen) == [("bad", 1), ("bad", 2), ("fine", 1), ("good", 1)]
    assert not sqs.receive_message(QueueUrl=url).get("Messages")


def test_a_function_that_fails_as_a_whole_does_not_end_the_poller(ministack: MiniStack) -> None:
    url = ministack.queue()
    calls = []

    def function(queue: str, event: dict[str, Any]) -> dict[str, Any]:
        calls.append(queue)
        if len(calls) == 1:
            raise RuntimeError("the whole invocation")
        return {"batchItemFailures": []}

    poller = Poller(ministack.admin, {"ends": url}, function, lambda _: True)
    poller.start()
    for number in (1, 2):
        ministack.admin.get("sqs").send_message(QueueUrl=url, MessageBody="x")
        give_up_at = time.monotonic() + 60
        while len(calls) < number:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
    poller.close(30)
