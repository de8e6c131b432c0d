"""What a deployment does when deliveries come late, twice, malformed or not at all, and when a function is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.infra.live.conftest import Live, wait_for

from runvoy_protocol import ids

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def untold(live: Live) -> str:
    """An execution that holds a lock, and whose end is told by nobody: the reconciler has all of this module's time."""
    execution_id = live.admin.ok("submit", "--lock", "untold", "sleep 1; exit 4")
    live.silent.add(execution_id)
    return execution_id


def released(live: Live, execution_id: str) -> bool:
    """Whether its task was seen stopped: it is in no index of the active ones any more."""
    key = {"pk": {"S": f"execution#{execution_id}"}}
    item = live.server.client("dynamodb").get_item(TableName=live.outputs["TableName"], Key=key)["Item"]
    return "ix_active_pk" not in item


def arrival(live: Live, object_key: str) -> str:
    """S3's notification of an object, once more."""
    version = live.s3.list_object_versions(Bucket=live.outputs["InboxBucket"], Prefix=object_key)["Versions"][0]
    written = {"key": object_key, "versionId": version["VersionId"]}
    record = {"eventName": "ObjectCreated:Post", "s3": {"bucket": {"name": ""}, "object": written}}
    return json.dumps({"Records": [record]})


def request_key(live: Live, execution_id: str) -> str:
    listed = live.s3.list_objects_v2(Bucket=live.outputs["InboxBucket"], Prefix="requests/")["Contents"]
    (found,) = [one["Key"] for one in listed if one["Key"].endswith(execution_id)]
    return found


def test_every_event_twice_changes_nothing(live: Live) -> None:
    execution_id = live.admin.ok("submit", "echo once")
    assert live.admin("wait", execution_id).returncode == 0
    wait_for(lambda: released(live, execution_id))
    before = live.admin.json("status", execution_id)
    live.send("inbox", arrival(live, request_key(live, execution_id)))
    live.send("starts", json.dumps({"execution_id": execution_id}))
    live.send("ends", json.dumps({"execution_id": execution_id, "event": "result"}))
    live.send("ends", json.dumps({"execution_id": execution_id, "event": "stopped", "attempt": 1, "exit_code": 9}))
    wait_for(live.drained)
    assert live.admin.json("status", execution_id) == before
    assert len(live.tasks_of(execution_id)) == 1


def test_a_lock_waits_for_the_platforms_word_that_its_task_stopped(live: Live) -> None:
    """The result settles at once; the lock goes on only when the task was seen stopped, however late that is told."""
    first = live.admin.ok("submit", "--lock", "late", "sleep 1; exit 3")
    live.silent.add(first)
    assert live.admin("wait", first).returncode == 3
    second = live.admin.ok("submit", "--lock", "late", "echo next")
    (task,) = live.tasks_of(first)
    wait_for(lambda: task.last_status == "STOPPED")
    assert not released(live, first)
    assert live.state(second) == "QUEUED"
    live.silent.remove(first)
    detail = task.describe(live.ecs.cluster_arn)
    live.tell_of_end({"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail})
    assert live.admin("wait", second).returncode == 0
    assert live.state(first) == "FAILED"


@pytest.mark.timeout(400)
def test_poison_becomes_a_dead_letter_and_nothing_else_is_lost(live: Live) -> None:
    poisoned = {"inbox": "{", "starts": '{"execution": 3}', "ends": "[]", "bulk": "poison"}
    urls = {queue: live.queue_url(queue) for queue in poisoned}
    # Functions that are cold take long on a busy machine, and what they are given would come again and again meanwhile.
    assert live.admin("wait", live.admin.ok("submit", "true")).returncode == 0
    wait_for(live.drained)
    for url in urls.values():  # AWS's six minutes five times over are a long time for a test
        live.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "5"})
    try:
        for queue, body in poisoned.items():
            live.send(queue, body)
        submitted = [live.admin.ok("submit", f"exit {number}") for number in range(3)]
        for queue, body in poisoned.items():
            live.send(queue, body)
        codes = [live.admin("wait", execution_id).returncode for execution_id in submitted]
        assert codes == [0, 1, 2]
        for queue, body in poisoned.items():
            dead = live.queue_url(queue, dead_letters=True)
            found: list[str] = []

            def both(dead: str = dead, found: list[str] = found) -> bool:
                answer = live.sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                found += [message["Body"] for message in answer.get("Messages", ())]
                return len(found) >= 2

            wait_for(both, patience=150)
            assert found == [body, body], queue
    finally:
        for url in urls.values():
            live.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "360"})


