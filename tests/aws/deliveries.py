"""What reaches the functions: uploads, results and ends of tasks, as the messages that AWS makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tests.aws.conftest import Deployment
from tests.aws.fake_ecs import Idle

from runvoy_protocol import object_keys, run_objects, status


def arrival(deployment: Deployment, object_key: str, version: str | None) -> str:
    written = {"key": object_key.replace("/", "%2F"), "versionId": version}
    record = {
        "eventName": "ObjectCreated:Post",
        "requestParameters": {"sourceIPAddress": "203.0.113.7"},
        "s3": {"object": written},
    }
    return json.dumps({"Records": [record]})


def upload(deployment: Deployment, **fields: object) -> tuple[str, str]:
    """An upload and its notification: the execution's id, and the message."""
    request = deployment.request(**fields)
    object_key = object_keys.request(deployment.signing_key.key_id, request.request_id)
    inbox = deployment.services.ports.inbox
    inbox.put(object_key, deployment.sealed(request), content_type="")
    stored = inbox.get(object_key)
    assert stored is not None
    return request.request_id, arrival(deployment, object_key, stored.version)


def started(deployment: Deployment, **fields: object) -> tuple[str, Any]:
    """An execution whose task runs: its id, and the task."""
    execution_id, message = upload(deployment, **fields)
    assert deployment.invoke("inbox", message) == []
    assert deployment.invoke("starts", *deployment.taken("starts")) == []
    (task,) = [task for task in deployment.ecs.tasks.values() if task.started_by == f"{execution_id}-1"]
    return execution_id, task


def leave_result(deployment: Deployment, execution_id: str, exit_code: int) -> str:
    """The runner's result in the outbox, and S3's notification of it."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    document: dict[str, Any] = {"execution_id": execution_id, "attempt": 1, "outcome": "exited", "exit_code": exit_code}
    document |= {"signal": None, "message": "", "started_at_ms": now_ms, "ended_at_ms": now_ms}
    body = json.dumps(document | {"lines": 0, "chunks": 1, "lost_bytes": 0})
    key = run_objects.execution_key(deployment.services.deployment.secret, execution_id, 1)
    signed = json.dumps({"body": body, "mac": run_objects.mac_of(key, b"result", body)})
    object_key = object_keys.result(execution_id)
    deployment.services.ports.outbox.put(object_key, signed.encode(), content_type="application/json")
    return arrival(deployment, object_key, None)


def stop_event(deployment: Deployment, task: Any, exit_code: int | None, reason: str = "Over") -> str:
    told: list[dict[str, Any]] = []
    deployment.ecs.on_stopped = told.append
    program = deployment.ecs.program
    assert isinstance(program, Idle)
    program.end(task, exit_code, reason)
    return json.dumps(told[0])


def shown(deployment: Deployment, execution_id: str) -> status.ExecutionStatus:
    stored = deployment.services.ports.outbox.get(object_keys.status(execution_id))
    assert stored is not None
    return status.decode(stored.data)
