"""`infra destroy`: take the stack away, and leave the audit."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from runvoy_infra.deploy import holding
from runvoy_infra.deploy.apply import Talk, shown
from runvoy_infra.deploy.aws import Aws, calling, code_of
from runvoy_infra.deploy.stacks import Stack, StackState
from runvoy_protocol.errors import ErrorCode, RunvoyError

_KEPT = {"InboxBucket": "bucket", "OutboxBucket": "bucket", "TableName": "table"}
_BEING_DELETED = "DELETE_IN_PROGRESS"
_BATCH = 10
_LISTED = 100
_STOPPED_SECONDS = 600
"""A task has two minutes to end, and its network interface goes after it."""


class Plan(NamedTuple):
    """What would be kept (kind and name), and what would go besides the stack's own resources. `is_under_way`: CloudFormation is
    deleting it, as somebody else or a `destroy` that was killed had it do."""

    state: StackState
    kept: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...]
    task_definitions: tuple[str, ...]
    running_tasks: tuple[str, ...]
    resources: int
    is_under_way: bool


class Destroyed(NamedTuple):
    """What was planned, and whether whoever was asked said no: then nothing was done."""

    plan: Plan
    declined: bool = False


def destroy(aws: Aws, stack: Stack, talk: Talk, *, stop_tasks: bool) -> Destroyed:
    """Say what is kept and what goes, ask, and do it. CONFLICT while commands run, unless they are to be stopped."""
    plan = look(aws, stack)
    if plan.running_tasks and not stop_tasks:
        raise _still_running(len(plan.running_tasks))
    for line in told_plan(plan):
        talk.say(line)
    if not talk.ask(f"Destroy the stack {stack.name} in {aws.region}?"):
        return Destroyed(plan, declined=True)
    if plan.is_under_way:
        talk.say("it is being deleted already")
    elif "ClusterName" in plan.state.outputs:
        cluster, pause = plan.state.outputs["ClusterName"], stack.pause_seconds
        with holding.starts(aws, stack.resources(), pause, talk.say):
            clear_cluster(aws, cluster, talk, stop_tasks=stop_tasks, pause=pause)
    try:
        _clear(aws, plan)
        _delete(stack, plan, talk)
    except RunvoyError:
        talk.say("what is left of the deployment starts nothing any more: destroy it again")
        raise
    return Destroyed(plan)


def look(aws: Aws, stack: Stack) -> Plan:
    """What destroying would take away. NOT_FOUND without a stack, CONFLICT while it is being changed."""
    state = stack.existing()
    is_under_way = state.status == _BEING_DELETED
    if not is_under_way:
        stack.check_is_at_rest(state)
    resources = [one for one in stack.resources() if one["ResourceStatus"] != "DELETE_COMPLETE"]
    outputs = state.outputs
    kept = tuple((kind, outputs[name]) for name, kind in _KEPT.items() if name in outputs)
    return Plan(
        state=state,
        kept=kept,
        parameters=tuple(_parameters(aws, outputs["ParameterPath"])) if "ParameterPath" in outputs else (),
        task_definitions=tuple(_families(aws, outputs["TaskFamilyPrefix"])) if "TaskFamilyPrefix" in outputs else (),
        running_tasks=tuple(_listed(aws, outputs["ClusterName"], "RUNNING"))
        if "ClusterName" in outputs and not is_under_way
        else (),
        resources=len(resources) - len(kept),
        is_under_way=is_under_way,
    )


def told_plan(plan: Plan) -> list[str]:
    lines = [f"keeps the {kind} {name}" for kind, name in plan.kept]
    lines.append(
        f"deletes {plan.resources} resources: functions, queues, roles, the cluster, alarms, logs in CloudWatch"
    )
    lines.append("deletes what is in the staging bucket, and the key for secrets (AWS keeps it for 30 days)")
    lines.append(f"deletes {len(plan.parameters)} parameters: members' secrets, and the deployment's own")
    lines.append(f"deregisters the task definitions of {len(plan.task_definitions)} images")
    if plan.running_tasks:
        lines.append(f"stops {len(plan.running_tasks)} running commands; what waits is not started")
    return lines


def clear_cluster(aws: Aws, cluster: str, talk: Talk, *, stop_tasks: bool, pause: float) -> None:
    """Return when no task of it lives: ECS deletes no cluster before, and no network that a task is in. What is started
    meanwhile is stopped as well, or CONFLICT."""
    deadline = time.monotonic() + _STOPPED_SECONDS
    asked: set[str] = set()
    told = False
    while True:
        running = _listed(aws, cluster, "RUNNING")
        if running and not stop_tasks:
            raise _still_running(len(running))
        for task in running:
            if task not in asked:
                with calling("stopping a task"):
                    aws.client("ecs").stop_task(cluster=cluster, task=task, reason="the deployment is being destroyed")
                asked.add(task)
        living = _living(aws, cluster, list(dict.fromkeys([*running, *_listed(aws, cluster, "STOPPED")])))
        if not living:
            return
        if time.monotonic() > deadline:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"{living} tasks of the cluster {cluster} were to stop, and have not for {_STOPPED_SECONDS} s",
                "Look at them in ECS; then destroy the deployment again.",
            )
        if not told:
            talk.say(f"waiting for {living} tasks to stop, two minutes and a little at most")
            told = True
        time.sleep(pause)


def _clear(aws: Aws, plan: Plan) -> None:
    """What would keep CloudFormation from deleting a resource, and what functions made. What nobody can bring back goes last."""
    if "StagingBucket" in plan.state.outputs:
        _empty(aws, plan.state.outputs["StagingBucket"])
    for family in plan.task_definitions:
        with calling("deregistering task definitions"):
            pages = (
                aws.client("ecs").get_paginator("list_task_definitions").paginate(familyPrefix=family, status="ACTIVE")
            )
            for arn in [arn for page in pages for arn in page["taskDefinitionArns"]]:
                aws.client("ecs").deregister_task_definition(taskDefinition=arn)
    for at in range(0, len(plan.parameters), _BATCH):
        with calling("deleting secrets"):
            aws.client("ssm").delete_parameters(Names=list(plan.parameters[at : at + _BATCH]))


def _empty(aws: Aws, bucket: str) -> None:
    """It may be gone: a deletion that is under way, or that failed at something else, took it."""
    from botocore.exceptions import ClientError

    s3 = aws.client("s3")
    with calling(f"emptying the bucket {bucket}"):
        try:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for found in page.get("Contents", ()):
                    s3.delete_object(Bucket=bucket, Key=found["Key"])
        except ClientError as error:
            if code_of(error) != "NoSuchBucket":
                raise


def _delete(stack: Stack, plan: Plan, talk: Talk) -> None:
    stack_id = plan.state.stack_id
    since = stack.last_event(stack_id)
    if not plan.is_under_way:
        with calling(f"deleting the stack {stack.name}"):
            stack.client.delete_stack(StackName=stack_id)
    try:
        state = stack.follow(stack_id, since, lambda event: talk.say(f"  {shown(event)}"))
    except KeyboardInterrupt:
        talk.say("CloudFormation goes on without us: `runvoy infra status` shows where it is")
        raise
    if state.status != "DELETE_COMPLETE":
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"the stack {stack.name} could not be deleted ({state.status}):\n" + "\n".join(stack.reasons(state)),
            "Mend what the reasons name, and destroy it again.",
        )


def _parameters(aws: Aws, path: str) -> list[str]:
    with calling("listing the deployment's secrets"):
        pages = aws.client("ssm").get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True)
        return [parameter["Name"] for page in pages for parameter in page["Parameters"]]


def _families(aws: Aws, prefix: str) -> list[str]:
    with calling("listing task definitions"):
        client = aws.client("ecs")
        pages = client.get_paginator("list_task_definition_families").paginate(familyPrefix=prefix, status="ACTIVE")
        return [family for page in pages for family in page["families"]]


def _still_running(count: int) -> RunvoyError:
    return RunvoyError(
        ErrorCode.CONFLICT,
        f"{count} commands still run in this deployment",
        "Wait for them, `runvoy kill` them, or give --stop-tasks.",
    )


def _living(aws: Aws, cluster: str, tasks: list[str]) -> int:
    """How many of them have not stopped: one that is to be stopped is listed as STOPPED from that moment on."""
    living = 0
    for at in range(0, len(tasks), _LISTED):
        with calling("describing tasks"):
            found = aws.client("ecs").describe_tasks(cluster=cluster, tasks=tasks[at : at + _LISTED])["tasks"]
        living += sum(task["lastStatus"] != "STOPPED" for task in found)
    return living


def _listed(aws: Aws, cluster: str, desired: str) -> list[str]:
    """Tasks that are to be in this status; none where the cluster went before, in a deletion that failed at something else."""
    from botocore.exceptions import ClientError

    with calling("listing tasks"):
        request: dict[str, Any] = {"cluster": cluster, "desiredStatus": desired, "maxResults": _LISTED}
        try:
            pages = aws.client("ecs").get_paginator("list_tasks").paginate(**request)
            return [arn for page in pages for arn in page["taskArns"]]
        except ClientError as error:
            if code_of(error) != "ClusterNotFoundException":
                raise
            return []
