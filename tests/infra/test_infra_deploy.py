"""`runvoy infra` as an admin has it, on MiniStack with its IAM: deploys the real template around stand-in functions."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from tests.aws.fake_ecs import FakeEcs, Idle, Task, serving
from tests.infra.conftest import RUNVOY, Admin, shell
from tests.servers.ministack import ACCOUNT, REGION

from runvoy_infra.deploy import holding
from runvoy_protocol.claims import parse_token

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 60


def wait_for(look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


def read(s3, bucket, key):
    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None


def test_a_deployment_stands_and_applying_it_again_does_nothing(admin, deployed):
    assert deployed["DeploymentId"].startswith("aws-")
    assert deployed["Endpoint"].startswith("https://")
    done = admin("apply", "--yes", "--json")
    assert done.returncode == 0
    assert "nothing to change" in done.stderr
    assert "has already the functions' code" in done.stderr
    assert "is named by a tag" in done.stderr
    pinned = f"RunnerImage=example.com/python@sha256:{'0' * 64}"
    assert "is named by a tag" not in admin("apply", "--parameter", pinned, "--json").stderr  # and nobody said yes
    assert json.loads(done.stdout)["changes"] == 0


def test_a_request_reaches_its_function_which_may_do_its_work_and_no_more(ministack, deployed):
    s3 = ministack.client("s3")
    s3.put_object(Bucket=deployed["InboxBucket"], Key="requests/some-key/some-id", Body=b"hello")
    answer = json.loads(wait_for(lambda: read(s3, deployed["OutboxBucket"], "receipts/answer.json")))
    assert answer == {"data": "hello", "staging": "AccessDenied", "inbox": "AccessDenied", "missing": "NoSuchKey"}


def test_what_functions_are_told_leaves_room_in_lambdas_four_kilobytes(ministack, deployed):
    found = ministack.client("lambda").get_function_configuration(FunctionName=deployed["ControlFunctionName"])
    told = found["Environment"]["Variables"]
    assert told["RUNVOY_DEPLOYMENT_ID"] == deployed["DeploymentId"]
    assert sum(len(name) + len(value) for name, value in told.items()) < 3_000


def test_status_tells_what_stands_and_finds_no_drift(admin, deployed):
    found = json.loads(admin.ok("status", "--drift", "--json"))
    assert found["status"] == "CREATE_COMPLETE"
    assert found["outputs"] == deployed
    assert (found["failures"], found["drift"]) == ([], [])
    lines = admin.ok("status")
    assert deployed["Endpoint"] in lines


def test_the_first_admin_gets_a_claim_token(admin, deployed):
    token = parse_token(
        json.loads(admin.ok("apply", "--yes", "--json", "--seed-admin-user", "ann@example.com"))["admin"]["claim_token"]
    )
    assert token.deployment_id == deployed["DeploymentId"]
    assert f"{token.endpoint}/" == deployed["Endpoint"]


def test_an_admin_who_has_a_key_gets_no_other(admin, deployed):
    told = json.loads(admin.ok("apply", "--yes", "--json", "--seed-admin-user", "known@example.com"))
    assert told["admin"] == {"user": "known@example.com", "claim_token": None}


def test_the_deployments_own_refusal_of_a_seed_is_told_as_it_is(admin, deployed):
    done = admin("apply", "--yes", "--seed-admin-user", "refused@example.com")
    assert done.returncode == 1
    assert "is a viewer (CONFLICT)" in done.stderr
    assert "hint: Change the role." in done.stderr


def test_configuring_writes_the_endpoint_beside_the_key_that_is_there(admin, deployed, tmp_path):
    path = tmp_path / "home" / "config.yaml"
    done = admin("apply", "--yes", "--configure")
    assert done.returncode == 2
    assert "--configure needs an API key" in done.stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("api_key: rvk1_something\nendpoint: https://old.example\n")
    admin.ok("apply", "--yes", "--configure")
    written = yaml.safe_load(path.read_text())
    assert written == {
        "api_key": "rvk1_something",
        "endpoint": deployed["Endpoint"].rstrip("/"),
        "deployment_id": deployed["DeploymentId"],
    }


def test_without_a_terminal_nothing_is_applied_and_nothing_is_left(admin, ministack):
    done = admin("apply", "--stack-name", "asked")
    assert done.returncode == 2
    assert "+ AWS::S3::Bucket Inbox" in done.stderr
    assert "--yes" in done.stderr
    assert admin("status", "--stack-name", "asked").returncode == 1
    stacks = ministack.client("cloudformation").describe_stacks()["Stacks"]
    assert "asked" not in {one["StackName"] for one in stacks}


# One that CloudFormation finds before it begins, and one that fails while others are made already.
TAKEN = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": f"runvoy-artifacts-{ACCOUNT}-{REGION}"}}
IMPOSSIBLE = {
    "Type": "AWS::SQS::Queue",
    "DependsOn": ["Inbox", "Records"],
    "Properties": {"VisibilityTimeout": 999_999},
}


@pytest.mark.parametrize("trouble", [TAKEN, IMPOSSIBLE], ids=["taken", "impossible"])
def test_what_cannot_come_up_is_rolled_back_with_its_reason(trouble, admin, bundle, tmp_path, deployed, ministack):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    document = json.loads((broken / "template.json").read_text())
    document["Resources"]["Trouble"] = trouble
    (broken / "template.json").write_text(json.dumps(document))
    buckets = ministack.client("s3").list_buckets()["Buckets"]
    done = admin._replace(bundle=broken)("apply", "--yes", "--stack-name", "broken")
    assert done.returncode == 1
    assert "could not be brought up" in done.stderr
    assert f"Trouble ({trouble['Type']}):" in done.stderr
    # What is kept when a deployment goes is not kept of one that never was.
    assert ministack.client("s3").list_buckets()["Buckets"] == buckets
    again = admin("apply", "--yes", "--stack-name", "broken")
    assert again.returncode == 1
    assert f"never came up (ROLLBACK_COMPLETE): Trouble ({trouble['Type']}):" in again.stderr
    admin.ok("destroy", "--yes", "--stack-name", "broken")


def test_who_may_not_is_told_what_is_missing(ministack, bundle, tmp_path, deployed):
    reader = ministack.user("reader", ["sts:GetCallerIdentity", "cloudformation:DescribeStacks"])
    done = Admin(shell(reader, tmp_path / "home"), bundle)("apply", "--yes")
    assert done.returncode == 1
    assert "(FORBIDDEN)" in done.stderr
    assert "docs/aws.md" in done.stderr


def test_wrong_parameters_are_refused_before_anything_is_done(admin):
    done = admin("apply", "--yes", "--parameter", "LogLvel=DEBUG")
    assert done.returncode == 1
    assert "the template has no parameter LogLvel" in done.stderr
    assert admin("apply", "--yes", "--parameter", "LogLevel").returncode == 2
    done = admin("apply", "--yes", "--stack-name", "new", "--parameter", "TableDeletionProtection=on")
    assert "TableDeletionProtection is for a stack that stands" in done.stderr
    done = admin("apply", "--yes", "--parameter", "Architecture=arm64")
    assert "built for x86_64, not for arm64" in done.stderr


def test_destroying_keeps_the_audit_and_takes_the_rest(admin, ministack):
    applied = json.loads(admin.ok("apply", "--yes", "--json", "--stack-name", "short-lived"))
    outputs = applied["stack"]["outputs"]
    s3, ssm = ministack.client("s3"), ministack.client("ssm")
    s3.put_object(Bucket=outputs["StagingBucket"], Key="payloads/left", Body=b"x")
    s3.put_object(Bucket=outputs["OutboxBucket"], Key="receipts/kept", Body=b"x")
    secret = f"{outputs['ParameterPath']}/some"
    ssm.put_parameter(Name=secret, Value="x", Type="SecureString")
    refused = admin("destroy", "--stack-name", "short-lived")
    assert refused.returncode == 2
    assert f"keeps the table {outputs['TableName']}" in refused.stderr
    assert "deletes 1 parameters: members' secrets" in refused.stderr
    done = json.loads(admin.ok("destroy", "--yes", "--json", "--stack-name", "short-lived"))
    kept = {one["name"] for one in done["kept"]}
    assert kept == {outputs["InboxBucket"], outputs["OutboxBucket"], outputs["TableName"]}
    assert read(s3, outputs["OutboxBucket"], "receipts/kept") == b"x"
    assert outputs["TableName"] in ministack.client("dynamodb").list_tables()["TableNames"]
    assert outputs["StagingBucket"] not in {one["Name"] for one in s3.list_buckets()["Buckets"]}
    assert not ssm.get_parameters(Names=[secret])["Parameters"]
    assert admin("destroy", "--yes", "--stack-name", "short-lived").returncode == 1


class NeverStops(Idle):
    """Tasks that were told to stop and go on."""

    def stop(self, task: Task) -> None: ...


def states_of_starts(ministack, stack_name):
    """Whether the queues of starts are read, by the event source mapping's name."""
    pages = ministack.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack_name)
    found = {}
    for one in (one for page in pages for one in page["StackResourceSummaries"]):
        if one["LogicalResourceId"] in holding.SOURCES:
            mapping = ministack.client("lambda").get_event_source_mapping(UUID=one["PhysicalResourceId"])
            found[one["LogicalResourceId"]] = mapping["State"]
    return found


