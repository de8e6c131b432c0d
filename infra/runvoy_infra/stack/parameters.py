"""What whoever deploys may choose. Each has a default, but for the two that say where the code lies."""

from __future__ import annotations

import aws_cdk
from aws_cdk import CfnCondition, CfnParameter, Fn, Stack

RETENTION_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)

# What is wrong here is refused before anything is made; else functions or the first task would find out.
_ORIGIN = r"https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?"
_PATTERNS = {
    "TaskRoleArns": (
        r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=.@/-]+)?",
        "Whole ARNs of roles, by commas: no wildcards.",
    ),
    "WebOrigins": (
        f"({_ORIGIN})?",
        "Origins as browsers write them, by commas: https://host or https://host:port, no path.",
    ),
    "PermissionsBoundary": (
        r"(arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/[\w+=.,@/-]+)?",
        "The whole ARN of a policy.",
    ),
    "AlarmEmail": (r"([^@\s]+@[^@\s]+)?", "An e-mail address."),
    "VpcId": (r"(vpc-[0-9a-f]+)?", "The id of a VPC."),
    "SubnetIds": (r"(subnet-[0-9a-f]+(,subnet-[0-9a-f]+)*)?", "Ids of subnets, by commas and without spaces."),
}


class Parameters:
    """The template's parameters, and the conditions that follow from them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.code_bucket = self._text(
            "CodeBucket", "The bucket with the functions' code. `runvoy infra apply` sets it."
        )
        self.code_key = self._text("CodeKey", "The object with the functions' code. `runvoy infra apply` sets it.")
        self.architecture = self._choice(
            "Architecture", "arm64", ("arm64", "x86_64"), "What the functions run on; the code must be built for it."
        )
        self.runner_image = CfnParameter(
            stack,
            "RunnerImage",
            type="String",
            description="The runner's image, beside each command: a Python 3.11 or newer with /bin/sh. Pin it by digest.",
            default="public.ecr.aws/docker/library/python:3.13-alpine",
            allowed_pattern=r"[^@\s]+(@sha256:[0-9a-f]{64})?",
            constraint_description="An image's reference, if by digest then by a whole one: sha256: and 64 hex digits.",
        )
        self.capacity_provider = self._choice(
            "CapacityProvider",
            "FARGATE",
            ("FARGATE", "FARGATE_SPOT"),
            "What tasks run on. Spot costs a third, and AWS may stop a command with two minutes' notice.",
        )
        self._network()
        self.task_role_arns = self._list(
            "TaskRoleArns", "ARNs of roles that images may give to their commands; others cannot be passed."
        )
        self.has_task_roles = self._condition("HasTaskRoles", self.task_role_arns.value_as_list)
        self.web_origins = self._list(
            "WebOrigins",
            "Origins whose pages may call the deployment beside its own viewer, e.g. https://runs.example.com.",
        )
        self.names_origins = self._condition("NamesWebOrigins", self.web_origins.value_as_list)
        self.permissions_boundary = self._text(
            "PermissionsBoundary", "The ARN of a policy that bounds each role that the stack makes. Empty: none.", ""
        )
        has_no_boundary = Fn.condition_equals(self.permissions_boundary.value_as_string, "")
        self.bounds_roles = CfnCondition(stack, "BoundsRoles", expression=Fn.condition_not(has_no_boundary))
        self._concurrency()
        self._retention()
        self.alarm_email = self._text(
            "AlarmEmail", "Where alarms are sent to. Empty: they show, and go to the topic.", ""
        )
        has_no_email = Fn.condition_equals(self.alarm_email.value_as_string, "")
        self.has_alarm_email = CfnCondition(stack, "HasAlarmEmail", expression=Fn.condition_not(has_no_email))
        self.log_level = self._choice("LogLevel", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"), "What functions log.")
        self.tracing = self._choice(
            "Tracing", "Active", ("Active", "PassThrough"), "Whether the functions send traces to X-Ray."
        )

    def _network(self) -> None:
        stack = self._stack
        self.vpc_id = self._text(
            "VpcId", "A VPC to run tasks in. Empty: one is made, with public subnets and no NAT.", ""
        )
        self.subnet_ids = self._text("SubnetIds", "Subnets of VpcId to run tasks in, separated by commas.", "")
        self.vpc_cidr = CfnParameter(
            stack,
            "VpcCidr",
            type="String",
            description="The range of the VPC that is made; its two subnets are the first two blocks of 2,048 addresses.",
            default="10.71.0.0/20",
            allowed_pattern=r"(\d{1,3}\.){3}\d{1,3}/(1[6-9]|20)",
            constraint_description="A range of IPv4 addresses from /16, the largest that a VPC may have, to /20.",
        )
        self.assign_public_ip = self._choice(
            "AssignPublicIp",
            "ENABLED",
            ("ENABLED", "DISABLED"),
            "Whether tasks get public addresses. Without, the subnets need another way out (NAT, or endpoints).",
        )
        has_no_vpc = Fn.condition_equals(self.vpc_id.value_as_string, "")
        has_no_subnets = Fn.condition_equals(self.subnet_ids.value_as_string, "")
        self.makes_vpc = CfnCondition(stack, "MakesVpc", expression=has_no_vpc)
        both = Fn.condition_and(Fn.condition_not(has_no_vpc), Fn.condition_not(has_no_subnets))
        aws_cdk.CfnRule(
            stack,
            "SubnetsBelongToAVpc",
            assertions=[
                aws_cdk.CfnRuleAssertion(
                    assert_=Fn.condition_or(Fn.condition_and(has_no_vpc, has_no_subnets), both),
                    assert_description="VpcId and SubnetIds are given both or neither.",
                )
            ],
        )

    def _concurrency(self) -> None:
        self.inbox_concurrency = self._number("InboxConcurrency", 20, 2, 1000, "How many inbox functions run at once.")
        self.ranges_concurrency = self._number(
            "RangesConcurrency",
            5,
            2,
            1000,
            "How many inbox functions admit batches at once.",
        )
        self.starts_concurrency = self._number(
            "StartsConcurrency", 5, 2, 1000, "How many starts functions run at once: RunTask takes 20 calls a second."
        )
        self.bulk_concurrency = self._number("BulkConcurrency", 2, 2, 1000, "The same for starts of batches.")
        self.ends_concurrency = self._number("EndsConcurrency", 10, 2, 1000, "How many ends functions run at once.")
        self.reserved_concurrency = self._number(
            "ReservedConcurrency",
            0,
            0,
            1000,
            "Reserved concurrency of each function, taken from the account's; not below what its queues may use. 0: none, for new "
            "accounts have too little.",
        )
        self.control_concurrency = self._number(
            "ControlConcurrency",
            0,
            0,
            1000,
            "Reserved concurrency of the control function, so that calls of its public URL cannot take all of the account's. 0: as "
            "ReservedConcurrency says.",
        )
        self.reserves_concurrency = self._is_not_zero("ReservesConcurrency", self.reserved_concurrency)
        self.bounds_control = self._is_not_zero("BoundsControl", self.control_concurrency)

    def _retention(self) -> None:
        self.log_retention = CfnParameter(
            self._stack,
            "LogRetentionDays",
            type="Number",
            default="30",
            allowed_values=[str(days) for days in RETENTION_DAYS],
            description="How long CloudWatch keeps the logs of functions and commands. The outbox keeps commands' logs, too.",
        )
        self.inbox_retention = self._number(
            "InboxRetentionDays",
            400,
            1,
            36500,
            "How long the signed requests are kept for the audit; hidden then, and deleted for good after as long again.",
        )
        self.outbox_retention = self._number(
            "OutboxRetentionDays", 400, 1, 36500, "How long receipts, statuses and commands' logs are kept."
        )

        self.record_retention = self._number(
            "RecordRetentionDays",
            0,
            0,
            36500,
            "How long the records of executions are kept after their end. 0: for ever. The audit and its seals always are.",
        )
        self.table_protection = self._choice(
            "TableDeletionProtection",
            "off",
            ("off", "on"),
            "Whether the table can be deleted by nobody before that is taken back. To be switched on once the stack stands: one that does "
            "not come up could not be rolled back.",
        )
        self.protects_table = CfnCondition(
            self._stack,
            "ProtectsTable",
            expression=Fn.condition_equals(self.table_protection.value_as_string, "on"),
        )

    def _text(self, name: str, description: str, default: str | None = None, kind: str = "String") -> CfnParameter:
        pattern, constraint = _PATTERNS.get(name, (None, None))
        return CfnParameter(
            self._stack,
            name,
            type=kind,
            description=description,
            default=default,
            allowed_pattern=pattern,
            constraint_description=constraint,
        )

    def _list(self, name: str, description: str) -> CfnParameter:
        """By commas; a pattern holds for each of its values."""
        return self._text(name, description, "", "CommaDelimitedList")

    def _choice(self, name: str, default: str, values: tuple[str, ...], description: str) -> CfnParameter:
        return CfnParameter(
            self._stack, name, type="String", description=description, default=default, allowed_values=list(values)
        )

    def _number(self, name: str, default: int, least: int, most: int, description: str) -> CfnParameter:
        return CfnParameter(
            self._stack, name, type="Number", description=description, default=default, min_value=least, max_value=most
        )

    def _is_not_zero(self, name: str, parameter: CfnParameter) -> CfnCondition:
        is_zero = Fn.condition_equals(parameter.value_as_number, 0)
        return CfnCondition(self._stack, name, expression=Fn.condition_not(is_zero))

    def _condition(self, name: str, values: list[str]) -> CfnCondition:
        is_empty = Fn.condition_equals(Fn.join("", values), "")
        return CfnCondition(self._stack, name, expression=Fn.condition_not(is_empty))
