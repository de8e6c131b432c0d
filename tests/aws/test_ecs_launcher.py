"""What every launcher promises, of the one on ECS: with real requests to an ECS that keeps client tokens."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.aws.fake_ecs import MAX_OVERRIDES_CHARACTERS, EcsError, FakeEcs, Idle, Task, serving

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_agent.aws.launcher import EcsLauncher, Network, Tasks
from runvoy_agent.core import task_definition
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import Launch, Launched, LaunchRefused, NoCapacity, TaskState, Unavailable
from runvoy_protocol import aws_layout, ids, object_keys

IMAGE = "docker.io/library/alpine:3"
PAYLOAD = b'{"secrets": {"TOKEN": "s3cret"}}'


ROLE = "arn:aws:iam::000000000000:role/deployer"


def family(image: str, platform: str | None) -> str:
    return aws_layout.task_family("d1", image, platform)


def pack(payload: bytes, delete_url: str) -> bytes:
    return payload + b"\n" + delete_url.encode()


class Staging(FolderObjects):
    """A folder that gives away two URLs, as the staging bucket does."""

    def presign_take(self, object_key: str, *, expires_at: datetime) -> tuple[str, str]:
        read = self.presign_get(object_key, expires_at=expires_at)
        return read, read + "&delete"


class Platform:
    """The fake ECS, launchers on it, and the staging bucket."""

    def __init__(self, folder: Path) -> None:
        self.program = Idle()
        self.ecs = FakeEcs(self.program)
        for platform in (None, "linux/amd64"):
            self.ecs.register_task_definition(
                {"family": family(IMAGE, platform), "containerDefinitions": [{"name": "main"}]}
            )
        self.staging = Staging(folder / "staging", grants=Grants(bytes(32), "http://127.0.0.1:1"))

    def launcher(self, **options: Any) -> EcsLauncher:
        endpoints = {"ecs": self.ecs.url}
        return EcsLauncher(
            Clients(region="eu-west-1", credentials=Credentials("id", "key"), endpoints=endpoints, **options),
            cluster="runvoy",
            network=Network(["subnet-1", "subnet-2"], ["sg-1"]),
            staging=self.staging,
            clock=SystemClock(),
            tasks=Tasks(family, pack, task_definition.run_overrides, frozenset({ROLE})),
        )

    def launch(self, **fields: Any) -> Launch:
        execution_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        values: dict[str, Any] = {
            "execution_id": execution_id,
            "attempt": 1,
            "isolation": "container",
            "image": IMAGE,
            "cpu": None,
            "memory_mib": None,
            "payload": PAYLOAD,
        }
        return Launch(**(values | fields))

    def task(self, outcome: object) -> Task:
        assert isinstance(outcome, Launched)
        return self.ecs.tasks[outcome.task_ref]

    def staged(self, launch: Launch) -> list[str]:
        return [info.key for info in self.staging.list(object_keys.payload(launch.execution_id))]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path)
    with serving(made.ecs):
        yield made


def test_a_task_from_its_start_to_its_end(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    assert launcher.describe(launch.execution_id, 1) == TaskState("missing")
    task = platform.task(launcher.start(launch))
    assert launcher.describe(launch.execution_id, 1) == TaskState("running")
    platform.program.end(task, 7)
    assert launcher.describe(launch.execution_id, 1) == TaskState("stopped", 7, "Essential container in task exited")
    assert launcher.describe(launch.execution_id, 2) == TaskState("missing")


def test_a_task_that_never_ran_has_no_exit_code(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    task = platform.task(launcher.start(launch))
    platform.program.end(task, None, "CannotPullContainerError: no such image")
    state = launcher.describe(launch.execution_id, 1)
    assert (state.phase, state.exit_code) == ("stopped", None)
    assert "CannotPullContainerError" in state.message


def test_starting_again_adopts(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    first = launcher.start(launch)
    assert platform.launcher().start(launch) == first
    platform.program.end(platform.task(first), 0)
    assert launcher.start(launch) == first, "after its end too"
    assert len(platform.ecs.tasks) == 1


def test_of_many_starts_at_once_one_runs(platform: Platform) -> None:
    launchers = [platform.launcher(), platform.launcher()]
    launch = platform.launch()
    outcomes: list[Any] = []
    threads = [
        threading.Thread(target=lambda number=number: outcomes.append(launchers[number % 2].start(launch)))
        for number in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(platform.ecs.tasks) == 1
    assert set(outcomes) == {Launched(next(iter(platform.ecs.tasks)))}


def test_each_attempt_is_a_task_of_its_own(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    assert launcher.start(launch) != launcher.start(launch._replace(attempt=2))


@pytest.mark.parametrize("lost", [1, 4])
def test_an_answer_that_was_lost_starts_nothing_twice(platform: Platform, lost: int) -> None:
    """Once the client sends it again itself; when that is no use either, whoever calls does."""
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.lost_answers = lost
    if lost > 1:
        with pytest.raises(Unavailable):
            launcher.start(launch)
    outcome = launcher.start(launch)
    assert len(platform.ecs.tasks) == 1
    assert platform.task(outcome).started_by == f"{launch.execution_id}-1"


class StartsAndIsBusy(Idle):
    """ECS, once it has started a task."""

    def __init__(self, platform: Platform, error: EcsError) -> None:
        super().__init__()
        self._platform, self._error = platform, error

    def start(self, task: Task, *arguments: Any) -> None:
        super().start(task, *arguments)
        self._platform.ecs.errors = [self._error] * 3


@pytest.mark.parametrize(
    "error", [EcsError("ThrottlingException", "Rate exceeded"), EcsError("ClientException", "Capacity is unavailable.")]
)
def test_no_room_after_an_answer_that_was_lost_is_no_answer(platform: Platform, error: EcsError) -> None:
    """It would say that there is no task for certain: who has none is launched however late, and ended without a look."""
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.program = StartsAndIsBusy(platform, error)
    platform.ecs.lost_answers = 1
    with pytest.raises(Unavailable):
        launcher.start(launch)
    assert len(platform.ecs.tasks) == 1
    assert platform.staged(launch) != [], "the task has yet to read its payload"
    platform.ecs.errors = []
    assert isinstance(launcher.start(launch), Launched)
    assert len(platform.ecs.tasks) == 1


def test_a_conflict_that_names_no_task_is_looked_up(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    first = launcher.start(launch)
    platform.ecs.errors = [EcsError("ConflictException", "in use")]
    assert launcher.start(launch) == first
    platform.program.end(platform.task(first), 0)
    platform.ecs.errors = [EcsError("ConflictException", "in use")]
    assert launcher.start(launch) == first, "among the stopped ones too"


def test_a_conflict_whose_task_is_not_listed_yet_is_not_guessed_at(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.hides_new_tasks = True
    launcher.start(launch)
    platform.ecs.errors = [EcsError("ConflictException", "in use")]
    with pytest.raises(Unavailable):
        launcher.start(launch)


def test_an_empty_page_is_not_the_end_of_a_list(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.begins_with_an_empty_page = True
    launcher.start(launch)
    assert launcher.describe(launch.execution_id, 1).phase == "running"


def test_stopping_a_task(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    launcher.stop(launch.execution_id, 1)
    task = platform.task(launcher.start(launch))
    launcher.stop(launch.execution_id, 1)
    launcher.stop(launch.execution_id, 1)
    assert (task.last_status, task.stop_code) == ("STOPPED", "UserInitiated")
    assert launcher.describe(launch.execution_id, 1).phase == "stopped"


NO_ROOM = {
    "failure": {"reason": "RESOURCE:FARGATE"},
    "of vcpus": {"reason": "You've reached the limit on the number of vCPUs you can run concurrently"},
    "failure with detail": {"reason": "Capacity is unavailable at this time. Please try again later"},
}
NO_ROOM_ERRORS = [
    EcsError("ThrottlingException", "Rate exceeded"),
    EcsError("LimitExceededException", "too many"),
    EcsError("ClientException", "You've reached the limit on the number of tasks you can run concurrently"),
    EcsError("ClientException", "Capacity is unavailable at this time."),
    EcsError(
        "InvalidParameterException",
        "Error retrieving security group information for [sg-1]: Request limit exceeded. (ErrorCode: RequestLimitExceeded)",
    ),
]


@pytest.mark.parametrize("failure", NO_ROOM.values(), ids=NO_ROOM)
def test_no_room(platform: Platform, failure: dict[str, str]) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.failures = [failure]
    outcome = launcher.start(launch)
    assert isinstance(outcome, NoCapacity)
    assert failure["reason"] in outcome.message
    assert platform.staged(launch) == [], "no secret is left behind"
    assert isinstance(launcher.start(launch), Launched), "the token of what started nothing is free"


@pytest.mark.parametrize("error", NO_ROOM_ERRORS, ids=str)
def test_no_room_as_an_error(platform: Platform, error: EcsError) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    platform.ecs.errors = [error] * 4  # the client tries throttled calls again itself
    assert isinstance(launcher.start(launch), NoCapacity)
    assert platform.staged(launch) == []


def test_what_will_not_help_is_refused(platform: Platform) -> None:
    launcher = platform.launcher()
    outcomes = {
        "another image": launcher.start(platform.launch(image="never:registered")),
        "no image": launcher.start(platform.launch(image=None)),
        "a process": launcher.start(platform.launch(isolation="process")),
        "another platform": launcher.start(platform.launch(platform="linux/riscv64")),
        "a role that is not handed out": launcher.start(platform.launch(task_role=ROLE + "s")),
    }
    platform.ecs.errors = [EcsError("AccessDeniedException", "not authorized to perform: iam:PassRole")]
    outcomes["no right"] = launcher.start(platform.launch())
    platform.ecs.failures = [{"reason": "ATTRIBUTE", "detail": "unknown"}]
    outcomes["a failure"] = launcher.start(platform.launch())
    # Larger than the account may have at all: no waiting helps.
    platform.ecs.failures = [{"reason": "The requested CPU configuration is above your limit"}]
    outcomes["too large"] = launcher.start(platform.launch())
    assert {what: type(outcome) for what, outcome in outcomes.items()} == dict.fromkeys(outcomes, LaunchRefused)
    assert "PassRole" in outcomes["no right"].message
    assert "not found" in outcomes["another image"].message
    assert platform.ecs.tasks == {}
    assert platform.staging.list("") == []


def test_a_server_that_fails_leaves_it_open(platform: Platform) -> None:
    platform.ecs.errors = [EcsError("ServerException", "try later", 500)] * 4
    with pytest.raises(Unavailable):
        platform.launcher().start(platform.launch())


def test_the_overrides_hold_an_id_and_one_url(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch(cpu=512, memory_mib=1024)
    task = platform.task(launcher.start(launch))
    assert task.environment.keys() == {"runner"}
    environment = task.environment["runner"]
    assert environment.keys() == {"RUNVOY_EXECUTION_ID", "RUNVOY_PAYLOAD_URL"}
    (object_key,) = platform.staged(launch)
    assert object_key in environment["RUNVOY_PAYLOAD_URL"]
    stored = platform.staging.get(object_key)
    assert stored is not None
    payload, _, delete_url = stored.data.partition(b"\n")
    assert payload == PAYLOAD
    assert delete_url.decode() == environment["RUNVOY_PAYLOAD_URL"] + "&delete"
    assert (task.cpu, task.memory) == ("512", "1024")
    run = next(request for operation, request in platform.ecs.calls if operation == "RunTask")
    assert b"s3cret" not in str(run).encode()
    assert len(str(run["overrides"])) < MAX_OVERRIDES_CHARACTERS
    assert run["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE", "weight": 1}]


def test_cleaning_up_after_one_try_leaves_the_others_payload(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    task = platform.task(launcher.start(launch))
    (first,) = platform.staged(launch)
    launcher.start(launch)
    assert platform.staged(launch) == [first]
    assert first in task.environment["runner"]["RUNVOY_PAYLOAD_URL"]


def test_an_image_runs_on_its_platform_under_its_role(platform: Platform) -> None:
    launcher = platform.launcher()
    usual = platform.task(launcher.start(platform.launch()))
    other = platform.task(launcher.start(platform.launch(platform="linux/amd64", task_role=ROLE)))
    assert (usual.definition, usual.role) == (family(IMAGE, None), "")
    assert (other.definition, other.role) == (family(IMAGE, "linux/amd64"), ROLE)
    assert family(IMAGE, "linux/arm64") == usual.definition, "which is the deployment's own"


@pytest.mark.parametrize(
    ("main", "runner", "state"),
    [
        (143, 64, TaskState("stopped", None, "its payload was malformed; Over", never_began=True)),
        (143, 66, TaskState("stopped", None, "its runner could not fetch its payload; Over", never_began=True)),
        (7, 69, TaskState("stopped", 7, "Over")),
        (7, 0, TaskState("stopped", 7, "Over")),
        (None, 137, TaskState("stopped", None, "Over")),
    ],
)
def test_what_the_runners_exit_says_of_the_command(
    main: int | None, runner: int, state: TaskState, platform: Platform
) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    task = platform.task(launcher.start(launch))
    task.runner_exit_code = runner
    platform.program.end(task, main, "Over")
    assert launcher.describe(launch.execution_id, 1) == state


def test_a_task_that_failed_to_start_never_began(platform: Platform) -> None:
    launcher, launch = platform.launcher(), platform.launch()
    task = platform.task(launcher.start(launch))
    task.stop_code = "TaskFailedToStart"
    platform.program.end(task, None, "CannotPullContainerError: no such image")
    state = launcher.describe(launch.execution_id, 1)
    assert state == TaskState("stopped", None, "CannotPullContainerError: no such image", never_began=True)
