"""The five functions on AWS's adapters: a request's whole way, and what the log and the metrics say of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import pytest
from tests.aws.conftest import IMAGE, Context, Deployment, http_event
from tests.aws.deliveries import arrival, leave_result, shown, started, stop_event, upload
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.aws.settings import SettingsError, read
from runvoy_protocol import aws_layout, object_keys, playbooks, receipts
from runvoy_protocol.states import Reason, State

pytestmark = ON_SERVERS


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


def test_a_task_that_ecs_took_and_had_no_room_for_is_launched_as_another(deployment: Deployment) -> None:
    execution_id, task = started(deployment)
    task.stop_code, reason = "TaskFailedToStart", "Unexpected EC2 error: InsufficientFreeAddressesInSubnet"
    event = stop_event(deployment, task, None, reason)
    assert deployment.invoke("ends", event, event) == []
    waiting = shown(deployment, execution_id)
    assert (waiting.state, waiting.reason, waiting.attempt) == (State.STARTING, Reason.CAPACITY, 2)
    assert reason in waiting.message
    assert deployment.invoke("starts", json.dumps({"execution_id": execution_id})) == []
    assert [one.started_by for one in deployment.ecs.tasks.values()] == [f"{execution_id}-1", f"{execution_id}-2"]
    assert deployment.invoke("ends", event) == []
    assert deployment.execution(execution_id).attempt == 2


def test_the_reconciler_repairs_and_counts(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    execution_id, message = upload(deployment)
    assert deployment.invoke("inbox", message) == []
    deployment.services.ports.outbox.delete(object_keys.status(execution_id))
    sqs = deployment.server.functions.get("sqs")
    url = deployment.environment[aws_layout.dead_letters_variable("starts")]
    for _ in range(2):
        sqs.send_message(QueueUrl=url, MessageBody="dead")
    capsys.readouterr()
    deployment.reconcile()
    counted = metrics_in(capsys.readouterr().out)
    assert counted == {("DeadLetters", "starts"): [2], ("Repairs",): [1]}


def test_a_quiet_deployment_writes_no_metrics(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is paid for by the hours in which it is written, be it nought."""
    deployment.reconcile()
    assert metrics_in(capsys.readouterr().out) == {}


def test_the_deployment_has_one_secret_whoever_makes_it(deployment: Deployment) -> None:
    first, second = deployment.another_process(), deployment.another_process()
    assert first.deployment.secret == second.deployment.secret
    assert first.deployment.created_at == second.deployment.created_at
    assert len(first.deployment.secret) == 32


def test_the_control_api_by_the_functions_url(deployment: Deployment) -> None:
    answer = deployment.call("GET", "/api/v1/whoami")
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])["user"] == "ada"
    grant = json.loads(deployment.call("POST", "/api/v1/grants/inbox")["body"])
    assert grant["key_prefix"] == object_keys.inbox_prefix(deployment.signing_key.key_id)
    assert "key" not in grant["fields"]
    listed = deployment.call("GET", "/api/v1/executions?limit=2")
    assert json.loads(listed["body"])["executions"] == []


def test_what_was_signed_by_the_functions_url(deployment: Deployment) -> None:
    execution_id, message = upload(deployment)
    target = f"/api/v1/executions/{execution_id}/request"
    pending = json.loads(deployment.call("GET", target)["body"])
    assert (pending["state"], pending["request"]["request_id"]) == ("pending", execution_id)
    assert deployment.invoke("inbox", message) == []
    admitted = json.loads(deployment.call("GET", target)["body"])
    assert (admitted["state"], admitted["receipt"]["outcome"]) == ("admitted", "accepted")
    assert admitted["request"] == pending["request"]


@pytest.mark.parametrize("decode", [str, urllib.parse.unquote], ids=["as sent", "decoded"])
def test_a_name_with_slashes_arrives_whether_its_path_was_decoded_or_not(
    decode: Callable[[str], str], deployment: Deployment
) -> None:
    target = f"/api/v1/images/{urllib.parse.quote(IMAGE, safe='')}"
    event = deployment.call_event("GET", target)
    answer = deployment.control(event | {"rawPath": decode(target)})
    assert (answer["statusCode"], json.loads(answer["body"]).get("name")) == (200, IMAGE), answer


