"""Images and tasks on AWS's adapters: what ECS knows of an image, and what a task is started with."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.aws.conftest import DOMAIN, IMAGE, ROLE, Deployment, http_event
from tests.aws.deliveries import arrival, started, stop_event, upload
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.aws.settings import SettingsError
from runvoy_protocol import aws_layout, object_keys, run_objects
from runvoy_protocol.states import Reason, State

pytestmark = ON_SERVERS


def families(deployment: Deployment) -> dict[str, int]:
    """The active revisions of each family."""
    active = {
        family: len([one for one in revisions if one["status"] == "ACTIVE"])
        for family, revisions in deployment.ecs.definitions.items()
    }
    return {family: count for family, count in active.items() if count}


def family(deployment: Deployment, reference: str, platform: str | None = None) -> str:
    return aws_layout.task_family(deployment.environment[aws_layout.ENV_DEPLOYMENT], reference, platform)


def register(deployment: Deployment, reference: str, **fields: object) -> Any:
    answer = deployment.call("POST", "/api/v1/images", json.dumps({"reference": reference, **fields}).encode())
    return answer["statusCode"], json.loads(answer["body"])


def unregister(deployment: Deployment, name: str) -> int:
    return int(deployment.call("DELETE", f"/api/v1/images/{name}")["statusCode"])


def test_an_image_is_a_task_definition_once_per_platform(deployment: Deployment) -> None:
    assert register(deployment, "tools:1", name="tools", platform="linux/amd64", task_role=ROLE)[0] == 200
    assert register(deployment, "tools:1", name="again", platform="linux/amd64")[0] == 200
    expected = {family(deployment, IMAGE): 1, family(deployment, "tools:1", "linux/amd64"): 1}
    assert families(deployment) == expected
    (made,) = deployment.ecs.definitions[family(deployment, "tools:1", "linux/amd64")]
    assert made["runtimePlatform"]["cpuArchitecture"] == "X86_64"
    assert made["taskRoleArn"] == deployment.environment[aws_layout.ENV_TASK_ROLE], (
        "a role is a run's, not a definition's"
    )
    assert {one["name"]: one["image"] for one in made["containerDefinitions"]} == {
        "main": "tools:1",
        "runner": deployment.environment[aws_layout.ENV_RUNNER_IMAGE],
    }


def test_registering_again_brings_a_definition_up_to_date(deployment: Deployment) -> None:
    deployment.environment[aws_layout.ENV_RUNNER_IMAGE] = "python@sha256:2"
    deployment.services = deployment.another_process()
    assert register(deployment, IMAGE, version=1)[0] == 200
    newest = deployment.ecs.definitions[family(deployment, IMAGE)][-1]
    assert newest["containerDefinitions"][1]["image"] == "python@sha256:2"
    assert len(deployment.ecs.definitions[family(deployment, IMAGE)]) == 2


def test_a_definition_goes_with_the_last_name_of_its_image(deployment: Deployment) -> None:
    register(deployment, "tools:1", name="one")
    register(deployment, "tools:1", name="two")
    assert unregister(deployment, "one") == 200
    assert family(deployment, "tools:1") in families(deployment)
    assert unregister(deployment, "two") == 200
    assert family(deployment, "tools:1") not in families(deployment)


def test_what_was_admitted_starts_though_its_image_was_unregistered(deployment: Deployment) -> None:
    register(deployment, "tools:1", name="tools")
    execution_id, message = upload(deployment, image="tools")
    assert deployment.invoke("inbox", message) == []
    assert unregister(deployment, "tools") == 200
    assert deployment.invoke("starts", *deployment.taken("starts")) == []
    assert deployment.execution(execution_id).state is State.STARTING
    assert len(deployment.ecs.tasks) == 1


def test_a_role_that_is_not_handed_out_is_refused(deployment: Deployment) -> None:
    status_code, answer = register(deployment, "tools:1", task_role=ROLE + "s")
    assert (status_code, answer["error"]["code"]) == (400, "INVALID_REQUEST")
    assert families(deployment) == {family(deployment, IMAGE): 1}


def test_a_task_has_the_size_platform_and_role_of_its_image(deployment: Deployment) -> None:
    register(deployment, "tools:1", name="tools", platform="linux/amd64", task_role=ROLE, cpu=1024)
    _, task = started(deployment, image="tools")
    assert (task.cpu, task.memory, task.role) == ("1024", "2048", ROLE)
    assert task.definition == family(deployment, "tools:1", "linux/amd64")
    _, task = started(deployment)
    assert (task.cpu, task.memory, task.role) == ("256", "512", "")


def test_a_payload_holds_a_grant_and_can_be_taken_once(deployment: Deployment) -> None:
    execution_id, task = started(deployment)
    url = task.environment["runner"][aws_layout.TASK_ENV_PAYLOAD]
    with urllib.request.urlopen(url) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as packed:
        payload, delete_url = json.loads(packed.read("payload.json")), packed.read("delete-url").decode()
    assert payload["execution_id"] == execution_id
    assert payload["grant"]["renew_url"] == f"https://{DOMAIN}/api/v1/runs/{execution_id}/grant"
    with urllib.request.urlopen(urllib.request.Request(delete_url, method="DELETE")) as answer:
        assert answer.status == 204
    with pytest.raises(urllib.error.HTTPError) as gone:
        urllib.request.urlopen(url)
    assert gone.value.code in (403, 404)
    assert deployment.staged() == []


def test_a_runner_renews_its_grant_where_it_called(deployment: Deployment) -> None:
    execution_id, _ = started(deployment)
    target = f"/api/v1/runs/{execution_id}/grant"
    key = run_objects.execution_key(deployment.services.deployment.secret, execution_id, 1)
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    call = run_objects.runner_authorization(key, execution_id, 1, "POST", target, now_ms)
    answer = deployment.control(http_event("POST", target, b"", call))
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])["renew_url"] == f"https://{DOMAIN}{target}"


def test_a_task_that_never_began_is_failed_and_not_unknown(deployment: Deployment) -> None:
    execution_id, task = started(deployment)
    task.runner_exit_code = 66
    assert deployment.invoke("ends", stop_event(deployment, task, 143)) == []
    ended = deployment.execution(execution_id)
    assert (ended.state, ended.reason, ended.exit_code) == (State.FAILED, Reason.LAUNCH_FAILED, None)
    assert "could not fetch its payload" in ended.message
    assert not ended.is_active


def test_what_said_that_it_began_is_not_told_never_to_have(deployment: Deployment) -> None:
    execution_id, task = started(deployment)
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    body = json.dumps({"execution_id": execution_id, "attempt": 1, "started_at_ms": now_ms, "pid": 1})
    key = run_objects.execution_key(deployment.services.deployment.secret, execution_id, 1)
    signed = json.dumps({"body": body, "mac": run_objects.mac_of(key, b"started", body)})
    object_key = object_keys.started(execution_id)
    deployment.services.ports.outbox.put(object_key, signed.encode(), content_type="application/json")
    assert deployment.invoke("ends", arrival(deployment, object_key, None)) == []
    task.runner_exit_code = 64
    assert deployment.invoke("ends", stop_event(deployment, task, None)) == []
    assert deployment.execution(execution_id).state is State.UNKNOWN


def test_starts_needs_to_know_where_runners_call(deployment: Deployment) -> None:
    del deployment.environment[aws_layout.ENV_RUNNER_ENDPOINT]
    deployment.services = deployment.another_process()
    with pytest.raises(SettingsError, match=aws_layout.ENV_RUNNER_ENDPOINT):
        deployment.invoke("starts", "{}")
