"""Streams that are closed or full: the exit code is still the command's, and an id is never lost in silence."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.conftest import RUNVOY

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


def shell(machine: Machine, line: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", line.replace("runvoy", str(RUNVOY))]
    return subprocess.run(command, env=machine.env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_leave_the_exit_code(machine_of_module: Machine, closed: str) -> None:
    assert shell(machine_of_module, f"runvoy run -- sh -c 'echo x; echo y >&2; exit 7' {closed}").returncode == 7


def test_an_id_that_cannot_be_written_is_told_where_it_can(machine_of_module: Machine) -> None:
    done = shell(machine_of_module, "runvoy submit true > /dev/full")
    assert done.returncode == 1
    assert "is submitted, but stdout cannot be written: no space left on device" in done.stderr
    execution_id = next(word for word in done.stderr.split() if len(word) == 32)
    assert machine_of_module("wait", execution_id).returncode == 0


@pytest.mark.parametrize("line", ["run echo hi", "run --json echo hi"])
def test_a_run_whose_output_has_no_room_is_told_where_it_stands(machine_of_module: Machine, line: str) -> None:
    done = shell(machine_of_module, f"runvoy {line} > /dev/full")
    assert done.returncode == 125
    assert re.search(r"[0-9a-f]{32} is submitted, but stdout cannot be written: no space", done.stderr)
    assert re.search(r"`runvoy wait [0-9a-f]{32}` tells what becomes of it", done.stderr)


@pytest.mark.parametrize(
    "line",
    [
        "run --json echo hi",
        "submit --json true",
        "submit --json --id once true",
        """echo '{"command": "true"}' | runvoy submit --json --bulk -""",
        "keys create --json",
    ],
)
def test_what_is_done_and_cannot_be_told_is_nothing_to_repeat(machine_of_module: Machine, line: str) -> None:
    """A program that goes by `retryable` would run the command twice."""
    line = line if "runvoy" in line else f"runvoy {line}"
    told = json.loads(shell(machine_of_module, f"{line} > /dev/full").stderr.splitlines()[-1])["error"]
    assert "cannot be written" in told["message"]
    assert told["retryable"] is False


def test_a_file_whose_ids_cannot_be_written_is_sent_again_only_if_its_runs_have_ids(machine_of_module: Machine) -> None:
    """To be told to send it again would have all of it run twice."""
    send = """echo '{"command": "true"}' | runvoy submit --json --bulk - %s> /dev/full"""
    told = [json.loads(shell(machine_of_module, send % option).stderr)["error"] for option in ("", "--id once ")]
    assert [one["retryable"] for one in told] == [False, True]
    assert "would start it once more" in told[0]["hint"]
    assert told[1]["hint"].startswith("Send the same file again: its runs have ids")


@pytest.mark.parametrize(
    "words", ["list --label", "users show", "secrets show", "locks show", "images show", "cost --label"]
)
def test_what_is_no_utf_8_is_a_mistake(machine_of_module: Machine, words: str) -> None:
    done = shell(machine_of_module, f"runvoy {words} $(printf 'a=\\377')")
    assert done.returncode == 2, done
    assert "INTERNAL" not in done.stderr


@pytest.mark.parametrize("line", ["keys list", "users list --json", "keys create", "secrets get full"])
def test_a_full_stdout_is_told_as_that(machine_of_module: Machine, line: str) -> None:
    shell(machine_of_module, "printf a-long-value | runvoy secrets create full FULL")
    done = shell(machine_of_module, f"runvoy {line} > /dev/full")
    assert done.returncode == 1
    assert "stdout cannot be written: no space left on device" in done.stderr
    assert "before you repeat it" in done.stderr


def test_what_a_reader_leaves_unread_is_no_error(machine_of_module: Machine) -> None:
    done = shell(machine_of_module, "runvoy users list | true; runvoy keys list | head -1")
    assert (done.returncode, done.stderr) == (0, "")


# --- a reader that goes away while there is nothing to write


def run_until_nobody_reads(machine: Machine, *args: str, **options: Any) -> tuple[int, bytes]:
    """The exit code, and what stderr had, of a command whose reader left after the first line."""
    process = machine.popen(*args, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.stdout.close()
    code = process.wait(timeout=60)
    return code, process.stderr.read() if process.stderr is not None else b""


def test_who_follows_leaves_with_its_reader_though_nothing_is_printed(machine_of_module: Machine) -> None:
    line = "echo begun; sleep 600"
    execution_id = machine_of_module.ok("submit", line).strip()
    assert run_until_nobody_reads(machine_of_module, "logs", "--follow", execution_id) == (141, b"")
    assert run_until_nobody_reads(machine_of_module, "logs", "--follow", "--tail", "1", execution_id) == (141, b"")
    assert run_until_nobody_reads(machine_of_module, "run", "--name", "unread", line) == (141, b"")
    assert machine_of_module.status(execution_id)["state"] == "RUNNING"  # and what it followed goes on
    [unread] = [one for one in json.loads(machine_of_module.ok("list", "--json")) if one.get("name") == "unread"]
    assert unread["state"] == "RUNNING"
    machine_of_module.ok("kill", execution_id, unread["execution_id"])


def test_on_a_terminal_a_run_says_how_to_come_back_when_its_reader_left(machine_of_module: Machine) -> None:
    terminal, own = pty.openpty()
    line = "echo begun; sleep 600"
    code, _ = run_until_nobody_reads(machine_of_module, "run", line, stderr=own, env={"TERM": "xterm"})
    os.close(own)
    told = b""
    while select.select([terminal], [], [], 0)[0]:
        try:
            told += os.read(terminal, 65536)
        except OSError:  # Linux's end of a terminal
            break
    os.close(terminal)
    assert code == 141
    [execution_id] = re.findall(rb"left; ([0-9a-f]{32}) goes on", told)
    assert b"runvoy logs --follow " + execution_id in told
    machine_of_module.ok("kill", execution_id.decode())


@pytest.mark.parametrize("many", [(), ("--any",)])
def test_who_waits_leaves_with_its_reader_if_it_has_something_to_write(
    machine_of_module: Machine, many: tuple[str, ...]
) -> None:
    execution_id = machine_of_module.ok("submit", "until [ -e go ]; do sleep 0.05; done; exit 7").strip()
    as_json = machine_of_module.popen("wait", *many, "--json", execution_id)
    assert as_json.stdout is not None
    as_json.stdout.close()
    assert as_json.wait(timeout=60) == 141
    for_its_code = machine_of_module.popen("wait", *many, execution_id)
    assert for_its_code.stdout is not None
    for_its_code.stdout.close()
    (machine_of_module.home / "local" / "runs" / execution_id / "work" / "go").touch()
    assert for_its_code.wait(timeout=60) == 7
