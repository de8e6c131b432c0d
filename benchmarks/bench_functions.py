"""The functions on AWS beside a plain boto3 handler: cold imports; CPU of a warm delivery; growth with what is stored.

The peer makes the very same calls of AWS, one after another, with boto3's clients, and reads and writes their JSON. It
verifies and decides nothing. Both talk to MiniStack on loopback; what is counted is the CPU of their own process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore import xform_name
from botocore.exceptions import ClientError

from benchmarks.growth import growth
from runvoy_protocol import aws_layout

ROUNDS = 15
DELIVERIES = 60
WARM_UP = 10
SERVICES = ("s3", "dynamodb", "sqs", "ssm")
IMPORT = "import runvoy_agent.wiring_aws"
CLIENTS = f"""
clients = runvoy_agent.wiring_aws.Clients()
for service in {SERVICES}: clients.get(service)
"""
PEER = f"""
import json, boto3
clients = [boto3.client(service) for service in {SERVICES}]
"""
PROGRAMS = {"python": "", "import": IMPORT, "first": IMPORT + CLIENTS, "peer": PEER}


def main() -> None:
    os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "x")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "x")
    cold()
    warm()
    growth()


def cold() -> None:
    """What an import takes, less Python itself; the peer makes its clients at import, the function when they are needed.

    With byte code, as the bundle has it and Lambda has its boto3. The ratios are those of programs that ran one after the
    other in one round, and of these the median: what else the machine does changes from round to round.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(ROUNDS + 1):
        for name, program in PROGRAMS.items():
            before = _children()
            subprocess.run([sys.executable, "-c", program], check=True, env=environment)
            if number:  # the first one writes byte code
                taken[name].append(_children() - before)
    net = {
        name: [one - python for one, python in zip(values, taken["python"], strict=True)]
        for name, values in taken.items()
    }
    print(f"the peer, imported, with its clients: {statistics.median(net['peer']) * 1000:.0f} ms of CPU")
    for name, what in (
        ("import", "the function, imported"),
        ("first", "the same, and the clients of a first delivery"),
    ):
        ratios = sorted(ours / peer for ours, peer in zip(net[name], net["peer"], strict=True))
        print(
            f"{what}: {statistics.median(net[name]) * 1000:.0f} ms, ratio {statistics.median(ratios):.2f} "
            f"(quartiles {ratios[len(ratios) // 4]:.2f} and {ratios[-1 - len(ratios) // 4]:.2f}, {ROUNDS} rounds)"
        )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def warm() -> None:
    """CPU of a delivery and of the peer's same calls, in turn; the ratios are those of neighbours, and of these the median."""
    from tests.aws.conftest import Deployment
    from tests.aws.fake_ecs import FakeEcs, Idle, serving
    from tests.servers.ministack import ministack

    cache = Path(__file__).parents[1] / ".pytest_cache" / "servers"
    with (
        tempfile.TemporaryDirectory() as folder,
        ministack(cache, Path(folder)) as server,
        serving(FakeEcs(Idle())) as ecs,
        open(os.devnull, "w", encoding="utf-8") as nothing,  # noqa: PTH123 - a stream, not a file
    ):
        function, peer = _Function(Deployment(server, ecs), server), _Peer(server)
        ours, its, calls = [], [], []
        sys.stdout, kept = nothing, sys.stdout
        try:
            for number in range(WARM_UP + DELIVERIES):
                recorded = function.recorded()
                pair = (function.taken(), peer.taken(recorded))
                if number >= WARM_UP:
                    ours.append(pair[0])
                    its.append(pair[1])
                    calls.append(len(recorded))
        finally:
            sys.stdout = kept
    ratios = sorted(one / other for one, other in zip(ours, its, strict=True))
    print(
        f"warm delivery to the inbox function ({statistics.mean(calls):.1f} calls of AWS), CPU: "
        f"{statistics.median(ours) * 1000:.2f} ms, peer {statistics.median(its) * 1000:.2f} ms, ratio "
        f"{statistics.median(ratios):.2f} (quartiles {ratios[len(ratios) // 4]:.2f} and "
        f"{ratios[-1 - len(ratios) // 4]:.2f}, {len(ratios)} pairs)"
    )


Call = tuple[str, str, dict[str, Any]]


class _Function:
    """The inbox function on MiniStack, with requests to deliver to it."""

    def __init__(self, deployment: Any, server: Any) -> None:
        from tests.aws.conftest import EVENTS
        from tests.aws.test_aws_functions import upload

        self._services = deployment.services
        self._uploads = iter([upload(deployment)[1] for _ in range(2 * (WARM_UP + DELIVERIES))])
        self._services.deployment  # noqa: B018 - read once in the life of a process
        table, outbox = (deployment.environment[name] for name in (aws_layout.ENV_TABLE, aws_layout.ENV_OUTBOX_BUCKET))
        self._elsewhere = {table: _copy_of(server, table), outbox: server.bucket()}
        self._template = json.loads((EVENTS / "sqs_batch.json").read_text())["Records"][0]

    def recorded(self) -> list[Call]:
        """What one delivery asked AWS for, with the places moved to those where the peer asks."""
        calls: list[Call] = []

        def record(params: dict[str, Any], model: Any, **_: Any) -> None:
            moved = {name: _moved(value, self._elsewhere) for name, value in params.items()}
            calls.append((model.service_model.service_name, model.name, moved))

        events = [self._services._clients.get(service).meta.events for service in ("s3", "dynamodb", "sqs")]
        for one in events:
            one.register("provide-client-params", record)
        self.taken()
        for one in events:
            one.unregister("provide-client-params", record)
        return calls

    def taken(self) -> float:
        """The CPU seconds of one delivery."""
        from tests.aws.conftest import Context

        event = {"Records": [self._template | {"body": next(self._uploads)}]}
        began = time.process_time()
        answer = self._services.inbox(event, Context("inbox"))
        taken = time.process_time() - began
        assert answer == {"batchItemFailures": []}, answer
        return taken


def _copy_of(server: Any, table: str) -> str:
    made, dynamodb = server.table(), server.admin.get("dynamodb")
    for item in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.put_item(TableName=made, Item=item)
    return str(made)


def _moved(value: Any, elsewhere: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _moved(one, elsewhere) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, elsewhere) for one in value]
    return elsewhere.get(value, value) if isinstance(value, str) else value


class _Peer:
    """A handler that makes the same calls, one after another."""

    def __init__(self, server: Any) -> None:
        credentials = server.functions._credentials
        session = boto3.Session(credentials.access_key_id, credentials.secret_access_key, region_name="eu-west-1")
        self._clients = {
            service: session.client(service, endpoint_url=server.url) for service in ("s3", "dynamodb", "sqs")
        }

    def taken(self, calls: Sequence[Call]) -> float:
        """The CPU seconds of these calls."""
        prepared = [
            (
                getattr(self._clients[service], xform_name(name)),
                {key: value for key, value in params.items() if key != "ClientRequestToken"},
            )
            for service, name, params in calls
        ]
        began = time.process_time()
        for call, params in prepared:
            try:
                answer = call(**params)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchKey":  # as it was for the function: not there yet
                    raise
                continue
            if hasattr(answer.get("Body"), "read"):
                answer["Body"].read()
            if "body" in answer.get("Item", {}):
                json.loads(answer["Item"]["body"]["B"])
        return time.process_time() - began
