"""The Launcher port on ECS: one Fargate task per attempt, at most one, whoever dies.

What keeps it at one: the client token is the attempt's name, and ECS starts one task for a token. A request that is sent
again names another payload URL, so ECS answers it with a conflict that names the task which exists: it is adopted. The
task carries the same name as its `startedBy`, by which it is found later, ended ones included (for an hour or so).

The overrides of a task are seen by everyone who may describe it. They hold the execution's id and one presigned URL; all
else is in the object that the URL reads.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import THROTTLED, calling, code_of, message_of, status_of
from runvoy_agent.aws.task_looks import TaskLooks, is_no_room
from runvoy_agent.ports import (
    Attempt,
    Clock,
    Launch,
    Launched,
    LaunchOutcome,
    LaunchRefused,
    NoCapacity,
    TaskState,
    Unavailable,
)
from runvoy_protocol import aws_layout, object_keys

_log = logging.getLogger("runvoy.launcher")

RELAUNCH_WINDOW = timedelta(minutes=10)
PAYLOAD_LIFETIME = timedelta(minutes=55)
"""Longer than a task may take to boot; the credentials that sign live for an hour."""

# Nothing was started, and the same request will not do better.
_HOPELESS = frozenset(
    {
        "AccessDeniedException",
        "BlockedException",
        "ClientException",
        "ClusterNotFoundException",
        "InvalidParameterException",
        "PlatformTaskDefinitionIncompatibilityException",
        "PlatformUnknownException",
        "UnsupportedFeatureException",
    }
)
_STOP_REASON = "runvoy was asked to end it"
_TRIES = 4
_FAILED = 500  # and above: the service's own failure, after it did what was asked or not
_FIRST_PAUSE_SECONDS = 0.25


class Network(NamedTuple):
    """Where tasks run."""

    subnets: Sequence[str]
    security_groups: Sequence[str]
    public_ip: Literal["ENABLED", "DISABLED"] = "ENABLED"


class Staging(Protocol):
    """Where payloads lie until their task has them."""

    def put(self, object_key: str, data: bytes, *, content_type: str) -> str: ...

    def delete(self, object_key: str) -> None: ...

    def presign_take(self, object_key: str, *, expires_at: datetime) -> tuple[str, str]:
        """Two URLs: one that reads the object, one that deletes it."""
        ...


class Tasks(NamedTuple):
    """What tasks are made of. `definition_of` gives the family that an image is known as on a platform; `pack` makes what a
    task fetches of a payload and of the URL that deletes it; `overrides` makes RunTask's of an execution's id, the URL, CPU
    units, MiB of memory and the command's role."""

    definition_of: Callable[[str, str | None], str]
    pack: Callable[[bytes, str], bytes]
    overrides: Callable[[str, str, int | None, int | None, str | None], dict[str, Any]]
    roles: Collection[str] = frozenset()


