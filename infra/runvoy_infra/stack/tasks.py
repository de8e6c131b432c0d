"""Where commands run: the cluster, what tasks may do, their log group. Task definitions are made when an image is."""

from __future__ import annotations

import aws_cdk
from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from runvoy_infra.stack.acknowledge import Acknowledge
from runvoy_infra.stack.parameters import Parameters
from runvoy_protocol import aws_layout


class Tasks:
    """The execution role is ECS's own, for pulling and logging; the task role is the commands'."""

    def __init__(self, stack: Stack, parameters: Parameters, deployment_id: str, acknowledge: Acknowledge) -> None:
        self.cluster = ecs.CfnCluster(
            stack,
            "Cluster",
            capacity_providers=["FARGATE", "FARGATE_SPOT"],
            cluster_settings=[ecs.CfnCluster.ClusterSettingsProperty(name="containerInsights", value="disabled")],
        )
        acknowledge(
            self.cluster,
            "AwsSolutions-ECS4",
            "Container Insights bills metrics per task, which live for seconds; runvoy counts runs itself.",
        )
        self.family_prefix = aws_layout.family_prefix(deployment_id)
        self.log_group = logs.CfnLogGroup(stack, "TaskLogs", retention_in_days=parameters.log_retention.value_as_number)
        self.log_group.apply_removal_policy(RemovalPolicy.DESTROY)
        self.execution_role = self._execution_role(stack, acknowledge)
        # An account's first cluster needs a role that was made moments ago (ECS's own): this one takes as long to be known.
        self.cluster.add_resource_dependency(self.execution_role.node.default_child)
        self.task_role = iam.Role(
            stack,
            "TaskRole",
            assumed_by=self._tasks_of(stack),
            description="Of commands whose image names no other: may do nothing",
        )
        self.task_definitions = stack.format_arn(
            service="ecs", resource="task-definition", resource_name=f"{self.family_prefix}*"
        )
        self.tasks = stack.format_arn(service="ecs", resource="task", resource_name=f"{self.cluster.ref}/*")

    def _execution_role(self, stack: Stack, acknowledge: Acknowledge) -> iam.Role:
        role = iam.Role(
            stack,
            "ExecutionRole",
            assumed_by=self._tasks_of(stack, if_told=True),
            description="Of ECS itself: pulls images, writes logs",
        )
        policy = iam.Policy(
            stack,
            "ExecutionPolicy",
            roles=[role],
            statements=[
                # No resource can be named: the token is the registry's.
                iam.PolicyStatement(sid="EcrToken", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
                iam.PolicyStatement(
                    sid="PullImages",
                    actions=["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                    resources=[stack.format_arn(service="ecr", resource="repository", resource_name="*")],
                ),
                iam.PolicyStatement(
                    sid="WriteLogs",
                    actions=["logs:CreateLogStream", "logs:PutLogEvents"],
                    resources=[self.log_group.attr_arn],
                ),
            ],
        )
        acknowledge(policy, "AwsSolutions-IAM5[Resource::*]", "ecr:GetAuthorizationToken knows no resources.")
        acknowledge(
            policy,
            "AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ecr:<AWS::Region>:<AWS::AccountId>:repository/*]",
            "Admins register images of any repository of this account; its repositories may be in another's policies.",
        )
        return role

    def _tasks_of(self, stack: Stack, *, if_told: bool = False) -> iam.IPrincipal:
        """Tasks of this account and region, and nobody who would have ECS act for them (the confused deputy).

        `if_told`: where ECS does not say for whom it takes a role, it gets it. AWS documents that it says so for task roles, and is
        silent on execution roles: by a plain condition nothing would run if it does not.
        """
        suffix = "IfExists" if if_told else ""
        return iam.ServicePrincipal(
            "ecs-tasks.amazonaws.com",
            conditions={
                f"StringEquals{suffix}": {"aws:SourceAccount": aws_cdk.Aws.ACCOUNT_ID},
                f"ArnLike{suffix}": {
                    "aws:SourceArn": stack.format_arn(
                        service="ecs", resource="*", arn_format=aws_cdk.ArnFormat.NO_RESOURCE_NAME
                    )
                },
            },
        )
