"""A run with a repository: what is admitted, what the runner is given, and the commit in the status."""

import base64
import json

import pytest
from tests.unit import calls

from runvoy_agent.runner import git_commands
from runvoy_agent.runner.payload import Checkout
from runvoy_protocol import git_sources, object_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import GitSource
from runvoy_protocol.run_objects import GitCheckout
from runvoy_protocol.secret_messages import check_secret
from runvoy_protocol.states import State
from runvoy_protocol.status import GitStatus

COMMIT = "5d1f0c3b9e8a7f6d5c4b3a29181706f5e4d3c2b1"
REPO = "https://git.example.com/infra.git"


def test_the_runner_which_knows_nothing_of_the_protocol_calls_all_by_the_same_names():
    named = {git_commands.TOKEN, git_commands.SSH_KEY, git_commands.KNOWN_HOSTS, git_commands.CERTIFICATES}
    assert named == {name.encode() for name in git_sources.CREDENTIALS}
    asked = GitCheckout(repo=REPO)
    understood = Checkout({"repo": REPO})
    assert (understood.depth, understood.timeout_seconds) == (asked.depth, asked.timeout_seconds)
    assert asked.depth == git_sources.DEFAULT_DEPTH


def keep(world, name, env_name, value):
    body = {"name": name, "env_name": env_name, "value": base64.b64encode(value).decode()}
    calls.ok(world, "POST", "/secrets", body)


@pytest.mark.parametrize(
    "env_name", ["RUNVOY_GIT_TOKEN", "RUNVOY_GIT_SSH_KEY", "RUNVOY_GIT_KNOWN_HOSTS", "RUNVOY_GIT_CERTIFICATES"]
)
def test_a_secret_may_be_for_cloning(env_name):
    check_secret("deploy", env_name, "", ())
    with pytest.raises(RunvoyError):
        check_secret("deploy", env_name + "S", "", ())


def test_the_runner_gets_the_checkout_and_the_command_not_its_secret(world):
    keep(world, "infra", "RUNVOY_GIT_TOKEN", b"the token of it")
    keep(world, "db", "DB_PASSWORD", b"correct horse")
    request = world.request(
        git=GitSource(REPO, "main", "envs"), env={"GIT_DEPTH": "50", "A": "1"}, secrets=("infra", "db")
    )
    assert world.submit(request).outcome == "accepted"
    world.start(request.request_id)
    payload = json.loads(world.launcher.launches[-1].payload)
    assert payload["git"] == {"repo": REPO, "ref": "main", "path": "envs", "depth": 50}
    assert payload["git_credentials"] == {"RUNVOY_GIT_TOKEN": "dGhlIHRva2VuIG9mIGl0"}
    assert list(payload["secrets"]) == ["DB_PASSWORD"]
    assert world.status(request.request_id).git == GitStatus(repo=REPO, ref="main", path="envs")


@pytest.mark.parametrize("git", [None, GitSource("git@example.com:infra.git")])
def test_a_token_without_its_repository_is_refused(world, git):
    keep(world, "infra", "RUNVOY_GIT_TOKEN", b"the token of it")
    receipt = world.submit(world.request(git=git, secrets=("infra",)))
    assert (receipt.outcome, receipt.code) == ("refused", ErrorCode.INVALID_REQUEST)
    assert "'infra' sets RUNVOY_GIT_TOKEN" in receipt.message


def signed(world, execution_id, kind, **fields):
    body = {"execution_id": execution_id, "attempt": 1, "started_at_ms": 1770091510250} | fields
    key = object_keys.started(execution_id) if kind == b"started" else object_keys.result(execution_id)
    world.leave_signed(key, kind, json.dumps(body), execution_id)


def result_fields(**fields):
    whole = {"outcome": "exited", "exit_code": 0, "signal": None, "message": "", "ended_at_ms": 1770091511000}
    return whole | {"lines": 0, "chunks": 1, "lost_bytes": 0} | fields


def begun(world, **fields):
    request = world.request(git=GitSource(REPO, "main"))
    world.submit(request)
    world.start(request.request_id)
    return request.request_id


def test_the_commit_is_recorded_when_the_command_begins(world):
    execution_id = begun(world)
    signed(world, execution_id, b"started", pid=1, git_commit=COMMIT)
    world.tell(execution_id, "started")
    assert world.status(execution_id).git == GitStatus(repo=REPO, ref="main", commit=COMMIT)
    other = COMMIT[::-1]
    signed(world, execution_id, b"result", **result_fields(git_commit=other))
    world.tell(execution_id, "result")
    ended = world.status(execution_id)
    assert (ended.state, ended.git.commit) == (State.SUCCEEDED, COMMIT)  # the first word stays


def test_the_commit_is_recorded_with_the_end_where_its_beginning_was_lost(world):
    execution_id = begun(world)
    signed(world, execution_id, b"result", **result_fields(git_commit=COMMIT))
    world.tell(execution_id, "result")
    assert world.status(execution_id).git.commit == COMMIT


@pytest.mark.parametrize("commit", ["main", COMMIT + "\n", COMMIT.upper(), COMMIT[:39], "\x1b[0m", 7])
def test_what_is_no_commit_is_no_report(world, commit):
    execution_id = begun(world)
    signed(world, execution_id, b"started", pid=1, git_commit=commit)
    world.tell(execution_id, "started")
    assert world.status(execution_id).state is State.STARTING


def test_a_commit_of_a_run_without_a_repository_is_not_taken(world):
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    signed(world, request.request_id, b"started", pid=1, git_commit=COMMIT)
    world.tell(request.request_id, "started")
    assert world.status(request.request_id).git is None
