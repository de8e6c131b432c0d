"""What the template says: the promises of docs/aws-table.md and the design that no emulator judges."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from runvoy_protocol import aws_layout
from runvoy_web import origins

FUNCTIONS = ("Inbox", "Starts", "Ends", "Control", "Reconcile")
# Where AWS knows no resources, or (ListTasks) not the right ones; each stands in permissions.py with its reason.
WITHOUT_RESOURCES = {
    "ecr:GetAuthorizationToken",
    "ecs:DeregisterTaskDefinition",
    "ecs:DescribeTaskDefinition",
    "ecs:ListTasks",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}


def listed(value):
    return value if isinstance(value, list) else [value]


def all_statements(template):
    for policy in template.of_type("AWS::IAM::Policy").values():
        yield from policy["Properties"]["PolicyDocument"]["Statement"]


def actions_of(template, role):
    return {action for statement in template.statements(role) for action in listed(statement["Action"])}


def test_nothing_is_found_by_cdk_nag_and_every_acknowledgement_has_a_reason(synthesized):
    assert synthesized.findings == ()
    assert synthesized.acknowledged
    for rule, reason in synthesized.acknowledged:
        assert len(reason) > 20, rule


def test_cfn_lint_has_nothing_to_say(synthesized):
    from cfnlint.api import ManualArgs, lint

    found = lint(json.dumps(synthesized.template), config=ManualArgs(regions=["eu-west-1"]))
    assert [str(one) for one in found] == []


def test_there_are_no_custom_resources_and_no_assets(template):
    kinds = {resource["Type"] for resource in template.resources.values()}
    assert not [kind for kind in kinds if kind.startswith("Custom::") or "CustomResource" in kind]
    text = json.dumps(template.document)
    assert "cdk-bootstrap" not in text
    assert "cdk-hnb659fds" not in text
    assert "BootstrapVersion" not in template.document["Parameters"]


def test_what_is_kept_has_no_name_that_a_new_stack_could_collide_with(template):
    kept = {name: one for name, one in template.resources.items() if one.get("DeletionPolicy", "").startswith("Retain")}
    data = {one["Type"] for one in kept.values()} - {"AWS::S3::BucketPolicy"}
    assert data == {"AWS::S3::Bucket", "AWS::DynamoDB::Table"}
    for name, one in kept.items():
        assert not {"BucketName", "TableName"} & set(one["Properties"]), name
        # Kept when it goes, but not when it never came up.
        assert one["DeletionPolicy"] == "RetainExceptOnCreate", name


@pytest.mark.parametrize("bucket", ["Inbox", "Outbox", "Staging"])
def test_every_bucket_is_private_encrypted_and_reached_over_tls_alone(bucket, template):
    properties = template.properties(bucket)
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    algorithm = rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
    assert algorithm == ("aws:kms" if bucket == "Staging" else "AES256")
    versioning = properties.get("VersioningConfiguration", {}).get("Status")
    assert versioning == ("Enabled" if bucket == "Inbox" else None)
    (policy,) = [
        one
        for one in template.of_type("AWS::S3::BucketPolicy").values()
        if one["Properties"]["Bucket"] == {"Ref": bucket}
    ]
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert properties["LifecycleConfiguration"]["Rules"]


def test_the_inbox_tells_its_queue_once_the_queue_lets_it(template):
    (told,) = template.properties("Inbox")["NotificationConfiguration"]["QueueConfigurations"]
    queue = template.named("InboxQueue", "AWS::SQS::Queue")
    assert told["Queue"] == {"Fn::GetAtt": [queue, "Arn"]}
    assert told["Event"] == "s3:ObjectCreated:*"
    assert told["Filter"]["S3Key"]["Rules"] == [{"Name": "prefix", "Value": "requests/"}]
    (policy,) = listed(template.resources["Inbox"]["DependsOn"])
    document = template.properties(policy)["PolicyDocument"]
    (allowed,) = [one for one in document["Statement"] if one["Effect"] == "Allow"]
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    assert allowed["Action"] == "sqs:SendMessage"
    assert allowed["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    assert template.properties(policy)["Queues"] == [{"Ref": queue}]


def test_the_outbox_tells_the_ends_queue_of_what_runners_leave(template):
    told = template.properties("Outbox")["NotificationConfiguration"]["QueueConfigurations"]
    rules = [{rule["Name"]: rule["Value"] for rule in one["Filter"]["S3Key"]["Rules"]} for one in told]
    assert rules == [
        {"prefix": "executions/", "suffix": "/run/started.json"},
        {"prefix": "executions/", "suffix": "/run/result.json"},
    ]
    assert listed(template.resources["Outbox"]["DependsOn"])[0].startswith("EndsQueuePolicy")


@pytest.mark.parametrize("name", ["Inbox", "Starts", "Bulk", "Ends"])
def test_every_queue_is_encrypted_and_has_dead_letters_with_an_alarm(name, template):
    queue, dead = (template.named(f"{name}{part}", "AWS::SQS::Queue") for part in ("Queue", "DeadLetters"))
    for one in (queue, dead):
        assert template.properties(one)["SqsManagedSseEnabled"] is True
    redrive = template.properties(queue)["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": [dead, "Arn"]}
    assert redrive["maxReceiveCount"] == aws_layout.MAX_RECEIVES
    alarm = template.properties(f"{name}DeadLettersAlarm")
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": {"Fn::GetAtt": [dead, "QueueName"]}}]
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (0, "GreaterThanThreshold")
    assert alarm["AlarmActions"]


def test_the_queues_of_people_wait_longer_than_their_functions_take(template):
    timeout = template.properties("InboxFunction")["Timeout"]
    for name in ("Inbox", "Starts", "Bulk", "Ends"):
        queue = template.named(f"{name}Queue", "AWS::SQS::Queue")
        assert template.properties(queue)["VisibilityTimeout"] >= 6 * timeout


def test_a_launch_that_is_held_up_is_over_before_its_task_may_be_taken_for_gone(template):
    """A function that is frozen in the middle of a launch may go on as long as its timeout lets it, and no longer. The last launch
    of an attempt is begun within the window; its task has a minute to be listed before the second look that misses it frees its
    locks."""
    from runvoy_agent.aws.launcher import RELAUNCH_WINDOW
    from runvoy_agent.handlers.reconciler import runs

    last_launch = RELAUNCH_WINDOW + timedelta(seconds=template.properties("StartsFunction")["Timeout"])
    earliest_end = runs.GONE_AFTER + runs.GONE_LOOKS_APART
    assert last_launch + timedelta(minutes=1) <= earliest_end


def test_a_round_keeps_others_from_the_inbox_for_as_long_as_it_may_live(template):
    from runvoy_agent.handlers import reconcile

    assert timedelta(seconds=template.properties("ReconcileFunction")["Timeout"]) <= reconcile.LONGEST_ROUND


def test_the_reconciler_deletes_values_of_secrets_and_can_read_none(template):
    """Those that nothing refers to any more: it finds their parts by their path, and may not decrypt what it finds."""
    on_secrets = [one for one in template.statements("ReconcileRole") if "/secrets/*" in json.dumps(one["Resource"])]
    actions = {action for one in on_secrets for action in listed(one["Action"])}
    assert actions == {"ssm:GetParametersByPath", "ssm:DeleteParameters"}
    assert not [action for action in actions_of(template, "ReconcileRole") if action.startswith("kms:")]


def test_the_table_is_as_the_layout_says(template):
    (table,) = template.of_type("AWS::DynamoDB::Table").values()
    properties = table["Properties"]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["TimeToLiveSpecification"] == {"AttributeName": aws_layout.TTL_ATTRIBUTE, "Enabled": True}
    assert properties["KeySchema"] == [{"AttributeName": aws_layout.KEY_ATTRIBUTE, "KeyType": "HASH"}]
    indexes = {one["IndexName"]: one for one in properties["GlobalSecondaryIndexes"]}
    assert list(indexes) == [aws_layout.index_name(index) for index in aws_layout.INDEXES]
    for index in aws_layout.INDEXES:
        assert indexes[aws_layout.index_name(index)] == {
            "IndexName": aws_layout.index_name(index),
            "KeySchema": [
                {"AttributeName": aws_layout.partition_attribute(index), "KeyType": "HASH"},
                {"AttributeName": aws_layout.sort_attribute(index), "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "ALL"},
        }
    assert {one["AttributeType"] for one in properties["AttributeDefinitions"]} == {"S"}
    assert properties["DeletionProtectionEnabled"] == {"Fn::If": ["ProtectsTable", True, False]}
    assert template.document["Parameters"]["TableDeletionProtection"]["Default"] == "off"


def test_no_role_has_a_wide_action_or_every_resource(template):
    for statement in all_statements(template):
        actions = listed(statement["Action"])
        assert statement["Effect"] == "Allow"
        assert not [action for action in actions if "*" in action], statement
        if "*" in listed(statement["Resource"]):
            assert set(actions) <= WITHOUT_RESOURCES, statement


def test_tasks_are_listed_started_and_stopped_in_this_cluster_alone(template):
    cluster = {"ArnEquals": {"ecs:cluster": {"Fn::GetAtt": ["Cluster", "Arn"]}}}
    bound = {"ecs:ListTasks", "ecs:RunTask", "ecs:StopTask", "ecs:DescribeTasks"}
    for statement in all_statements(template):
        if bound & set(listed(statement["Action"])):
            assert statement["Condition"] == cluster, statement


@pytest.mark.parametrize(
    ("role", "may_not"),
    [
        ("InboxRole", ("iam:", "ecs:", "ssm:Put", "ssm:Delete", "sts:", "kms:Encrypt", "s3:Delete")),
        ("EndsRole", ("iam:", "ecs:", "ssm:Put", "ssm:Delete", "sts:", "s3:Delete")),
        ("ReconcileRole", ("iam:", "ecs:RunTask", "ssm:Put", "sts:", "kms:", "s3:Delete")),
        ("StartsRole", ("ssm:Put", "ssm:Delete", "ecs:Register")),
        ("ControlRole", ("ecs:RunTask", "s3:Delete")),
        ("PresignRole", ("dynamodb:", "sqs:", "iam:", "ecs:", "ssm:", "sts:")),
        ("TaskRole", ("",)),
    ],
)
def test_roles_lack_what_is_not_theirs(role, may_not, template):
    actions = actions_of(template, role)
    assert not [action for action in actions if action.startswith(may_not)]


@pytest.mark.parametrize(
    ("role", "queues"),
    [
        ("InboxRole", {"Ranges", "Starts", "Bulk"}),
        ("StartsRole", {"Starts", "Bulk"}),
        ("EndsRole", {"Starts", "Bulk"}),
        ("ReconcileRole", {"Inbox", "Starts", "Bulk", "Ends"}),
        ("ControlRole", {"Inbox", "Ranges", "Starts", "Bulk", "Ends"}),  # it sends dead letters again
    ],
)
def test_functions_send_to_the_queues_that_their_handlers_send_to(role, queues, template):
    """A message on `ends` says that a task is over: of the functions only who looks at tasks may say so."""
    sending = [one for one in template.statements(role) if "sqs:SendMessage" in listed(one["Action"])]
    named = {one["Fn::GetAtt"][0].partition("Queue")[0] for send in sending for one in listed(send["Resource"])}
    assert named == queues


@pytest.mark.parametrize("role", ["StartsRole", "EndsRole"])
def test_who_starts_and_settles_reads_no_signed_objects(role, template):
    """What a run does is in its record, as it was admitted."""
    assert '"Inbox", "Arn"' not in json.dumps(template.statements(role))


@pytest.mark.parametrize("role", ["InboxRole", "StartsRole", "EndsRole", "ControlRole", "ReconcileRole", "PresignRole"])
def test_who_reads_a_bucket_may_list_it_so_that_what_is_missing_is_404(role, template):
    statements = template.statements(role)
    read, lists = set(), set()
    for statement in statements:
        for resource in listed(statement["Resource"]):
            found = re.search(r'"(Inbox|Outbox|Staging)", "Arn"', json.dumps(resource))
            if found and "s3:GetObject" in listed(statement["Action"]):
                read.add(found[1])
            if found and "s3:ListBucket" in listed(statement["Action"]):
                lists.add(found[1])
    assert read
    assert read <= lists


def test_the_control_function_reads_signed_objects_and_writes_none(template):
    """It tells of requests that were refused or are pending, and evidence, from the inbox's objects."""
    of_inbox = [one for one in template.statements("ControlRole") if '"Inbox", "Arn"' in json.dumps(one["Resource"])]
    actions = {action for one in of_inbox for action in listed(one["Action"])}
    assert actions == {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"}
    objects = [one for one in of_inbox if "s3:GetObject" in listed(one["Action"])]
    assert all("/requests/*" in json.dumps(one["Resource"]) for one in objects)


def test_roles_are_passed_by_exact_arn_to_ecs_tasks_alone(template):
    passing = [one for one in all_statements(template) if "iam:PassRole" in listed(one["Action"])]
    assert len(passing) == 3
    for statement in passing:
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
        assert "*" not in json.dumps(statement["Resource"])
    conditional = [one for one in template.of_type("AWS::IAM::Policy").values() if "Condition" in one]
    assert [one["Condition"] for one in conditional] == ["HasTaskRoles"]


@pytest.mark.parametrize(("role", "suffix"), [("TaskRole", ""), ("ExecutionRole", "IfExists")])
def test_ecs_takes_the_roles_of_tasks_for_this_account_and_region(role, suffix, template):
    """AWS documents these conditions for task roles alone. An execution role that ECS takes without naming a source must be taken,
    or no task ever starts; one that it takes for another account must not."""
    trust = template.properties(template.named(role, "AWS::IAM::Role"))["AssumeRolePolicyDocument"]
    (statement,) = trust["Statement"]
    assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
    conditions = statement["Condition"]
    assert set(conditions) == {f"StringEquals{suffix}", f"ArnLike{suffix}"}
    assert conditions[f"StringEquals{suffix}"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert list(conditions[f"ArnLike{suffix}"]) == ["aws:SourceArn"]


def test_lambda_takes_the_functions_roles_for_this_account(template):
    for name in FUNCTIONS:
        trust = template.properties(template.named(f"{name}Role", "AWS::IAM::Role"))["AssumeRolePolicyDocument"]
        (statement,) = trust["Statement"]
        assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
        assert statement["Condition"] == {"StringEqualsIfExists": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_every_role_can_be_bounded(template):
    roles = template.of_type("AWS::IAM::Role")
    assert len(roles) == 8
    for name, role in roles.items():
        bounded = {"Fn::If": ["BoundsRoles", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]}
        assert role["Properties"]["PermissionsBoundary"] == bounded, name
    assert template.document["Parameters"]["PermissionsBoundary"]["Default"] == ""


def test_the_presigning_role_is_assumed_by_two_functions_alone(template):
    role = template.properties(template.named("PresignRole", "AWS::IAM::Role"))
    principals = [one["Principal"] for one in role["AssumeRolePolicyDocument"]["Statement"]]
    callers = {template.named(name, "AWS::IAM::Role") for name in ("StartsRole", "ControlRole")}
    assert {one["AWS"]["Fn::GetAtt"][0] for one in principals} == callers
    assert role["MaxSessionDuration"] == 3600
    uploads = [one for one in template.statements("PresignRole") if one["Action"] == "s3:PutObject"]
    assert [json.dumps(one["Resource"]).rpartition('"/')[2].split('"')[0] for one in uploads] == [
        "requests/*",
        "executions/*/run/*",
    ]


def test_the_functions_are_one_zip_in_five_roles(template):
    functions = template.of_type("AWS::Lambda::Function")
    assert set(functions) == {f"{name}Function" for name in FUNCTIONS}
    roles = set()
    for name in FUNCTIONS:
        properties = template.properties(f"{name}Function")
        assert properties["Code"] == {"S3Bucket": {"Ref": "CodeBucket"}, "S3Key": {"Ref": "CodeKey"}}
        assert properties["Handler"] == aws_layout.FUNCTIONS[name.lower()]
        assert properties["Architectures"] == [{"Ref": "Architecture"}]
        reserved = {"Fn::If": ["ReservesConcurrency", {"Ref": "ReservedConcurrency"}, {"Ref": "AWS::NoValue"}]}
        if name == "Control":  # the public may call it, and all functions share the account's concurrency
            reserved = {"Fn::If": ["BoundsControl", {"Ref": "ControlConcurrency"}, reserved]}
        assert properties["ReservedConcurrentExecutions"] == reserved
        roles.add(json.dumps(properties["Role"]))
    assert len(roles) == 5
    assert template.document["Parameters"]["Architecture"]["Default"] == "arm64"


def test_the_functions_are_told_all_that_the_layout_names(template):
    names = {value for name, value in vars(aws_layout).items() if name.startswith("ENV_")}
    names.remove(aws_layout.ENV_RUNNER_ENDPOINT)
    for queue in aws_layout.QUEUES:
        names |= {aws_layout.queue_variable(queue), aws_layout.dead_letters_variable(queue)}
    for name in FUNCTIONS:
        told = template.properties(f"{name}Function")["Environment"]["Variables"]
        assert names <= set(told)
        # The URL is made of the control function: what that one is told of it would be a circle.
        url = told.get(aws_layout.ENV_RUNNER_ENDPOINT)
        assert url == ({"Fn::GetAtt": ["ControlUrl", "FunctionUrl"]} if name == "Starts" else None)


@pytest.mark.parametrize(
    ("image", "is_taken"),
    [
        ("public.ecr.aws/docker/library/python:3.13-alpine", True),
        (f"example.com:5000/python:3@sha256:{'0' * 64}", True),
        (f"example.com/python@sha256:{'0' * 63}", False),
        ("python@latest", False),
        ("python 3", False),
    ],
)
def test_a_runners_image_is_named_by_tag_or_by_a_whole_digest(template, image, is_taken):
    pattern = template.document["Parameters"]["RunnerImage"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, image)) == is_taken


ROLE_ARN = "arn:aws:iam::123456789012:role"


@pytest.mark.parametrize(
    ("parameter", "taken", "refused"),
    [
        # The functions' right to pass roles names exactly these.
        (
            "TaskRoleArns",
            ["", f"{ROLE_ARN}/terraform", f"{ROLE_ARN}/path/of/a+b=c@d"],
            [f"{ROLE_ARN}/*", "*", "terraform"],
        ),
        ("AlarmEmail", ["", "ops@example.com"], ["ops", "a b@example.com"]),
        (
            "PermissionsBoundary",
            ["", "arn:aws:iam::123456789012:policy/team/bound", "arn:aws-us-gov:iam::aws:policy/PowerUserAccess"],
            ["bound", "arn:aws:iam::123456789012:role/bound", "arn:aws:iam::123456789012:policy/*"],
        ),
        ("VpcId", ["", "vpc-0a1b"], ["vpc-x", "subnet-0a1b"]),
        ("SubnetIds", ["", "subnet-0a", "subnet-0a,subnet-0b"], ["subnet-0a, subnet-0b", "subnet-0a,", "vpc-0a"]),
    ],
)
def test_what_functions_and_tasks_would_stumble_on_is_refused_before_anything_is_made(
    parameter, taken, refused, template
):
    pattern = re.compile(template.document["Parameters"][parameter]["AllowedPattern"])
    assert not [value for value in taken if not pattern.fullmatch(value)]
    assert not [value for value in refused if pattern.fullmatch(value)]


@pytest.mark.parametrize(
    "origin",
    [
        *("https://runs.example.com", "https://x:8443", "http://localhost:5173", "http://[::1]:1"),
        *(
            "*",
            "https://*.example.com",
            "https://runs.example.com/",
            "http://runs.example.com",
            "https://A.b",
            "https://a:",
        ),
    ],
)
def test_an_origin_that_the_functions_would_not_take_is_refused(origin, template):
    """It would be an error of each of them at each call. And S3 takes any text for one, which no browser ever sends."""
    pattern = template.document["Parameters"]["WebOrigins"]["AllowedPattern"]
    is_taken = bool(re.fullmatch(pattern, origin))
    try:
        assert origins.parse([origin]) == {origin} or not is_taken
    except ValueError:
        assert not is_taken
    assert is_taken == (
        origin in ("https://runs.example.com", "https://x:8443", "http://localhost:5173", "http://[::1]:1")
    )


def test_sources_bound_their_concurrency_and_report_single_failures(template):
    sources = template.of_type("AWS::Lambda::EventSourceMapping")
    assert set(sources) == {"InboxSource", "RangesSource", "StartsSource", "BulkSource", "EndsSource"}
    for name, source in sources.items():
        properties = source["Properties"]
        # A range of a batch has a function to itself.
        assert properties["BatchSize"] == (1 if name == "RangesSource" else 10)
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        parameter = properties["ScalingConfig"]["MaximumConcurrency"]["Ref"]
        assert parameter == name.replace("Source", "Concurrency")
        assert template.document["Parameters"][parameter]["MinValue"] == 2


def test_what_starts_tasks_is_held_while_a_deployment_is_destroyed(template):
    from runvoy_infra.deploy import holding

    starting = [
        name
        for name, source in template.of_type("AWS::Lambda::EventSourceMapping").items()
        if source["Properties"]["FunctionName"] == {"Ref": "StartsFunction"}
    ]
    assert sorted(starting) == sorted(holding.SOURCES)


def test_a_start_that_waits_for_room_is_no_loop_to_lambda(template):
    """Lambda ends a chain of messages after 16 functions, unless a function allows it: waiting for Fargate is longer."""
    allowed = {name: template.properties(f"{name}Function").get("RecursiveLoop") for name in FUNCTIONS}
    assert {name for name, loop in allowed.items() if loop == "Allow"} == {
        function.capitalize() for function in aws_layout.FED_BY.values()
    }


def test_the_url_is_public_by_two_permissions_and_nobody_else_may_invoke(template):
    permissions = [one["Properties"] for one in template.of_type("AWS::Lambda::Permission").values()]
    of_control = [one for one in permissions if one["FunctionName"] == {"Ref": "ControlFunction"}]
    assert sorted(one["Action"] for one in of_control) == ["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"]
    for one in of_control:
        assert one["Principal"] == "*"
        if one["Action"] == "lambda:InvokeFunctionUrl":
            assert one["FunctionUrlAuthType"] == "NONE"
        else:
            # Without it anybody could invoke the function with an event of their own, a seed say.
            assert one["InvokedViaFunctionUrl"] is True
    (other,) = [one for one in permissions if one not in of_control]
    assert (other["Principal"], other["FunctionName"]) == ("events.amazonaws.com", {"Ref": "ReconcileFunction"})


@pytest.mark.parametrize(("bucket", "method"), [("Inbox", "POST"), ("Outbox", "GET")])
def test_pages_of_functions_and_of_named_origins_alone_reach_the_buckets(bucket, method, template):
    (rule,) = template.properties(bucket)["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedMethods"] == [method]
    condition, named, own = rule["AllowedOrigins"]["Fn::If"]
    assert condition == "NamesWebOrigins"
    assert "lambda-url" in json.dumps(own)
    assert "WebOrigins" in json.dumps(named)
    assert "*" not in (own, named)
    assert template.document["Parameters"]["WebOrigins"]["Default"] == ""


def test_the_end_of_this_clusters_tasks_reaches_the_ends_queue(template):
    rule = template.properties("TaskStopped")
    assert rule["EventPattern"]["detail"] == {
        "clusterArn": [{"Fn::GetAtt": ["Cluster", "Arn"]}],
        "lastStatus": ["STOPPED"],
    }
    queue = template.named("EndsQueue", "AWS::SQS::Queue")
    assert [(target["Id"], target["Arn"]) for target in rule["Targets"]] == [("ends", {"Fn::GetAtt": [queue, "Arn"]})]
    policy = template.properties(template.named("EndsQueuePolicy", "AWS::SQS::QueuePolicy"))["PolicyDocument"]
    (sender,) = [one for one in policy["Statement"] if one.get("Principal") == {"Service": "events.amazonaws.com"}]
    assert sender["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["TaskStopped", "Arn"]}}}
    assert template.properties("EveryMinute")["ScheduleExpression"] == "rate(1 minute)"


def test_an_event_that_cannot_be_delivered_is_a_dead_letter_of_the_ends(template):
    dead = template.named("EndsDeadLetters", "AWS::SQS::Queue")
    [target] = template.properties("TaskStopped")["Targets"]
    assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": [dead, "Arn"]}}
    policy = template.properties(template.named("EndsDeadLettersPolicy", "AWS::SQS::QueuePolicy"))
    assert policy["Queues"] == [{"Ref": dead}]
    allowed = [one for one in policy["PolicyDocument"]["Statement"] if one["Effect"] == "Allow"]
    assert allowed == [
        {
            "Sid": "EndsOfTasks",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": {"Fn::GetAtt": [dead, "Arn"]},
            "Condition": {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["TaskStopped", "Arn"]}}},
        }
    ]


def test_a_missed_minute_is_not_made_up_for_hours_later(template):
    [target] = template.properties("EveryMinute")["Targets"]
    assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] == 60


