"""Streams that are closed or full: the exit code is still the command's, and an id is never lost in silence."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

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
