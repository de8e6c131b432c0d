"""A task as the platform makes it: a PID namespace of its own, each container in its cgroup and with the capabilities that
containers have by default, and everything ends with the runner."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.core import task_definition

NewTask = Callable[[], Any]
DEFAULT_CAPABILITIES = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service", "net_raw",
    "sys_chroot", "mknod", "audit_write", "setfcap",
)  # fmt: skip
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
SPY = """
import os
for pid in filter(str.isdigit, os.listdir('/proc')):
    if open(f'/proc/{pid}/cmdline', 'rb').read().split(b'\\0')[1:4] == [b'-I', b'-S', b'-c']:
        print('found it', os.stat(f'/proc/{pid}/cmdline').st_uid)
        for name in ('environ', 'mem', 'maps', 'cwd', 'fd/0'):
            try:
                open(f'/proc/{pid}/{name}', 'rb') if '/' not in name and name != 'cwd' else os.readlink(f'/proc/{pid}/{name}')
                print('could open', name)
            except PermissionError:
                pass
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid(); open('up', 'w').close(); time.sleep(1000)
    os._exit(0)
while not os.path.exists('up'): time.sleep(.01)
print([pid for pid in os.listdir('/proc') if pid.isdigit()][:2], flush=True)
os._exit(5)
"""


def start(task: Any, cgroup: Path, command: list[str], user: int, **fields: Any) -> None:
    """Start both containers and the process that keeps the namespace, in whose place the platform has its pause."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("only root makes namespaces")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine makes no PID namespaces")
    environment = task.prepare(command, **fields)
    capabilities = [
        "setpriv",
        f"--bounding-set=-all,{','.join(f'+{name}' for name in DEFAULT_CAPABILITIES)}",
        "--inh-caps=-all",
    ]
    user_options = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    wait = task_definition.WAIT_FOR_COMMAND.replace(task_definition.FOLDER, str(task.folder))
    main = [*capabilities, *user_options, "env", "-i", f"PATH={os.defpath}", "/bin/sh", "-c", wait]
    variables = [f"{name}={value}" for name, value in environment.items()]
    runner = [*capabilities, "env", "-i", *variables, sys.executable, "-I", "-S", "-c", task_definition.BOOTSTRAP]
    script = (
        f"cd {task.folder}/home\n"
        f"( echo 0 >{cgroup}/cgroup.procs; exec {shlex.join(main)} ) </dev/null >../main.log 2>&1 &\n"
        f"{shlex.join(runner)} </dev/null >../runner.out 2>../runner.err &\n"
        "wait $!\n"
    )
    task.runner = subprocess.Popen([*UNSHARE, "/bin/sh", "-c", script], stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("user", [0, 65534])
def test_the_command_cannot_look_into_the_runner_even_as_the_same_user(
    new_task: NewTask, own_cgroup: Path, everybodys_python: str, user: int
) -> None:
    task = new_task()
    start(task, own_cgroup, [everybodys_python, "-S", "-c", SPY], user)
    assert task.wait().exit_code == 0, task.output("err")
    assert task.output() == b"found it 0\n"


@pytest.mark.parametrize("user", [0, 65534])
def test_default_capabilities_are_enough_to_end_whatever_user_it_is(
    new_task: NewTask, own_cgroup: Path, everybodys_python: str, user: int
) -> None:
    task = new_task()
    start(task, own_cgroup, [everybodys_python, "-S", "-c", DAEMON], user)
    result = task.wait()
    assert (result.exit_code, result.outcome) == (5, "exited")
    assert json.loads(task.output().decode().replace("'", '"'))[0] == "1", "it sees a namespace of its own"
    assert b"still open" not in task.output("sys"), "the daemon was ended"


def test_a_deadline_in_a_namespace(new_task: NewTask, own_cgroup: Path) -> None:
    task = new_task()
    forks = "trap '' TERM; f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; sleep 1000; }; f 3 & echo ready; wait"
    start(task, own_cgroup, ["/bin/sh", "-c", forks], 65534, timeout_seconds=2)
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("timed_out", 137)
    assert task.output() == b"ready\n"
