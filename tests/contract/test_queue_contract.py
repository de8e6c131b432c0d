"""What every implementation of Queue promises. Deliveries may repeat and come out of order, and the tests allow it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from runvoy_agent.ports import Message, Queue, QueueName

if TYPE_CHECKING:
    from tests.contract.conftest import ReceivingQueue

QUEUES: tuple[QueueName, ...] = ("inbox", "starts", "bulk", "ends")
PATIENCE = 30.0


def taken(queue: ReceivingQueue, name: QueueName) -> Message:
    message = queue.receive(name, PATIENCE)
    assert message is not None
    return message


@pytest.mark.parametrize("body", [b"", b"x", b"\0\xff" * 60_000])
def test_what_was_sent_is_delivered(queue: ReceivingQueue, body: bytes) -> None:
    queue.send("inbox", body)
    message = taken(queue, "inbox")
    assert (message.body, message.receives) == (body, 1)
    queue.acknowledge(message.message_id)
    assert queue.receive("inbox", 0) is None


def test_queues_are_apart(queue: ReceivingQueue) -> None:
    for name in QUEUES:
        queue.send(name, name.encode())
    for name in reversed(QUEUES):
        assert taken(queue, name).body == name.encode()


def test_unacknowledged_message_comes_back(queue: ReceivingQueue) -> None:
    queue.send("ends", b"again")
    first = taken(queue, "ends")
    second = taken(queue, "ends")
    assert (second.body, second.receives) == (b"again", first.receives + 1)
    queue.acknowledge(second.message_id)
    queue.acknowledge(second.message_id)


def test_delay(queue: ReceivingQueue) -> None:
    sent_at = time.monotonic()
    queue.send("starts", b"later", delay_seconds=1.0)  # longer than the other may take to be sent on a busy disk
    queue.send("starts", b"now")
    assert taken(queue, "starts").body == b"now"
    assert taken(queue, "starts").body == b"later"
    assert time.monotonic() - sent_at >= 0.999


def test_every_message_of_many_senders_is_delivered(queue: ReceivingQueue) -> None:
    bodies = {b"%d-%d" % (sender, number) for sender in range(4) for number in range(50)}

    def send(sender: int) -> None:
        for number in range(50):
            queue.send("bulk", b"%d-%d" % (sender, number))

    def receive(_: int) -> set[bytes]:
        found = set()
        is_last_look = False
        while not is_last_look:
            is_last_look = all(future.done() for future in sending)
            while (message := queue.receive("bulk", 2)) is not None:
                queue.acknowledge(message.message_id)
                found.add(message.body)
        return found

    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send, sender) for sender in range(4)]
        received = set().union(*pool.map(receive, range(4)))
        for future in sending:
            future.result()
    assert received == bodies


def test_unknown_queue_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError):
        queue.send("elsewhere", b"")  # type: ignore[arg-type]