def test_a_destroy_that_was_killed_is_told_of_undone_by_an_apply_and_finished_by_another(admin, ministack):
    outputs = json.loads(admin.ok("apply", "--yes", "--json", "--stack-name", "cut-off"))["stack"]["outputs"]
    program = NeverStops()
    ecs = FakeEcs(program, cluster=outputs["ClusterName"])
    family = f"{outputs['TaskFamilyPrefix']}image"
    ecs.register_task_definition({"family": family, "containerDefinitions": [{"name": "main"}]})
    secret = f"{outputs['ParameterPath']}/secrets/some"
    ministack.client("ssm").put_parameter(Name=secret, Value="x", Type="SecureString")
    network = {"awsvpcConfiguration": {"subnets": ["s"]}}
    started = ecs.run_task(
        {"cluster": ecs.cluster, "taskDefinition": family, "networkConfiguration": network, "startedBy": "x"}
    )
    with serving(ecs):
        admin = admin._replace(environment={**admin.environment, "AWS_ENDPOINT_URL_ECS": ecs.url})
        for again in (False, True):
            kill_while_it_waits(admin, "cut-off")
            assert states_of_starts(ministack, "cut-off") == {"StartsSource": "Disabled", "BulkSource": "Disabled"}
            status = admin("status", "--json", "--stack-name", "cut-off")
            assert status.returncode == 1
            assert sorted(json.loads(status.stdout)["unread"]) == ["BulkSource", "StartsSource"]
            assert (
                "unread: StartsSource (a `destroy` was cut off, " in admin("status", "--stack-name", "cut-off").stdout
            )
            if again:
                break
            # Nothing that could not be brought back is gone by then, and nothing is changed unasked.
            assert admin("apply", "--stack-name", "cut-off").returncode == 2
            assert set(states_of_starts(ministack, "cut-off").values()) == {"Disabled"}
            applied = admin("apply", "--yes", "--json", "--stack-name", "cut-off")
            assert applied.returncode == 0, applied
            assert "~ AWS::Lambda::EventSourceMapping StartsSource  (its queue is not read" in applied.stderr
            assert json.loads(applied.stdout)["changes"] == 2
            assert states_of_starts(ministack, "cut-off") == {"StartsSource": "Enabled", "BulkSource": "Enabled"}
            assert json.loads(admin.ok("status", "--json", "--stack-name", "cut-off"))["unread"] == []
            assert ministack.client("ssm").get_parameters(Names=[secret])["Parameters"]
        program.end(ecs.tasks[started["tasks"][0]["taskArn"]], 143, "")
        admin.ok("destroy", "--yes", "--stop-tasks", "--stack-name", "cut-off")
        assert ecs.list_task_definition_families({"familyPrefix": family}) == {"families": []}
    assert not ministack.client("ssm").get_parameters(Names=[secret])["Parameters"]
    assert admin("status", "--stack-name", "cut-off").returncode == 1


def kill_while_it_waits(admin, stack_name):
    """Kill a `destroy` with -9 once it waits for tasks to stop."""
    command = [str(RUNVOY), "infra", "destroy", "--yes", "--stop-tasks", "--stack-name", stack_name]
    with subprocess.Popen(command, env=admin.environment, stderr=subprocess.PIPE, text=True) as destroying:
        for line in destroying.stderr:
            if "waiting for 1 tasks to stop" in line:
                break
        destroying.kill()
    assert destroying.returncode == -signal.SIGKILL


def test_the_template_is_printed_as_it_is_deployed(admin, bundle):
    assert admin.ok("template") == (bundle / "template.json").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not take the credentials"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "no AWS region is set"),
        ({"AWS_ENDPOINT_URL": "https://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, "Could not connect"),
    ],
)
def test_trouble_with_aws_is_told_in_words(change, said, admin):
    done = admin("status", **change)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
