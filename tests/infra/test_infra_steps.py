"""Steps of `infra apply` and `infra destroy` that no stand-in for CloudFormation judges, each against what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.aws.fake_ecs import FakeEcs, Idle, Task, serving

from runvoy_infra.deploy import holding, service_role
from runvoy_infra.deploy.apply import Talk
from runvoy_infra.deploy.aws import Aws
from runvoy_infra.deploy.destroy import clear_cluster, destroy
from runvoy_infra.deploy.stacks import Stack
from runvoy_protocol.errors import ErrorCode, RunvoyError

pytest.importorskip("boto3", reason="boto3 is not installed: `uv sync --extra aws`")

from botocore.stub import Stubber


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    return Aws("eu-west-1")


class Stubborn(Idle):
    """Tasks that end once somebody has looked how they end."""

    def stop(self, task: Task) -> None:
        """They have been told."""


class WatchedEcs(FakeEcs):
    """Ends a task that is to stop after the second look at it."""

    looks = 0

    def describe_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = super().describe_tasks(request)
        self.looks += 1
        if self.looks == 2:
            for task in self.tasks.values():
                if task.last_status == "STOPPING":
                    self.program.end(task, 143, "")  # type: ignore[attr-defined]
        return answer


@pytest.fixture
def ecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedEcs]:
    made = WatchedEcs(Stubborn())
    made.register_task_definition({"family": "f", "containerDefinitions": [{"name": "main"}]})
    with serving(made):
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", made.url)
        yield made


def started(ecs: FakeEcs) -> Task:
    network = {"awsvpcConfiguration": {"subnets": ["s"]}}
    answer = ecs.run_task({"cluster": "runvoy", "taskDefinition": "f", "networkConfiguration": network})
    return ecs.tasks[answer["tasks"][0]["taskArn"]]


def quiet(_: str) -> None:
    """Nobody listens."""


def talk(said: list[str]) -> Talk:
    return Talk(said.append, lambda _: True)


def test_a_cluster_is_left_once_its_tasks_have_stopped_not_once_they_were_told_to(aws: Aws, ecs: WatchedEcs) -> None:
    tasks = [started(ecs) for _ in range(3)]
    said: list[str] = []
    clear_cluster(aws, "runvoy", talk(said), stop_tasks=True, pause=0)
    assert [task.last_status for task in tasks] == ["STOPPED"] * 3
    assert [operation for operation, _ in ecs.calls].count("StopTask") == 3
    assert said == ["waiting for 3 tasks to stop, two minutes and a little at most"]


def test_a_task_that_was_killed_before_is_waited_for(aws: Aws, ecs: WatchedEcs) -> None:
    task = started(ecs)
    ecs.stop_task({"cluster": "runvoy", "task": task.arn})
    clear_cluster(aws, "runvoy", talk([]), stop_tasks=False, pause=0)
    assert task.last_status == "STOPPED"


def test_what_was_started_while_somebody_was_asked_is_not_stopped_unasked(aws: Aws, ecs: WatchedEcs) -> None:
    task = started(ecs)
    with pytest.raises(RunvoyError) as refused:
        clear_cluster(aws, "runvoy", talk([]), stop_tasks=False, pause=0)
    assert refused.value.code is ErrorCode.CONFLICT
    assert task.desired_status == "RUNNING"


SOURCES = [
    {
        "ResourceType": "AWS::Lambda::EventSourceMapping",
        "LogicalResourceId": name,
        "PhysicalResourceId": f"00000000-0000-0000-0000-{number:012}",
    }
    for number, name in enumerate(("InboxSource", "StartsSource", "BulkSource", "EndsSource"))
]
STARTS, BULK = (SOURCES[number]["PhysicalResourceId"] for number in (1, 2))


def expect(stub: Stubber, *calls: tuple[str, str, str]) -> None:
    """What Lambda is asked of event source mappings, in this order, and what it answers: a state, or the code of an error."""
    for what, mapping, answer in calls:
        look = what == "look"
        expected: dict[str, Any] = {"UUID": mapping} | ({} if look else {"Enabled": what == "enable"})
        operation = "get_event_source_mapping" if look else "update_event_source_mapping"
        if answer.endswith("Exception"):
            stub.add_client_error(operation, answer, expected_params=expected)
        else:
            stub.add_response(operation, {"UUID": mapping, "State": answer}, expected)


def test_nothing_is_started_any_more_before_the_first_task_is_stopped(aws: Aws) -> None:
    """Each task that is stopped would let the next in its lock's queue start, to be stopped in the midst of its work."""
    with Stubber(aws.client("lambda")) as stub:
        expect(
            stub,
            ("disable", STARTS, "Disabling"),
            ("disable", BULK, "ResourceInUseException"),
            ("disable", BULK, "Disabling"),
            ("look", STARTS, "Disabling"),
            ("look", STARTS, "Disabled"),
            ("look", BULK, "Disabled"),
        )
        with holding.starts(aws, SOURCES, 0, quiet):
            stub.assert_no_pending_responses()


