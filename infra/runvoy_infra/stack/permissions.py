"""What each function may do, and no more. The table in docs/aws-table.md says the same in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

from runvoy_infra.stack.queues import Queues
from runvoy_infra.stack.storage import Storage
from runvoy_infra.stack.tasks import Tasks

_RECORDS = (
    "dynamodb:GetItem",
    "dynamodb:BatchGetItem",
    "dynamodb:Query",
    # A transaction is allowed by its parts: every put is an update, a deleted record is a tombstone.
    "dynamodb:UpdateItem",
    "dynamodb:ConditionCheckItem",
)

_READ_PARAMETERS = ("ssm:GetParameter", "ssm:GetParameters")
# A value may be in several parameters, which are found by their path; by that path AWS judges who may list.
_DELETE_PARAMETERS = ("ssm:GetParametersByPath", "ssm:DeleteParameters")

_ARN = "arn:<AWS::Partition>:{service}:<AWS::Region>:<AWS::AccountId>:"
_STACK_UUID = '{"Fn::Select":[2,{"Fn::Split":["/",{"Ref":"AWS::StackId"}]}]}'


class Wildcard(NamedTuple):
    """A `*` in a resource, and why it must be: `mark` is how to know it in a policy, `finding` what cdk-nag calls it."""

    mark: str
    finding: str
    reason: str


WILDCARDS = (
    Wildcard(
        '"*"',
        "Resource::*",
        "Traces, ListTasks (bound to the cluster by a condition) and DeregisterTaskDefinition know no resources.",
    ),
    Wildcard("/requests/*", "Resource::<Inbox.Arn>/requests/*", "Every request is an object of its own."),
    Wildcard("/receipts/*", "Resource::<Outbox.Arn>/receipts/*", "Every receipt is an object of its own."),
    Wildcard("/executions/*", "Resource::<Outbox.Arn>/executions/*", "Every execution has a prefix of its own."),
    Wildcard(
        "/executions/*/run/*",
        "Resource::<Outbox.Arn>/executions/*/run/*",
        "Every run has a prefix of its own; the session policy of a grant names the one.",
    ),
    Wildcard("/payloads/*", "Resource::<Staging.Arn>/payloads/*", "Every payload is an object of its own."),
    Wildcard("/index/*", "Resource::<Records.Arn>/index/*", "The handlers query every index of the one table."),
    Wildcard(
        ":task-definition/runvoy-",
        f"Resource::{_ARN.format(service='ecs')}task-definition/runvoy-aws-{_STACK_UUID}-*",
        "Task definitions are made when images are registered; the prefix is this stack's own.",
    ),
    Wildcard(
        ":task/",
        f"Resource::{_ARN.format(service='ecs')}task/<Cluster>/*",
        "Tasks are made when commands start; the cluster is this stack's own.",
    ),
    Wildcard(
        "/secrets/*",
        f"Resource::{_ARN.format(service='ssm')}parameter/runvoy/aws-{_STACK_UUID}/secrets/*",
        "Members name their secrets; the prefix is this stack's own.",
    ),
    Wildcard(
        "/own/*",
        f"Resource::{_ARN.format(service='ssm')}parameter/runvoy/aws-{_STACK_UUID}/own/*",
        "The secrets adapter makes names of hashes; the prefix is for the deployment's own alone.",
    ),
)


def wildcards_in(stack: Stack, statements: Sequence[iam.PolicyStatement]) -> list[Wildcard]:
    """Those of the known wildcards that these statements have."""
    resolved = json.dumps([stack.resolve(statement.to_statement_json())["Resource"] for statement in statements])
    return [wildcard for wildcard in WILDCARDS if wildcard.mark in resolved]


class World(NamedTuple):
    """What permissions speak of. `secrets` are the parameters with members' secrets, `own` those of the deployment itself."""

    stack: Stack
    storage: Storage
    queues: Queues
    tasks: Tasks
    secrets: str
    own: str


