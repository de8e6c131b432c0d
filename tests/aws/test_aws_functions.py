"""The five functions on AWS's adapters: a request's whole way, and what the log and the metrics say of it."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.aws.conftest import Deployment
from tests.aws.fake_ecs import Idle
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.aws.settings import SettingsError, read
from runvoy_protocol import aws_layout, control, object_keys, receipts, run_objects, status
from runvoy_protocol.control import ControlCall
from runvoy_protocol.states import State

pytestmark = ON_SERVERS


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


def stop_event(deployment: Deployment, task: Any, exit_code: int | None) -> str:
    told: list[dict[str, Any]] = []
    deployment.ecs.on_stopped = told.append
    program = deployment.ecs.program
    assert isinstance(program, Idle)
    program.end(task, exit_code)
    return json.dumps(told[0])


def shown(deployment: Deployment, execution_id: str) -> status.ExecutionStatus:
    stored = deployment.services.ports.outbox.get(object_keys.status(execution_id))
    assert stored is not None
    return status.decode(stored.data)


def metrics_in(output: str) -> dict[tuple[str, ...], list[float]]:
    """The values of each metric by its name and the dimensions it has beside the deployment."""
    found: dict[tuple[str, ...], list[float]] = {}
    for line in output.splitlines():
        document = json.loads(line)
        for directive in document.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert directive["Namespace"] == "Runvoy"
            (dimensions,) = directive["Dimensions"]
            others = [document[name] for name in dimensions if name != "deployment"]
            for metric in directive["Metrics"]:
                values = document[metric["Name"]]
                found.setdefault((metric["Name"], *others), []).extend(values if isinstance(values, list) else [values])
    return found


def test_a_request_from_its_upload_to_its_end(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    execution_id, message = upload(deployment)
    assert deployment.invoke("inbox", message) == []
    assert deployment.execution(execution_id).state is State.QUEUED
    raw = deployment.services.ports.inbox.get(object_keys.request(deployment.signing_key.key_id, execution_id))
    assert raw is not None
    digest = hashlib.sha256(raw.data).hexdigest()
    receipt = deployment.services.ports.outbox.get(
        object_keys.receipt(deployment.signing_key.key_id, execution_id, digest)
    )
    assert receipt is not None
    assert receipts.decode(receipt.data).outcome == "accepted"

    pushed = deployment.taken("starts")
    assert deployment.invoke("starts", *pushed) == []
    (task,) = deployment.ecs.tasks.values()
    assert deployment.execution(execution_id).state is State.STARTING
    (staged,) = deployment.staged()
    assert staged in task.environment["runner"]["RUNVOY_PAYLOAD_URL"]

    assert deployment.invoke("ends", leave_result(deployment, execution_id, 3)) == []
    assert deployment.execution(execution_id).state is State.FAILED
    assert deployment.invoke("ends", stop_event(deployment, task, 3)) == []
    ended = deployment.execution(execution_id)
    assert (ended.state, ended.exit_code, ended.is_active) == (State.FAILED, 3, False)
    assert shown(deployment, execution_id).exit_code == 3

    for function, again in (("inbox", message), ("starts", pushed[0])):
        assert deployment.invoke(function, again, again) == [], "deliveries repeat"
    assert deployment.execution(execution_id) == ended
    assert len(deployment.ecs.tasks) == 1

    counted = metrics_in(capsys.readouterr().out)
    assert counted["Accepted",] == [1]
    assert counted["Started",] == [1]
    assert len(counted["QueueAge", "inbox"]) == 3
    assert all(age > 0 for age in counted["QueueAge", "inbox"])


def test_what_s3_and_ecs_say_besides_is_acknowledged(deployment: Deployment) -> None:
    test_event = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"})
    chunk = arrival(deployment, object_keys.log_chunk(deployment.clock.new_id(), 1), None)
    stranger = json.dumps(
        {
            "source": "aws.ecs",
            "detail-type": "ECS Task State Change",
            "detail": {"lastStatus": "STOPPED", "startedBy": "ecs-svc/1"},
        }
    )
    assert deployment.invoke("inbox", test_event, arrival(deployment, "nothing/of/ours", None)) == []
    assert deployment.invoke("ends", test_event, chunk, stranger) == []


def test_poison_fails_alone(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be handled comes again until it is a dead letter; what stands beside it in the batch is done."""
    execution_id, message = upload(deployment)
    assert deployment.invoke("inbox", "no JSON", message, '{"unknown": 1}', "[]") == [
        "message-0",
        "message-2",
        "message-3",
    ]
    assert deployment.execution(execution_id).state is State.QUEUED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failures = [line for line in lines if line.get("level") == "ERROR"]
    assert {line["message_id"] for line in failures} == {"message-0", "message-2", "message-3"}
    assert all(line["queue"] == "inbox" and line["exception"] for line in failures)


