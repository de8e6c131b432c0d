"""The five functions, their roles, and what invokes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import aws_cdk
from aws_cdk import Fn, RemovalPolicy
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs

from runvoy_infra.stack import permissions
from runvoy_infra.stack.acknowledge import Acknowledge
from runvoy_infra.stack.parameters import Parameters
from runvoy_infra.stack.permissions import World
from runvoy_infra.stack.queues import FUNCTION_TIMEOUT_SECONDS
from runvoy_protocol import aws_layout

RUNTIME = "python3.13"
# The CPU of a function grows with its memory; a signature and two commits are quick in half a gigabyte.
_MEMORY_MIB = 512
_RECONCILE_SECONDS = 300
_USUAL_BATCH = 10
# A range has all the time that a function has; another one beside it would find none left.
_BATCH = {"ranges": 1}


class Shape(NamedTuple):
    """What is particular to a function."""

    timeout_seconds: int
    may: Callable[[World], list[iam.PolicyStatement]]
    description: str


SHAPES: Mapping[str, Shape] = {
    "inbox": Shape(FUNCTION_TIMEOUT_SECONDS, permissions.of_inbox, "admits run requests"),
    "starts": Shape(FUNCTION_TIMEOUT_SECONDS, permissions.of_starts, "starts tasks"),
    "ends": Shape(FUNCTION_TIMEOUT_SECONDS, permissions.of_ends, "settles the end of executions"),
    "control": Shape(30, permissions.of_control, "the control API and the viewer"),
    "reconcile": Shape(_RECONCILE_SECONDS, permissions.of_reconcile, "repairs what was lost"),
}


class Function(NamedTuple):
    """One of the five (aws_layout.FUNCTIONS), with what belongs to it alone."""

    name: str
    function: lambda_.CfnFunction
    role: iam.Role
    log_group: logs.CfnLogGroup


class Functions:
    """`environment` is what all of them are told."""

    def __init__(
        self, world: World, parameters: Parameters, environment: Mapping[str, str], acknowledge: Acknowledge
    ) -> None:
        self._world = world
        self._stack = world.stack
        self._parameters = parameters
        self._acknowledge = acknowledge
        roles = {name: self._role(name) for name in SHAPES}
        self.presigner = self._presigner([roles["starts"], roles["control"]])
        told = {**environment, aws_layout.ENV_PRESIGN_ROLE: self.presigner.role_arn}
        control = self._function("control", roles["control"], told)
        self.url = self._url(control.function)
        # The URL is made of the control function, which therefore cannot be told of it; `starts` has it for the runners.
        own = {"starts": {aws_layout.ENV_RUNNER_ENDPOINT: self.url}}
        self.by_name = {
            name: control if name == "control" else self._function(name, role, {**told, **own.get(name, {})})
            for name, role in roles.items()
        }
        for name in ("starts", "control"):
            self._may_pass_own_roles(name, roles[name])
        self._may_pass_allowed_roles("starts", roles["starts"])
        self._feed()
        self._schedule()

    def _role(self, name: str) -> iam.Role:
        return iam.Role(
            self._stack,
            f"{name.capitalize()}Role",
            # For functions of this account alone (the confused deputy); where Lambda does not say for whom, it gets the role.
            assumed_by=iam.ServicePrincipal(
                "lambda.amazonaws.com",
                conditions={"StringEqualsIfExists": {"aws:SourceAccount": aws_cdk.Aws.ACCOUNT_ID}},
            ),
            description=f"Of runvoy's {name} function",
        )

    def _function(self, name: str, role: iam.Role, environment: Mapping[str, str]) -> Function:
        shape, title, parameters = SHAPES[name], name.capitalize(), self._parameters
        log_group = logs.CfnLogGroup(
            self._stack, f"{title}Logs", retention_in_days=parameters.log_retention.value_as_number
        )
        log_group.apply_removal_policy(RemovalPolicy.DESTROY)
        policy = self._policy(f"{title}FunctionPolicy", role, [*shape.may(self._world), *self._telemetry(log_group)])
        reserved = Fn.condition_if(
            parameters.reserves_concurrency.logical_id,
            parameters.reserved_concurrency.value_as_number,
            aws_cdk.Aws.NO_VALUE,
        )
        if name == "control":
            bound = parameters.control_concurrency.value_as_number
            reserved = Fn.condition_if(parameters.bounds_control.logical_id, bound, reserved)
        function = lambda_.CfnFunction(
            self._stack,
            f"{title}Function",
            description=f"runvoy {name}: {shape.description}",
            runtime=RUNTIME,
            architectures=[parameters.architecture.value_as_string],
            handler=aws_layout.FUNCTIONS[name],
            code=lambda_.CfnFunction.CodeProperty(
                s3_bucket=parameters.code_bucket.value_as_string, s3_key=parameters.code_key.value_as_string
            ),
            role=role.role_arn,
            memory_size=_MEMORY_MIB,
            timeout=shape.timeout_seconds,
            environment=lambda_.CfnFunction.EnvironmentProperty(
                variables={**environment, "POWERTOOLS_SERVICE_NAME": f"runvoy-{name}"}
            ),
            logging_config=lambda_.CfnFunction.LoggingConfigProperty(log_group=log_group.ref),
            tracing_config=lambda_.CfnFunction.TracingConfigProperty(mode=parameters.tracing.value_as_string),
        )
        function.add_property_override("ReservedConcurrentExecutions", reserved)
        if name in aws_layout.FED_BY.values():
            # A start that finds no room is sent anew, and the end of one is the start of the next in a lock's queue. Lambda
            # would take that for a loop after some 16 rounds, and make the message a dead letter. What bounds it is the
            # record: a message for what started or ended sends nothing on.
            function.recursive_loop = "Allow"
        function.add_resource_dependency(policy.node.default_child)
        self._acknowledge(
            function,
            "AwsSolutions-L1",
            "The code is bundled for this runtime; a newer one comes with a release of runvoy.",
        )
        return Function(name, function, role, log_group)

    def _telemetry(self, log_group: logs.CfnLogGroup) -> list[iam.PolicyStatement]:
        return [
            iam.PolicyStatement(
                sid="Log", actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[log_group.attr_arn]
            ),
            # Traces know no resources.
            iam.PolicyStatement(
                sid="Trace", actions=["xray:PutTraceSegments", "xray:PutTelemetryRecords"], resources=["*"]
            ),
        ]

    def _policy(self, name: str, role: iam.Role, statements: list[iam.PolicyStatement]) -> iam.Policy:
        policy = iam.Policy(self._stack, name, roles=[role], statements=statements)
        for wildcard in permissions.wildcards_in(self._stack, statements):
            self._acknowledge(policy, f"AwsSolutions-IAM5[{wildcard.finding}]", wildcard.reason)
        return policy

    def _presigner(self, callers: list[iam.Role]) -> iam.Role:
        """The role behind every grant. It trusts the two functions that make grants, and nobody else."""
        role = iam.Role(
            self._stack,
            "PresignRole",
            assumed_by=iam.CompositePrincipal(*(iam.ArnPrincipal(caller.role_arn) for caller in callers)),
            description="Behind presigned uploads and reads; narrowed by a session policy each time",
            max_session_duration=aws_cdk.Duration.hours(1),
        )
        self._policy("PresignPolicy", role, permissions.of_presigner(self._world))
        for caller in callers:
            iam.Policy(
                self._stack,
                f"{caller.node.id}MayPresign",
                roles=[caller],
                statements=[iam.PolicyStatement(actions=["sts:AssumeRole"], resources=[role.role_arn])],
            )
        return role

    def _may_pass_own_roles(self, name: str, role: iam.Role) -> None:
        """What every task definition names. Apart from the next, for a policy cannot hold an empty list."""
        own = [self._world.tasks.execution_role.role_arn, self._world.tasks.task_role.role_arn]
        iam.Policy(
            self._stack,
            f"{name.capitalize()}PassesOwnRoles",
            roles=[role],
            statements=[permissions.pass_roles(own, "OwnRoles")],
        )

    def _may_pass_allowed_roles(self, name: str, role: iam.Role) -> None:
        """What an image may name instead: a task gets it when it is started."""
        title = name.capitalize()
        allowed = iam.CfnPolicy(
            self._stack,
            f"{title}PassesAllowedRoles",
            policy_name=f"{title}PassesAllowedRoles",
            roles=[role.role_name],
            policy_document=iam.PolicyDocument(
                statements=[permissions.pass_roles(self._parameters.task_role_arns.value_as_list, "AllowedRoles")]
            ),
        )
        allowed.cfn_options.condition = self._parameters.has_task_roles

    def _feed(self) -> None:
        parameters = self._parameters
        concurrency = {
            "inbox": parameters.inbox_concurrency,
            "ranges": parameters.ranges_concurrency,
            "starts": parameters.starts_concurrency,
            "bulk": parameters.bulk_concurrency,
            "ends": parameters.ends_concurrency,
        }
        for queue, function in aws_layout.FED_BY.items():
            target, source = self.by_name[function], self._world.queues.by_name[queue].queue
            receive = iam.Policy(
                self._stack,
                f"{function.capitalize()}Receives{queue.capitalize()}",
                roles=[target.role],
                statements=[
                    iam.PolicyStatement(
                        actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                        resources=[source.queue_arn],
                    )
                ],
            )
            mapping = lambda_.CfnEventSourceMapping(
                self._stack,
                f"{queue.capitalize()}Source",
                event_source_arn=source.queue_arn,
                function_name=target.function.ref,
                enabled=True,  # the default; said, so that drift shows a queue that is left unread
                batch_size=_BATCH.get(queue, _USUAL_BATCH),
                function_response_types=["ReportBatchItemFailures"],
                scaling_config=lambda_.CfnEventSourceMapping.ScalingConfigProperty(
                    maximum_concurrency=concurrency[queue].value_as_number
                ),
            )
            mapping.add_resource_dependency(receive.node.default_child)

    def _schedule(self) -> None:
        function = self.by_name["reconcile"].function
        rule = events.CfnRule(
            self._stack,
            "EveryMinute",
            description="runvoy: repair what was lost",
            schedule_expression="rate(1 minute)",
            targets=[
                # No dead letters: a minute that was missed is worth nothing later, and neither is its repetition by EventBridge
                # for a day. That minutes are missed is what ReconcileSilentAlarm tells.
                events.CfnRule.TargetProperty(
                    id="reconcile",
                    arn=function.attr_arn,
                    retry_policy=events.CfnRule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=60, maximum_retry_attempts=1
                    ),
                )
            ],
        )
        lambda_.CfnPermission(
            self._stack,
            "EveryMinuteMayInvoke",
            action="lambda:InvokeFunction",
            function_name=function.ref,
            principal="events.amazonaws.com",
            source_arn=rule.attr_arn,
        )
        # The next minute is a try of its own.
        lambda_.CfnEventInvokeConfig(
            self._stack,
            "ReconcileOnce",
            function_name=function.ref,
            qualifier="$LATEST",
            maximum_retry_attempts=0,
            maximum_event_age_in_seconds=60,
        )

    def _url(self, function: lambda_.CfnFunction) -> str:
        """Public: every call but `health` and `claim` is signed. A URL needs both permissions; the second one holds for
        calls through the URL alone, so nobody without IAM rights can invoke the function with an event of their own."""
        url = lambda_.CfnUrl(
            self._stack, "ControlUrl", target_function_arn=function.attr_arn, auth_type="NONE", invoke_mode="BUFFERED"
        )
        lambda_.CfnPermission(
            self._stack,
            "UrlMayBeCalled",
            action="lambda:InvokeFunctionUrl",
            function_name=function.ref,
            principal="*",
            function_url_auth_type="NONE",
        )
        lambda_.CfnPermission(
            self._stack,
            "UrlMayInvoke",
            action="lambda:InvokeFunction",
            function_name=function.ref,
            principal="*",
            invoked_via_function_url=True,
        )
        return str(url.attr_function_url)
