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
    assert "is submitted, but its id cannot be written" in done.stderr
    execution_id = next(word for word in done.stderr.split() if len(word) == 32)
    assert machine_of_module("wait", execution_id).returncode == 0
