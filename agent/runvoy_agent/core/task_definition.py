"""The ECS task of an image, as data: what RegisterTaskDefinition and RunTask are asked for.

Two containers share a PID namespace and the folder /runvoy. `main` is the image's: a shell in it waits for what to run.
`runner` hands that over, ships the output and enforces the deadline; the task ends with it.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from runvoy_protocol.errors import ErrorCode, RunvoyError

FOLDER = "/runvoy"
MAIN = "main"
RUNNER = "runner"
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
"""All of the runner that is not in its payload: unreadable to others before it holds anything, it fetches the payload, a
zip file, and runs it from memory. Exits 66 when it cannot have it."""

Architecture = Literal["ARM64", "X86_64"]

# What Fargate offers: cpu units → the least and the most memory, and its steps, in MiB.
_SIZES: dict[int, tuple[int, int, int]] = {
    512: (1024, 4096, 1024),
    1024: (2048, 8192, 1024),
    2048: (4096, 16384, 1024),
    4096: (8192, 30720, 1024),
    8192: (16384, 61440, 4096),
    16384: (32768, 122880, 8192),
}
_SMALLEST_CPU = 256
_SMALLEST_MEMORY_MIB = (512, 1024, 2048)


class Size(NamedTuple):
    """What a task gets. Fargate sells these in steps."""

    cpu: int
    memory_mib: int


class TaskImage(NamedTuple):
    """All that a task definition is made of. `runner_image` names its digest. `parameters` are tags, by name."""

    family: str
    image: str
    size: Size
    architecture: Architecture
    execution_role_arn: str
    task_role_arn: str | None
    log_group: str
    region: str
    runner_image: str
    parameters: dict[str, str] = {}


def fit(cpu: int | None, memory_mib: int | None, default: Size) -> Size:
    """The smallest size that has at least what was asked for; where neither was, the default. What comes with the
    other is the least that is sold with it. INVALID_REQUEST if there is none that large."""
    wanted = default if cpu is None and memory_mib is None else Size(cpu or 0, memory_mib or 0)
    for offered in _offered():
        if offered.cpu >= wanted.cpu and offered.memory_mib >= wanted.memory_mib:
            return offered
    raise RunvoyError(
        ErrorCode.INVALID_REQUEST,
        f"no task has {wanted.cpu} cpu units and {wanted.memory_mib:,} MiB of memory",
        "Ask for at most 16384 cpu units and 122880 MiB.",
    )


def _offered() -> list[Size]:
    """Every size, the cheaper cpu first."""
    sizes = [Size(_SMALLEST_CPU, memory) for memory in _SMALLEST_MEMORY_MIB]
    for cpu, (least, most, step) in _SIZES.items():
        sizes += [Size(cpu, memory) for memory in range(least, most + 1, step)]
    return sizes


def register_request(task: TaskImage) -> dict[str, Any]:
    """The request of RegisterTaskDefinition."""
    if "@sha256:" not in task.runner_image:
        raise ValueError(
            "the runner's image is named by its digest: what runs beside every command never changes unseen"
        )
    request: dict[str, Any] = {
        "family": task.family,
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "pidMode": "task",
        "cpu": str(task.size.cpu),
        "memory": str(task.size.memory_mib),
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


def run_overrides(execution_id: str, payload_url: str, size: Size) -> dict[str, Any]:
    """The overrides of RunTask. ValueError if they are over what RunTask takes."""
    variables = {"RUNVOY_EXECUTION_ID": execution_id, "RUNVOY_PAYLOAD_URL": payload_url}
    overrides = {
        "cpu": str(size.cpu),
        "memory": str(size.memory_mib),
        "containerOverrides": [
            {"name": RUNNER, "environment": [{"name": name, "value": value} for name, value in variables.items()]}
        ],
    }
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