def test_a_deployment_that_stays_goes_on_starting(aws: Aws) -> None:
    said: list[str] = []
    with Stubber(aws.client("lambda")) as stub:
        expect(
            stub,
            ("disable", STARTS, "Disabling"),
            ("disable", BULK, "Disabling"),
            ("look", STARTS, "Disabled"),
            ("look", BULK, "Disabled"),
            ("enable", STARTS, "AccessDeniedException"),
            ("enable", BULK, "Enabling"),
        )
        with pytest.raises(KeyboardInterrupt), holding.starts(aws, SOURCES, 0, said.append):
            raise KeyboardInterrupt
        stub.assert_no_pending_responses()
    assert len(said) == 1
    assert f"--uuid {STARTS} --enabled" in said[0]


def test_starts_that_a_destroy_left_held_are_found_and_go_on(aws: Aws) -> None:
    """Whoever kills it lets it put nothing right, and the next template is the same as the last."""
    with Stubber(aws.client("lambda")) as stub:
        expect(stub, ("look", STARTS, "Enabled"), ("look", BULK, "Disabled"))
        expect(stub, ("enable", BULK, "ResourceInUseException"), ("enable", BULK, "Enabling"))
        found = holding.unread(aws, SOURCES, quiet)
        assert found == [("BulkSource", BULK)]
        holding.read_again(aws, found, 0)
        stub.assert_no_pending_responses()


def test_who_may_not_look_at_starts_is_told_and_applies_all_the_same(aws: Aws) -> None:
    said: list[str] = []
    with Stubber(aws.client("lambda")) as stub:
        expect(stub, ("look", STARTS, "AccessDeniedException"))
        assert holding.unread(aws, SOURCES, said.append) == []
        stub.assert_no_pending_responses()
    assert len(said) == 1
    assert "looking whether a queue of starts is read" in said[0]


def test_a_stack_that_never_came_up_starts_nothing(aws: Aws) -> None:
    with Stubber(aws.client("lambda")) as stub:
        expect(stub, ("disable", STARTS, "ResourceNotFoundException"), ("look", STARTS, "ResourceNotFoundException"))
        made_before_it_failed = [SOURCES[0], SOURCES[1], {**SOURCES[2], "PhysicalResourceId": ""}]
        with holding.starts(aws, made_before_it_failed, 0, quiet):
            stub.assert_no_pending_responses()


def test_a_destroy_again_sees_a_deletion_through_that_is_under_way(aws: Aws) -> None:
    """CloudFormation goes on without whoever asked for it, and what functions made goes with the rest."""
    stack_id = f"arn:aws:cloudformation:eu-west-1:000000000000:stack/runvoy/{STARTS}"
    told = {"StackId": stack_id, "StackName": "runvoy", "CreationTime": "2026-01-01T00:00:00Z"}
    kept = [
        {"OutputKey": name, "OutputValue": name.lower()} for name in ("ParameterPath", "ClusterName", "StagingBucket")
    ]
    under_way = {**told, "StackStatus": "DELETE_IN_PROGRESS", "Outputs": kept}
    events: dict[str, Any] = {"StackEvents": []}
    with (
        Stubber(aws.client("cloudformation")) as stub,
        Stubber(aws.client("ssm")) as ssm,
        Stubber(aws.client("s3")) as s3,
    ):
        s3.add_client_error("list_objects_v2", "NoSuchBucket")
        stub.add_response("describe_stacks", {"Stacks": [under_way]})
        stub.add_response("list_stack_resources", {"StackResourceSummaries": []})
        stub.add_response("describe_stack_events", events)
        stub.add_response("describe_stacks", {"Stacks": [under_way]}, {"StackName": stack_id})
        stub.add_response("describe_stack_events", events)
        stub.add_response("describe_stacks", {"Stacks": [{**told, "StackStatus": "DELETE_COMPLETE"}]})
        stub.add_response("describe_stack_events", events)
        ssm.add_response("get_parameters_by_path", {"Parameters": [{"Name": "parameterpath/own/x"}]})
        ssm.add_response("delete_parameters", {}, {"Names": ["parameterpath/own/x"]})
        said: list[str] = []
        destroyed = destroy(aws, Stack(aws, "runvoy", pause_seconds=0), talk(said), stop_tasks=False)
        stub.assert_no_pending_responses()
        ssm.assert_no_pending_responses()
        s3.assert_no_pending_responses()
    assert not destroyed.declined
    assert "it is being deleted already" in said


