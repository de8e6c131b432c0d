"""Runs in a checkout, as a user has them: public and private, the commit in the status, refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.servers.git_hosts import TOKEN, HttpHost, Repository

from runvoy_agent.local import processes, run_claims

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("git"))


@pytest.fixture(scope="module")
def http(repository: Repository) -> Iterator[HttpHost]:
    host = HttpHost(repository.bare.parent)
    yield host
    host.close()


def test_a_repository_of_this_machine(machine_of_module: Machine, repository: Repository) -> None:
    runvoy = machine_of_module
    options = ["--git-repo", str(repository.bare), "--git-ref", "v1", "--git-path", "envs/prod"]
    execution_id = runvoy.ok("submit", *options, "cat where ../../say").strip()
    assert runvoy("wait", execution_id).returncode == 0
    assert runvoy.ok("logs", execution_id, "--raw") == "prod\nfirst\n"
    git = {"repo": str(repository.bare), "ref": "v1", "path": "envs/prod", "commit": repository.first}
    assert runvoy.status(execution_id)["git"] == git
    shown = runvoy.ok("status", execution_id).splitlines()
    assert f"repository  {repository.bare} at v1, in envs/prod" in shown
    assert f"commit      {repository.first}" in shown


def test_a_private_repository_by_a_secret(
    machine_of_module: Machine, repository: Repository, http: HttpHost, tmp_path: Path
) -> None:
    runvoy = machine_of_module
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with token.open("rb") as stdin:
        assert runvoy("secrets", "create", "infra-git", "RUNVOY_GIT_TOKEN", stdin=stdin).returncode == 0
    options = ["--git-repo", f"{http.url}/infra.git", "--git-depth", "0"]
    done = runvoy("run", *options, "--secret", "infra-git", "git rev-list --count HEAD; env | grep -c RUNVOY_GIT_TOKEN")
    assert (done.returncode, done.stdout) == (1, b"3\n0\n"), done
    assert TOKEN.encode() not in done.stderr
    # The same by a line of a bulk file.
    line = {"command": "cat say", "git_repo": f"{http.url}/infra.git", "git_ref": "feature/x", "secrets": "infra-git"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(line))
    execution_id = runvoy.ok("submit", "--bulk", str(tmp_path / "runs.jsonl")).strip()
    assert runvoy("wait", execution_id).returncode == 0
    assert runvoy.ok("logs", execution_id, "--raw") == "feature\n"
    assert runvoy.status(execution_id)["git"]["commit"] == repository.feature
    # And without the secret: a reason in words.
    done = runvoy("run", *options, "echo ran")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"no secret sets RUNVOY_GIT_TOKEN" in done.stderr
    # A secret for a clone is of no use to another run.
    done = runvoy("run", "--secret", "infra-git", "true")
    assert done.returncode == 121
    assert b"which is for cloning, and the request names no repository" in done.stderr


def test_a_runner_killed_in_the_middle_of_a_clone(machine_of_module: Machine, repository: Repository) -> None:
    """Nobody knows what it did, so its run ends UNKNOWN; and not before its git is gone, which goes on without it."""
    runvoy = machine_of_module
    with socket.create_server(("127.0.0.1", 0)) as host:
        host.settimeout(60)
        repo = f"http://127.0.0.1:{host.getsockname()[1]}/infra.git"
        execution_id = runvoy.ok("submit", "--git-repo", repo, "echo ran").strip()
        connection, _ = host.accept()  # git asks, and is not answered
        folder = runvoy.home / "local" / "runs" / execution_id
        claim = run_claims.read(folder)
        assert claim is not None
        os.kill(claim.pid, signal.SIGKILL)
        runvoy.wait_until(lambda: not processes.is_runner_alive(claim, folder))
        assert processes.survivors(folder), "the clone was over too soon for this test"
        assert runvoy.status(execution_id)["state"] == "STARTING"
        connection.close()
    waited = runvoy("wait", execution_id)
    assert (waited.returncode, processes.survivors(folder)) == (125, [])
    ended = runvoy.status(execution_id)
    assert (ended["state"], ended["reason"], "started_at" in ended) == ("UNKNOWN", "lost", False)
    assert ended["explanation"], ended
    assert runvoy.ok("logs", execution_id, "--raw") == ""
    done = runvoy("run", "--git-repo", str(repository.bare), "--git-ref", "v1", "cat say")
    assert (done.returncode, done.stdout) == (0, b"first\n")
