"""The queues, each with its dead letters."""

from __future__ import annotations

from typing import NamedTuple

import aws_cdk
from aws_cdk import CfnResource, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs

from runvoy_protocol import aws_layout

FUNCTION_TIMEOUT_SECONDS = 60
# AWS's advice for a queue that feeds a function: six of its timeouts, so that a throttled batch is not received again.
VISIBILITY_SECONDS = 6 * FUNCTION_TIMEOUT_SECONDS
KEPT_DAYS = 14
_FED_BY_BUCKETS = ("inbox", "ends")


class QueueWithDeadLetters(NamedTuple):
    """`policy` is to be there before a bucket sends to the queue: S3 tries it out."""

    queue: sqs.Queue
    dead_letters: sqs.Queue
    policy: CfnResource

    @property
    def arn(self) -> str:
        return str(self.queue.queue_arn)


class Queues:
    """Queues have no names of their own: a stack may stand beside another."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.by_name = {name: self._make(name) for name in aws_layout.QUEUES}
        self.inbox = self.by_name["inbox"]
        self.ends = self.by_name["ends"]

    def _make(self, name: str) -> QueueWithDeadLetters:
        title = name.capitalize()
        dead_letters = sqs.Queue(
            self._stack,
            f"{title}DeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(KEPT_DAYS),
        )
        queue = sqs.Queue(
            self._stack,
            f"{title}Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(KEPT_DAYS),
            visibility_timeout=Duration.seconds(VISIBILITY_SECONDS),
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=aws_layout.MAX_RECEIVES, queue=dead_letters),
        )
        if name in _FED_BY_BUCKETS:
            queue.add_to_resource_policy(self._bucket_events(queue))
        policy = queue.node.find_child("Policy").node.default_child
        return QueueWithDeadLetters(queue, dead_letters, policy)

    def _bucket_events(self, queue: sqs.Queue) -> iam.PolicyStatement:
        """By account, not by bucket: the bucket's notifications name the queue already."""
        return iam.PolicyStatement(
            sid="EventsOfBuckets",
            principals=[iam.ServicePrincipal("s3.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[queue.queue_arn],
            conditions={"StringEquals": {"aws:SourceAccount": aws_cdk.Aws.ACCOUNT_ID}},
        )
