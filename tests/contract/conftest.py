"""The implementations that every contract suite runs against.

To plug in another one: add its maker under the port's name. A maker gets a fresh folder, or the server it runs on, and
yields the port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from tests.contract import on_ministack
from tests.contract.launching import Machine
from tests.contract.on_ministack import OnMiniStack
from tests.servers.fixtures import ON_SERVERS, ministack, seaweedfs, server_cache

from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.queue import SqliteQueue
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import Message, Objects, Queue, QueueName, Records, Secrets

Maker = Callable[[Path], Iterator[Any]] | OnMiniStack

__all__ = ["ministack", "seaweedfs", "server_cache"]  # fixtures


class ReceivingQueue(Queue, Protocol):
    """The queue with its receiving end, which belongs to the runtime: the worker, or a test's poller of SQS."""

    def receive(self, queue: QueueName, timeout: float | None = None) -> Message | None: ...

    def acknowledge(self, message_id: str) -> None: ...


def _sqlite_records(folder: Path) -> Iterator[Records]:
    records = SqliteRecords(folder / "records.sqlite")
    yield records
    records.close()


def _folder_objects(folder: Path) -> Iterator[Objects]:
    yield FolderObjects(folder / "outbox", grants=Grants(bytes(32), "http://127.0.0.1:1"))


def _versioned_folder_objects(folder: Path) -> Iterator[Objects]:
    yield FolderObjects(folder / "inbox", versioned=True, grants=Grants(bytes(32), "http://127.0.0.1:1"))


def _sqlite_queue(folder: Path) -> Iterator[ReceivingQueue]:
    queue = SqliteQueue(folder / "queue.sqlite", visibility_seconds=VISIBILITY_SECONDS)
    yield queue
    queue.close()


def _folder_secrets(folder: Path) -> Iterator[Secrets]:
    yield FolderSecrets(folder / "secrets")


VISIBILITY_SECONDS = 1.0
IMPLEMENTATIONS: Mapping[str, Mapping[str, Maker]] = {
    "records": {"sqlite": _sqlite_records, "dynamodb": OnMiniStack(on_ministack.records)},
    "objects": {
        "folder": _folder_objects,
        "versioned-folder": _versioned_folder_objects,
        "s3": OnMiniStack(on_ministack.objects),
        "versioned-s3": OnMiniStack(on_ministack.versioned_objects),
    },
    "versioned_objects": {
        "versioned-folder": _versioned_folder_objects,
        "versioned-s3": OnMiniStack(on_ministack.versioned_objects),
    },
    "queue": {"sqlite": _sqlite_queue, "sqs": OnMiniStack(on_ministack.queue)},
    "secrets": {"folder": _folder_secrets, "ssm": OnMiniStack(on_ministack.secrets)},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for port, makers in IMPLEMENTATIONS.items():
        if port in metafunc.fixturenames:
            params = [
                pytest.param(maker, id=name, marks=ON_SERVERS if isinstance(maker, OnMiniStack) else ())
                for name, maker in makers.items()
            ]
            metafunc.parametrize(port, params, indirect=True)


def _made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    maker = cast(Maker, request.param)
    if isinstance(maker, OnMiniStack):
        yield from maker.make(request.getfixturevalue("ministack"))
    else:
        yield from maker(tmp_path)


@pytest.fixture
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    yield from _made(request, tmp_path)


@pytest.fixture
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    yield from _made(request, tmp_path)


@pytest.fixture
def versioned_objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    yield from _made(request, tmp_path)


@pytest.fixture
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReceivingQueue]:
    yield from _made(request, tmp_path)


@pytest.fixture
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secrets]:
    yield from _made(request, tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()
