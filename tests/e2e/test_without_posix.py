"""The client where there is only what Windows has: none of POSIX's modules, signals and calls. Windows itself it never saw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Machine

PROGRAM = """
import os, select, signal, socket, sys
import getpass, http.client, nacl.bindings, pathlib, shutil, ssl, subprocess, tempfile, typer, typer.core, uuid
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
missing = {
    signal: ["SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGWINCH", "pthread_sigmask", "setitimer"],
    select: ["epoll", "poll"],
    socket: ["AF_UNIX"],
    os: ["O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fork", "geteuid", "getpgid", "getpgrp", "getuid", "killpg", "mkfifo",
         "setsid", "tcgetpgrp", "uname"],
}
for module, names in missing.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
from runvoy_cli import entry
sys.argv[0] = "runvoy"
sys.exit(entry.main())
"""


class Elsewhere:
    """A client without POSIX, with a home of its own."""

    def __init__(self, machine: Machine, home: Path) -> None:
        self._env = {**machine.env, "RUNVOY_HOME": str(home)}

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *args],
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def elsewhere(machine_of_module: Machine, tmp_path: Path) -> Elsewhere:
    return Elsewhere(machine_of_module, tmp_path / "elsewhere")


def test_a_member_claims_runs_waits_and_reads(machine_of_module: Machine, elsewhere: Elsewhere) -> None:
    token = machine_of_module.ok("users", "create", "win@example.com", "--role", "developer").strip()
    assert elsewhere("claim", token).returncode == 0
    done = elsewhere("run", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    execution_id = elsewhere("submit", "--label", "a=b", "echo later").stdout.strip()
    assert elsewhere("wait", execution_id).returncode == 0
    assert elsewhere("logs", execution_id).stdout == "later\n"
    assert execution_id in elsewhere("list", "--label", "a=b").stdout
    assert "SUCCEEDED" in elsewhere("kill", execution_id).stdout
    assert elsewhere("playbook", "list").returncode == 0
    synced = elsewhere("sync", "folder", "--once")
    assert (synced.returncode, "on Linux and macOS only" in synced.stderr) == (125, True), synced


def test_there_is_no_stack_to_fall_back_on(elsewhere: Elsewhere) -> None:
    for arguments in (("run", "true"), ("local", "up")):
        refused = elsewhere(*arguments)
        assert refused.returncode == (125 if arguments[0] == "run" else 1), refused
        assert "the embedded stack runs on Linux and macOS only" in refused.stderr
        assert "runvoy configure" in refused.stderr
