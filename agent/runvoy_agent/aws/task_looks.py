"""Looking at tasks of ECS: one by its name, or many by going through the cluster."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling
from runvoy_agent.ports import TaskState, Unavailable
from runvoy_protocol import aws_layout

_log = logging.getLogger("runvoy.launcher")

Wanted = Literal["RUNNING", "STOPPED"]
"""A task's desired status, by which ECS lists: one that is being stopped is listed as STOPPED already."""

_DESCRIBED = 100  # tasks in one call, and in a page of a list
_MOST_FAILED = 3
"""So many pages that cannot be described, one after another, end a pass: each was asked for four times, which takes seconds."""

_FEW = 3
"""So many tasks, and no more, are looked at one by one: going through the cluster costs as much or more."""

_NO_ROOM_WORDS = (
    "capacity is unavailable",
    "limit on the number of tasks",
    "limit on the number of vcpus",
    # ECS itself asks EC2 of the subnets and security groups, and calls it a wrong parameter that EC2 was busy.
    "limit exceeded",
    "limitexceeded",
    "rate exceeded",
    "throttl",
    "resource:",
    # As a task was given its network interface. Addresses come free when others end.
    "insufficientfreeaddresses",
    "enough free addresses",
    "network interface provisioning",
)
# What the runner's container exits with before the command's has anything to run (runner/task_main.py).
_NOTHING_STARTED = {64: "its payload was malformed", 66: "its runner could not fetch its payload"}


class TaskLooks:
    """Looks at the tasks of one cluster."""

    def __init__(self, clients: Clients, cluster: str) -> None:
        self._clients = clients
        self._cluster = cluster

    def at_one(self, name: str) -> TaskState:
        """What became of the task of that name; `missing` if it is in neither list."""
        arns = [*self.arns("RUNNING", name), *self.arns("STOPPED", name)]
        tasks = self._describe(list(dict.fromkeys(arns))[:_DESCRIBED]) if arns else []
        return _state_of(tasks) if tasks else TaskState("missing")

    def at_many(self, names: Collection[str]) -> dict[str, TaskState]:
        """What became of those of them that are found by going through the cluster's tasks a page at a time: first what runs,
        then what stopped in the last hour. Who is not found may be there all the same: a call failed, or there are so many
        other tasks that a look at each costs less."""
        found: dict[str, TaskState] = {}
        for wanted in ("RUNNING", "STOPPED"):
            sought = [name for name in names if name not in found]
            if len(sought) <= _FEW:
                break
            # A page costs two calls, a look at one task three: so many pages cost less than looking at each, whoever they show.
            found |= self._pass(wanted, set(sought), len(sought))
        return found

    def arns(self, wanted: Wanted, name: str | None = None) -> Iterator[str]:
        """The ARNs of the tasks of a name, or of all."""
        for page in self._pages(wanted, name):
            yield from page

    # -- inside

    @property
    def _ecs(self) -> Any:
        return self._clients.get("ecs")

    def _pass(self, wanted: Wanted, sought: set[str], most_pages: int) -> dict[str, TaskState]:
        """One pass through the cluster's tasks. A page that cannot be described hides no other, but for a platform that describes
        none."""
        found: dict[str, TaskState] = {}
        failed = 0
        try:
            for number, arns in enumerate(self._pages(wanted, None), 1):
                states = self._states(arns, sought - found.keys())
                failed = 0 if states is not None else failed + 1
                found |= states or {}
                if number == most_pages or len(found) == len(sought) or failed == _MOST_FAILED:
                    break
        except Unavailable as error:
            _log.warning("the cluster's tasks could not all be listed: %s", error)
        return found

    def _states(self, arns: Sequence[str], sought: Collection[str]) -> dict[str, TaskState] | None:
        try:
            tasks = self._describe(arns) if arns else []
        except Unavailable as error:
            _log.warning("%d tasks could not be described: %s", len(arns), error)
            return None
        by_name: dict[str, list[dict[str, Any]]] = {}
        for task in tasks:
            by_name.setdefault(str(task.get("startedBy", "")), []).append(task)
        return {name: _state_of(found) for name, found in by_name.items() if name in sought}

    def _describe(self, arns: Sequence[str]) -> Sequence[dict[str, Any]]:
        """Those that ECS still knows; the others are named among the answer's failures, as MISSING."""
        with calling("describing tasks"):
            answer = self._ecs.describe_tasks(cluster=self._cluster, tasks=list(arns))
        return list(answer["tasks"])

    def _pages(self, wanted: Wanted, name: str | None) -> Iterator[Sequence[str]]:
        request = {"cluster": self._cluster, "desiredStatus": wanted}
        if name is not None:
            request["startedBy"] = name
        while True:  # a page may be empty and not the last
            with calling("listing tasks"):
                page = self._ecs.list_tasks(**request)
            yield page["taskArns"]
            if not page.get("nextToken"):
                return
            request["nextToken"] = page["nextToken"]


def _state_of(tasks: Sequence[Mapping[str, Any]]) -> TaskState:
    """Of the tasks of one name, of which there should be one: while one lives it is that one."""
    living = [task for task in tasks if task.get("lastStatus") != "STOPPED"]
    if living:
        return TaskState("running", stopping=all(task.get("desiredStatus") == "STOPPED" for task in living))
    return stopped_state(tasks[0])


def stopped_state(task: Mapping[str, Any]) -> TaskState:
    """What a stopped task's description says. The exit code is the command's container's, if the command was started."""
    containers = {container.get("name"): container for container in task.get("containers", ())}
    said = [task.get("stoppedReason"), *(container.get("reason") for container in containers.values())]
    message = "; ".join(dict.fromkeys(str(reason) for reason in said if reason))
    runners_word = containers.get(aws_layout.RUNNER_CONTAINER, {}).get("exitCode")
    pulled, stopped = _moment(task.get("pullStartedAt")), _moment(task.get("stoppedAt"))
    never_began = runners_word in _NOTHING_STARTED or task.get("stopCode") == "TaskFailedToStart"
    if never_began:
        why = _NOTHING_STARTED.get(runners_word, "")
        said_so = "; ".join(part for part in (why, message) if part)
        return TaskState(
            "stopped",
            None,
            said_so,
            never_began=True,
            pull_started_at=pulled,
            stopped_at=stopped,
            no_room=_had_no_room(task),
        )
    exit_code = containers.get(aws_layout.MAIN_CONTAINER, {}).get("exitCode")
    code = None if exit_code is None else int(exit_code)
    return TaskState("stopped", code, message, pull_started_at=pulled, stopped_at=stopped)


def _moment(value: object) -> datetime | None:
    """A time of a task: a datetime where boto3 read it, text in an event."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else None


def is_no_room(reasons: str) -> bool:
    """Whether ECS says that it, or the network, has no room just now."""
    low = reasons.lower()
    return any(words in low for words in _NO_ROOM_WORDS)


def _had_no_room(task: Mapping[str, Any]) -> bool:
    """Whether it ended for want of room before anything of it was there: no image was pulled, and no container made. That is what
    makes it certain; the words say only that another try may do better."""
    began = any(
        container.get("exitCode") is not None or container.get("runtimeId") for container in task.get("containers", ())
    )
    if began or any(task.get(when) is not None for when in ("pullStartedAt", "pullStoppedAt", "startedAt")):
        return False
    return task.get("stopCode") == "TaskFailedToStart" and is_no_room(str(task.get("stoppedReason", "")))
