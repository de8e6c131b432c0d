"""What `just localstack` makes, on MiniStack: the same calls, another server. Docker is not needed to know that they work."""

import os

import pytest

from runvoy_infra import localstack
from runvoy_infra.deploy.aws import Aws
from runvoy_protocol import aws_layout

pytestmark = pytest.mark.slow


@pytest.fixture
def aws(ministack):
    before = dict(os.environ)
    os.environ.update(ministack.environment)
    yield Aws(None)
    os.environ.clear()
    os.environ.update(before)


def test_everything_is_made_once_and_a_request_reaches_its_queue(aws, ministack):
    made = localstack.make(aws)
    assert localstack.make(aws) == made
    assert {aws_layout.queue_variable(name) for name in aws_layout.QUEUES} <= set(made)
    table = ministack.client("dynamodb").describe_table(TableName=made[aws_layout.ENV_TABLE])["Table"]
    indexes = {one["IndexName"] for one in table["GlobalSecondaryIndexes"]}
    assert indexes == {aws_layout.index_name(index) for index in aws_layout.INDEXES}
    ministack.client("s3").put_object(Bucket=made[aws_layout.ENV_INBOX_BUCKET], Key="requests/a/b", Body=b"x")
    received = ministack.client("sqs").receive_message(
        QueueUrl=made[aws_layout.queue_variable("inbox")], WaitTimeSeconds=5, MaxNumberOfMessages=10
    )
    assert any("requests/a/b" in one["Body"] for one in received["Messages"])
