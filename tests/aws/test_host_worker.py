"""`just localstack` as a developer has it: resources on a LocalStack, the worker as a process, and the real command line.

On localstack-core in host mode, with DynamoDB of MiniStack (LocalStack's is a Java program); and on a whole LocalStack, where
one is up: at RUNVOY_TEST_LOCALSTACK, or where docker-compose.yml puts it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.conftest import Machine, is_alive
from tests.servers.fixtures import ON_SERVERS
from tests.servers.localstack import localstack

pytestmark = [ON_SERVERS, pytest.mark.slow]

COMPOSED = os.environ.get("RUNVOY_TEST_LOCALSTACK", "http://127.0.0.1:4566")
REGION = "us-east-1"
_START_SECONDS = 150


class Worker:
    """The worker's process, started again after each kill; and its first admin's machine."""

    def __init__(self, folder: Path, endpoints: dict[str, str]) -> None:
        self.home = folder / "worker"
        self._folder = folder
        self._name = uuid.uuid4().hex[:8]
        self._environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            **endpoints,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "RUNVOY_CONTAINER_ENGINE": "/nonexistent/engine",
        }
        self._port = "0"
        self.process = self._start()
        endpoint, claim = self._told(2)
        self._port = endpoint.rpartition(":")[2]  # a member's configuration names it
        self.admin = Machine(folder / "admin")
        self.admin.ok("claim", claim.removeprefix("runvoy claim "))

    def _start(self) -> subprocess.Popen[bytes]:
        work = [sys.executable, "-m", "runvoy_agent.wiring_host", "--home", str(self.home), "--port", self._port]
        make = [sys.executable, "-m", "runvoy_infra.localstack", "--region", REGION, "--name", self._name, "--"]
        with (self._folder / "out").open("ab") as out, (self._folder / "err").open("wb") as err:
            return subprocess.Popen(
                [*make, *work, "--seed-admin-user", "ann@example.com"],
                env=self._environment,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _told(self, lines: int) -> list[str]:
        """What it says first, once that is all there."""
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            said = (self._folder / "err").read_text()
            found = [line for line in said.splitlines() if line.startswith(("the control API", "runvoy claim", "ann@"))]
            if len(found) >= lines:
                return found
            assert self.process.poll() is None, said
            assert time.monotonic() < give_up_at, said
            time.sleep(0.05)

    def kill_and_start(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()
        assert self._told(2)[1] == "ann@example.com has a key already"

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        Machine(self.home).end()


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localstack/health", timeout=2) as answer:
            return bool(json.load(answer))
    except (OSError, ValueError):
        return False


@pytest.fixture(scope="module", params=["host mode", "docker"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with ExitStack() as stack:
        if request.param == "docker":
            if not is_up(COMPOSED):
                pytest.skip(f"no LocalStack is up at {COMPOSED} (`docker compose up --wait localstack`)")
            endpoints = {"AWS_ENDPOINT_URL": COMPOSED}
        else:
            cache = request.getfixturevalue("server_cache")
            url = stack.enter_context(localstack(cache, tmp_path_factory.mktemp("localstack")))
            dynamodb = request.getfixturevalue("ministack").url
            endpoints = {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb}
        made = Worker(tmp_path_factory.mktemp("host"), endpoints)
        stack.callback(made.end)
        yield made


@pytest.fixture
def admin(worker: Worker) -> Machine:
    return worker.admin


def test_a_command_runs_and_its_output_and_exit_code_come_back(admin: Machine) -> None:
    done = admin("run", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (7, b"out\n", b"err"), done


def test_submit_wait_logs_status_and_list_tell_of_the_same_run(admin: Machine) -> None:
    execution_id = admin.ok("submit", "--label", "team=ops", "--", "printf", "%s|", "a b", "$HOME", "ü").strip()
    assert admin("wait", execution_id).returncode == 0
    assert admin.ok("logs", execution_id) == "a b|$HOME|ü|"
    shown = admin.status(execution_id)
    assert (shown["state"], shown["owner"], shown["isolation"]) == ("SUCCEEDED", "ann@example.com", "process")
    listed = json.loads(admin.ok("list", "--label", "team=ops", "--json"))
    assert [one["execution_id"] for one in listed] == [execution_id]


def test_an_image_is_registered_and_is_never_passed_over(admin: Machine) -> None:
    admin.ok("images", "register", "alpine:3")
    assert "alpine" in admin.ok("images", "list")
    refused = admin("run", "--image", "alpine:3", "echo never")
    assert (refused.returncode, b"UNAVAILABLE" in refused.stderr) == (125, True), refused
    assert b"--isolation process" in refused.stderr
    unknown = admin("run", "--image", "alpin", "echo never")
    assert (unknown.returncode, b"IMAGE_NOT_FOUND" in unknown.stderr) == (121, True), unknown


def test_playbooks_are_published_and_taken_out(admin: Machine, tmp_path: Path) -> None:
    (tmp_path / ".runvoy").mkdir()
    (tmp_path / ".runvoy" / "deploy.yml").write_text("commands: ['true']\n")
    assert "added" in admin.ok("playbook", "publish", cwd=tmp_path)
    [listed] = json.loads(admin.ok("playbook", "list", "--published", "--json"))
    assert listed["name"] == "deploy"
    assert "removed" in admin.ok("playbook", "publish", "--remove")


def until(gate: Path) -> str:
    """A command that goes on until a file is there: commands run on this machine."""
    return f"until [ -e {gate} ]; do sleep 0.1; done"


def test_locks_hold_and_pass_on_in_order(admin: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = admin.ok("submit", "--lock", "prod-db", f"echo $RUNVOY_LOCK_FENCE; {until(gate)}").strip()
    admin.wait_until(lambda: admin.status(first)["state"] == "RUNNING")
    second = admin.ok("submit", "--id", "the-next", "--lock", "prod-db", "echo $RUNVOY_LOCK_FENCE").strip()
    held = admin("run", "--lock", "prod-db", "--if-locked", "fail", "echo never")
    assert held.returncode == 122, held
    gate.touch()
    assert admin("wait", first, second).returncode == 0
    fences = [int(admin.ok("logs", one)) for one in (first, second)]
    assert fences[1] == fences[0] + 1


def test_a_kill_ends_the_whole_tree_and_a_deadline_is_kept(admin: Machine) -> None:
    execution_id = admin.ok("submit", "echo working; sleep 300 & sleep 300").strip()
    admin.wait_until(lambda: admin.status(execution_id)["state"] == "RUNNING")
    admin.ok("kill", "--wait", execution_id)
    assert admin("wait", execution_id).returncode == 123
    late = admin("run", "--timeout", "1s", "echo working; sleep 300")
    assert (late.returncode, late.stdout) == (124, b"working\n"), late


def test_a_secret_reaches_the_command_and_nothing_else(admin: Machine, worker: Worker) -> None:
    value = tuple(b"s3cret-value-of-the-test")
    source = worker.home.parent / "secret"
    source.write_bytes(bytes(value))
    with source.open("rb") as stdin:
        admin.ok("secrets", "create", "deploy-token", "DEPLOY_TOKEN", stdin=stdin)
    execution_id = admin.ok("submit", "--secret", "deploy-token", 'echo "got $DEPLOY_TOKEN"; echo ${#DEPLOY_TOKEN}')
    assert admin("wait", execution_id.strip()).returncode == 0
    assert admin.ok("logs", execution_id.strip()) == "got ***\n24\n"
    said = b"".join((worker.home.parent / name).read_bytes() for name in ("out", "err"))
    assert b"s3cret-value" not in said


def test_a_batch_runs_and_its_first_failure_is_told(admin: Machine, tmp_path: Path) -> None:
    lines = [json.dumps({"command": f"exit {number % 2}"}) for number in range(60)]
    (tmp_path / "batch.jsonl").write_text("\n".join(lines))
    identified = admin.ok("submit", "--bulk", str(tmp_path / "batch.jsonl"), patience=150).split()
    assert len(set(identified)) == len(lines)
    done = admin("wait", *identified, patience=150)
    assert done.returncode == 1, done


def test_a_command_outlives_the_worker_that_started_it(admin: Machine, worker: Worker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    execution_id = admin.ok("submit", f"echo before; {until(gate)}; echo after; exit 5").strip()
    admin.wait_until(lambda: admin.status(execution_id)["state"] == "RUNNING")
    worker.kill_and_start()
    assert is_alive(worker.process.pid)
    gate.touch()
    assert admin("wait", execution_id).returncode == 5
    assert admin.ok("logs", execution_id) == "before\nafter\n"