def test_as_many_playbooks_as_a_user_may_publish_are_kept(deployment: Deployment) -> None:
    least = {"name": "p", "command": ""}
    room = playbooks.MAX_PUBLISHED_BYTES // playbooks.MAX_PUBLISHED - len(json.dumps(least)) - 10
    asked = [{"name": f"p{number:02}", "command": "x" * room} for number in range(playbooks.MAX_PUBLISHED)]
    body = json.dumps({"playbooks": asked, "version": 0}).encode()
    answer = deployment.call("PUT", "/api/v1/playbooks", body)
    assert answer["statusCode"] == 200, answer
    answer = deployment.call("GET", "/api/v1/playbooks")
    assert [one["playbook"] for one in json.loads(answer["body"])["playbooks"]] == asked


def test_a_call_to_another_place_than_was_signed_is_refused(deployment: Deployment) -> None:
    event = deployment.call_event("GET", "/api/v1/images/a%252Fb")
    for raw_path in ("/api/v1/images/a/b", "/api/v1/images/a%2fb", "/api/v1/images", "/api/v1/users"):
        assert deployment.control(event | {"rawPath": raw_path})["statusCode"] == 401
    assert deployment.control(event | {"rawPath": "/api/v1/images/a%2Fb"})["statusCode"] == 404


def test_an_unsigned_call_is_refused_and_health_is_public(deployment: Deployment) -> None:
    assert deployment.control(http_event("GET", "/api/v1/whoami"))["statusCode"] == 401
    health = deployment.control(http_event("GET", "/api/v1/health"))
    assert health["statusCode"] == 200
    assert json.loads(health["body"])["deployment_id"] == deployment.environment[aws_layout.ENV_DEPLOYMENT]


def test_the_viewer_by_the_functions_url(deployment: Deployment) -> None:
    """Its page may speak to the function and, for uploads and reads, to the buckets; compressed where that is taken."""
    page = deployment.control(http_event("GET", "/"))
    assert (page["statusCode"], page["isBase64Encoded"]) == (200, True)
    assert b"<title>runvoy</title>" in base64.b64decode(page["body"])
    grant = json.loads(deployment.call("POST", "/api/v1/grants/inbox")["body"])
    scheme, _, host = grant["url"].partition("://")
    assert f"connect-src 'self' {scheme}://{host.partition('/')[0]}" in page["headers"]["content-security-policy"]
    event = http_event("GET", "/")
    small = deployment.control(event | {"headers": {"accept-encoding": "gzip"}})
    assert small["headers"]["content-encoding"] == "gzip"
    assert gzip.decompress(base64.b64decode(small["body"])) == base64.b64decode(page["body"])
    assert deployment.control(event | {"headers": {"If-None-Match": page["headers"]["etag"]}})["statusCode"] == 304
    assert base64.b64decode(deployment.control(http_event("HEAD", "/"))["body"]) == b""


def test_pages_of_named_origins_alone_may_call_the_function(deployment: Deployment) -> None:
    named = "https://runs.example.com"
    event = http_event("OPTIONS", "/api/v1/whoami") | {"headers": {"origin": named}}
    assert "access-control-allow-origin" not in deployment.control(event)["headers"]
    deployment.environment[aws_layout.ENV_WEB_ORIGINS] = named
    try:
        services = deployment.another_process()
    finally:
        del deployment.environment[aws_layout.ENV_WEB_ORIGINS]
    before = services.control(event, Context("control"))
    assert (before["statusCode"], before["headers"]["access-control-allow-origin"]) == (204, named)
    health = http_event("GET", "/api/v1/health") | {"headers": {"origin": named}}
    assert services.control(health, Context("control"))["headers"]["access-control-allow-origin"] == named
    other = services.control(event | {"headers": {"origin": "https://evil.example.com"}}, Context("control"))
    assert (other["statusCode"], "access-control-allow-origin" in other["headers"]) == (401, False)


def test_settings_name_all_that_is_wrong(deployment: Deployment) -> None:
    wrong = deployment.environment | {aws_layout.ENV_TABLE: "", aws_layout.ENV_CAPACITY_PROVIDER: "EC2"}
    del wrong[aws_layout.ENV_CLUSTER]
    with pytest.raises(SettingsError) as caught:
        read(wrong)
    for name in (aws_layout.ENV_TABLE, aws_layout.ENV_CAPACITY_PROVIDER, aws_layout.ENV_CLUSTER):
        assert name in str(caught.value)
