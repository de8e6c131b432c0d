"""Looking at many tasks of ECS together: how many calls that takes, and what a call that fails leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.aws.fake_ecs import Task, serving
from tests.aws.test_ecs_launcher import Platform

from runvoy_agent.ports import Attempt, Launch, TaskState

_TRIES = 2  # of each call, by the client; between four it pauses for seconds
_TRIES_OF_THE_SECOND = range(2, 2 + _TRIES)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path)
    with serving(made.ecs):
        yield made


def started(platform: Platform, count: int) -> dict[Attempt, Task]:
    """So many tasks that run, as RunTask would have made them."""
    tasks: dict[Attempt, Task] = {}
    for launch in (platform.launch() for _ in range(count)):
        tasks[launch.execution_id, 1] = run(platform, launch)
    platform.ecs.calls.clear()
    return tasks


def run(platform: Platform, launch: Launch) -> Task:
    name = f"{launch.execution_id}-1"
    request = {"taskDefinition": next(iter(platform.ecs.definitions)), "clientToken": name, "startedBy": name}
    answer = platform.ecs.run_task(
        request | {"cluster": "runvoy", "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s"]}}}
    )
    return platform.ecs.tasks[answer["tasks"][0]["taskArn"]]


def calls(platform: Platform) -> Counter[str]:
    return Counter(operation for operation, _ in platform.ecs.calls)


def test_several_looked_at_together_are_what_each_is_alone(platform: Platform) -> None:
    tasks = started(platform, 9)
    (ended, stopped, stopping, *_), launcher = tasks, platform.launcher()
    platform.program.end(tasks[ended], 7)
    launcher.stop(*stopped)
    tasks[stopping].desired_status = "STOPPED"  # and its runner has some seconds
    never = (platform.launch().execution_id, 1)
    seen = launcher.survey([*tasks, never])
    assert seen == {attempt: launcher.describe(*attempt) for attempt in tasks}
    assert (seen[ended].exit_code, seen[stopped].phase) == (7, "stopped")
    assert seen[stopping] == TaskState("running", stopping=True)
    assert launcher.survey([]) == {}


def test_a_thousand_tasks_take_two_calls_for_a_hundred(platform: Platform) -> None:
    tasks = started(platform, 1000)
    seen = platform.launcher().survey(list(tasks))
    assert seen == dict.fromkeys(tasks, TaskState("running"))
    assert calls(platform) == {"ListTasks": 10, "DescribeTasks": 10}


def test_another_attempt_is_another_task(platform: Platform) -> None:
    tasks = started(platform, 5)
    assert platform.launcher().survey([(execution_id, 2) for execution_id, _ in tasks]) == {}


def test_a_few_among_many_are_not_looked_for_so_far(platform: Platform) -> None:
    """Or a look at some would cost as many calls as one at all that run."""
    *_, one, two, three, four = started(platform, 1000)
    assert platform.launcher().survey([one, two, three]) == {}
    assert calls(platform) == {}
    platform.launcher().survey([one, two, three, four])
    assert calls(platform)["DescribeTasks"] <= 8


def test_a_page_that_is_throttled_hides_no_other(platform: Platform) -> None:
    tasks = started(platform, 250)
    platform.ecs.busy["DescribeTasks"] = _TRIES_OF_THE_SECOND
    assert platform.launcher(tries=_TRIES).survey(list(tasks)).keys() == set(list(tasks)[:100] + list(tasks)[200:])


def test_a_platform_that_describes_nothing_is_not_asked_page_after_page(platform: Platform) -> None:
    """A thousand pages, each tried for seconds, would be all of the round's time."""
    tasks = started(platform, 600)
    platform.ecs.busy["DescribeTasks"] = range(1, 1000)
    assert platform.launcher(tries=_TRIES).survey(list(tasks)) == {}
    assert calls(platform)["ListTasks"] == 3 + 1, "three pages of what runs, and one of what stopped, which is none"


def test_a_list_that_is_throttled_leaves_out_what_it_did_not_come_to(platform: Platform) -> None:
    tasks = started(platform, 250)
    platform.ecs.busy["ListTasks"] = _TRIES_OF_THE_SECOND
    assert platform.launcher(tries=_TRIES).survey(list(tasks)).keys() == set(list(tasks)[:100])


def test_one_that_is_listed_and_not_known_any_more_is_left_out(platform: Platform) -> None:
    """DescribeTasks names it among its failures; only a look of its own says that it is missing."""
    gone, *others = tasks = started(platform, 5)
    platform.ecs.forgotten.add(tasks[gone].arn)
    launcher = platform.launcher()
    assert launcher.survey([gone, *others]).keys() == set(others)
    assert launcher.describe(*gone) == TaskState("missing")


def test_an_empty_page_is_not_the_end_of_a_list(platform: Platform) -> None:
    platform.ecs.begins_with_an_empty_page = True
    tasks = started(platform, 5)
    assert platform.launcher().survey(list(tasks)).keys() == set(tasks)
