"""What ECS is asked for."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO

import pytest

from runvoy_agent.core import task_definition
from runvoy_agent.core.task_definition import TaskImage, architecture_of, register_request, run_overrides
from runvoy_agent.runner import bundle, metadata, task_main, task_run
from runvoy_protocol.images import PLATFORMS

TASK = TaskImage(
    family="runvoy-tools",
    image="registry.example/tools:1",
    architecture="ARM64",
    execution_role_arn="arn:aws:iam::123456789012:role/execution",
    task_role_arn="arn:aws:iam::123456789012:role/deployer",
    log_group="/runvoy/runs",
    region="eu-central-1",
    runner_image="python@sha256:" + "0" * 64,
)


def containers(task: TaskImage = TASK) -> dict[str, dict[str, object]]:
    return {container["name"]: container for container in register_request(task)["containerDefinitions"]}


def test_the_task_ends_with_the_runner_and_not_with_the_command() -> None:
    assert {name: container["essential"] for name, container in containers().items()} == {"main": False, "runner": True}


def test_the_runner_sees_the_processes_of_the_command() -> None:
    request = register_request(TASK)
    assert request["pidMode"] == "task"
    mounts = [container["mountPoints"] for container in request["containerDefinitions"]]
    assert mounts[0] == mounts[1] == [{"sourceVolume": "runvoy", "containerPath": "/runvoy", "readOnly": False}]


def test_the_image_keeps_its_user_and_the_runner_is_root() -> None:
    assert "user" not in containers()["main"]
    assert containers()["runner"]["user"] == "0"


def test_the_size_architecture_and_roles() -> None:
    request = register_request(TASK._replace(architecture="X86_64"))
    assert (request["cpu"], request["memory"]) == ("256", "512")
    assert request["runtimePlatform"] == {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"}
    assert request["taskRoleArn"] == TASK.task_role_arn
    assert "taskRoleArn" not in register_request(TASK._replace(task_role_arn=None))


def test_logs_never_stop_a_command() -> None:
    for name, container in containers().items():
        configuration = json.loads(json.dumps(container["logConfiguration"]))
        assert configuration["options"]["mode"] == "non-blocking"
        assert configuration["options"]["awslogs-stream-prefix"] == name


def test_both_sides_mean_the_same() -> None:
    """The runner shares no code with the task definition."""
    assert task_definition.FOLDER == task_main.FOLDER
    assert task_definition.MAIN == metadata.COMMAND_CONTAINER
    assert task_definition.STOP_SECONDS == task_run.STOP_SECONDS
    assert {container["stopTimeout"] for container in containers().values()} == {120}


def test_the_bootstrap_is_small() -> None:
    assert len(task_definition.BOOTSTRAP) < 600
    compile(task_definition.BOOTSTRAP, "bootstrap", "exec")


def test_overrides_carry_an_id_and_a_url_alone() -> None:
    overrides = run_overrides("0" * 32, "https://staging.example/x", 512, 1024, None)
    (container,) = overrides["containerOverrides"]
    assert container["name"] == "runner"
    assert {pair["name"] for pair in container["environment"]} == {"RUNVOY_EXECUTION_ID", "RUNVOY_PAYLOAD_URL"}
    assert (overrides["cpu"], overrides["memory"]) == ("512", "1024")
    assert "taskRoleArn" not in overrides
    assert run_overrides("0" * 32, "x", None, None, "arn:role")["taskRoleArn"] == "arn:role"
    assert len(json.dumps(run_overrides("0" * 32, "x" * 7000, 512, 1024, None))) <= 8192
    with pytest.raises(ValueError, match="8,192"):
        run_overrides("0" * 32, "x" * 8192, 512, 1024, None)


def test_a_platform_is_an_architecture() -> None:
    found = {platform: architecture_of(platform) for platform in (None, *PLATFORMS)}
    assert found == {None: "ARM64", "linux/arm64": "ARM64", "linux/amd64": "X86_64"}


def test_a_bundle_is_the_program_and_its_payload() -> None:
    packed = bundle.pack(b'{"a": 1}', "https://staging.example/delete")
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert archive.read("payload.json") == b'{"a": 1}'
        assert archive.read("delete-url") == b"https://staging.example/delete"
        names = set(archive.namelist())
    assert {"__main__.py", "runvoy_agent/__init__.py", "runvoy_agent/runner/task_main.py"} <= names
    assert not names & {"runvoy_agent/runner/main.py", "runvoy_agent/runner/spool.py", "runvoy_agent/runner/bundle.py"}
    assert bundle.pack(b"", "") == bundle.pack(b"", ""), "equal programs are equal bytes"
    assert len(packed) < 64 * 1024


def test_the_whole_of_a_definition() -> None:
    """ECS ignores no field and knows no other spelling."""
    request = register_request(TASK._replace(parameters={"b": "2", "a": "1"}))
    main, runner = request.pop("containerDefinitions")
    assert request == {
        "family": "runvoy-tools",
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "pidMode": "task",
        "cpu": "256",
        "memory": "512",
        "runtimePlatform": {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"},
        "executionRoleArn": TASK.execution_role_arn,
        "taskRoleArn": TASK.task_role_arn,
        "volumes": [{"name": "runvoy"}],
        "tags": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}],
    }
    for container in (main, runner):
        logs = {"awslogs-group": "/runvoy/runs", "awslogs-region": "eu-central-1", "mode": "non-blocking"}
        logs["awslogs-stream-prefix"] = container["name"]
        assert container.pop("logConfiguration") == {"logDriver": "awslogs", "options": logs}
        assert container.pop("stopTimeout") == 120
        assert container.pop("mountPoints")
    waits = "until [ -p /runvoy/go ]; do sleep 0.1; done; . /runvoy/go"
    assert main == {
        "name": "main",
        "image": TASK.image,
        "essential": False,
        "entryPoint": ["/bin/sh", "-c"],
        "command": [waits],
    }
    assert runner == {
        "name": "runner",
        "image": TASK.runner_image,
        "essential": True,
        "user": "0",
        "readonlyRootFilesystem": True,
        "entryPoint": ["python3", "-I", "-S", "-c", task_definition.BOOTSTRAP],
        "command": [],
    }
    assert "tags" not in register_request(TASK), "ECS refuses an empty list"


def test_overrides_say_which_value_is_which_and_may_be_just_so_long() -> None:
    overrides = run_overrides("id", "url", 512, None, None)
    pairs = [{"name": "RUNVOY_EXECUTION_ID", "value": "id"}, {"name": "RUNVOY_PAYLOAD_URL", "value": "url"}]
    assert overrides == {"containerOverrides": [{"name": "runner", "environment": pairs}]}
    left = 8192 - len(json.dumps(run_overrides("id", "", None, None, None)))
    run_overrides("id", "x" * left, None, None, None)
    with pytest.raises(ValueError, match="8,193"):
        run_overrides("id", "x" * (left + 1), None, None, None)
