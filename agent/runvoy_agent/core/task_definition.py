"""The ECS task of an image, as data: what RegisterTaskDefinition and RunTask are asked for.

Two containers share a PID namespace and the folder /runvoy. `main` is the image's: a shell in it waits for what to run.
`runner` hands that over, ships the output and enforces the deadline; the task ends with it.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from runvoy_agent.core.images import DEFAULT_SIZE
from runvoy_protocol import aws_layout

FOLDER = "/runvoy"
MAIN = aws_layout.MAIN_CONTAINER
RUNNER = aws_layout.RUNNER_CONTAINER
STOP_SECONDS = 120
"""How long a container that was told to stop may live: all that Fargate allows. The runner counts on it."""
MAX_OVERRIDES_CHARACTERS = 8192

WAIT_FOR_COMMAND = f"until [ -p {FOLDER}/go ]; do sleep 0.1; done; . {FOLDER}/go"
"""What the image's shell does. `go` is a FIFO: what is read from it rests nowhere."""

BOOTSTRAP = """\
import ctypes,os,random,runpy,sys,time,urllib.request as r
ctypes.CDLL(None).prctl(4,0,0,0,0)
for n in range(9):
 try:b=r.urlopen(os.environ["RUNVOY_PAYLOAD_URL"],timeout=20).read();break
 except Exception as e:
  print(repr(e),file=sys.stderr)
  if getattr(e,"code",0)in(403,404):sys.exit(66)
  time.sleep(random.random()*2**n/4)
else:sys.exit(66)
f=os.memfd_create("runner")
os.write(f,b)
runpy.run_path(f"/proc/self/fd/{f}",run_name="__main__")
"""
"""All of the runner that is not in its payload. First it makes itself unreadable to other processes (prctl 4 is
PR_SET_DUMPABLE), then it fetches the payload, a zip file, and runs it from memory. It exits with 66 when it cannot have it:
nine tries, with pauses of up to a minute; fewer where the URL says that the payload is gone or has expired (403, 404)."""

Architecture = Literal["ARM64", "X86_64"]
"""What ECS calls the processors that Fargate has."""

_ARCHITECTURES: dict[str, Architecture] = {"linux/arm64": "ARM64", "linux/amd64": "X86_64"}


def architecture_of(platform: str | None) -> Architecture:
    """What ECS calls a platform; None is the deployment's own."""
    return _ARCHITECTURES[platform or aws_layout.DEFAULT_PLATFORM]


class TaskImage(NamedTuple):
    """All that a task definition is made of. `parameters` are tags, by name."""

    family: str
    image: str
    architecture: Architecture
    execution_role_arn: str
    task_role_arn: str | None
    log_group: str
    region: str
    runner_image: str
    parameters: dict[str, str] = {}


def register_request(task: TaskImage) -> dict[str, Any]:
    """The request of RegisterTaskDefinition."""
    request: dict[str, Any] = {
        "family": task.family,
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "pidMode": "task",
        # Every task is given its own size when it is started.
        "cpu": str(DEFAULT_SIZE[0]),
        "memory": str(DEFAULT_SIZE[1]),
        "runtimePlatform": {"cpuArchitecture": task.architecture, "operatingSystemFamily": "LINUX"},
        "executionRoleArn": task.execution_role_arn,
        "volumes": [{"name": "runvoy"}],
        "containerDefinitions": [_main(task), _runner(task)],
        "tags": [{"key": name, "value": value} for name, value in sorted(task.parameters.items())],
    }
    if task.task_role_arn is not None:
        request["taskRoleArn"] = task.task_role_arn
    if not request["tags"]:
        del request["tags"]  # an empty list is refused
    return request


def run_overrides(
    execution_id: str, payload_url: str, cpu: int | None, memory_mib: int | None, task_role_arn: str | None
) -> dict[str, Any]:
    """The overrides of RunTask: those who may describe tasks see them. ValueError if they are over what RunTask takes."""
    variables = {aws_layout.TASK_ENV_EXECUTION: execution_id, aws_layout.TASK_ENV_PAYLOAD: payload_url}
    overrides: dict[str, Any] = {
        "containerOverrides": [
            {"name": RUNNER, "environment": [{"name": name, "value": value} for name, value in variables.items()]}
        ],
    }
    if cpu is not None and memory_mib is not None:
        overrides |= {"cpu": str(cpu), "memory": str(memory_mib)}
    if task_role_arn is not None:
        overrides["taskRoleArn"] = task_role_arn
    length = len(json.dumps(overrides))
    if length > MAX_OVERRIDES_CHARACTERS:
        raise ValueError(f"the overrides have {length:,} characters; RunTask takes {MAX_OVERRIDES_CHARACTERS:,}")
    return overrides


def _main(task: TaskImage) -> dict[str, Any]:
    """The image's container, as the user that the image says."""
    return {
        "name": MAIN,
        "image": task.image,
        "essential": False,
        "entryPoint": ["/bin/sh", "-c"],
        "command": [WAIT_FOR_COMMAND],
        "stopTimeout": STOP_SECONDS,
        **_shared(task, MAIN),
    }


def _runner(task: TaskImage) -> dict[str, Any]:
    """The runner's container: root, to signal processes of whatever user the image has; nothing of it can be written to."""
    return {
        "name": RUNNER,
        "image": task.runner_image,
        "essential": True,
        "user": "0",
        "readonlyRootFilesystem": True,
        "entryPoint": ["python3", "-I", "-S", "-c", BOOTSTRAP],
        "command": [],
        "stopTimeout": STOP_SECONDS,
        **_shared(task, RUNNER),
    }


def _shared(task: TaskImage, name: str) -> dict[str, Any]:
    options = {
        "awslogs-group": task.log_group,
        "awslogs-region": task.region,
        "awslogs-stream-prefix": name,
        "mode": "non-blocking",  # a log that cannot be delivered must not stop a command
    }
    return {
        "mountPoints": [{"sourceVolume": "runvoy", "containerPath": FOLDER, "readOnly": False}],
        "logConfiguration": {"logDriver": "awslogs", "options": options},
    }
