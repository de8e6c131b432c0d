"""What the stack tells its functions by their environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from runvoy_agent.aws.launcher import Network
from runvoy_agent.aws.queue import AwsQueueName
from runvoy_protocol import aws_layout


class SettingsError(Exception):
    """The environment is not that of a function of runvoy's stack."""


class TaskSettings(NamedTuple):
    """What runs commands on ECS. `task_role_arn` is the role of commands whose image names none of `task_role_arns`.
    `runner_endpoint` is empty in every function but `starts`."""

    cluster: str
    network: Network
    capacity_provider: Literal["FARGATE", "FARGATE_SPOT"]
    execution_role_arn: str
    task_role_arn: str
    task_role_arns: frozenset[str]
    task_log_group: str
    runner_image: str
    runner_endpoint: str


class Settings(NamedTuple):
    """`tasks` is None where commands run elsewhere than on ECS. `keep_days` 0 keeps the records of executions for ever."""

    deployment_id: str
    table: str
    inbox_bucket: str
    outbox_bucket: str
    staging_bucket: str
    presign_role_arn: str
    encryption_key_arn: str
    queue_urls: Mapping[AwsQueueName, str]
    dead_letters_urls: Mapping[AwsQueueName, str]
    tasks: TaskSettings | None = None
    keep_days: int = 0


def read(environment: Mapping[str, str], *, with_tasks: bool = True) -> Settings:
    """The settings, without those of ECS if so asked; SettingsError names every variable that is missing or wrong."""
    problems: list[str] = []

    def text(name: str) -> str:
        if not environment.get(name):
            problems.append(f"{name} is missing")
        return environment.get(name, "")

    def choice(name: str, choices: tuple[str, ...]) -> str:
        value = environment.get(name, choices[0])
        if value not in choices:
            problems.append(f"{name} is {value!r}, not one of {', '.join(choices)}")
        return value

    def days(name: str) -> int:
        value = environment.get(name, "0")
        if not value.isascii() or not value.isdigit():
            problems.append(f"{name} is {value!r}, not a number of days")
            return 0
        return int(value)

    def read_tasks() -> TaskSettings:
        public_ip = choice(aws_layout.ENV_PUBLIC_IP, ("ENABLED", "DISABLED"))
        provider = choice(aws_layout.ENV_CAPACITY_PROVIDER, ("FARGATE", "FARGATE_SPOT"))
        roles = environment.get(aws_layout.ENV_TASK_ROLES, "")
        return TaskSettings(
            cluster=text(aws_layout.ENV_CLUSTER),
            network=Network(
                subnets=[part for part in text(aws_layout.ENV_SUBNETS).split(",") if part],
                security_groups=[part for part in text(aws_layout.ENV_SECURITY_GROUPS).split(",") if part],
                public_ip="ENABLED" if public_ip == "ENABLED" else "DISABLED",
            ),
            capacity_provider="FARGATE" if provider == "FARGATE" else "FARGATE_SPOT",
            execution_role_arn=text(aws_layout.ENV_EXECUTION_ROLE),
            task_role_arn=text(aws_layout.ENV_TASK_ROLE),
            task_role_arns=frozenset(part for part in roles.split(",") if part),
            task_log_group=text(aws_layout.ENV_TASK_LOG_GROUP),
            runner_image=text(aws_layout.ENV_RUNNER_IMAGE),
            runner_endpoint=environment.get(aws_layout.ENV_RUNNER_ENDPOINT, "").rstrip("/"),
        )

    queues = cast("tuple[AwsQueueName, ...]", aws_layout.QUEUES)
    settings = Settings(
        deployment_id=text(aws_layout.ENV_DEPLOYMENT),
        table=text(aws_layout.ENV_TABLE),
        inbox_bucket=text(aws_layout.ENV_INBOX_BUCKET),
        outbox_bucket=text(aws_layout.ENV_OUTBOX_BUCKET),
        staging_bucket=text(aws_layout.ENV_STAGING_BUCKET),
        presign_role_arn=text(aws_layout.ENV_PRESIGN_ROLE),
        encryption_key_arn=text(aws_layout.ENV_ENCRYPTION_KEY),
        queue_urls={queue: text(aws_layout.queue_variable(queue)) for queue in queues},
        dead_letters_urls={queue: text(aws_layout.dead_letters_variable(queue)) for queue in queues},
        tasks=read_tasks() if with_tasks else None,
        keep_days=days(aws_layout.ENV_KEEP_DAYS),
    )
    if problems:
        raise SettingsError("; ".join(problems))
    return settings
