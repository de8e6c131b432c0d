"""A deployment as its members have it: the real command line, functions, queues and runner; ECS and AWS itself stand in."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from tests.infra.live.conftest import IMAGE, Live, wait_for
from tests.servers import task_processes

from runvoy_protocol import aws_layout, run_objects
from runvoy_protocol.control import API_PREFIX

pytestmark = pytest.mark.slow


def test_a_command_runs_and_its_output_and_exit_code_come_back(live: Live) -> None:
    done = live.admin("run", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr.strip().splitlines()[0]) == (7, "out\n", "err"), done


def test_submit_wait_logs_status_and_list_tell_of_the_same_run(live: Live) -> None:
    execution_id = live.admin.ok("submit", "--label", "team=ops", "--", "printf", "%s|", "a b", "$HOME", "ü")
    assert live.admin("wait", execution_id).returncode == 0
    assert live.admin.ok("logs", execution_id) == "a b|$HOME|ü|"
    shown = live.admin.json("status", execution_id)
    assert (shown["state"], shown["owner"], shown["exit_code"]) == ("SUCCEEDED", "ann@example.com", 0)
    assert (shown["isolation"], shown["image"], shown["cpu"], shown["memory_mib"]) == ("container", IMAGE, 256, 512)
    listed = live.admin.json("list", "--label", "team=ops")
    assert [one["execution_id"] for one in listed] == [execution_id]
    assert len(live.tasks_of(execution_id)) == 1


def test_the_payload_is_gone_and_overrides_hold_no_secret(live: Live) -> None:
    live.admin.ok("secrets", "create", "deploy-token", "DEPLOY_TOKEN", stdin="s3cret-value-of-the-test")
    execution_id = live.admin.ok(
        "submit", "--secret", "deploy-token", 'echo "got $DEPLOY_TOKEN"; echo ${#DEPLOY_TOKEN}'
    )
    assert live.admin("wait", execution_id).returncode == 0
    assert live.admin.ok("logs", execution_id) == "got ***\n24"
    assert "s3cret-value" not in str([request for _, request in live.ecs.calls])
    staged = live.s3.list_objects_v2(Bucket=live.outputs["StagingBucket"], Prefix=f"payloads/{execution_id}")
    assert staged["KeyCount"] == 0
    table = live.server.client("dynamodb").scan(TableName=live.outputs["TableName"])
    assert "s3cret-value" not in str(table["Items"])
    stored = live.server.client("ssm").get_parameters_by_path(Path=live.outputs["ParameterPath"], Recursive=True)
    assert stored["Parameters"]
    assert {one["Type"] for one in stored["Parameters"]} == {"SecureString"}
    assert "s3cret-value" not in str(stored)
    live.admin.ok("secrets", "delete", "--yes", "deploy-token")


def test_a_secret_arrives_byte_for_byte(live: Live) -> None:
    value = bytes(range(1, 256)) * 4
    live.admin.ok("secrets", "create", "odd-bytes", "ODD_BYTES", stdin=value)
    done = live.admin("run", "--secret", "odd-bytes", 'printf %s "$ODD_BYTES" | cksum; printf %s "$ODD_BYTES" | wc -c')
    assert done.returncode == 0, done
    assert done.stdout.split()[-1] == str(len(value))
    live.admin.ok("secrets", "delete", "--yes", "odd-bytes")


def test_locks_hold_and_pass_on_in_order(live: Live) -> None:
    first = live.admin.ok("submit", "--lock", "prod-db", "echo $RUNVOY_LOCK_FENCE; sleep 4")
    wait_for(lambda: live.state(first) == "RUNNING")
    second = live.admin.ok("submit", "--lock", "prod-db", "echo $RUNVOY_LOCK_FENCE")
    wait_for(lambda: len(live.admin.json("locks", "show", "prod-db")["queue"]) == 2)
    held = live.admin("run", "--lock", "prod-db", "--if-locked", "fail", "echo never")
    assert held.returncode == 122, held
    assert live.tasks_of(second) == []
    assert live.admin("wait", first, second).returncode == 0
    fences = [int(live.admin.ok("logs", one)) for one in (first, second)]
    assert fences[1] == fences[0] + 1


def test_a_kill_ends_the_whole_tree(live: Live) -> None:
    execution_id = live.admin.ok("submit", "echo working; sleep 300 & sleep 300")
    wait_for(lambda: live.state(execution_id) == "RUNNING")
    live.admin.ok("kill", "--wait", execution_id)
    assert live.admin("wait", execution_id).returncode == 123
    assert live.admin.ok("logs", execution_id) == "working"
    wait_for(lambda: not task_processes.living(execution_id))


def test_a_deadline_is_the_runners_and_passes_for_what_it_is(live: Live) -> None:
    done = live.admin("run", "--timeout", "2s", "echo working; sleep 300")
    assert (done.returncode, done.stdout) == (124, "working\n"), done


def test_the_same_id_is_the_same_run_and_another_content_is_refused(live: Live) -> None:
    first = live.admin.ok("submit", "--id", "release-42", "echo once")
    assert live.admin.ok("submit", "--id", "release-42", "echo once") == first
    refused = live.admin("submit", "--id", "release-42", "echo twice")
    assert (refused.returncode, "ID_CONFLICT" in refused.stderr) == (121, True), refused
    assert live.admin("wait", first).returncode == 0
    assert len(live.tasks_of(first)) == 1


def test_an_image_that_is_not_registered_is_refused(live: Live) -> None:
    refused = live.admin("run", "--image", "alpin", "true")
    assert (refused.returncode, "IMAGE_NOT_FOUND" in refused.stderr) == (121, True), refused
    assert IMAGE in refused.stderr, "the nearest is named"


def test_a_member_runs_what_they_may_until_they_are_revoked(live: Live) -> None:
    token = json.loads(live.admin.ok("users", "create", "bob@example.com", "--role", "developer", "--json"))["token"]
    bob = live.claimed("bob", token)
    assert bob("run", "exit 5").returncode == 5
    again = live.member("mallory")("claim", token, "--endpoint", live.endpoint)
    assert (again.returncode, "was used" in again.stderr) == (1, True), again
    denied = bob("users", "create", "eve@example.com", "--role", "admin")
    assert (denied.returncode, "FORBIDDEN" in denied.stderr) == (1, True), denied
    blocking = bob.ok("submit", "--lock", "bobs", "sleep 300")
    wait_for(lambda: live.state(blocking) == "RUNNING")
    waiting = bob.ok("submit", "--lock", "bobs", "echo never")
    wait_for(lambda: len(live.admin.json("locks", "show", "bobs")["queue"]) == 2)
    live.admin.ok("users", "revoke", "--yes", "bob@example.com")
    live.admin.ok("kill", "--wait", blocking)
    wait_for(lambda: live.state(waiting) == "STOPPED")
    assert live.admin.json("status", waiting)["reason"] == "revoked"
    assert live.tasks_of(waiting) == []
    refused = bob("run", "echo never")
    assert (refused.returncode, "KEY_REVOKED" in refused.stderr) == (121, True), refused


def test_an_image_is_a_task_definition_while_it_is_registered(live: Live) -> None:
    family = aws_layout.task_family(live.outputs["DeploymentId"], "tools:2", "linux/amd64")
    assert family.startswith(live.outputs["TaskFamilyPrefix"])
    live.admin.ok("images", "register", "tools:2", "--platform", "linux/amd64", "--cpu", "512", "--memory", "2048")
    done = live.admin("run", "--image", "tools:2", "--json", "true")
    assert done.returncode == 0, done
    (task,) = [task for task in live.ecs.tasks.values() if task.definition == family]
    assert (task.cpu, task.memory) == ("512", "2048")
    live.admin.ok("images", "unregister", "tools:2")
    assert {one["status"] for one in live.ecs.definitions[family]} == {"INACTIVE"}


def test_the_audit_knows_who_did_it(live: Live) -> None:
    execution_id = live.admin.ok("submit", "true")
    assert live.admin("wait", execution_id).returncode == 0

    def told() -> list[dict[str, str]]:
        lines = live.admin.ok("audit", "--execution", execution_id, "--json").splitlines()
        return [json.loads(line) for line in lines] if len(lines) >= 3 else []

    entries = wait_for(told)
    actors = {one["action"]: one["actor"] for one in entries}
    assert actors["admit"] == actors["start"] == "ann@example.com"
    # Either may come first, and the other may find nothing left to change.
    assert {"result": "runner", "stopped": "platform"}.items() & actors.items()


def renewed(live: Live, execution_id: str, key: bytes) -> tuple[int, dict]:
    """A runner's call for a new grant, over the function URL."""
    target = f"{API_PREFIX}/runs/{execution_id}/grant"
    header = run_objects.runner_authorization(key, execution_id, 1, "POST", target, time.time_ns() // 1_000_000)
    asked = urllib.request.Request(live.endpoint + target, b"", {"Authorization": header}, method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_a_runner_renews_its_grant_over_the_function_url_while_its_execution_lives(live: Live) -> None:
    execution_id = live.admin.ok("submit", "echo working; sleep 300")
    wait_for(lambda: live.state(execution_id) == "RUNNING")
    secret = live.deployment_secret()
    key = run_objects.execution_key(secret, execution_id, 1)
    status, grant = renewed(live, execution_id, key)
    assert (status, grant["key_prefix"]) == (200, f"executions/{execution_id}/run/"), grant
    assert grant["renew_url"] == f"{live.outputs['Endpoint'].rstrip('/')}{API_PREFIX}/runs/{execution_id}/grant"
    assert datetime.fromisoformat(grant["expires_at"]) > datetime.now(UTC) + timedelta(minutes=50)
    other = run_objects.execution_key(secret, execution_id, 2)
    assert renewed(live, execution_id, other)[0] == 401
    live.admin.ok("kill", "--wait", execution_id)
    status, told = renewed(live, execution_id, key)
    assert (status, told["error"]["code"]) == (403, "FORBIDDEN"), told
