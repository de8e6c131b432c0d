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
        sys.stdout, kept = nothing, sys.stdout
        try:
            recorded, ours = _ours(Deployment(server, ecs), server)
            peer = _peer(recorded, server)
        finally:
            sys.stdout = kept
    calls = statistics.mean(len(one) for one in recorded[WARM_UP:])
    print(
        f"warm delivery to the inbox function ({calls:.1f} calls of AWS), CPU: {ours * 1000:.2f} ms, "
        f"peer {peer * 1000:.2f} ms, ratio {ours / peer:.2f}"
    )


Call = tuple[str, str, dict[str, Any]]


def _ours(deployment: Any, server: Any) -> tuple[list[list[Call]], float]:
    """What each delivery asked AWS for, with the places moved to those where the peer asks; and the CPU of one."""
    from tests.aws.conftest import EVENTS, Context
    from tests.aws.test_aws_functions import upload

    uploaded = [upload(deployment) for _ in range(DELIVERIES)]
    deployment.services.deployment  # noqa: B018 - read once in the life of a process
    table, outbox = (deployment.environment[name] for name in (aws_layout.ENV_TABLE, aws_layout.ENV_OUTBOX_BUCKET))
    elsewhere = {table: _copy_of(server, table), outbox: server.bucket()}
    recorded: list[list[Call]] = []

    def record(params: dict[str, Any], model: Any, **_: Any) -> None:
        moved = {name: _moved(value, elsewhere) for name, value in params.items()}
        recorded[-1].append((model.service_model.service_name, model.name, moved))

    for service in ("s3", "dynamodb", "sqs"):
        deployment.services._clients.get(service).meta.events.register("provide-client-params", record)
    template = json.loads((EVENTS / "sqs_batch.json").read_text())["Records"][0]
    taken = []
    for _, message in uploaded:
        recorded.append([])
        began = time.process_time()
        answer = deployment.services.inbox({"Records": [template | {"body": message}]}, Context("inbox"))
        taken.append(time.process_time() - began)
        assert answer == {"batchItemFailures": []}, answer
    return recorded, statistics.median(taken[WARM_UP:])


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


def _peer(recorded: Sequence[Sequence[Call]], server: Any) -> float:
    from botocore import xform_name

    credentials = server.functions._credentials
    session = boto3.Session(credentials.access_key_id, credentials.secret_access_key, region_name="eu-west-1")
    clients = {service: session.client(service, endpoint_url=server.url) for service in ("s3", "dynamodb", "sqs")}
    taken = []
    for calls in recorded:
        prepared = [(getattr(clients[service], xform_name(name)), dict(params)) for service, name, params in calls]
        for _, params in prepared:
            params.pop("ClientRequestToken", None)
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
        taken.append(time.process_time() - began)
    return statistics.median(taken[WARM_UP:])
