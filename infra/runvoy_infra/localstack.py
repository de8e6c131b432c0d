"""`just localstack`: the buckets, queues, table and key of a deployment on a LocalStack, without CloudFormation.

Prints the environment that the functions would be given, as `NAME=value` lines. Making what is there already changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from runvoy_infra.deploy.aws import Aws, calling, code_of
from runvoy_protocol import aws_layout

DEPLOYMENT_ID = "aws-localstack"
_KEY_ALIAS = "alias/runvoy-localstack"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="localstack", description="Make a deployment's resources on a LocalStack.")
    parser.add_argument("--region", default="us-east-1", help="as LocalStack understands it")
    chosen = parser.parse_args(arguments)
    for name, value in make(Aws(chosen.region)).items():
        sys.stdout.write(f"{name}={value}\n")
    return 0


def make(aws: Aws) -> dict[str, str]:
    """Make what is missing; the functions' environment."""
    queues = {name: _queue(aws, name) for name in aws_layout.QUEUES}
    buckets = {name: f"runvoy-localstack-{name}" for name in ("inbox", "outbox", "staging")}
    for bucket in buckets.values():
        _bucket(aws, bucket)
    _version_and_notify(aws, buckets["inbox"], _arn_of(aws, queues["inbox"]))
    environment = {
        aws_layout.ENV_DEPLOYMENT: DEPLOYMENT_ID,
        aws_layout.ENV_TABLE: _table(aws),
        aws_layout.ENV_INBOX_BUCKET: buckets["inbox"],
        aws_layout.ENV_OUTBOX_BUCKET: buckets["outbox"],
        aws_layout.ENV_STAGING_BUCKET: buckets["staging"],
        aws_layout.ENV_ENCRYPTION_KEY: _key(aws),
    }
    return environment | {aws_layout.queue_variable(name): url for name, url in queues.items()}


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


def _queue(aws: Aws, name: str) -> str:
    sqs = aws.client("sqs")
    with calling(f"making the queue {name}"):
        dead = sqs.create_queue(QueueName=f"runvoy-localstack-{name}-dead-letters")["QueueUrl"]
        redrive = {"deadLetterTargetArn": _arn_of(aws, dead), "maxReceiveCount": aws_layout.MAX_RECEIVES}
        made = sqs.create_queue(
            QueueName=f"runvoy-localstack-{name}", Attributes={"RedrivePolicy": json.dumps(redrive)}
        )
        policy = {"Policy": json.dumps(_fed_by_buckets(_arn_of(aws, made["QueueUrl"])))}
        sqs.set_queue_attributes(QueueUrl=made["QueueUrl"], Attributes=policy)
    return str(made["QueueUrl"])


def _fed_by_buckets(queue_arn: str) -> dict[str, Any]:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _arn_of(aws: Aws, url: str) -> str:
    with calling("reading a queue's ARN"):
        found = aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(found["Attributes"]["QueueArn"])


def _table(aws: Aws) -> str:
    from botocore.exceptions import ClientError

    name, client = "runvoy-localstack", aws.client("dynamodb")
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


def _key(aws: Aws) -> str:
    from botocore.exceptions import ClientError

    kms = aws.client("kms")
    with calling("making the key"):
        try:
            return str(kms.describe_key(KeyId=_KEY_ALIAS)["KeyMetadata"]["Arn"])
        except ClientError as error:
            if code_of(error) != "NotFoundException":
                raise
        made = kms.create_key(Description="runvoy on LocalStack")["KeyMetadata"]
        kms.create_alias(AliasName=_KEY_ALIAS, TargetKeyId=made["KeyId"])
    return str(made["Arn"])


if __name__ == "__main__":
    sys.exit(main())
