"""A deployment as its members have it: the real command line, functions, queues and runner; ECS and AWS itself stand in."""

from __future__ import annotations

import pytest
from tests.infra.live.conftest import Live

pytestmark = pytest.mark.slow


def test_a_command_runs_and_its_output_and_exit_code_come_back(live: Live) -> None:
    done = live.admin("run", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr.strip().splitlines()[0]) == (7, "out\n", "err"), done
