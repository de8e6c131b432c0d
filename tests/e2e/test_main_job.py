"""The main job through the command line: run, submit, wait, logs, status."""

from __future__ import annotations

import json
import select
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Machine


@pytest.mark.shared
def test_run_shows_the_output_apart_and_exits_with_the_commands_code(machine: Machine) -> None:
    done = machine("run", "echo out; echo err >&2; exit 5")
    assert done.returncode == 5
    assert done.stdout == b"out\n"
    assert b"err\n" in done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 7, 42, 120, 121, 122, 123, 124, 125, 126, 127, 128, 130, 255])
def test_exit_codes_come_through(machine_of_module: Machine, code: int) -> None:
    assert machine_of_module("run", f"exit {code}").returncode == code


def test_every_exit_code_comes_through_wait(machine_of_module: Machine) -> None:
    def submit(code: int) -> str:
        return machine_of_module.ok("submit", "--", "sh", "-c", f"exit {code}").strip()

    # In parallel, and read in one go: 256 runs of the command line would test only Python's start-up.
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(submit, range(3, 256, 23)))
    done = machine_of_module("wait", "--json", *ids)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["exit_code"] for answer in answers] == list(range(3, 256, 23))
    assert done.returncode == 3, "several: the first failure's code, in order"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["kill -TERM $$"], 143),
        (["kill -KILL $$"], 137),
        (["--", "/nonexistent/program"], 127),
        (["--", "no-such-program-anywhere"], 127),
        (["--", "/etc/passwd"], 126),
        (["--", "/"], 126),
    ],
)
def test_signals_and_what_cannot_be_executed(machine_of_module: Machine, command: list[str], code: int) -> None:
    assert machine_of_module("run", *command).returncode == code


@pytest.mark.shared
def test_submit_prints_the_id_alone_and_wait_returns_the_code(machine: Machine) -> None:
    submitted = machine("submit", "--", "sh", "-c", "exit 7")
    assert submitted.returncode == 0
    execution_id = submitted.stdout.decode().strip()
    assert submitted.stdout.decode() == f"{execution_id}\n"
    assert len(execution_id) == 32
    assert machine("wait", execution_id).returncode == 7


ARGUMENTS = [
    "two words",
    "'single' \"double\"",
    "$(touch pwned) `id` $HOME ${X}",
    "line\nbreak\r\n",
    "żółć 日本語 🚀",
    "",
    "--help",
    "--",
    "-x",
    "back\\slash \\n",
    "*?[a]",
    "\t\x01\x7f",
    "trailing ",
]


@pytest.mark.shared
def test_arguments_arrive_byte_for_byte(machine: Machine) -> None:
    show = "import sys, json; print(json.dumps(sys.argv[1:]))"
    done = machine("run", "--", "python3", "-c", show, *ARGUMENTS)
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == ARGUMENTS


@pytest.mark.shared
def test_the_environment_is_what_was_asked_for_and_little_more(machine: Machine) -> None:
    env = {"RUNVOY_USER_COLOUR": "blue", "SECRET_OF_THE_SHELL": "hidden"}
    out = machine.ok("run", "--env", "A=1=2", "--env", "EMPTY=", "env", env=env)
    shown = dict(line.split("=", 1) for line in out.splitlines())
    assert (shown["A"], shown["EMPTY"], shown["COLOUR"]) == ("1=2", "", "blue")
    assert len(shown["RUNVOY_EXECUTION_ID"]) == 32
    assert "SECRET_OF_THE_SHELL" not in shown
    allowed = {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
    assert shown.keys() <= allowed | {"A", "EMPTY", "COLOUR", "RUNVOY_EXECUTION_ID"}


@pytest.mark.shared
def test_a_line_is_shown_while_nothing_comes_after_it(machine: Machine, tmp_path: Path) -> None:
    """What must not happen is that it waits for the next one, for a full chunk or for the end: none of them comes before it is seen."""
    gate = tmp_path / "gate"
    process = machine.popen("run", f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second")
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready
    assert process.stdout.read(100) == b"first\n"
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"second\n"), err


@pytest.mark.shared
def test_the_same_id_and_content_runs_once(machine: Machine, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    command = f"echo x >> {marker}; exit 3"
    first = machine.ok("submit", "--id", "deploy-42", command).strip()
    assert machine("wait", first).returncode == 3
    second = machine.ok("submit", "--id", "deploy-42", command).strip()
    assert second == first
    assert machine("wait", second).returncode == 3
    conflict = machine("submit", "--id", "deploy-42", "echo other")
    assert conflict.returncode != 0
    assert b"ID_CONFLICT" in conflict.stderr
    assert machine("wait", first).returncode == 3
    assert marker.read_text() == "x\n"


@pytest.mark.shared
def test_logs_and_status_afterwards(machine: Machine) -> None:
    execution_id = machine.ok(
        "submit", "--name", "demo", "--label", "team=dba", "seq 100; sleep 0.3; echo oops >&2"
    ).strip()
    assert machine("wait", execution_id).returncode == 0
    assert machine.ok("logs", execution_id).splitlines() == [*map(str, range(1, 101)), "oops"]
    assert machine.ok("logs", execution_id, "--tail", "2").splitlines() == ["100", "oops"]
    assert machine.ok("logs", execution_id, "--grep", "^5[0-2]$").splitlines() == ["50", "51", "52"]
    status = machine.status(execution_id)
    assert (status["state"], status["exit_code"], status["lines"], status["name"]) == ("SUCCEEDED", 0, 101, "demo")
    listed = json.loads(machine.ok("list", "--label", "team=dba", "--json"))
    assert [execution["execution_id"] for execution in listed] == [execution_id]


@pytest.mark.shared
def test_a_refusal_is_121_with_code_and_hint(machine: Machine) -> None:
    done = machine("run", "--image", "alpine", "echo hi")
    assert done.returncode == 125, done  # UNAVAILABLE: the platform lacks what was asked for
    assert b"UNAVAILABLE" in done.stderr
    assert b"--isolation process" in done.stderr
    done = machine("run", "--secret", "nothing", "echo hi")
    assert done.returncode == 121
    assert b"SECRET_NOT_FOUND" in done.stderr


def test_local_status_tells_where_and_how_much(machine: Machine) -> None:
    machine("run", "true")
    machine("run", "false")
    shown = json.loads(machine.ok("local", "status", "--json"))
    assert shown["pid"] == machine.stack_pid()
    assert shown["endpoint"] == f"http://127.0.0.1:{machine.endpoint()['port']}"
    assert shown["data_directory"] == str(machine.home / "local")
    assert shown["counts"] == {"SUCCEEDED": 1, "FAILED": 1}
    assert shown["version"]


def test_containers_only_is_remembered_and_refuses_host_processes(machine: Machine) -> None:
    machine.ok("local", "up", "--containers-only")
    assert json.loads(machine.ok("local", "status", "--json"))["host_processes"] is False
    for options in ((), ("--isolation", "process")):
        refused = machine("run", *options, "echo no")
        assert refused.returncode in (121, 125), refused
        assert b"container" in refused.stderr
        assert refused.stdout == b""
    assert machine("local", "up", "--host-processes").returncode == 2
    machine.ok("local", "down")
    assert b"container" in machine("run", "echo no").stderr
    machine.ok("local", "down")
    machine.ok("local", "up", "--host-processes")
    assert machine.ok("run", "echo yes") == "yes\n"