def workers(live: Live) -> list[int]:
    """The processes of this deployment's functions, but for the control function's: MiniStack's children."""
    mark = f"{'RUNVOY_DEPLOYMENT_ID'}={live.outputs['DeploymentId']}".encode()
    control = f"AWS_LAMBDA_FUNCTION_NAME={live.outputs['ControlFunctionName']}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            told = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in told and control not in told:
            found.append(int(folder.name))
    return found


@contextmanager
def delivered_anew_soon(live: Live, queues: tuple[str, ...], seconds: int) -> Iterator[Callable[[int], None]]:
    """What a killed function held comes again after `seconds`, and after any number of kills: that it becomes a dead letter is
    another test's. Yields what changes the seconds; afterwards all is as it was."""
    urls = [live.queue_url(queue) for queue in queues]
    names = ["VisibilityTimeout", "RedrivePolicy"]
    before = [live.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"] for url in urls]

    def change(to: int) -> None:
        for url in urls:
            live.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(to)})

    try:
        change(seconds)
        for url, attributes in zip(urls, before, strict=True):
            policy = json.dumps({**json.loads(attributes["RedrivePolicy"]), "maxReceiveCount": 1000})
            live.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
        yield change
    finally:
        for url, attributes in zip(urls, before, strict=True):
            live.sqs.set_queue_attributes(QueueUrl=url, Attributes={name: attributes[name] for name in names})


def test_functions_that_are_killed_in_the_middle_lose_and_double_nothing(live: Live) -> None:
    stop = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not stop.wait(0.4):
            for pid in workers(live)[:2]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(pid)

    killer = threading.Thread(target=kill_now_and_then)
    with delivered_anew_soon(live, ("inbox", "starts", "ends"), 3) as visibility:
        try:
            killer.start()
            submitted = [live.admin.ok("submit", f"echo {number}; exit {number}") for number in range(6)]
            time.sleep(4)
        finally:
            stop.set()
            killer.join()
        visibility(30)  # no function is warm now, and on a busy machine a cold one takes longer than 3 s
        codes = [live.admin("wait", execution_id).returncode for execution_id in submitted]
    assert codes == [0, 1, 2, 3, 4, 5]
    assert killed
    for number, execution_id in enumerate(submitted):
        assert live.admin.ok("logs", execution_id) == str(number)
        assert len(live.tasks_of(execution_id)) == 1


def test_what_is_no_request_is_refused_and_answered(live: Live) -> None:
    """Whoever uploads rubbish under their own prefix: nothing runs, nothing is stuck."""
    key_id = live.admin.json("whoami")["key_id"]
    execution_id = ids.uuid7(datetime.now(UTC), os.urandom(10))
    live.s3.put_object(Bucket=live.outputs["InboxBucket"], Key=f"requests/{key_id}/{execution_id}", Body=b"rubbish")
    prefix = f"receipts/{key_id}/{execution_id}/"

    def receipt() -> dict | None:
        listed = live.s3.list_objects_v2(Bucket=live.outputs["OutboxBucket"], Prefix=prefix).get("Contents", ())
        for one in listed:
            return json.loads(live.s3.get_object(Bucket=live.outputs["OutboxBucket"], Key=one["Key"])["Body"].read())
        return None

    told = wait_for(receipt)
    assert told["code"] == "INVALID_REQUEST", told


def test_an_end_that_nobody_told_is_found_by_the_reconciler(untold: str, live: Live) -> None:
    """It runs every minute here as well; a task is looked at once it was quiet for a minute."""
    assert live.admin("wait", untold).returncode == 4
    wait_for(lambda: released(live, untold), patience=150)
