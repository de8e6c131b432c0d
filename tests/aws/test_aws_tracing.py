"""Traces: of sampled invocations alone, and what is sent is read from the socket of X-Ray's daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import sys
    from runvoy_agent.aws.functions import Runtime
    from runvoy_agent.local.clock import SystemClock

    runtime = Runtime("d1", SystemClock(), {})
    with runtime.about("execution-1"):
        pass
    print("aws_xray_sdk" in sys.modules)
""")


def run(trace: str, daemon: str) -> str:
    environment = os.environ | {
        "LAMBDA_TASK_ROOT": "/var/task",
        "AWS_XRAY_DAEMON_ADDRESS": daemon,
        "_X_AMZN_TRACE_ID": trace,
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("trace", ["", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"])
def test_what_is_not_sampled_loads_nothing(trace: str) -> None:
    assert run(trace, "127.0.0.1:1") == "False\n"


def test_a_sampled_invocation_names_its_execution() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10)
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
        assert run(trace, address) == "True\n"
        sent = daemon.recv(65_536).decode().splitlines()[1]
    subsegment = json.loads(sent)
    assert subsegment["trace_id"] == "1-5759e988-bd862e3fe1be46a994272793"
    assert subsegment["annotations"] == {"execution_id": "execution-1"}