@pytest.mark.parametrize(
    ("cidr", "is_taken"),
    [
        ("10.71.0.0/20", True),
        ("10.0.0.0/16", True),
        ("10.0.0.0/24", False),  # two subnets of 2,048 addresses are no part of it: Fn::Cidr would fail in the midst
        ("10.0.0.0/8", False),  # no VPC is that large
        ("10.71.0.0", False),
    ],
)
def test_a_vpcs_range_holds_its_two_subnets(template, cidr, is_taken):
    parameter = template.document["Parameters"]["VpcCidr"]
    assert bool(re.fullmatch(parameter["AllowedPattern"], cidr)) == is_taken
    for name, one in template.of_type("AWS::EC2::Subnet").items():
        assert one["Properties"]["CidrBlock"]["Fn::Select"][1] == {"Fn::Cidr": [{"Ref": "VpcCidr"}, 2, "11"]}, name


def test_the_cluster_comes_after_a_role_that_takes_a_while(template):
    """ECS's own role of a new account was made right before, and has to be known by then."""
    assert listed(template.resources["Cluster"]["DependsOn"]) == [template.named("ExecutionRole", "AWS::IAM::Role")]


def test_tasks_go_out_and_nothing_comes_in(template):
    group = template.properties("TaskSecurityGroup")
    assert "SecurityGroupIngress" not in group
    assert [one["CidrIp"] for one in group["SecurityGroupEgress"]] == ["0.0.0.0/0"]
    assert not template.of_type("AWS::EC2::NatGateway")
    for kind in ("VPC", "Subnet", "InternetGateway", "RouteTable", "Route"):
        for name, one in template.of_type(f"AWS::EC2::{kind}").items():
            assert one["Condition"] == "MakesVpc", name