class EcsLauncher:
    """Starts tasks on Fargate."""

    def __init__(
        self,
        clients: Clients,
        *,
        cluster: str,
        network: Network,
        staging: Staging,
        clock: Clock,
        tasks: Tasks,
        capacity_provider: Literal["FARGATE", "FARGATE_SPOT"] = "FARGATE",
    ) -> None:
        self._clients = clients
        self._cluster = cluster
        self._network = network
        self._staging = staging
        self._clock = clock
        self._tasks = tasks
        self._capacity_provider = capacity_provider
        self._looks = TaskLooks(clients, cluster)

    @property
    def relaunch_window(self) -> timedelta:
        """ECS keeps a token for 24 hours, or an hour past the task's end; tasks are listed as long. This is well within."""
        return RELAUNCH_WINDOW

    def start(self, launch: Launch) -> LaunchOutcome:
        """As the port says. Raises Unavailable where it cannot be known what happened: sending it again is safe, and the
        payload stays, for a task may be there that has yet to read it (the bucket's lifecycle removes it)."""
        if launch.isolation != "container" or launch.image is None:
            return LaunchRefused("this deployment runs commands in containers of a registered image only")
        if launch.task_role is not None and launch.task_role not in self._tasks.roles:
            return LaunchRefused(f"the deployment does not hand out the role {launch.task_role} any more")
        # Each try leaves an object of its own: the task reads the one that its own URL names, and cleaning up after a
        # try that started nothing cannot take it away.
        object_key = object_keys.payload_of_launch(launch.execution_id, secrets.token_hex(8))
        read, delete = self._staging.presign_take(object_key, expires_at=self._clock.now() + PAYLOAD_LIFETIME)
        self._staging.put(object_key, self._tasks.pack(launch.payload, delete), content_type="application/zip")
        outcome, is_ours = self._run(launch, launch.image, read)
        if not is_ours:
            self._staging.delete(object_key)
        return outcome

    def stop(self, execution_id: str, attempt: int) -> None:
        """StopTask sends SIGTERM to the runner, which does the steps of a deadline. A task that is yet to be started is
        not stopped by this: the reconciler repeats it until the task is seen stopped."""
        for arn in self._looks.arns("RUNNING", aws_layout.task_name(execution_id, attempt)):
            with calling("stopping a task"):
                try:
                    self._ecs.stop_task(cluster=self._cluster, task=arn, reason=_STOP_REASON)
                except ClientError as error:
                    if code_of(error) != "InvalidParameterException":  # it is gone
                        raise

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        """Never `supervised`: a runner that hangs looks like one that works, so the reconciler keeps the clocks too."""
        return self._looks.at_one(aws_layout.task_name(execution_id, attempt))

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        """As the port says; a look at each costs three calls, and this two for a hundred tasks of the cluster."""
        by_name = {aws_layout.task_name(*attempt): attempt for attempt in attempts}
        return {by_name[name]: state for name, state in self._looks.at_many(by_name).items()}

    # -- inside

    @property
    def _ecs(self) -> Any:
        return self._clients.get("ecs")

    def _run(self, launch: Launch, image: str, url: str) -> tuple[LaunchOutcome, bool]:
        """What became of it, and whether the task is this try's own."""
        name = aws_layout.task_name(launch.execution_id, launch.attempt)
        request = self._request(name, launch, self._tasks.definition_of(image, launch.platform), url)
        with calling("starting a task"):
            try:
                answer = self._run_task(request)
            except ClientError as error:
                if code_of(error) == "ConflictException":
                    return self._adopt(name, error), False
                refused = _refusal(error)
                if refused is None:
                    raise
                return refused, False
        if answer.get("tasks"):
            return Launched(answer["tasks"][0]["taskArn"]), True
        reasons = "; ".join(
            " ".join(str(failure[part]) for part in ("reason", "detail") if failure.get(part))
            for failure in answer.get("failures", ())
        )
        if is_no_room(reasons):
            return NoCapacity(f"Fargate has no room: {reasons}"), False
        return LaunchRefused(f"ECS started nothing: {reasons or 'it gave no reason'}"), False

    def _run_task(self, request: dict[str, Any]) -> dict[str, Any]:
        """RunTask, tried again here: the client would tell of its last try alone. One before it may have started the task, and
        its answer was lost. Who is throttled then knows nothing: Unavailable, and not that there was no room."""
        ecs = self._clients.get("ecs", tries=1)
        is_unclear = False
        for tried in range(1, _TRIES + 1):
            try:
                return dict(ecs.run_task(**request))
            except BotoCoreError:
                is_unclear = True
                if tried == _TRIES:
                    raise
            except ClientError as error:
                has_failed = status_of(error) >= _FAILED
                is_unclear = is_unclear or has_failed
                if tried == _TRIES or not (has_failed or code_of(error) in THROTTLED):
                    if is_unclear and isinstance(_refusal(error), NoCapacity):
                        raise Unavailable(f"whether a task was started is not known: {message_of(error)}") from error
                    raise
            pause = _FIRST_PAUSE_SECONDS * 2 ** (tried - 1)
            self._clock.sleep(pause * (0.5 + self._clock.random(1)[0] / 512))
        raise AssertionError("the last try returns or raises")

    def _adopt(self, name: str, error: ClientError) -> LaunchOutcome:
        """The token is taken, so the task exists: by what the conflict names, or by what ECS lists."""
        known = [str(arn) for arn in error.response.get("resourceIds", ())]
        arns = known or [*self._looks.arns("RUNNING", name), *self._looks.arns("STOPPED", name)]
        if not arns:
            # It is there or it is not; the listing lags behind. Nothing may be started on a guess.
            raise Unavailable(f"the task {name} was started before and is not listed yet")
        _log.info("adopted task %s", arns[0])
        return Launched(arns[0])

    def _request(self, name: str, launch: Launch, definition: str, url: str) -> dict[str, Any]:
        overrides = self._tasks.overrides(launch.execution_id, url, launch.cpu, launch.memory_mib, launch.task_role)
        return {
            "cluster": self._cluster,
            "taskDefinition": definition,
            "count": 1,
            "clientToken": name,
            "startedBy": name,
            "capacityProviderStrategy": [{"capacityProvider": self._capacity_provider, "weight": 1}],
            "networkConfiguration": {
                "awsvpcConfiguration": {
                    "subnets": list(self._network.subnets),
                    "securityGroups": list(self._network.security_groups),
                    "assignPublicIp": self._network.public_ip,
                }
            },
            "overrides": overrides,
            "enableExecuteCommand": False,
            "propagateTags": "TASK_DEFINITION",
        }


def _refusal(error: ClientError) -> LaunchOutcome | None:
    """What an error says for certain; None where the task may have been started."""
    code, message = code_of(error), message_of(error)
    if code in THROTTLED or code == "LimitExceededException":
        return NoCapacity(f"ECS takes no more launches now: {message}")
    if code not in _HOPELESS:
        return None
    if is_no_room(message):
        return NoCapacity(f"Fargate has no room: {message}")
    return LaunchRefused(f"ECS refuses the task ({code}): {message}")
