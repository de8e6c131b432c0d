"""What an upgrade of a deployment leaves as it is."""

from __future__ import annotations

import pytest

FUNCTIONS = ("Inbox", "Starts", "Ends", "Control", "Reconcile")

# Another name in the template is another resource to CloudFormation: the old one goes, with all that is in it or that knows of it.
STANDING = {
    "AWS::S3::Bucket": {"Inbox", "Outbox", "Staging"},
    "AWS::DynamoDB::Table": {"Records"},
    "AWS::KMS::Key": {"Cmk0E70AD9C"},  # secrets are encrypted with it
    "AWS::Lambda::Url": {"ControlUrl"},  # every client's endpoint
    "AWS::Lambda::Function": {f"{name}Function" for name in FUNCTIONS},  # the URL is the function's
    "AWS::ECS::Cluster": {"Cluster"},  # what runs is found in it
    "AWS::IAM::Role": {  # task definitions that are registered name the first two; those who trust a role know it by its id
        "ExecutionRole605A040B",
        "TaskRole30FC0FBB",
        "PresignRoleE08F539A",
        "InboxRole744B32D4",
        "StartsRoleB9369031",
        "EndsRole43BAB5F5",
        "ControlRole82AED754",
        "ReconcileRole90F75AB5",
    },
    "AWS::SQS::Queue": {  # messages
        "InboxQueue51E39F61",
        "RangesQueue20594E7F",
        "StartsQueue3D512B35",
        "BulkQueueC6016202",
        "EndsQueueCF9B0EA3",
        "InboxDeadLetters28F19700",
        "RangesDeadLetters74810CA2",
        "StartsDeadLetters366EBAF6",
        "BulkDeadLettersC5A79B5A",
        "EndsDeadLetters9C7DDB69",
    },
    "AWS::Logs::LogGroup": {"TaskLogs", *(f"{name}Logs" for name in FUNCTIONS)},
    "AWS::SNS::Topic": {"Alarms04B5A0BF"},  # subscriptions
}
# Of these a change of the property replaces the resource, though its name in the template stays.
REPLACED_BY = {
    "AWS::S3::Bucket": {"BucketName"},
    "AWS::DynamoDB::Table": {"TableName", "ImportSourceSpecification"},
    "AWS::KMS::Key": {"KeySpec", "KeyUsage", "MultiRegion"},
    "AWS::Lambda::Function": {"FunctionName", "PackageType"},
    "AWS::ECS::Cluster": {"ClusterName"},
    "AWS::IAM::Role": {"RoleName", "Path"},
    "AWS::SQS::Queue": {"QueueName", "FifoQueue"},
    "AWS::Logs::LogGroup": {"LogGroupName"},
    "AWS::SNS::Topic": {"TopicName", "FifoTopic"},
}


@pytest.mark.parametrize("kind", STANDING)
def test_an_upgrade_replaces_nothing_that_holds_data_or_is_known_outside(kind, template):
    """What is added here stays. What is taken off, or comes by another name, takes a migration that the changelog tells of."""
    found = template.of_type(kind)
    assert set(found) == STANDING[kind]
    for one in found.values():
        assert not set(one.get("Properties", ())) & REPLACED_BY.get(kind, set())
