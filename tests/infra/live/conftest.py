"""One deployment for all tests here: the real bundle on MiniStackTls, with an ECS beside it that runs real runners."""

from __future__ import annotations

import base64
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.aws.fake_ecs import FakeEcs, Task
from tests.aws.fake_ecs import serving as serving_ecs
from tests.infra.conftest import RUNVOY, Admin, shell
from tests.infra.live.front import serving as serving_front
from tests.infra.live.tasks import RealTasks
from tests.servers import ministack_tls as servers
from tests.servers.ministack_tls import MiniStackTls

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.secrets import SsmSecrets
from runvoy_infra import bundle_files, bundling
from runvoy_protocol import aws_layout
from runvoy_protocol.claims import parse_token

if TYPE_CHECKING:
    from runvoy_infra.stack.app import Synthesized

PATIENCE_SECONDS = 60
IMAGE = "alpine"
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def wait_for(look: Callable[[], Any], patience: float = PATIENCE_SECONDS) -> Any:
    """What `look` finds, once that is not None or False."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def real_bundle(synthesized: Synthesized, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeEcs]]:
    """The functions as they are deployed, for this machine, and the ECS that they are told of."""
    from runvoy_infra.stack import app

    folder = tmp_path_factory.mktemp("real-bundle")
    architecture = _ARCHITECTURES.get(platform.machine().lower())
    if architecture is None:
        pytest.skip(f"no bundle is made for {platform.machine()}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        bundling.make_code(folder / bundle_files.CODE, architecture, python)
    except SystemExit as error:
        pytest.skip(str(error))
    about = {"version": "0.1.0", "architecture": architecture, "python": python}
    (folder / bundle_files.MANIFEST).write_text(json.dumps(about))
    with serving_ecs(FakeEcs(RealTasks(Path("/nonexistent")))) as ecs:
        template = servers.as_it_takes_it(synthesized.template)
        for resource in template["Resources"].values():
            if resource["Type"] == "AWS::Lambda::Function":
                resource["Properties"]["Environment"]["Variables"]["AWS_ENDPOINT_URL_ECS"] = ecs.url
        (folder / bundle_files.TEMPLATE).write_text(app.as_text(template))
        yield folder, ecs


class Member:
    """Somebody at a shell with a configuration of their own."""

    def __init__(self, home: Path, certificate: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.home = home
        self.environment = {
            **kept,
            "RUNVOY_HOME": str(home),
            "NO_COLOR": "1",
            "SSL_CERT_FILE": str(certificate),  # what S3's presigned addresses are reached with
        }

    def __call__(self, *args: str, stdin: str | bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [str(RUNVOY), *args], check=False, env=self.environment, input=raw, capture_output=True, timeout=timeout
        )
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def ok(self, *args: str, stdin: str | bytes = b"") -> str:
        done = self(*args, stdin=stdin)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))


class Live:
    """The deployment, and its admin."""

    def __init__(
        self, server: MiniStackTls, ecs: FakeEcs, outputs: dict[str, str], endpoint: str, folder: Path
    ) -> None:
        self.server = server
        self.ecs = ecs
        self.outputs = outputs
        self.endpoint = endpoint
        self._folder = folder
        self.silent: set[str] = set()
        """Executions whose task's end nobody tells."""
        self.s3 = server.client("s3")
        self.sqs = server.client("sqs")
        ecs.on_stopped = self.tell_of_end
        stack = server.client("cloudformation").list_stack_resources(StackName="live")["StackResourceSummaries"]
        self._queues = {
            one["LogicalResourceId"]: one["PhysicalResourceId"]
            for one in stack
            if one["ResourceType"] == "AWS::SQS::Queue"
        }
        self._functions = [one["PhysicalResourceId"] for one in stack if one["ResourceType"] == "AWS::Lambda::Function"]
        (self.encryption_key,) = [one["PhysicalResourceId"] for one in stack if one["ResourceType"] == "AWS::KMS::Key"]
        self.admin = self.member("admin")

    def member(self, name: str) -> Member:
        return Member(self._folder / name, self.server.certificate)

    def claimed(self, name: str, token: str) -> Member:
        member = self.member(name)
        member.ok("claim", token, "--endpoint", self.endpoint)
        return member

    def queue_url(self, queue: str, *, dead_letters: bool = False) -> str:
        wanted = f"{queue.capitalize()}{'DeadLetters' if dead_letters else 'Queue'}"
        (found,) = [url for name, url in self._queues.items() if name.startswith(wanted)]
        return found

    def function(self, name: str) -> str:
        (found,) = [one for one in self._functions if f"-{name}Function" in one]
        return str(found)

    def send(self, queue: str, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue_url(queue), MessageBody=body)

    def tell_of_end(self, event: dict[str, Any]) -> None:
        """What EventBridge's rule would do: nobody but AWS may put an event of aws.ecs."""
        execution_id = event["detail"]["startedBy"].partition("-")[0]
        if execution_id not in self.silent:
            self.send("ends", json.dumps(event))

    def tasks_of(self, execution_id: str) -> list[Task]:
        return [task for task in list(self.ecs.tasks.values()) if task.started_by.startswith(execution_id)]

    @property
    def clients(self) -> Clients:
        """The account's admin's."""

        class OfAdmin(Clients):
            get = staticmethod(self.server.client)  # type: ignore[assignment]

        return OfAdmin()

    def deployment_secret(self) -> bytes:
        """What runners' keys are derived from, as the account's admin can read it."""
        own = SsmSecrets(self.clients, f"{self.outputs['ParameterPath']}/own", "")
        return base64.b64decode(json.loads(own.get("deployment") or b"")["secret"])

    def drained(self) -> bool:
        """Whether no queue holds or hands out anything."""
        for queue in aws_layout.QUEUES:
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            found = self.sqs.get_queue_attributes(QueueUrl=self.queue_url(queue), AttributeNames=names)["Attributes"]
            if any(int(count) for count in found.values()):
                return False
        return True

    def state(self, execution_id: str) -> str:
        return str(self.admin.json("status", execution_id)["state"])


@pytest.fixture(scope="session")
def live(
    ministack: MiniStackTls, real_bundle: tuple[Path, FakeEcs], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    folder, ecs = real_bundle
    program = ecs.program = RealTasks(ministack.certificate)
    deployer = Admin(shell(ministack.environment, tmp_path_factory.mktemp("live-deployer")), folder)
    applied = json.loads(
        deployer.ok("apply", "--yes", "--json", "--stack-name", "live", "--seed-admin-user", "ann@example.com")
    )
    outputs: dict[str, str] = applied["stack"]["outputs"]
    token = applied["admin"]["claim_token"]
    assert parse_token(token).endpoint == outputs["Endpoint"].rstrip("/")
    ecs.cluster = outputs["ClusterName"]
    with serving_front(ministack.url, ministack.certificate, outputs["Endpoint"]) as endpoint:
        made = Live(ministack, ecs, outputs, endpoint, tmp_path_factory.mktemp("live-members"))
        try:
            made.admin.ok("claim", token, "--endpoint", endpoint)
            made.admin.ok("images", "register", IMAGE, "--default")
            yield made
        finally:
            program.end()
