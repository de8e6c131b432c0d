"""What every implementation of QueueCare promises: what is counted, and that no dead letter is lost or left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.aws.queue import AwsQueueName, SqsQueueCare, decode
from runvoy_agent.local.queue import LocalQueueCare, SqliteQueue
from runvoy_agent.ports import QueueCare, QueueName

if TYPE_CHECKING:
    from tests.servers.ministack import MiniStack

NAMES: tuple[QueueName, ...] = ("inbox", "starts", "bulk", "ends")


class Cared(Protocol):
    """An implementation, with what a test has to do around it."""

    care: QueueCare

    def bury(self, queue: QueueName, body: bytes) -> None: ...

    def take_all(self, queue: QueueName) -> list[bytes]: ...


class OnSqlite:
    def __init__(self, folder: Path) -> None:
        self._queue = SqliteQueue(folder / "queue.db", max_receives=1)
        self.care: QueueCare = LocalQueueCare(self._queue)

    def bury(self, queue: QueueName, body: bytes) -> None:
        self._queue.send(queue, body)
        message = self._queue.receive(queue, 5)
        assert message is not None
        self._queue.release(message.message_id)

    def take_all(self, queue: QueueName) -> list[bytes]:
        found = []
        while (message := self._queue.receive(queue, 0)) is not None:
            self._queue.acknowledge(message.message_id)
            found.append(message.body)
        return found

    def close(self) -> None:
        self._queue.close()


class OnSqs:
    def __init__(self, server: MiniStack) -> None:
        self._server = server
        self._sqs: Any = server.functions.get("sqs")
        self._urls: dict[AwsQueueName, str] = {name: server.queue() for name in NAMES}
        self._dead: dict[AwsQueueName, str] = {name: server.queue() for name in NAMES}
        self.care: QueueCare = SqsQueueCare(server.functions, self._urls, self._dead)

    def bury(self, queue: QueueName, body: bytes) -> None:
        self._sqs.send_message(QueueUrl=self._dead[queue], MessageBody=body.decode())

    def take_all(self, queue: QueueName) -> list[bytes]:
        found = []
        url = self._urls[queue]
        while messages := self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(decode(message["Body"]))
        return found

    def close(self) -> None:
        for url in (*self._urls.values(), *self._dead.values()):
            self._server.admin.get("sqs").delete_queue(QueueUrl=url)


@pytest.fixture(params=["sqlite", pytest.param("sqs", marks=ON_SERVERS)])
def cared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cared]:
    made = OnSqlite(tmp_path) if request.param == "sqlite" else OnSqs(request.getfixturevalue("ministack"))
    yield made
    made.close()


def dead(cared: Cared) -> dict[str, int]:
    return {state.name: state.dead for state in cared.care.states() if state.dead}


def test_dead_letters_are_counted_and_put_back(cared: Cared) -> None:
    assert set(NAMES) <= {state.name for state in cared.care.states()}
    bodies = {f"letter {number}".encode() for number in range(23)}
    for body in bodies:
        cared.bury("ends", body)
    cared.bury("inbox", b"another")
    assert dead(cared) == {"ends": 23, "inbox": 1}
    assert cared.care.redrive("ends", 1000) == 23
    assert dead(cared) == {"inbox": 1}
    assert {state.name: state.visible for state in cared.care.states() if state.visible} == {"ends": 23}
    assert sorted(cared.take_all("ends")) == sorted(bodies)
    assert cared.care.redrive("ends", 1000) == 0


def test_no_more_than_was_asked_for(cared: Cared) -> None:
    for number in range(15):
        cared.bury("starts", str(number).encode())
    assert cared.care.redrive("starts", 12) == 12
    assert dead(cared) == {"starts": 3}
    assert len(cared.take_all("starts")) == 12


def test_there_is_no_such_queue(cared: Cared) -> None:
    with pytest.raises(ValueError, match="there is no queue"):
        cared.care.redrive("nobody", 1)