def test_the_key_serves_secrets_and_staging_alone(template):
    key = template.named("Cmk", "AWS::KMS::Key")
    users = {name for name, one in template.resources.items() if f'["{key}", "Arn"]' in json.dumps(one)}
    of_functions = {
        name for name in users if template.resources[name]["Type"] in ("AWS::Lambda::Function", "AWS::IAM::Policy")
    }
    assert users - of_functions == {"Staging"}
    for statement in all_statements(template):
        if any(action.startswith("kms:") for action in listed(statement["Action"])):
            assert "kms:ViaService" in statement["Condition"]["StringEquals"], statement


def test_members_secrets_are_read_by_two_functions_and_the_deployments_own_written_by_one(template):
    def may(role, action, folder):
        return any(
            f"/{folder}/*" in json.dumps(statement["Resource"])
            for statement in template.statements(role)
            if action in listed(statement["Action"])
        )

    roles = [f"{name}Role" for name in FUNCTIONS]
    assert [role for role in roles if may(role, "ssm:GetParameter", "secrets")] == ["StartsRole", "ControlRole"]
    assert [role for role in roles if may(role, "ssm:PutParameter", "own")] == ["ControlRole"]
    assert [role for role in roles if may(role, "ssm:DeleteParameters", "own")] == []
    assert [role for role in roles if may(role, "ssm:GetParametersByPath", "secrets")] == [
        "ControlRole",
        "ReconcileRole",
    ]
    assert [role for role in roles if may(role, "ssm:GetParametersByPath", "own")] == []
    readers = ["InboxRole", "StartsRole", "EndsRole", "ControlRole"]
    assert [role for role in roles if may(role, "ssm:GetParameter", "own")] == readers


def test_logs_are_kept_for_as_long_as_the_parameter_says(template):
    groups = template.of_type("AWS::Logs::LogGroup")
    assert len(groups) == len(FUNCTIONS) + 1
    for one in groups.values():
        assert one["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_the_template_is_within_cloudformations_limits(synthesized):
    assert len(json.dumps(synthesized.template)) < 1_000_000
    assert len(synthesized.template["Resources"]) < 500
    assert len(synthesized.template["Parameters"]) < 200