def test_every_line_of_the_log_names_the_invocation_and_the_execution(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = deployment.clock.new_id()
    assert deployment.invoke("starts", json.dumps({"execution_id": unknown})) == []
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (warning,) = [line for line in lines if line.get("level") == "WARNING"]
    assert unknown in warning["message"]
    assert warning["execution_id"] == unknown
    assert warning["function_request_id"].startswith("invocation-")
    assert warning["message_id"] == "message-0"


def test_a_refusal_is_counted_by_its_code(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    _, message = upload(deployment, deployment_id="elsewhere")
    assert deployment.invoke("inbox", message, message) == []
    assert metrics_in(capsys.readouterr().out)["Refused", "WRONG_DEPLOYMENT"] == [1]
    assert deployment.taken("starts") == []


def test_processes_are_refused_here(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    _, message = upload(deployment, image=None, isolation="process")
    assert deployment.invoke("inbox", message) == []
    assert metrics_in(capsys.readouterr().out)["Refused", "FORBIDDEN"] == [1]


def test_a_lock_is_passed_on_and_the_wait_is_counted(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    first, task = started(deployment, locks=("db",))
    second, message = upload(deployment, locks=("db",))
    assert deployment.invoke("inbox", message) == []
    assert deployment.taken("starts") == []
    assert deployment.invoke("ends", stop_event(deployment, task, 0)) == []
    assert deployment.execution(first).state is State.SUCCEEDED
    assert deployment.invoke("starts", *deployment.taken("starts")) == []
    assert deployment.execution(second).state is State.STARTING
    waits = metrics_in(capsys.readouterr().out)["LockWait",]
    assert len(waits) == 2
    assert waits[1] > 0


@pytest.mark.parametrize(("exit_code", "state"), [(0, State.SUCCEEDED), (7, State.FAILED), (None, State.UNKNOWN)])
def test_without_a_result_the_platform_is_believed(deployment: Deployment, exit_code: int | None, state: State) -> None:
    execution_id, task = started(deployment)
    assert deployment.invoke("ends", stop_event(deployment, task, exit_code)) == []
    ended = deployment.execution(execution_id)
    assert (ended.state, ended.exit_code) == (state, exit_code)
    assert "without leaving a result" in ended.message


def test_no_room_waits_in_a_new_message(deployment: Deployment) -> None:
    execution_id, message = upload(deployment)
    deployment.invoke("inbox", message)
    deployment.ecs.failures = [{"reason": "RESOURCE:FARGATE"}]
    assert deployment.invoke("starts", *deployment.taken("starts")) == [], "no room is no failure"
    waiting = shown(deployment, execution_id)
    assert "RESOURCE:FARGATE" in waiting.message
    assert deployment.invoke("starts", json.dumps({"execution_id": execution_id})) == []
    assert len(deployment.ecs.tasks) == 1


def test_the_reconciler_repairs_and_counts(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    sqs = deployment.server.functions.get("sqs")
    url = deployment.environment[aws_layout.dead_letters_variable("starts")]
    for _ in range(2):
        sqs.send_message(QueueUrl=url, MessageBody="dead")
    deployment.reconcile()
    counted = metrics_in(capsys.readouterr().out)
    assert counted["DeadLetters", "starts"] == [2]
    assert counted["DeadLetters", "inbox"] == [0]
    assert counted["Repairs",] == [0]


def test_the_deployment_has_one_secret_whoever_makes_it(deployment: Deployment) -> None:
    first, second = deployment.another_process(), deployment.another_process()
    assert first.deployment == second.deployment
    assert len(first.deployment.secret) == 32


def called(deployment: Deployment, method: str, target: str, body: bytes = b"") -> Any:
    """A signed call of the control API through the function's URL."""
    call = ControlCall(
        version=1,
        deployment_id=deployment.environment[aws_layout.ENV_DEPLOYMENT],
        method=method,
        target=target,
        body_sha256=control.body_digest(body),
        issued_at=deployment.clock.now(),
        nonce=deployment.clock.random(16),
    )
    path, _, query = target.partition("?")
    return deployment.control(
        {
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"Authorization": control.authorization(call, deployment.signing_key)},
            "requestContext": {"http": {"method": method, "sourceIp": "203.0.113.7"}},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
    )


def test_the_control_api_by_the_functions_url(deployment: Deployment) -> None:
    answer = called(deployment, "GET", "/api/v1/whoami")
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])["user"] == "ada"
    grant = json.loads(called(deployment, "POST", "/api/v1/grants/inbox")["body"])
    assert grant["key_prefix"] == object_keys.inbox_prefix(deployment.signing_key.key_id)
    assert "key" not in grant["fields"]
    listed = called(deployment, "GET", "/api/v1/executions?limit=2")
    assert json.loads(listed["body"])["executions"] == []


def test_an_unsigned_call_is_refused_and_health_is_public(deployment: Deployment) -> None:
    base = {"rawQueryString": "", "headers": {}, "requestContext": {"http": {"method": "GET", "sourceIp": "::1"}}}
    assert deployment.control(base | {"rawPath": "/api/v1/whoami"})["statusCode"] == 401
    health = deployment.control(base | {"rawPath": "/api/v1/health"})
    assert health["statusCode"] == 200
    assert json.loads(health["body"])["deployment_id"] == deployment.environment[aws_layout.ENV_DEPLOYMENT]


def test_settings_name_all_that_is_wrong(deployment: Deployment) -> None:
    wrong = deployment.environment | {aws_layout.ENV_TABLE: "", aws_layout.ENV_CAPACITY_PROVIDER: "EC2"}
    del wrong[aws_layout.ENV_CLUSTER]
    with pytest.raises(SettingsError) as caught:
        read(wrong)
    for name in (aws_layout.ENV_TABLE, aws_layout.ENV_CAPACITY_PROVIDER, aws_layout.ENV_CLUSTER):
        assert name in str(caught.value)
