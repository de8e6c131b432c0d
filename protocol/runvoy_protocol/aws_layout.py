"""What a deployment on AWS is laid out like: the names that whoever makes the resources and whoever uses them must share.

The stack and the functions never import each other; both read this. Changing a value here is a migration.
"""

from __future__ import annotations

import hashlib

# --- The table --------------------------------------------------------------------------------------------------------

KEY_ATTRIBUTE = "pk"
"""The table's only key, a string: the record's key."""

TTL_ATTRIBUTE = "forget_at"
"""Epoch seconds, a number: when DynamoDB may delete the item. A day after nobody sees it any more."""

INDEXES = (
    "day",
    "updated_hour",
    "owner",
    "active",
    "audit_day",
    "audit_execution",
    "grantees",
    "locks",
    "kind",
)
"""One global secondary index each, sparse, with all attributes projected. CloudFormation makes one index per update, so
a new name here is a deployment of its own."""


def index_name(index: str) -> str:
    return f"ix_{index}"


def partition_attribute(index: str) -> str:
    """The index's partition key, a string."""
    return f"ix_{index}_pk"


def sort_attribute(index: str) -> str:
    """The index's sort key, a string: the entry's sort, NUL, the record's key."""
    return f"ix_{index}_sk"


# --- Queues and functions ---------------------------------------------------------------------------------------------

FED_BY = {"inbox": "inbox", "ranges": "inbox", "starts": "starts", "bulk": "starts", "ends": "ends"}
"""The function that each queue feeds. What batches bring has queues of its own, to be admitted and to be started."""

QUEUES = tuple(FED_BY)
MAX_RECEIVES = 5
"""Receives of a message before it is a dead letter."""

FUNCTIONS = {
    "inbox": "runvoy_agent.wiring_aws.inbox_function",
    "starts": "runvoy_agent.wiring_aws.starts_function",
    "ends": "runvoy_agent.wiring_aws.ends_function",
    "control": "runvoy_agent.wiring_aws.control_function",
    "reconcile": "runvoy_agent.wiring_aws.reconcile_function",
}
"""The handler of each function. `control` and `reconcile` are fed by no queue. All others report batch item failures."""

# --- The functions' environment ---------------------------------------------------------------------------------------

ENV_DEPLOYMENT = "RUNVOY_DEPLOYMENT_ID"
ENV_TABLE = "RUNVOY_TABLE"
ENV_INBOX_BUCKET = "RUNVOY_INBOX_BUCKET"
ENV_OUTBOX_BUCKET = "RUNVOY_OUTBOX_BUCKET"
ENV_STAGING_BUCKET = "RUNVOY_STAGING_BUCKET"
ENV_PRESIGN_ROLE = "RUNVOY_PRESIGN_ROLE_ARN"
ENV_ENCRYPTION_KEY = "RUNVOY_ENCRYPTION_KEY_ARN"
ENV_CLUSTER = "RUNVOY_CLUSTER"
ENV_SUBNETS = "RUNVOY_SUBNETS"  # ids, by commas
ENV_SECURITY_GROUPS = "RUNVOY_SECURITY_GROUPS"  # ids, by commas
ENV_PUBLIC_IP = "RUNVOY_ASSIGN_PUBLIC_IP"  # ENABLED or DISABLED
ENV_KEEP_DAYS = "RUNVOY_KEEP_DAYS"  # 0 keeps the records of executions for ever
ENV_CAPACITY_PROVIDER = "RUNVOY_CAPACITY_PROVIDER"  # FARGATE or FARGATE_SPOT


def queue_variable(queue: str) -> str:
    """The variable with a queue's URL."""
    return f"RUNVOY_{queue.upper()}_QUEUE_URL"


def dead_letters_variable(queue: str) -> str:
    """The variable with the URL of a queue's dead letters; the reconciler counts them."""
    return f"RUNVOY_{queue.upper()}_DEAD_LETTERS_URL"


