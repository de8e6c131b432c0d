"""The stack: one deployment of runvoy."""

from __future__ import annotations

from importlib.metadata import version

import aws_cdk
from aws_cdk import BootstraplessSynthesizer, CfnOutput, Fn, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from constructs import Construct

from runvoy_infra.stack.acknowledge import Acknowledge
from runvoy_infra.stack.functions import Functions
from runvoy_infra.stack.network import Network
from runvoy_infra.stack.parameters import Parameters
from runvoy_infra.stack.permissions import World
from runvoy_infra.stack.queues import Queues
from runvoy_infra.stack.storage import Storage
from runvoy_infra.stack.tasks import Tasks
from runvoy_infra.stack.watch import Watch
from runvoy_protocol import aws_layout


class DeploymentStack(Stack):
    """Needs no bootstrapped account, no custom resource and no name that could be taken."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(
            scope,
            construct_id,
            description="runvoy: runs commands for a team without giving the team credentials",
            synthesizer=BootstraplessSynthesizer(),
        )
        acknowledge = Acknowledge()
        # The UUID of the stack, not its name: a stack made anew is another deployment, and no old request is for it.
        uuid = Fn.select(2, Fn.split("/", aws_cdk.Aws.STACK_ID))
        self._deployment_id = f"aws-{uuid}"
        self._parameters = Parameters(self)
        self._queues = Queues(self)
        self._storage = Storage(self, self._parameters, self._queues, acknowledge)
        self._network = Network(self, self._parameters, acknowledge)
        self._tasks = Tasks(self, self._parameters, self._deployment_id, acknowledge)
        self._parameter_path = aws_layout.parameter_path(self._deployment_id)
        world = World(
            self,
            self._storage,
            self._queues,
            self._tasks,
            secrets=self._parameters_under("secrets"),
            own=self._parameters_under("own"),
        )
        self._functions = Functions(world, self._parameters, self._environment(), acknowledge)
        self._task_ends()
        self._watch = Watch(self, self._parameters, self._queues, self._functions, self._deployment_id)
        self._outputs()
        self._bound_roles(acknowledge)
        self.acknowledged = acknowledge.made

    def _parameters_under(self, folder: str) -> str:
        name = f"{self._parameter_path.removeprefix('/')}/{folder}/*"
        return str(self.format_arn(service="ssm", resource="parameter", resource_name=name))

    def _environment(self) -> dict[str, str]:
        """docs/aws-table.md says what each is."""
        storage, network, tasks, parameters = self._storage, self._network, self._tasks, self._parameters
        queues = {aws_layout.queue_variable(name): q.queue.queue_url for name, q in self._queues.by_name.items()}
        dead_letters = {
            aws_layout.dead_letters_variable(name): q.dead_letters.queue_url for name, q in self._queues.by_name.items()
        }
        return {
            **queues,
            **dead_letters,
            aws_layout.ENV_DEPLOYMENT: self._deployment_id,
            aws_layout.ENV_TABLE: storage.table.table_name,
            aws_layout.ENV_INBOX_BUCKET: storage.inbox.ref,
            aws_layout.ENV_OUTBOX_BUCKET: storage.outbox.ref,
            aws_layout.ENV_STAGING_BUCKET: storage.staging.ref,
            aws_layout.ENV_ENCRYPTION_KEY: storage.cmk.key_arn,
            aws_layout.ENV_CLUSTER: tasks.cluster.attr_arn,
            aws_layout.ENV_SUBNETS: network.subnets,
            aws_layout.ENV_SECURITY_GROUPS: network.security_group,
            aws_layout.ENV_PUBLIC_IP: parameters.assign_public_ip.value_as_string,
            aws_layout.ENV_CAPACITY_PROVIDER: parameters.capacity_provider.value_as_string,
            aws_layout.ENV_KEEP_DAYS: parameters.record_retention.value_as_string,
            aws_layout.ENV_EXECUTION_ROLE: tasks.execution_role.role_arn,
            aws_layout.ENV_TASK_ROLE: tasks.task_role.role_arn,
            aws_layout.ENV_TASK_ROLES: Fn.join(",", parameters.task_role_arns.value_as_list),
            aws_layout.ENV_TASK_LOG_GROUP: tasks.log_group.ref,
            aws_layout.ENV_WEB_ORIGINS: Fn.join(",", parameters.web_origins.value_as_list),
            aws_layout.ENV_RUNNER_IMAGE: parameters.runner_image.value_as_string,
            "POWERTOOLS_METRICS_NAMESPACE": aws_layout.METRICS_NAMESPACE,
            "POWERTOOLS_LOG_LEVEL": parameters.log_level.value_as_string,
        }

    def _task_ends(self) -> None:
        """The platform's word that a task is over, to the ends queue. What EventBridge cannot deliver there in a day, or may
        not, goes to that queue's dead letters: the event as it is, which is what the queue would have held, so the alarm and
        `health redrive` of those serve it too."""
        queue, dead_letters = self._queues.ends.queue, self._queues.ends.dead_letters
        rule = events.CfnRule(
            self,
            "TaskStopped",
            description="runvoy: tasks of its cluster that stopped",
            event_pattern={
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {"clusterArn": [self._tasks.cluster.attr_arn], "lastStatus": ["STOPPED"]},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="ends",
                    arn=queue.queue_arn,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=dead_letters.queue_arn),
                )
            ],
        )
        for receiver in (queue, dead_letters):
            receiver.add_to_resource_policy(
                iam.PolicyStatement(
                    sid="EndsOfTasks",
                    principals=[iam.ServicePrincipal("events.amazonaws.com")],
                    actions=["sqs:SendMessage"],
                    resources=[receiver.queue_arn],
                    conditions={"ArnEquals": {"aws:SourceArn": rule.attr_arn}},
                )
            )

    def _bound_roles(self, acknowledge: Acknowledge) -> None:
        """Where an account lets nobody make a role that has no boundary."""
        boundary = Fn.condition_if(
            self._parameters.bounds_roles.logical_id,
            self._parameters.permissions_boundary.value_as_string,
            aws_cdk.Aws.NO_VALUE,
        )
        for found in self.node.find_all():
            if isinstance(found, iam.CfnRole):
                found.permissions_boundary = boundary.to_string()
                acknowledge(
                    found, "CloudFormation-Validate::F3033", "The empty default is the branch that is not taken."
                )

    def _outputs(self) -> None:
        storage = self._storage
        for name, value, description in (
            ("Version", version("runvoy"), "Of runvoy: what the stack was made by"),
            ("Endpoint", self._functions.url, "Where clients call: `runvoy configure --endpoint`"),
            ("DeploymentId", self._deployment_id, "What requests are signed for"),
            ("InboxBucket", storage.inbox.ref, "Signed requests; kept when the stack goes"),
            ("OutboxBucket", storage.outbox.ref, "Receipts, statuses, logs; kept when the stack goes"),
            ("StagingBucket", storage.staging.ref, "Payloads on their way to a task"),
            ("TableName", storage.table.table_name, "Records; kept when the stack goes"),
            ("ClusterName", self._tasks.cluster.ref, "Where tasks run"),
            ("ControlFunctionName", self._functions.by_name["control"].function.ref, "Invoked by `--seed-admin-user`"),
            ("AlarmTopic", self._watch.topic.topic_arn, "Alarms are published here: subscribe to it"),
            ("ParameterPath", self._parameter_path, "Secrets in SSM are under it: members', and the deployment's own"),
            ("TaskFamilyPrefix", self._tasks.family_prefix, "Task definitions of registered images"),
        ):
            CfnOutput(self, name, value=value, description=description)
