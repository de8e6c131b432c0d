"""`just localstack`: the buckets, queues, table, key and role of a deployment on a LocalStack, without CloudFormation.

Prints the environment that the functions would be given, as `NAME=value` lines; or becomes the command that is given after
`--`, with that environment. Making what is there already changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from runvoy_infra.deploy.aws import Aws, calling, code_of
from runvoy_protocol import aws_layout
from runvoy_protocol.errors import RunvoyError

DEFAULT_NAME = "localstack"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="localstack", description="Make a deployment's resources on a LocalStack.")
    parser.add_argument("--region", default="us-east-1", help="as LocalStack understands it")
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="a part of the names of all that is made: several may be side by side"
    )
    parser.add_argument("command", nargs="*", help="run this with the environment, instead of printing it")
    chosen = parser.parse_args(arguments)
    try:
        environment = make(Aws(chosen.region), chosen.name)
    except RunvoyError as error:
        sys.stderr.write(f"localstack: {error.message}\n")
        return 1
    if chosen.command:
        os.execvpe(chosen.command[0], chosen.command, {**os.environ, **environment})  # noqa: S606 - it is what was asked
    for name, value in environment.items():
        sys.stdout.write(f"{name}={value}\n")
    return 0


def make(aws: Aws, name: str = DEFAULT_NAME) -> dict[str, str]:
    """Make what is missing; the functions' environment, but for what is about ECS."""
    prefix = f"runvoy-{name}"
    buckets = {
        aws_layout.ENV_INBOX_BUCKET: f"{prefix}-inbox",
        aws_layout.ENV_OUTBOX_BUCKET: f"{prefix}-outbox",
        aws_layout.ENV_STAGING_BUCKET: f"{prefix}-staging",
    }
    for bucket in buckets.values():
        _bucket(aws, bucket)
    environment = buckets | {
        "AWS_DEFAULT_REGION": aws.region,
        aws_layout.ENV_DEPLOYMENT: f"aws-{name}",
        aws_layout.ENV_TABLE: _table(aws, prefix),
        aws_layout.ENV_ENCRYPTION_KEY: _key(aws, f"alias/{prefix}"),
        aws_layout.ENV_PRESIGN_ROLE: _presign_role(aws, prefix),
    }
    for queue in aws_layout.QUEUES:
        url, dead_letters = _queue(aws, f"{prefix}-{queue}")
        environment |= {aws_layout.queue_variable(queue): url, aws_layout.dead_letters_variable(queue): dead_letters}
    inbox_queue = environment[aws_layout.queue_variable("inbox")]
    _version_and_notify(aws, buckets[aws_layout.ENV_INBOX_BUCKET], _arn_of(aws, inbox_queue))
    return environment


def _bucket(aws: Aws, name: str) -> None:
    from botocore.exceptions import ClientError

    place: dict[str, Any] = {}
    if aws.region != "us-east-1":
        place["CreateBucketConfiguration"] = {"LocationConstraint": aws.region}
    with calling(f"making the bucket {name}"):
        try:
            aws.client("s3").create_bucket(Bucket=name, **place)
        except ClientError as error:
            if code_of(error) != "BucketAlreadyOwnedByYou":
                raise


def _version_and_notify(aws: Aws, bucket: str, queue_arn: str) -> None:
    s3 = aws.client("s3")
    with calling(f"setting up the bucket {bucket}"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        told = {
            "QueueArn": queue_arn,
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "requests/"}]}},
        }
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]}
        )


def _queue(aws: Aws, name: str) -> tuple[str, str]:
    """The URL of a queue, and that of its dead letters."""
    sqs = aws.client("sqs")
    with calling(f"making the queue {name}"):
        dead = sqs.create_queue(QueueName=f"{name}-dead-letters")["QueueUrl"]
        redrive = {"deadLetterTargetArn": _arn_of(aws, dead), "maxReceiveCount": aws_layout.MAX_RECEIVES}
        made = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": json.dumps(redrive)})
        policy = {"Policy": _document(_fed_by_buckets(_arn_of(aws, made["QueueUrl"])))}
        sqs.set_queue_attributes(QueueUrl=made["QueueUrl"], Attributes=policy)
    return str(made["QueueUrl"]), str(dead)


def _fed_by_buckets(queue_arn: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
    }


def _arn_of(aws: Aws, url: str) -> str:
    with calling("reading a queue's ARN"):
        found = aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(found["Attributes"]["QueueArn"])


def _table(aws: Aws, name: str) -> str:
    from botocore.exceptions import ClientError

    client = aws.client("dynamodb")
    with calling(f"making the table {name}"):
        try:
            client.create_table(TableName=name, **table_request())
            client.get_waiter("table_exists").wait(TableName=name)
            client.update_time_to_live(
                TableName=name,
                TimeToLiveSpecification={"Enabled": True, "AttributeName": aws_layout.TTL_ATTRIBUTE},
            )
        except ClientError as error:
            if code_of(error) != "ResourceInUseException":
                raise
    return name


def table_request() -> dict[str, Any]:
    """The table as CreateTable takes it."""
    attributes, indexes = [aws_layout.KEY_ATTRIBUTE], []
    for index in aws_layout.INDEXES:
        keys = [aws_layout.partition_attribute(index), aws_layout.sort_attribute(index)]
        attributes += keys
        indexes.append(
            {
                "IndexName": aws_layout.index_name(index),
                "KeySchema": _key_schema(*keys),
                "Projection": {"ProjectionType": "ALL"},
            }
        )
    return {
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": _key_schema(aws_layout.KEY_ATTRIBUTE),
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in attributes],
        "GlobalSecondaryIndexes": indexes,
    }


def _key_schema(*names: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)]


def _key(aws: Aws, alias: str) -> str:
    from botocore.exceptions import ClientError

    kms = aws.client("kms")
    with calling("making the key"):
        try:
            return str(kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"])
        except ClientError as error:
            if code_of(error) != "NotFoundException":
                raise
        made = kms.create_key(Description=f"{alias}, on LocalStack")["KeyMetadata"]
        kms.create_alias(AliasName=alias, TargetKeyId=made["KeyId"])
    return str(made["Arn"])


def _presign_role(aws: Aws, prefix: str) -> str:
    from botocore.exceptions import ClientError

    iam, name = aws.client("iam"), f"{prefix}-presign"
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": aws.account()}}
    actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"]
    may = {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::{prefix}-*"}
    with calling(f"making the role {name}"):
        try:
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=_document(trust))
        except ClientError as error:
            if code_of(error) != "EntityAlreadyExists":
                raise
        iam.put_role_policy(RoleName=name, PolicyName="objects", PolicyDocument=_document(may))
        return str(iam.get_role(RoleName=name)["Role"]["Arn"])


def _document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


if __name__ == "__main__":
    sys.exit(main())
