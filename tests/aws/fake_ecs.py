"""A small ECS: RunTask, DescribeTasks, ListTasks, StopTask over HTTP, with the rules that starting once rests on.

No emulator at hand keeps client tokens, so this does, as AWS documents it: the same token and parameters get the same task
again; the same token with others gets a ConflictException that names the task; a request that started nothing leaves its
token free. What a task does is its program's: nothing, or a real runner.
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/ECS_Idempotency.html
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests import http_server

_TARGET = "AmazonEC2ContainerServiceV20141113."
_ACCOUNT = "000000000000"
_REGION = "eu-west-1"
MAX_OVERRIDES_CHARACTERS = 8192
_STARTED_BY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_PAGE = 100  # the most that ListTasks answers with
_TOKEN = re.compile(r"[!-~]{1,64}\Z")

Ended = Callable[[int | None, str], None]
"""Called once by a program: its main container's exit code, if it had one, and the platform's reason. What the runner's
container exited with is set in the task before."""


@dataclass
class Task:
    """A task as RunTask made it. `environment` is what the overrides gave each container."""

    arn: str
    definition: str
    started_by: str
    environment: dict[str, dict[str, str]]
    cpu: str
    memory: str
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    exit_code: int | None = None
    runner_exit_code: int | None = None
    role: str = ""
    stopped_reason: str = ""
    stop_code: str = ""
    seen_by_lists: bool = True

    def describe(self, cluster_arn: str) -> dict[str, Any]:
        main: dict[str, Any] = {"name": "main", "lastStatus": self.last_status}
        if self.exit_code is not None:
            main["exitCode"] = self.exit_code
        runner: dict[str, Any] = {"name": "runner", "lastStatus": self.last_status}
        if self.runner_exit_code is not None:
            runner["exitCode"] = self.runner_exit_code
        described: dict[str, Any] = {
            "taskArn": self.arn,
            "clusterArn": cluster_arn,
            "taskDefinitionArn": self.definition,
            "startedBy": self.started_by,
            "lastStatus": self.last_status,
            "desiredStatus": self.desired_status,
            "launchType": "FARGATE",
            "cpu": self.cpu,
            "memory": self.memory,
            "containers": [main, runner],
        }
        if self.last_status == "STOPPED":
            described |= {"stoppedReason": self.stopped_reason, "stopCode": self.stop_code}
        return described


class Program(Protocol):
    """What tasks do. `start` and `stop` return at once; `ended` is called when nothing of the task lives."""

    def start(self, task: Task, ended: Ended) -> None: ...

    def stop(self, task: Task) -> None: ...


class Idle:
    """Tasks that run until they are stopped or a test ends them."""

    def __init__(self) -> None:
        self._ended: dict[str, Ended] = {}

    def start(self, task: Task, ended: Ended) -> None:
        self._ended[task.arn] = ended

    def stop(self, task: Task) -> None:
        self.end(task, 143, "")

    def end(self, task: Task, exit_code: int | None, reason: str = "Essential container in task exited") -> None:
        self._ended.pop(task.arn)(exit_code, reason)


class EcsError(Exception):
    """An error answer: its type, its message, and the members that its shape has besides."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.members = members


