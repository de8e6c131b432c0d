"""The four queues, each with its dead letters."""

from __future__ import annotations

from typing import NamedTuple

import aws_cdk
from aws_cdk import CfnResource, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs

NAMES = ("inbox", "starts", "bulk", "ends")
MAX_RECEIVES = 5
FUNCTION_TIMEOUT_SECONDS = 60
# AWS's advice for a queue that feeds a function: six of its timeouts, so that a throttled batch is not received again.
VISIBILITY_SECONDS = 6 * FUNCTION_TIMEOUT_SECONDS
KEPT_DAYS = 14


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
        self.inbox = self._make("inbox", senders=[self._bucket_events()])
        self.starts = self._make("starts", senders=[])
        self.bulk = self._make("bulk", senders=[])
        self.ends = self._make("ends", senders=[self._bucket_events()])

    @property
    def by_name(self) -> dict[str, QueueWithDeadLetters]:
        return {"inbox": self.inbox, "starts": self.starts, "bulk": self.bulk, "ends": self.ends}

    def _make(self, name: str, senders: list[iam.PolicyStatement]) -> QueueWithDeadLetters:
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
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=MAX_RECEIVES, queue=dead_letters),
        )
        for sender in senders:
            sender.add_resources(queue.queue_arn)
            queue.add_to_resource_policy(sender)
        policy = queue.node.find_child("Policy").node.default_child
        return QueueWithDeadLetters(queue, dead_letters, policy)

    def _bucket_events(self) -> iam.PolicyStatement:
        """By account, not by bucket: the bucket's notifications name the queue already."""
        return iam.PolicyStatement(
            sid="EventsOfBuckets",
            principals=[iam.ServicePrincipal("s3.amazonaws.com")],
            actions=["sqs:SendMessage"],
            conditions={"StringEquals": {"aws:SourceAccount": aws_cdk.Aws.ACCOUNT_ID}},
        )
