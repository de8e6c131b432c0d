"""A task on one machine: the wrapper and the runner as two process trees, beside a server that is store, control API and
metadata endpoint in one. Handlers, policies and protocol are the production ones."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests import http_server
from tests.servers import task_processes
from tests.servers.task_processes import NOBODY

from runvoy_agent.handlers.routes import Request
from runvoy_agent.runner import bundle
from runvoy_protocol import ids, object_keys, run_objects
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.logs import LogRecord, decode_chunk
from runvoy_protocol.run_objects import RunResult, RunStarted

if TYPE_CHECKING:
    from tests.unit.conftest import World

SHELLS = {"dash": "dash", "bash": "bash", "busybox ash": "busybox", "mksh": "mksh"}


@functools.cache
def python() -> str:
    """A Python that the command's user may run; its modules are not needed."""
    if os.geteuid() != 0:
        return sys.executable
    for candidate in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [candidate, "-S", "-c", ""], user=NOBODY, cwd="/", stderr=subprocess.DEVNULL, check=False
            )
            if tried.returncode == 0:
                return candidate
    pytest.skip("no Python on this machine is for everybody")


class Server:
    """What a task reaches over HTTP. `status` other than 0 is the store's answer to every upload; -1 is no answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.status = 0
        self.delete_status = 204
        self.metadata: dict[str, Any] = {}
        self.staging: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.uploads: list[str] = []
        self.max_upload = 0
        server = self

        class Handler(http_server.Handler):
            def do_GET(self) -> None:
                self.answer(*server.get(self.path))

            def do_DELETE(self) -> None:
                server.calls.append(("DELETE", self.path))
                if server.delete_status == 204:
                    server.staging.pop(self.path, None)
                self.answer(server.delete_status, b"")

            def do_POST(self) -> None:
                self.answer(*server.post(self.path, dict(self.headers), self.body()))

            def answer(self, status: int, body: bytes, content_type: str = "") -> None:
                if status < 0:
                    self.close_connection = True
                    return
                super().answer(status, body, content_type)

        self._http = http_server.Server(Handler)
        self.url = self._http.origin
        world.grants.base_url = self.url

    def stop(self) -> None:
        self._http.close()

    def get(self, path: str) -> tuple[int, bytes]:
        self.calls.append(("GET", path))
        if path == "/metadata/task":
            return 200, json.dumps(self.metadata).encode()
        if path in self.staging:
            return 200, self.staging[path]
        return 403, b"<Error><Code>AccessDenied</Code></Error>"  # S3's word for a missing key to who may not list

    def post(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        self.calls.append(("POST", path))
        if path.startswith("/api/"):
            lower = {name.lower(): value for name, value in headers.items()}
            response = self.world.call(Request("POST", path, path, {}, lower, body))
            return response.status, response.body
        if self.status:
            return self.status, b"<Error><Code>SlowDown</Code></Error>"
        fields, data = parse_form(headers["Content-Type"], body)
        try:
            upload = self.world.grants.verify_post("outbox", fields, len(data), self.world.clock.now())
        except RunvoyError as error:
            return 403, error.message.encode()
        self.world.outbox.put(upload.object_key, data, content_type=upload.content_type)
        self.uploads.append(upload.object_key)
        self.max_upload = max(self.max_upload, len(data))
        return 204, b""


def parse_form(content_type: str, body: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Fields and file of a form, whose file is its last part."""
    boundary = content_type.partition("boundary=")[2].encode()
    fields = []
    rest = body
    while True:
        head, _, rest = rest.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        if name == "file":
            data, _, tail = rest.rpartition(b"\r\n--" + boundary + b"--")
            assert tail == b"\r\n"
            return fields, data
        value, _, rest = rest.partition(b"\r\n--" + boundary)
        fields.append((name, value.decode()))