@dataclass
class FakeEcs:
    """One cluster. `failures` are answered by the next RunTasks instead of a start, `errors` raised; `lost_answers` of the
    next RunTasks are never sent, though the task was started. `busy` says which calls are throttled, as
    the first of their name or the second…; `forgotten` are tasks that lists still show."""

    program: Program
    cluster: str = "runvoy"
    definitions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    errors: list[EcsError] = field(default_factory=list)
    lost_answers: int = 0
    hides_new_tasks: bool = False
    begins_with_an_empty_page: bool = False
    busy: dict[str, Collection[int]] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    on_stopped: Callable[[dict[str, Any]], None] = lambda _: None
    tasks: dict[str, Task] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._tokens: dict[str, tuple[str, str]] = {}

    @property
    def cluster_arn(self) -> str:
        return f"arn:aws:ecs:{_REGION}:{_ACCOUNT}:cluster/{self.cluster}"

    # -- task definitions: revisions of families

    def register_task_definition(self, request: dict[str, Any]) -> dict[str, Any]:
        names = [container["name"] for container in request["containerDefinitions"]]
        if not names or len(set(names)) < len(names) or not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", request["family"]):
            raise EcsError("ClientException", "The task definition is malformed")
        with self._lock:
            revisions = self.definitions.setdefault(request["family"], [])
            arn = f"arn:aws:ecs:{_REGION}:{_ACCOUNT}:task-definition/{request['family']}:{len(revisions) + 1}"
            # ECS tells more than it was told.
            made = {"cpu": 0, "environment": [], "volumesFrom": []}
            containers = [made | container for container in request["containerDefinitions"]]
            known = {name: value for name, value in request.items() if name != "tags"}
            revisions.append(known | {"containerDefinitions": containers, "taskDefinitionArn": arn, "status": "ACTIVE"})
            return {"taskDefinition": revisions[-1]}

    def describe_task_definition(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            return {"taskDefinition": self._active(request["taskDefinition"])}

    def deregister_task_definition(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            for revisions in self.definitions.values():
                for revision in revisions:
                    if revision["taskDefinitionArn"] == request["taskDefinition"]:
                        revision["status"] = "INACTIVE"
                        return {"taskDefinition": revision}
        raise EcsError("ClientException", "The specified task definition does not exist.")

    def list_task_definition_families(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            active = [name for name in self.definitions if self._revisions(name)]
        return {"families": [name for name in active if name.startswith(request["familyPrefix"])]}

    def list_task_definitions(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            return {"taskDefinitionArns": self._revisions(request["familyPrefix"])}

    def _revisions(self, family: str) -> list[str]:
        """The active ones of a family."""
        revisions = self.definitions.get(family, ())
        return [str(one["taskDefinitionArn"]) for one in revisions if one["status"] == "ACTIVE"]

    def _active(self, family: str) -> dict[str, Any]:
        """The newest active revision of a family."""
        for revision in reversed(self.definitions.get(family, [])):
            if revision["status"] == "ACTIVE":
                return revision
        raise EcsError("ClientException", "Unable to describe task definition.")

    # -- tasks

    def run_task(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_run(request)
        with self._lock:
            parameters = json.dumps(
                {name: value for name, value in request.items() if name != "clientToken"}, sort_keys=True
            )
            token = request.get("clientToken") or uuid.uuid4().hex
            known = self._tokens.get(token)
            if known is not None:
                arn, first = known
                if first != parameters:
                    message = "The provided clientToken is already in use with a different RunTask request"
                    raise EcsError("ConflictException", message, resourceIds=[arn])
                return {"tasks": [self.tasks[arn].describe(self.cluster_arn)], "failures": []}
            if self.failures:
                return {"tasks": [], "failures": [self.failures.pop(0)]}
            task = self._new_task(request)
            self._tokens[token] = (task.arn, parameters)
        self.program.start(task, lambda exit_code, reason: self._ended(task, exit_code, reason))
        with self._lock:
            if task.last_status == "PROVISIONING":
                task.last_status = "RUNNING"
            return {"tasks": [task.describe(self.cluster_arn)], "failures": []}

    def describe_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(request)
        if not 1 <= len(request["tasks"]) <= 100:
            raise EcsError("InvalidParameterException", "Tasks must have between 1 and 100 items")
        with self._lock:
            known = self.tasks.keys() - self.forgotten
            found = [self.tasks[arn].describe(self.cluster_arn) for arn in request["tasks"] if arn in known]
            missing = [{"arn": arn, "reason": "MISSING"} for arn in request["tasks"] if arn not in known]
        return {"tasks": found, "failures": missing}

    def list_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(request)
        if self.begins_with_an_empty_page and "nextToken" not in request:
            return {"taskArns": [], "nextToken": "more"}
        status, started_by = request.get("desiredStatus", "RUNNING"), request.get("startedBy")
        with self._lock:
            arns = [
                task.arn
                for task in self.tasks.values()
                if task.desired_status == status and started_by in (None, task.started_by) and task.seen_by_lists
            ]
        token = request.get("nextToken", "0")
        begin = 0 if token == "more" else int(token)
        more = {"nextToken": str(begin + _PAGE)} if len(arns) > begin + _PAGE else {}
        return {"taskArns": arns[begin : begin + _PAGE], **more}

    def stop_task(self, request: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(request)
        if len(request.get("reason", "")) > 255:
            raise EcsError("InvalidParameterException", "The reason is over 255 characters")
        with self._lock:
            task = self.tasks.get(request["task"])
            if task is None:
                raise EcsError("InvalidParameterException", "The referenced task was not found.")
            first = task.desired_status == "RUNNING"
            if first:
                task.desired_status, task.last_status, task.stop_code = "STOPPED", "STOPPING", "UserInitiated"
                task.stopped_reason = request.get("reason", "")
        if first:
            self.program.stop(task)
        return {"task": task.describe(self.cluster_arn)}

    # -- inside

    def _new_task(self, request: dict[str, Any]) -> Task:
        overrides = request.get("overrides", {})
        environment = {
            container["name"]: {pair["name"]: pair["value"] for pair in container.get("environment", ())}
            for container in overrides.get("containerOverrides", ())
        }
        arn = f"arn:aws:ecs:{_REGION}:{_ACCOUNT}:task/{self.cluster}/{uuid.uuid4().hex}"
        task = Task(
            arn=arn,
            definition=request["taskDefinition"],
            started_by=request.get("startedBy", ""),
            environment=environment,
            role=overrides.get("taskRoleArn", ""),
            cpu=overrides.get("cpu", "256"),
            memory=overrides.get("memory", "512"),
            seen_by_lists=not self.hides_new_tasks,
        )
        self.tasks[arn] = task
        return task

    def _check_run(self, request: dict[str, Any]) -> None:
        self._check_cluster(request)
        with self._lock:
            if self.errors:
                raise self.errors.pop(0)
        with self._lock:
            if all(one["status"] != "ACTIVE" for one in self.definitions.get(request["taskDefinition"], ())):
                raise EcsError("ClientException", "TaskDefinition not found.")
        if not _STARTED_BY.match(request.get("startedBy", "x")) or not _TOKEN.match(request.get("clientToken", "x")):
            raise EcsError("InvalidParameterException", "startedBy or clientToken is malformed")
        if len(json.dumps(request.get("overrides", {}), separators=(",", ":"))) > MAX_OVERRIDES_CHARACTERS:
            raise EcsError("InvalidParameterException", f"Overrides are over {MAX_OVERRIDES_CHARACTERS} characters")
        if "launchType" in request and "capacityProviderStrategy" in request:
            raise EcsError("InvalidParameterException", "launchType and capacityProviderStrategy exclude each other")
        if not request.get("networkConfiguration", {}).get("awsvpcConfiguration", {}).get("subnets"):
            raise EcsError("InvalidParameterException", "Network Configuration must be provided for awsvpc")

    def _check_cluster(self, request: dict[str, Any]) -> None:
        if request.get("cluster", "default") not in (self.cluster, self.cluster_arn):
            raise EcsError("ClusterNotFoundException", "Cluster not found.")

    def _ended(self, task: Task, exit_code: int | None, reason: str) -> None:
        with self._lock:
            task.desired_status = task.last_status = "STOPPED"
            task.exit_code = exit_code
            task.stopped_reason = task.stopped_reason or reason
            task.stop_code = task.stop_code or "EssentialContainerExited"
            event = {
                "version": "0",
                "source": "aws.ecs",
                "detail-type": "ECS Task State Change",
                "resources": [task.arn],
                "detail": task.describe(self.cluster_arn),
            }
        self.on_stopped(event)

    def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """One call, by its API name."""
        with self._lock:
            self.calls.append((operation, request))
            number = sum(1 for called, _ in self.calls if called == operation)
        if number in self.busy.get(operation, ()):
            raise EcsError("ThrottlingException", "Rate exceeded")
        operations = {
            "RunTask": self.run_task,
            "DescribeTasks": self.describe_tasks,
            "ListTasks": self.list_tasks,
            "StopTask": self.stop_task,
            "RegisterTaskDefinition": self.register_task_definition,
            "DescribeTaskDefinition": self.describe_task_definition,
            "DeregisterTaskDefinition": self.deregister_task_definition,
            "ListTaskDefinitionFamilies": self.list_task_definition_families,
            "ListTaskDefinitions": self.list_task_definitions,
        }
        if operation not in operations:
            raise EcsError("UnknownOperationException", f"{operation} is not part of this ECS")
        return operations[operation](request)

    def is_answer_lost(self, operation: str) -> bool:
        with self._lock:
            if operation != "RunTask" or not self.lost_answers:
                return False
            self.lost_answers -= 1
            return True


@contextmanager
def serving(ecs: FakeEcs) -> Iterator[FakeEcs]:
    """Serve it on a port of loopback; `ecs.url` tells where."""

    class Handler(http_server.Handler):
        def do_POST(self) -> None:
            operation = self.headers.get("X-Amz-Target", "").removeprefix(_TARGET)
            request = json.loads(self.body() or b"{}")
            try:
                status, answer = 200, ecs.answer(operation, request)
            except EcsError as error:
                status, answer = error.status, {"__type": error.code, "message": str(error), **error.members}
            if ecs.is_answer_lost(operation):
                self.close_connection = True
                return
            self.answer(status, json.dumps(answer).encode(), "application/x-amz-json-1.1")

    with http_server.serving(Handler) as ecs.url:
        yield ecs