def of_inbox(world: World) -> list[iam.PolicyStatement]:
    return [
        _records(world),
        *_read_inbox(world),
        *_outbox(world),
        _send(world, "ranges", "starts", "bulk"),
        *_read_own(world),
    ]


def of_starts(world: World) -> list[iam.PolicyStatement]:
    staging = world.storage.staging.attr_arn
    return [
        _records(world),
        *_outbox(world),
        _send(world, "starts", "bulk"),
        _allow("Payloads", ("s3:PutObject", "s3:DeleteObject"), f"{staging}/payloads/*"),
        _allow("EncryptPayloads", ("kms:GenerateDataKey", "kms:Decrypt"), world.storage.cmk.key_arn, via=(world, "s3")),
        _allow("RunTasks", ("ecs:RunTask",), world.tasks.task_definitions, cluster=world),
        _look_at_tasks(world),
        _find_tasks(world),
        _allow("StopTasks", ("ecs:StopTask",), world.tasks.tasks, cluster=world),
        _allow("TagTasks", ("ecs:TagResource",), world.tasks.tasks, created_by="RunTask"),
        _read_secrets(world),
        *_read_own(world),
    ]


def of_ends(world: World) -> list[iam.PolicyStatement]:
    return [
        _records(world),
        *_outbox(world),
        _send(world, "starts", "bulk"),
        *_read_own(world),
    ]


def of_control(world: World) -> list[iam.PolicyStatement]:
    return [
        _records(world),
        *_read_inbox(world),
        *_outbox(world),
        _send(world, "inbox", "ranges", "starts", "bulk", "ends"),
        _allow("RegisterImages", ("ecs:RegisterTaskDefinition",), world.tasks.task_definitions),
        _allow("TagImages", ("ecs:TagResource",), world.tasks.task_definitions, created_by="RegisterTaskDefinition"),
        # Neither knows resources.
        _allow("ForgetImages", ("ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition"), "*"),
        _look_at_tasks(world),
        _find_tasks(world),
        _allow("StopTasks", ("ecs:StopTask",), world.tasks.tasks, cluster=world),
        _allow("CountMessages", ("sqs:GetQueueAttributes",), *(one.arn for one in world.queues.by_name.values())),
        _allow(
            "RedriveDeadLetters",
            ("sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:DeleteMessage"),
            *(one.dead_letters.queue_arn for one in world.queues.by_name.values()),
        ),
        _read_secrets(world),
        _allow("WriteSecrets", ("ssm:PutParameter", *_DELETE_PARAMETERS), world.secrets),
        _allow("EncryptSecrets", ("kms:Encrypt", "kms:GenerateDataKey"), world.storage.cmk.key_arn, via=(world, "ssm")),
        *_read_own(world),
        _allow("MakeOwnSecret", ("ssm:PutParameter",), world.own),
    ]


def of_reconcile(world: World) -> list[iam.PolicyStatement]:
    return [
        _records(world),
        *_read_inbox(world),
        *_outbox(world),
        _send(world, "inbox", "starts", "bulk", "ends"),
        _allow(
            "CountDeadLetters",
            ("sqs:GetQueueAttributes",),
            *(q.dead_letters.queue_arn for q in world.queues.by_name.values()),
        ),
        _look_at_tasks(world),
        _find_tasks(world),
        _allow("StopTasks", ("ecs:StopTask",), world.tasks.tasks, cluster=world),
        # Values that no secret refers to any more. What it finds of them is encrypted, and it may not decrypt.
        _allow("DeleteSecrets", _DELETE_PARAMETERS, world.secrets),
    ]