class Task:
    """One execution that was started, and its two containers."""

    def __init__(self, world: World, server: Server) -> None:
        self.world = world
        self.server = server
        self.folder = Path(tempfile.mkdtemp(prefix="rvtask"))
        self.folder.chmod(0o755)
        (self.folder / "home").mkdir()
        (self.folder / "home").chmod(0o777)
        # By its id a process is known as this task's: the world's own ids are the same in another world of the same moment.
        request = world.request(request_id=ids.uuid7(datetime.now(UTC), secrets.token_bytes(10)))
        world.submit(request)
        self.id = request.request_id
        world.start(self.id)
        self.payload = json.loads(world.launcher.launches[-1].payload)
        self.main: subprocess.Popen[bytes] | None = None
        self.runner: subprocess.Popen[bytes] | None = None

    # -- starting

    def start(self, command: list[str] | str, *, shell: str = "dash", **fields: Any) -> Task:
        self.start_main(shell)
        self.start_runner(command, **fields)
        return self

    def start_main(self, shell: str = "dash") -> None:
        """The image's container: the wrapper as a user of its own."""
        program = shutil.which(SHELLS.get(shell, shell))
        if program is None:
            pytest.skip(f"there is no {shell} on this machine")
        self.main = task_processes.start_main(self.folder, program)

    def start_runner(self, command: list[str] | str, **fields: Any) -> None:
        """The runner's container, as its task definition says: nothing but the bootstrap, an id and a URL."""
        environment = self.prepare(command, **fields)
        self.runner = task_processes.start_runner(self.folder, environment)

    def prepare(self, command: list[str] | str, **fields: Any) -> dict[str, str]:
        """Put the payload where it is fetched from; the runner's environment."""
        self.payload |= {"command": command, "timeout_seconds": 60, "grace_seconds": 1, "start_seconds": 20} | fields
        path = f"/staging/{self.id}"
        self.server.staging[path] = bundle.pack(json.dumps(self.payload).encode(), self.server.url + path)
        return {
            "RUNVOY_EXECUTION_ID": self.id,
            "RUNVOY_PAYLOAD_URL": self.server.url + path,
            "RUNVOY_FOLDER": str(self.folder),
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.server.url}/metadata",
        }

    # -- looking

    def wait(self, code: int = 0, timeout: float = 90) -> RunResult:
        """Wait for the runner, which must exit with `code`; the result."""
        assert self.runner is not None
        assert self.runner.wait(timeout) == code, self.remarks()
        return self.result()

    def remarks(self) -> str:
        return (self.folder / "runner.err").read_text(errors="replace")

    def result(self) -> RunResult:
        return self._report(object_keys.result(self.id), RunResult)

    def started(self) -> RunStarted:
        return self._report(object_keys.started(self.id), RunStarted)

    def has_started(self) -> bool:
        return self.world.outbox.get(object_keys.started(self.id)) is not None

    def _report(self, object_key: str, schema: Any) -> Any:
        stored = self.world.outbox.get(object_key)
        assert stored is not None, self.remarks()
        key = run_objects.execution_key(self.world.deployment.secret, self.id, 1)
        return run_objects.open_signed(stored.data, schema, key, self.id, 1)

    def chunks(self) -> list[bytes]:
        stored = self.world.outbox.list(f"{object_keys.run_prefix(self.id)}logs/")
        numbers = range(1, len(stored) + 1)
        assert [info.key for info in stored] == [object_keys.log_chunk(self.id, number) for number in numbers]
        return [found.data for info in stored if (found := self.world.outbox.get(info.key)) is not None]

    def records(self) -> list[LogRecord]:
        return [record for chunk in self.chunks() for record in decode_chunk(chunk)]

    def output(self, stream: str = "out") -> bytes:
        return b"".join(record.data for record in self.records() if record.s == stream)

    def living(self) -> list[int]:
        """The living processes of the command: they carry its id."""
        return [pid for pid in task_processes.living(self.id) if self.runner is None or pid != self.runner.pid]

    def end(self) -> None:
        task_processes.end(self.id, self.folder, self.runner, self.main)


def wait_until(condition: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.01)


@pytest.fixture
def everybodys_python() -> str:
    return python()


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    world.clock.time = datetime.now(UTC)
    started = Server(world)
    world.deployment = world.deployment._replace(runner_endpoint=started.url)
    yield started
    started.stop()


@pytest.fixture
def new_task(world: World, server: Server) -> Iterator[Callable[[], Task]]:
    tasks: list[Task] = []

    def make() -> Task:
        tasks.append(Task(world, server))
        return tasks[-1]

    yield make
    for task in tasks:
        task.end()


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """A cgroup as a container has one: its folder. What is left in it ends with the test."""
    name = f"runvoy-test-{secrets.token_hex(4)}"
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids")):
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            break
    else:
        pytest.skip("this machine lets no test make a cgroup")
    folder = root / name
    folder.mkdir()
    yield folder
    with contextlib.suppress(FileNotFoundError):
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()
