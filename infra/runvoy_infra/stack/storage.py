"""What holds data: the CMK, three buckets, the table."""

from __future__ import annotations

import aws_cdk
from aws_cdk import Fn, RemovalPolicy, Stack, Token
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

from runvoy_infra.stack.acknowledge import Acknowledge
from runvoy_infra.stack.parameters import Parameters
from runvoy_infra.stack.queues import Queues
from runvoy_protocol import aws_layout

_PENDING_DELETION_DAYS = 30


class Storage:
    """Inbox, outbox and table are kept when the stack goes: they are the audit. None of them has an explicit name, so that
    a stack made anew does not collide with what the former one left."""

    def __init__(self, stack: Stack, parameters: Parameters, queues: Queues, acknowledge: Acknowledge) -> None:
        self._stack = stack
        self._parameters = parameters
        self._queues = queues
        self._acknowledge = acknowledge
        self.cmk = self._make_cmk()
        self.inbox = self._make_inbox()
        self.outbox = self._make_outbox()
        self.staging = self._make_staging()
        self.table = self._make_table()

    def _make_cmk(self) -> kms.Key:
        return kms.Key(
            self._stack,
            "Cmk",
            description=f"runvoy {self._stack.stack_name}: secrets, and payloads on their way to a task",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.DESTROY,
            pending_window=aws_cdk.Duration.days(_PENDING_DELETION_DAYS),
        )

    def _make_inbox(self) -> s3.CfnBucket:
        notify = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[self._notification(self._queues.inbox.arn, "s3:ObjectCreated:*", "requests/", None)]
        )
        inbox = self._bucket(
            "Inbox",
            RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
            versioning_configuration=s3.CfnBucket.VersioningConfigurationProperty(status="Enabled"),
            notification_configuration=notify,
            cors_configuration=self._cors("POST"),
            lifecycle_configuration=_lifecycle(
                _expire("requests", self._parameters.inbox_retention.value_as_number),
                # An upload over another of the same id leaves it as a former version, which may be what was admitted.
                s3.CfnBucket.RuleProperty(
                    id="former-versions",
                    status="Enabled",
                    noncurrent_version_expiration=s3.CfnBucket.NoncurrentVersionExpirationProperty(
                        noncurrent_days=self._parameters.inbox_retention.value_as_number
                    ),
                ),
            ),
        )
        inbox.add_resource_dependency(self._queues.inbox.policy)
        return inbox

    def _make_outbox(self) -> s3.CfnBucket:
        ends = self._queues.ends
        notify = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                self._notification(ends.arn, "s3:ObjectCreated:*", "executions/", f"/run/{name}.json")
                for name in ("started", "result")
            ]
        )
        outbox = self._bucket(
            "Outbox",
            RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
            notification_configuration=notify,
            cors_configuration=self._cors("GET"),
            lifecycle_configuration=_lifecycle(_expire("all", self._parameters.outbox_retention.value_as_number)),
        )
        outbox.add_resource_dependency(ends.policy)
        return outbox

    def _make_staging(self) -> s3.CfnBucket:
        """Unversioned: what a runner has fetched and deleted is gone."""
        return self._bucket(
            "Staging",
            RemovalPolicy.DESTROY,
            cmk=self.cmk,
            lifecycle_configuration=_lifecycle(_expire("payloads-nobody-fetched", 1)),
        )

    def _bucket(
        self, name: str, removal: RemovalPolicy, cmk: kms.Key | None = None, **properties: object
    ) -> s3.CfnBucket:
        by_default = (
            s3.CfnBucket.ServerSideEncryptionByDefaultProperty(sse_algorithm="AES256")
            if cmk is None
            else s3.CfnBucket.ServerSideEncryptionByDefaultProperty(
                sse_algorithm="aws:kms", kms_master_key_id=cmk.key_arn
            )
        )
        bucket = s3.CfnBucket(
            self._stack,
            name,
            bucket_encryption=s3.CfnBucket.BucketEncryptionProperty(
                server_side_encryption_configuration=[
                    s3.CfnBucket.ServerSideEncryptionRuleProperty(
                        server_side_encryption_by_default=by_default, bucket_key_enabled=cmk is not None
                    )
                ]
            ),
            ownership_controls=s3.CfnBucket.OwnershipControlsProperty(
                rules=[s3.CfnBucket.OwnershipControlsRuleProperty(object_ownership="BucketOwnerEnforced")]
            ),
            public_access_block_configuration=s3.CfnBucket.PublicAccessBlockConfigurationProperty(
                block_public_acls=True,
                block_public_policy=True,
                ignore_public_acls=True,
                restrict_public_buckets=True,
            ),
            **properties,
        )
        bucket.apply_removal_policy(removal)
        self._acknowledge(
            bucket,
            "AwsSolutions-S1",
            "Access logs would need a bucket of their own; every request and decision is in runvoy's audit, and CloudTrail "
            "data events can be switched on for the account.",
        )
        policy = s3.CfnBucketPolicy(
            self._stack, f"{name}OnlyOverTls", bucket=bucket.ref, policy_document=_tls_only(bucket.attr_arn)
        )
        policy.apply_removal_policy(removal)
        return bucket

    def _notification(
        self, queue_arn: str, event: str, prefix: str, suffix: str | None
    ) -> s3.CfnBucket.QueueConfigurationProperty:
        rules = [s3.CfnBucket.FilterRuleProperty(name="prefix", value=prefix)]
        if suffix is not None:
            rules.append(s3.CfnBucket.FilterRuleProperty(name="suffix", value=suffix))
        return s3.CfnBucket.QueueConfigurationProperty(
            event=event,
            queue=queue_arn,
            filter=s3.CfnBucket.NotificationFilterProperty(s3_key=s3.CfnBucket.S3KeyFilterProperty(rules=rules)),
        )

    def _cors(self, method: str) -> s3.CfnBucket.CorsConfigurationProperty:
        """The viewer comes from the function's URL, which the bucket cannot name: the function names the bucket. A page of
        another function in the region gains nothing: without a presigned URL it gets no further than curl."""
        own = f"https://*.lambda-url.{self._stack.region}.on.aws"
        named = self._parameters.web_origins.value_as_list
        both = Fn.split(",", Fn.join(",", [own, Fn.join(",", named)]))
        # An empty list joined is an empty text, which S3 takes for no origin.
        origins = Token.as_list(Fn.condition_if(self._parameters.names_origins.logical_id, both, [own]))
        rule = s3.CfnBucket.CorsRuleProperty(
            allowed_methods=[method],
            allowed_origins=origins,
            allowed_headers=["*"],
            exposed_headers=["ETag", "Date"],
            max_age=3600,
        )
        return s3.CfnBucket.CorsConfigurationProperty(cors_rules=[rule])

    def _make_table(self) -> dynamodb.Table:
        text = dynamodb.AttributeType.STRING
        table = dynamodb.Table(
            self._stack,
            "Table",
            partition_key=dynamodb.Attribute(name=aws_layout.KEY_ATTRIBUTE, type=text),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=aws_layout.TTL_ATTRIBUTE,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        for index in aws_layout.INDEXES:
            table.add_global_secondary_index(
                index_name=aws_layout.index_name(index),
                partition_key=dynamodb.Attribute(name=aws_layout.partition_attribute(index), type=text),
                sort_key=dynamodb.Attribute(name=aws_layout.sort_attribute(index), type=text),
                projection_type=dynamodb.ProjectionType.ALL,
            )
        made = table.node.default_child
        assert isinstance(made, dynamodb.CfnTable)  # noqa: S101 - an L2 table is made of one
        made.override_logical_id("Records")
        made.deletion_protection_enabled = Fn.condition_if(self._parameters.protects_table.logical_id, True, False)
        return table


def _lifecycle(*rules: s3.CfnBucket.RuleProperty) -> s3.CfnBucket.LifecycleConfigurationProperty:
    unfinished = s3.CfnBucket.RuleProperty(
        id="unfinished-uploads",
        status="Enabled",
        abort_incomplete_multipart_upload=s3.CfnBucket.AbortIncompleteMultipartUploadProperty(days_after_initiation=1),
    )
    return s3.CfnBucket.LifecycleConfigurationProperty(rules=[*rules, unfinished])


def _expire(name: str, days: float) -> s3.CfnBucket.RuleProperty:
    return s3.CfnBucket.RuleProperty(id=name, status="Enabled", expiration_in_days=days)


def _tls_only(bucket_arn: str) -> iam.PolicyDocument:
    return iam.PolicyDocument(
        statements=[
            iam.PolicyStatement(
                sid="OnlyOverTls",
                effect=iam.Effect.DENY,
                principals=[iam.AnyPrincipal()],
                actions=["s3:*"],
                resources=[bucket_arn, f"{bucket_arn}/*"],
                conditions={"Bool": {"aws:SecureTransport": "false"}},
            )
        ]
    )