# --- Secrets ----------------------------------------------------------------------------------------------------------


def parameter_path(deployment_id: str) -> str:
    """The path under which the deployment keeps all its parameters: members' secrets, and its own."""
    return f"/runvoy/{deployment_id}"


# --- Tasks ------------------------------------------------------------------------------------------------------------

DEFAULT_PLATFORM = "linux/arm64"
MAIN_CONTAINER = "main"
RUNNER_CONTAINER = "runner"
TASK_ENV_EXECUTION = "RUNVOY_EXECUTION_ID"
TASK_ENV_PAYLOAD = "RUNVOY_PAYLOAD_URL"


def task_family(deployment_id: str, image: str, platform: str | None) -> str:
    """The family of the task definition of an image's reference on a platform (None: the deployment's own). However many
    names it is registered under, it is one."""
    meant = f"{image}\0{platform or DEFAULT_PLATFORM}".encode()
    return f"{family_prefix(deployment_id)}{hashlib.sha256(meant).hexdigest()[:32]}"


def task_name(execution_id: str, attempt: int) -> str:
    """What one attempt's task is known by to ECS: its client token and its startedBy."""
    return f"{execution_id}-{attempt}"


def parse_task_name(name: str) -> tuple[str, int] | None:
    """Execution id and attempt; None for the name of something that runvoy did not start."""
    execution_id, _, attempt = name.rpartition("-")
    if not execution_id or not attempt.isascii() or not attempt.isdigit() or len(attempt) > 6:
        return None
    return execution_id, int(attempt)


# --- Metrics ----------------------------------------------------------------------------------------------------------

METRICS_NAMESPACE = "Runvoy"
METRIC_ACCEPTED = "Accepted"
METRIC_REFUSED = "Refused"  # dimension code
METRIC_STARTED = "Started"
METRIC_LOCK_WAIT = "LockWait"  # seconds, of executions that named locks
METRIC_QUEUE_AGE = "QueueAge"  # seconds from sending to handling; dimension queue
METRIC_FAILED_DELIVERIES = "FailedDeliveries"  # dimension queue
METRIC_DEAD_LETTERS = "DeadLetters"  # dimension queue; a gauge, written by the reconciler
METRIC_REPAIRS = "Repairs"
# Users whose quotas were counted wrongly: a bug, or a record that somebody changed.
METRIC_CORRECTED = "CorrectedCounts"
METRIC_LEFT = "LeftForTheNextRound"  # executions of which ECS said nothing to the reconciler
DIMENSION_DEPLOYMENT = "deployment"

ENV_RUNNER_ENDPOINT = "RUNVOY_RUNNER_ENDPOINT"
"""The function URL, told to `starts` alone: what a new task's runner renews its grant with. The control function cannot be
told of it (the URL is made of the function), and sees it in every call."""

# --- Besides: what registering images and the first admin need -----------------------------------------------------------

ENV_EXECUTION_ROLE = "RUNVOY_EXECUTION_ROLE_ARN"
ENV_TASK_ROLE = "RUNVOY_TASK_ROLE_ARN"  # of images that name none; may do nothing
ENV_TASK_ROLES = "RUNVOY_TASK_ROLE_ARNS"  # that images may name, by commas; may be empty
ENV_TASK_LOG_GROUP = "RUNVOY_TASK_LOG_GROUP"
ENV_WEB_ORIGINS = "RUNVOY_WEB_ORIGINS"  # whose pages may call, by commas; may be empty
ENV_RUNNER_IMAGE = "RUNVOY_RUNNER_IMAGE"


def family_prefix(deployment_id: str) -> str:
    """What the families of all task definitions of a deployment begin with."""
    return f"runvoy-{deployment_id}-"


SEED_ADMIN = "seed_admin"
"""The one key of the event with which the control function is invoked to make the first admin (docs/aws-table.md)."""
