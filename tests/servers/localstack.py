"""LocalStack without Docker: localstack-core in host mode, with what runvoy needs of it, but for DynamoDB (a Java program)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers.processes import free_ports, installed, running

REQUIREMENT = "localstack-core[runtime]==4.14.0"
RESOLVED_AS_OF = "2026-02-27"
SERVICES = "s3,sqs,ssm,kms,sts,iam"
_LEAST_PYTHON = (3, 12)  # its metadata says 3.10, and its services do not compile there
_PYTHONS = ("python3.13", "python3.12")


@contextmanager
def localstack(cache: Path, folder: Path) -> Iterator[str]:
    """Start it, with its files in `folder`; its URL."""
    bin_folder = installed(cache, REQUIREMENT, python=_python(), exclude_newer=RESOLVED_AS_OF)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {
        "HOME": str(folder),
        "FILESYSTEM_ROOT": str(folder),
        "OVERRIDE_IN_DOCKER": "0",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SERVICES": SERVICES,
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
    }
    command = [str(bin_folder / "python"), "-m", "localstack.runtime.main"]
    with running(command, folder, f"{url}/_localstack/health", environment):
        yield url


def _python() -> str:
    """An interpreter that it runs on: ours, one of the PATH, or one of pyenv's."""
    if sys.version_info >= _LEAST_PYTHON:
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(name) for name in _PYTHONS]
    found += [str(path) for name in _PYTHONS for path in sorted(versions.glob(f"*/bin/{name}"))]
    for program in found:
        if program and subprocess.run([program, "-c", ""], check=False, capture_output=True).returncode == 0:
            return program
    pytest.skip(f"{REQUIREMENT} runs on Python {'.'.join(map(str, _LEAST_PYTHON))} or newer, and there is none")
