"""The command lines that engines are asked with, as values; what their answers mean; and which engine counts."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.core.admission import Capabilities, resolve_isolation, wanted_isolation
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.local.engines import Engines, Found, probe_engine, probe_image, probe_program
from runvoy_agent.runner import engine
from runvoy_agent.runner.container_command import init_failure
from runvoy_agent.runner.engine import Spec, Variables, read_state
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.requests import RunRequest

FAKE = Path(__file__).parent / "fake_engine.py"
ID = "0197a0b1c2d37e4f8a9b0c1d2e3f4a5b"
NAME = f"runvoy-{ID}"
DOCKER = Spec("/usr/bin/docker", "tools:1.2", 512, 1024)
PODMAN = Spec("/usr/bin/podman", "tools:1.2", None, None)


def created(spec: Spec, argv: list[bytes], variables: dict[bytes, bytes]) -> list[str]:
    handed = Variables(variables)
    handed.path = "/dev/fd/9"
    return [word.decode() for word in engine.create(spec, ID, 1, argv, handed)]


def test_create_by_docker() -> None:
    words = created(DOCKER, [b"/bin/sh", b"-c", b"echo $A"], {b"TOKEN": b"x\ny", b"A": b"1", b"PATH": b"/bin"})
    assert words == [
        *("/usr/bin/docker", "create", "--pull", "never", "--name", NAME),
        *("--label", f"runvoy.execution={ID}", "--label", "runvoy.attempt=1", "--init", "--log-driver", "none"),
        *("--cpus", "0.5", "--memory", "1024m", "--memory-swap", "1024m"),
        *("--env=A", "--env=TOKEN", "--env-file", "/dev/fd/9"),
        *("--entrypoint", "/bin/sh", "--", "tools:1.2", "-c", "echo $A"),
    ]


def test_create_by_podman() -> None:
    words = created(PODMAN, [b'["a"]', b"-x"], {})
    assert words == [
        *("/usr/bin/podman", "create", "--pull", "never", "--name", NAME),
        *("--label", f"runvoy.execution={ID}", "--label", "runvoy.attempt=1", "--init", "--log-driver", "none"),
        *("--http-proxy=false", "--entrypoint", '["[\\"a\\"]"]', "--", "tools:1.2", "-x"),
    ]


@pytest.mark.parametrize(("units", "cpus"), [(256, "0.25"), (1024, "1"), (10240, "10"), (1, "0.000977"), (1536, "1.5")])
def test_cpu_units_are_1024_to_a_cpu(units: int, cpus: str) -> None:
    words = created(Spec("/docker", "i", units, None), [b"x"], {})
    assert words[words.index("--cpus") + 1] == cpus


def test_the_other_lines() -> None:
    assert engine.has_image(DOCKER)[1:] == [*("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", "tools:1.2")]
    assert engine.pull(DOCKER) == ["/usr/bin/docker", "pull", "tools:1.2"]
    assert engine.start(DOCKER, ID)[1:] == ["start", "--attach", NAME]
    assert engine.attach(DOCKER, ID)[1:] == ["attach", "--no-stdin", "--sig-proxy=false", NAME]
    assert engine.kill(DOCKER, ID, "TERM")[1:] == ["kill", "--signal", "TERM", NAME]
    assert engine.wait(DOCKER, ID)[1:] == ["wait", NAME]
    assert engine.remove(DOCKER, ID)[1:] == ["rm", "--volumes", NAME]
    assert engine.inspect(DOCKER, ID)[1:4] == ["container", "inspect", "--format"]


def test_a_platform_is_asked_for_where_an_image_is_looked_for() -> None:
    arm = Spec("/usr/bin/docker", "tools:1.2", None, None, "linux/arm64")
    assert engine.pull(arm) == ["/usr/bin/docker", "pull", "--platform", "linux/arm64", "tools:1.2"]
    words = created(arm, [b"x"], {})
    assert words[words.index("--platform") + 1] == "linux/arm64"
    assert "--platform" not in created(DOCKER, [b"x"], {})


def test_a_spec_survives_its_encoding() -> None:
    arm = Spec("/usr/bin/docker", "tools:1.2", None, None, "linux/arm64")
    for spec in (DOCKER, PODMAN, arm):
        assert vars(engine.decode(spec.encode())) == vars(spec)
    older = '{"engine": "/usr/bin/docker", "image": "a", "cpu": null, "memory_mib": null}'
    assert engine.decode(older).platform is None
    for spoiled in ["{}", "[]", older.replace("/usr/bin/", ""), older.replace("}", ', "platform": 1}')]:
        with pytest.raises((ValueError, TypeError, KeyError)):
            engine.decode(spoiled)


# --- variables ---


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LD_PRELOAD", "DOCKER_HOST", "CONTAINERS_CONF", "HTTPS_PROXY", "https_proxy", "GODEBUG", "XDG_DATA_HOME"],
)  # fmt: skip
def test_what_means_something_to_the_client_is_not_in_its_environment(name: str) -> None:
    variables = Variables({name.encode(): b" a=b #c "})
    assert (variables.passed, variables.listed) == ({}, {name.encode(): b" a=b #c "})
    assert variables.file() == name.encode() + b"= a=b #c \n"
    assert not variables.refused
    assert name in Variables({name.encode(): b"a\nb"}).refused


def test_everything_else_is_exact_in_the_clients_environment() -> None:
    given = {b"TLS_KEY": b"-----\nx\r\n", b"A": "ä\x01".encode(), b"RUNVOY_LOCK_FENCE": b"7"}
    assert Variables(given).passed == given
    keys = {b"SSH_PRIVATE_KEY": b"a\nb", b"SSL_KEY": b"a\nb", b"GOOGLE_CREDENTIALS": b"{\n}"}
    assert Variables(keys).passed == keys
    assert Variables({b"SSH_AUTH_SOCK": b"x", b"SSL_CERT_FILE": b"x"}).passed == {}


def test_bytes_that_an_engine_would_change_are_refused() -> None:
    assert "UTF-8" in Variables({b"A": b"\xff"}).refused


@pytest.mark.parametrize("name", [b"A-B", b"A*", b"1A", b"", "Ü".encode(), b"--privileged"])
def test_what_is_no_variables_name_is_refused(name: bytes) -> None:
    assert Variables({name: b"x"}).refused


# --- answers ---


def answer(status: str, **fields: object) -> bytes:
    state = {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": ""} | fields
    return json.dumps([state, {"runvoy.execution": ID}]).encode()


def test_states() -> None:
    assert read_state(ID, 0, answer("running"), b"").may_run
    assert read_state(ID, 0, answer("paused"), b"").may_run
    assert read_state(ID, 0, answer("created", Error="no"), b"").never_ran
    ended = read_state(ID, 0, answer("exited", ExitCode=137, OOMKilled=True), b"")
    assert (ended.may_run, ended.never_ran, ended.exit_code, ended.oom_killed) == (False, False, 137, True)


@pytest.mark.parametrize(
    "said", [b"Error response from daemon: No such container: x", b"Error: inspecting object: no such container x"]
)
def test_a_container_that_is_not_there(said: bytes) -> None:
    assert read_state(ID, 125, b"", said).status == "gone"


@pytest.mark.parametrize(("exit_code", "out"), [(1, b""), (-1, b""), (0, b""), (0, b"[]"), (0, b'[{"Status": 1}, {}]')])
def test_an_answer_that_tells_nothing_is_no_end(exit_code: int, out: bytes) -> None:
    state = read_state(ID, exit_code, out, b"Cannot connect to the Docker daemon")
    assert state.may_run or out == b'[{"Status": 1}, {}]'  # a stranger's: it has no label


def test_a_strangers_container_is_not_ours() -> None:
    assert read_state(ID, 0, b'[{"Status": "running", "ExitCode": 0}, null]', b"").status == "gone"


def test_what_the_init_says_of_a_command_that_it_cannot_run() -> None:
    tini = b"[FATAL tini (7)] exec nope failed: No such file or directory\n"
    catatonit = b"ERROR (catatonit:6): failed to exec pid1: Permission denied\n"
    assert init_failure(tini, 127) == (127, "No such file or directory")
    assert init_failure(catatonit, 1) == (126, "Permission denied")
    assert init_failure(b"first\n" + tini, 127) is None
    assert init_failure(tini + b"more\n", 127) is None
    assert init_failure(tini, 0) is None


# --- which engine counts ---


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    (folder / "images").mkdir(parents=True)
    client = tmp_path / "docker"
    client.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKE}" "{folder}" "$@"\n')
    client.chmod(0o755)
    yield folder
    (folder / "slow-run").unlink(missing_ok=True)


def calls(state: Path) -> list[str]:
    return [json.loads(line)[0] for line in (state / "calls").read_text().splitlines()]


def test_an_engine_counts_when_a_container_ran(state: Path) -> None:
    found = Engines({"PATH": str(state.parent) + ":/bin:/usr/bin"}).find()
    assert found.path == str(state.parent / "docker")
    assert calls(state) == ["version", "image", "import", "run"]
    assert probe_engine(found.path, os.environ) == ""
    assert calls(state)[4:] == ["version", "image", "run"], "the image is made once"


@pytest.mark.parametrize("command", ["version", "import", "run"])
def test_why_an_engine_does_not_count(state: Path, command: str) -> None:
    (state / f"fails-{command}").write_text("first line\npermission denied, says the last")
    assert probe_engine(str(state.parent / "docker"), os.environ) == "permission denied, says the last"


def test_one_engine_can_be_named() -> None:
    assert "no-such-engine: not installed" in Engines({"RUNVOY_CONTAINER_ENGINE": "no-such-engine"}).find().why


class Probe:
    """Answers what the test says, when the test says so."""

    def __init__(self) -> None:
        self.answer = ""
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, path: str, environment: Mapping[str, str]) -> str:
        self.asked.append(path)
        self.may_answer.wait(60)
        return self.answer


def engines(probe: Probe) -> Engines:
    environment = {"PATH": "/bin:/usr/bin", "RUNVOY_CONTAINER_ENGINE": "sh"}
    return Engines(environment, probe=probe, bad_for_seconds=0)


def test_a_found_engine_is_remembered() -> None:
    probe = Probe()
    looked = engines(probe)
    assert looked.find() == looked.find()
    assert len(probe.asked) == 1


def test_an_engine_that_starts_later_is_found() -> None:
    probe = Probe()
    probe.answer = "no daemon"
    looked = engines(probe)
    assert looked.find() == Found(None, "sh: no daemon")
    probe.answer = ""
    assert looked.find().path is not None


def test_many_ask_and_one_looks_and_nobody_waits_for_ever() -> None:
    probe = Probe()
    probe.may_answer.clear()
    looked = engines(probe)
    answers: list[Found] = []
    threads = [threading.Thread(target=lambda: answers.append(looked.find(0.2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {found.path for found in answers} == {None}
    assert "no answer within" in answers[0].why
    probe.may_answer.set()
    assert looked.find().path is not None
    assert len(probe.asked) == 1


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_the_probes_program(architecture: str, machine: int) -> None:
    program = probe_program(architecture)
    assert program[:4] == b"\x7fELF"
    assert int.from_bytes(program[18:20], "little") == machine
    with tarfile.open(fileobj=BytesIO(probe_image(architecture))) as tar:
        assert tar.getnames() == ["probe"]


@pytest.mark.skipif(sys.platform != "linux", reason="the probe is a program for Linux")
def test_the_probes_program_runs(tmp_path: Path) -> None:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if architecture is None:
        pytest.skip(f"no probe for {platform.machine()}")
    (tmp_path / "probe").write_bytes(probe_program(architecture))
    (tmp_path / "probe").chmod(0o755)
    assert subprocess.run([tmp_path / "probe"], check=False).returncode == 0


# --- admission ---


def test_a_refusal_says_what_was_tried(make_container_request) -> None:
    lacking = Capabilities("process", frozenset({"process"}), no_containers="docker: no daemon; podman: not installed")
    with pytest.raises(RunvoyError) as refused:
        resolve_isolation(make_container_request(image="a"), lacking, True)
    assert "docker: no daemon; podman: not installed" in refused.value.message
    assert "`isolation: process`" in refused.value.hint


def test_engines_are_looked_for_only_when_asked_for(make_container_request) -> None:
    plain = Capabilities("process", frozenset({"process"}))
    both = plain._replace(isolations=frozenset({"process", "container"}))
    looks: list[int] = []

    def look() -> Capabilities:
        looks.append(1)
        return both

    deployment = Deployment(*(None,) * 4, plain, look_for_containers=look)  # type: ignore[arg-type]
    assert deployment.capabilities_for(make_container_request(image=None)) == plain
    assert deployment.capabilities_for(make_container_request(image="a", isolation="process")) == plain
    assert looks == []
    wanted = make_container_request(image="a")
    assert wanted_isolation(wanted, plain, True) == "container"
    assert resolve_isolation(wanted, deployment.capabilities_for(wanted), True) == "container"
    assert deployment.capabilities_for(make_container_request(image=None), has_default_image=True) == both


@pytest.fixture
def make_container_request():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def make(**fields):
        values: dict[str, Any] = {
            "version": 1, "deployment_id": "here", "request_id": ID, "issued_at": now,
            "expires_at": now + timedelta(minutes=5), "command": "true",
        }  # fmt: skip
        return RunRequest(**(values | fields))

    return make