def test_a_deletion_that_failed_is_gone_on_with_where_bucket_and_cluster_went_before(aws: Aws) -> None:
    """CloudFormation shows the outputs of what it deleted until the stack is gone."""
    stack_id = f"arn:aws:cloudformation:eu-west-1:000000000000:stack/runvoy/{STARTS}"
    told = {"StackId": stack_id, "StackName": "runvoy", "CreationTime": "2026-01-01T00:00:00Z"}
    outputs = [{"OutputKey": name, "OutputValue": name.lower()} for name in ("ClusterName", "StagingBucket")]
    failed = {**told, "StackStatus": "DELETE_FAILED", "Outputs": outputs}
    with (
        Stubber(aws.client("cloudformation")) as stub,
        Stubber(aws.client("ecs")) as ecs,
        Stubber(aws.client("s3")) as s3,
    ):
        stub.add_response("describe_stacks", {"Stacks": [failed]})
        for _ in range(2):
            stub.add_response("list_stack_resources", {"StackResourceSummaries": []})
        stub.add_response("describe_stack_events", {"StackEvents": []})
        stub.add_response("delete_stack", {}, {"StackName": stack_id})
        stub.add_response("describe_stacks", {"Stacks": [{**told, "StackStatus": "DELETE_COMPLETE"}]})
        stub.add_response("describe_stack_events", {"StackEvents": []})
        for _ in range(3):  # those that run, for the plan and then; and those that are to stop
            ecs.add_client_error("list_tasks", "ClusterNotFoundException")
        s3.add_client_error("list_objects_v2", "NoSuchBucket")
        destroy(aws, Stack(aws, "runvoy", pause_seconds=0), talk([]), stop_tasks=False)
        for one in (stub, ecs, s3):
            one.assert_no_pending_responses()


ROLE = {
    "Path": "/aws-service-role/ecs.amazonaws.com/",
    "RoleName": service_role.ROLE,
    "RoleId": "AROAAAAAAAAAAAAAAAAAA",
    "Arn": f"arn:aws:iam::000000000000:role/aws-service-role/ecs.amazonaws.com/{service_role.ROLE}",
    "CreateDate": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("looked", "made", "said"),
    [
        ("", None, ""),
        ("NoSuchEntity", "", "made the role AWSServiceRoleForECS"),
        ("NoSuchEntity", "InvalidInput", ""),
        ("NoSuchEntity", "AccessDenied", "could not see to the role"),
        ("AccessDenied", None, "aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com"),
    ],
)
def test_an_accounts_first_cluster_finds_the_role_of_ecs(aws: Aws, looked: str, made: str | None, said: str) -> None:
    def answer(operation: str, error: str, expected: dict[str, str]) -> None:
        if error:
            stub.add_client_error(operation, error, "because", expected_params=expected)
        else:
            stub.add_response(operation, {"Role": ROLE | {"AssumeRolePolicyDocument": "{}"}}, expected)

    with Stubber(aws.client("iam")) as stub:
        answer("get_role", looked, {"RoleName": service_role.ROLE})
        if made is not None:
            answer("create_service_linked_role", made, {"AWSServiceName": service_role.SERVICE})
        told = service_role.ensure(aws)
        stub.assert_no_pending_responses()
    assert said in told
    assert bool(said) == bool(told)
