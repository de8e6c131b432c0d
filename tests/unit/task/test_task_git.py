"""A checkout in a task: cloned by the runner into the folder that both containers share, worked in by another user."""

from __future__ import annotations

import base64
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.git_hosts import TOKEN, HttpHost, Repository

NewTask = Callable[[], Any]


def checkout(http: HttpHost, path: str = "", ref: str = "v1", token: str = TOKEN) -> dict[str, Any]:
    git = {"repo": f"{http.url}/infra.git", "ref": ref, "path": path}
    return {"git": git, "git_credentials": {"RUNVOY_GIT_TOKEN": base64.b64encode(token.encode()).decode()}}


def test_another_user_works_in_the_folder_of_the_checkout(
    new_task: NewTask, http: HttpHost, repository: Repository
) -> None:
    command = "pwd; cat where; echo more >> where; mkdir new; ../../run.sh; git rev-parse HEAD; git status --short; env"
    task = new_task().start(command, **checkout(http, "envs/prod"))
    result = task.wait()
    assert (result.outcome, result.git_commit) == ("exited", repository.first), task.output("sys")
    assert task.started().git_commit == repository.first
    said = task.output().decode()
    assert said.splitlines()[:4] == [str(task.folder / "work" / "envs" / "prod"), "prod", "ran", repository.first]
    assert " M where" in said
    assert f"RUNVOY_GIT_COMMIT={repository.first}" in said
    assert TOKEN not in said + task.remarks()
    assert sorted(path.name for path in task.folder.iterdir() if path.name.startswith("git-")) == []


def test_a_ref_that_is_not_there_starts_nothing(new_task: NewTask, http: HttpHost) -> None:
    task = new_task().start("echo ran", **checkout(http, ref="nope"))
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("setup_failed", None)
    assert "it has no branch or tag 'nope'" in result.message
    assert b"it has no branch or tag 'nope'" in task.output("sys")
    assert task.output() == b""
    assert not task.has_started()


def test_a_kill_while_it_is_cloned(new_task: NewTask, http: HttpHost) -> None:
    http.is_stuck.set()
    task = new_task().start("echo ran", **checkout(http))
    assert http.asked.wait(60)
    os.kill(task.runner.pid, signal.SIGTERM)
    assert task.wait().outcome == "killed"


APK = """\
#!{python}
import os, sys
from pathlib import Path
arguments = sys.argv[1:]
root = Path(arguments[arguments.index("--root") + 1])
(root / "usr/bin").mkdir(parents=True)
(root / "usr/bin/git").symlink_to("{git}")
(root / "usr/libexec").mkdir()
(root / "usr/libexec/git-core").symlink_to("{core}")
Path("{calls}").write_text(" ".join(arguments))
"""


def image_without_git(folder: Path, apk: str) -> str:
    """A PATH such as the runner's image has: a shell's programs and a package manager, no git."""
    for name in ("sh", "cat", "sleep"):
        (folder / name).symlink_to(str(shutil.which(name)))
    (folder / "apk").write_text(apk)
    (folder / "apk").chmod(0o755)
    return str(folder)


def test_where_the_image_has_no_git_it_is_installed_in_a_folder_of_its_own(
    new_task: NewTask, http: HttpHost, repository: Repository, tmp_path: Path
) -> None:
    import subprocess
    import sys

    core = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    calls = tmp_path / "calls"
    apk = APK.format(python=sys.executable, git=shutil.which("git"), core=core, calls=calls)
    tools = tmp_path / "image"
    tools.mkdir()
    task = new_task()
    task.start_main()
    environment = task.prepare("cat say", **checkout(http))
    task.runner = start_with_path(task, environment, image_without_git(tools, apk))
    result = task.wait()
    assert result.git_commit == repository.first, task.output("sys")
    assert task.output() == b"first\n"
    assert b"installing git" in task.output("sys")
    said = calls.read_text().split()
    assert said[:3] == ["add", "--root", f"{task.folder}/git-tools"]
    assert said[-1] == "git"
    assert "--no-scripts" in said


def test_a_package_manager_that_fails_is_a_reason(new_task: NewTask, http: HttpHost, tmp_path: Path) -> None:
    tools = tmp_path / "image"
    tools.mkdir()
    apk = "#!/bin/sh\necho 'ERROR: unable to select packages: git' >&2\nexit 1\n"
    task = new_task()
    task.start_main()
    environment = task.prepare("echo ran", **checkout(http))
    task.runner = start_with_path(task, environment, image_without_git(tools, apk))
    result = task.wait()
    assert result.outcome == "setup_failed"
    assert "git could not be installed: ERROR: unable to select packages: git" in result.message


def start_with_path(task: Any, environment: dict[str, str], path: str) -> Any:
    from tests.servers import task_processes

    return task_processes.start_runner(task.folder, {**environment, "PATH": path})
