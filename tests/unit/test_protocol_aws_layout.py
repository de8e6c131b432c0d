"""The names of a deployment on AWS: a stack that stands, and what lies in its table, hold to them."""

import pytest

from runvoy_protocol import aws_layout

NAMES = {
    "KEY_ATTRIBUTE": "pk",
    "TTL_ATTRIBUTE": "forget_at",
    "INDEXES": ("day", "updated_hour", "owner", "active", "audit_day", "audit_execution", "grantees", "locks", "kind"),
    "FED_BY": {"inbox": "inbox", "ranges": "inbox", "starts": "starts", "bulk": "starts", "ends": "ends"},
    "QUEUES": ("inbox", "ranges", "starts", "bulk", "ends"),
    "MAX_RECEIVES": 5,
    "FUNCTIONS": {
        name: f"runvoy_agent.wiring_aws.{name}_function" for name in ("inbox", "starts", "ends", "control", "reconcile")
    },
    "ENV_DEPLOYMENT": "RUNVOY_DEPLOYMENT_ID",
    "ENV_TABLE": "RUNVOY_TABLE",
    "ENV_INBOX_BUCKET": "RUNVOY_INBOX_BUCKET",
    "ENV_OUTBOX_BUCKET": "RUNVOY_OUTBOX_BUCKET",
    "ENV_STAGING_BUCKET": "RUNVOY_STAGING_BUCKET",
    "ENV_PRESIGN_ROLE": "RUNVOY_PRESIGN_ROLE_ARN",
    "ENV_ENCRYPTION_KEY": "RUNVOY_ENCRYPTION_KEY_ARN",
    "ENV_CLUSTER": "RUNVOY_CLUSTER",
    "ENV_SUBNETS": "RUNVOY_SUBNETS",
    "ENV_SECURITY_GROUPS": "RUNVOY_SECURITY_GROUPS",
    "ENV_PUBLIC_IP": "RUNVOY_ASSIGN_PUBLIC_IP",
    "ENV_KEEP_DAYS": "RUNVOY_KEEP_DAYS",
    "ENV_CAPACITY_PROVIDER": "RUNVOY_CAPACITY_PROVIDER",
    "ENV_RUNNER_ENDPOINT": "RUNVOY_RUNNER_ENDPOINT",
    "ENV_EXECUTION_ROLE": "RUNVOY_EXECUTION_ROLE_ARN",
    "ENV_TASK_ROLE": "RUNVOY_TASK_ROLE_ARN",
    "ENV_TASK_ROLES": "RUNVOY_TASK_ROLE_ARNS",
    "ENV_TASK_LOG_GROUP": "RUNVOY_TASK_LOG_GROUP",
    "ENV_WEB_ORIGINS": "RUNVOY_WEB_ORIGINS",
    "ENV_RUNNER_IMAGE": "RUNVOY_RUNNER_IMAGE",
    "DEFAULT_PLATFORM": "linux/arm64",
    "MAIN_CONTAINER": "main",
    "RUNNER_CONTAINER": "runner",
    "TASK_ENV_EXECUTION": "RUNVOY_EXECUTION_ID",
    "TASK_ENV_PAYLOAD": "RUNVOY_PAYLOAD_URL",
    "METRICS_NAMESPACE": "Runvoy",
    "METRIC_ACCEPTED": "Accepted",
    "METRIC_REFUSED": "Refused",
    "METRIC_STARTED": "Started",
    "METRIC_LOCK_WAIT": "LockWait",
    "METRIC_QUEUE_AGE": "QueueAge",
    "METRIC_FAILED_DELIVERIES": "FailedDeliveries",
    "METRIC_DEAD_LETTERS": "DeadLetters",
    "METRIC_REPAIRS": "Repairs",
    "METRIC_CORRECTED": "CorrectedCounts",
    "METRIC_LEFT": "LeftForTheNextRound",
    "DIMENSION_DEPLOYMENT": "deployment",
    "SEED_ADMIN": "seed_admin",
}


def test_every_name_stays():
    assert {name: value for name, value in vars(aws_layout).items() if name.isupper()} == NAMES


def test_names_that_are_made():
    assert aws_layout.index_name("day") == "ix_day"
    assert aws_layout.partition_attribute("day") == "ix_day_pk"
    assert aws_layout.sort_attribute("day") == "ix_day_sk"
    assert aws_layout.queue_variable("starts") == "RUNVOY_STARTS_QUEUE_URL"
    assert aws_layout.dead_letters_variable("starts") == "RUNVOY_STARTS_DEAD_LETTERS_URL"
    assert aws_layout.parameter_path("dep") == "/runvoy/dep"
    assert aws_layout.family_prefix("dep") == "runvoy-dep-"


def test_a_family_is_one_image_on_one_platform():
    family = aws_layout.task_family("dep", "alpine:3", None)
    assert family == "runvoy-dep-6f472e25554d04ac55935251112dca6e"
    assert family == aws_layout.task_family("dep", "alpine:3", "linux/arm64")
    others = [("dep", "alpine:3", "linux/amd64"), ("dep", "alpine:4", None), ("dep2", "alpine:3", None)]
    assert family not in {aws_layout.task_family(*other) for other in others}


def test_a_task_s_name_tells_its_attempt():
    for attempt in (0, 1, 999_999):
        assert aws_layout.parse_task_name(aws_layout.task_name("e" * 32, attempt)) == ("e" * 32, attempt)
    assert aws_layout.parse_task_name("a-b-7") == ("a-b", 7)


@pytest.mark.parametrize("name", ["", "e", "-1", "e-", "e-x", "e-²", "e-٣", "e-1000000", "e-0000001", "ecs-svc/12"])
def test_what_runvoy_did_not_start(name):
    assert aws_layout.parse_task_name(name) is None
