"""A task's two containers as process trees of this machine: the image's shell that waits, and the runner's bootstrap."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from runvoy_agent.core import task_definition

NOBODY = 65534
PATH = "/usr/local/bin:/usr/bin:/bin"  # no folder of another user's: where one may not look is 126 to a shell


def start_main(folder: Path, program: str) -> subprocess.Popen[bytes]:
    """The image's container: its shell, as a user of its own where this one may choose."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    groups: tuple[int, ...] = ()
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": groups} if os.geteuid() == 0 else {}
    with (folder / "main.log").open("wb") as log:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            ["sh", "-c", task_definition.WAIT_FOR_COMMAND.replace(task_definition.FOLDER, str(folder))],
            executable=program,
            env={"PATH": PATH},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **other,
        )


def start_runner(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The runner's container, as its task definition says: nothing but the bootstrap and `environment`."""
    with (folder / "runner.out").open("wb") as out, (folder / "runner.err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", task_definition.BOOTSTRAP],
            env={"RUNVOY_FOLDER": str(folder), **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def living(execution_id: str) -> list[int]:
    """The processes that carry an execution's id: its command's, and its runner's."""
    wanted = f"RUNVOY_EXECUTION_ID={execution_id}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end(execution_id: str, folder: Path, *processes: subprocess.Popen[bytes] | None) -> None:
    """Whatever is left of a task."""
    for process in processes:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    for pid in living(execution_id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