def of_presigner(world: World) -> list[iam.PolicyStatement]:
    """All that a grant can ever reach. A session policy narrows it to one key, or to one run."""
    inbox, outbox = world.storage.inbox.attr_arn, world.storage.outbox.attr_arn
    staging = world.storage.staging.attr_arn
    return [
        _allow("UploadRequests", ("s3:PutObject",), f"{inbox}/requests/*"),
        _allow("ReadOutbox", ("s3:GetObject",), f"{outbox}/receipts/*", f"{outbox}/executions/*"),
        # Without it what is not there yet is 403, and clients could not tell it from what they may not see.
        _allow("ListOutbox", ("s3:ListBucket",), outbox),
        _allow("UploadRuns", ("s3:PutObject",), f"{outbox}/executions/*/run/*"),
        # The runner fetches its payload, and deletes it.
        _allow("TakePayloads", ("s3:GetObject", "s3:DeleteObject"), f"{staging}/payloads/*"),
        _allow("ListStaging", ("s3:ListBucket",), staging),
        _allow("DecryptPayloads", ("kms:Decrypt",), world.storage.cmk.key_arn, via=(world, "s3")),
    ]


def pass_roles(roles: Sequence[str], sid: str) -> iam.PolicyStatement:
    """Exact roles, to ECS tasks alone."""
    return iam.PolicyStatement(
        sid=sid,
        actions=["iam:PassRole"],
        resources=list(roles),
        conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
    )


def _records(world: World) -> iam.PolicyStatement:
    table = world.storage.table.table_arn
    return _allow("Records", _RECORDS, table, f"{table}/index/*")


def _read_inbox(world: World) -> list[iam.PolicyStatement]:
    inbox = world.storage.inbox.attr_arn
    return [
        _allow("ReadInbox", ("s3:GetObject", "s3:GetObjectVersion"), f"{inbox}/requests/*"),
        _allow("ListInbox", ("s3:ListBucket",), inbox),
    ]


def _outbox(world: World) -> list[iam.PolicyStatement]:
    outbox = world.storage.outbox.attr_arn
    return [
        _allow("Outbox", ("s3:GetObject", "s3:PutObject"), f"{outbox}/receipts/*", f"{outbox}/executions/*"),
        _allow("ListOutbox", ("s3:ListBucket",), outbox),
    ]


def _send(world: World, *names: str) -> iam.PolicyStatement:
    return _allow("Send", ("sqs:SendMessage",), *(world.queues.by_name[name].arn for name in names))


def _look_at_tasks(world: World) -> iam.PolicyStatement:
    return _allow("DescribeTasks", ("ecs:DescribeTasks",), world.tasks.tasks, cluster=world)


def _find_tasks(world: World) -> iam.PolicyStatement:
    """ListTasks knows no tasks as resources: the condition is what binds it."""
    return _allow("FindTasks", ("ecs:ListTasks",), "*", cluster=world)


def _read_secrets(world: World) -> iam.PolicyStatement:
    return _allow("ReadSecrets", _READ_PARAMETERS, world.secrets)


def _read_own(world: World) -> list[iam.PolicyStatement]:
    """The secret that runners' keys and claim tokens are derived from (docs/adr/0010-the-deployments-own-secret.md)."""
    return [
        _allow("ReadOwnSecret", _READ_PARAMETERS, world.own),
        _allow("DecryptParameters", ("kms:Decrypt",), world.storage.cmk.key_arn, via=(world, "ssm")),
    ]


def _allow(
    sid: str,
    actions: Sequence[str],
    *resources: str,
    via: tuple[World, str] | None = None,
    cluster: World | None = None,
    created_by: str | None = None,
) -> iam.PolicyStatement:
    """`via`: only through that service; `cluster`: only in ours; `created_by`: only as part of that call of ECS."""
    conditions: dict[str, dict[str, str]] = {}
    if via is not None:
        world, service = via
        conditions["StringEquals"] = {"kms:ViaService": f"{service}.{world.stack.region}.{world.stack.url_suffix}"}
    if cluster is not None:
        conditions["ArnEquals"] = {"ecs:cluster": cluster.tasks.cluster.attr_arn}
    if created_by is not None:
        conditions["StringEquals"] = {"ecs:CreateAction": created_by}
    return iam.PolicyStatement(sid=sid, actions=list(actions), resources=list(resources), conditions=conditions or None)
