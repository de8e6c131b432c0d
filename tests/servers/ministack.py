"""MiniStack: AWS's APIs on loopback, by people who wrote nothing of runvoy. IAM is enforced (AUTH=true)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.processes import free_ports, installed, running

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_protocol import aws_layout

REQUIREMENT = "ministack==1.5.33"
REGION = "eu-west-1"
ACCOUNT = "000000000000"
HEALTH = "/_ministack/health"
_ROOT = Credentials("test", "test")
_SERVICES = ("dynamodb", "ecs", "iam", "kms", "lambda", "s3", "sqs", "ssm", "sts")

# What the functions may do, all of them together; the stack gives each its part.
FUNCTION_ACTIONS = [
    "dynamodb:GetItem",
    "dynamodb:BatchGetItem",
    "dynamodb:Query",
    "dynamodb:UpdateItem",
    "dynamodb:ConditionCheckItem",
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:ListBucket",
    "sqs:SendMessage",
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "ssm:PutParameter",
    "ssm:GetParameter",
    "ssm:GetParameters",
    "ssm:GetParametersByPath",
    "ssm:DeleteParameters",
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "sts:AssumeRole",
]


class MiniStack:
    """A running server: `admin` makes resources; `functions` has an IAM user's keys and may do what the functions may."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._names = itertools.count(1)
        self.admin = self.clients(_ROOT)
        self.key_arn = str(self.admin.get("kms").create_key()["KeyMetadata"]["Arn"])
        self.functions = self.clients(self.user("functions", FUNCTION_ACTIONS))
        self.presign_role = self._presign_role()

    def clients(self, credentials: Credentials) -> Clients:
        endpoints = dict.fromkeys(_SERVICES, self.url)
        return Clients(region=REGION, credentials=credentials, endpoints=endpoints)

    def name(self, kind: str) -> str:
        """A name that nothing else has."""
        return f"runvoy-{kind}-{next(self._names)}"

    def user(self, name: str, actions: list[str]) -> Credentials:
        """The keys of a new IAM user who may do that."""
        iam = self.admin.get("iam")
        iam.create_user(UserName=name)
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def bucket(self, *, versioned: bool = False) -> str:
        name = self.name("bucket")
        s3 = self.admin.get("s3")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if versioned:
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def table(self) -> str:
        name = self.name("table")
        self.admin.get("dynamodb").create_table(**table_request(name))
        return name

    def queue(self, *, visibility_seconds: int = 30) -> str:
        attributes = {"VisibilityTimeout": str(visibility_seconds)}
        answer = self.admin.get("sqs").create_queue(QueueName=self.name("queue"), Attributes=attributes)
        return str(answer["QueueUrl"])

    def _presign_role(self) -> str:
        iam = self.admin.get("iam")
        trust = [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/functions"},
            }
        ]
        may = [
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"],
                "Resource": "*",
            }
        ]
        made = iam.create_role(RoleName="presign", AssumeRolePolicyDocument=_document(trust))
        iam.put_role_policy(RoleName="presign", PolicyName="all", PolicyDocument=_document(may))
        return str(made["Role"]["Arn"])


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def table_request(name: str) -> dict[str, Any]:
    """The table as the layout says it."""
    attributes = [aws_layout.KEY_ATTRIBUTE]
    indexes = []
    for index in aws_layout.INDEXES:
        partition, sort = aws_layout.partition_attribute(index), aws_layout.sort_attribute(index)
        attributes += [partition, sort]
        indexes.append(
            {
                "IndexName": aws_layout.index_name(index),
                "KeySchema": [
                    {"AttributeName": partition, "KeyType": "HASH"},
                    {"AttributeName": sort, "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        )
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": aws_layout.KEY_ATTRIBUTE, "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": attribute, "AttributeType": "S"} for attribute in attributes],
        "GlobalSecondaryIndexes": indexes,
    }


@contextmanager
def ministack(cache: Path, folder: Path) -> Iterator[MiniStack]:
    """Start it, with its state in `folder` and nothing of this machine's AWS configuration."""
    program = installed(cache, REQUIREMENT) / "ministack"
    (port,) = free_ports(1)
    with running([str(program)], folder, f"http://127.0.0.1:{port}{HEALTH}", environment(port, folder)):
        yield MiniStack(port)


def environment(port: int, folder: Path) -> dict[str, str]:
    """What the server is told."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
        "AUTH": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "LOG_LEVEL": "WARNING",
        "S3_DATA_DIR": str(folder / "s3"),
        "STATE_DIR": str(folder / "state"),
        "TMPDIR": str(folder),
    }
