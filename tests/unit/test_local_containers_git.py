"""A checkout in a container: cloned on the machine, copied into the container before its command begins."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.git_hosts import TOKEN, HttpHost, Repository
from tests.unit.test_local_containers import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def checkout(http: HttpHost, path: str = "", token: str = TOKEN) -> dict[str, Any]:
    git = {"repo": f"{http.url}/infra.git", "ref": "v1", "path": path}
    return {"git": git, "git_credentials": {"RUNVOY_GIT_TOKEN": base64.b64encode(token.encode()).decode()}}


def test_the_command_begins_in_its_copy_and_knows_no_token(
    machine: Machine, http: HttpHost, repository: Repository
) -> None:
    command = "pwd; cat where ../../say; touch ../../new && git rev-parse HEAD; env; stat -c %a ../../.. ../.."
    launch, result = machine.run(command, **checkout(http, "envs/prod"))
    assert (result["outcome"], result["git_commit"]) == ("exited", repository.first), machine.log(launch, "sys")
    said = machine.log(launch, "out")
    assert Path(said.splitlines()[0]).parts[-4:] == ("runvoy", "work", "envs", "prod")
    assert said.splitlines()[1:4] == ["prod", "first", repository.first]
    assert f"RUNVOY_GIT_COMMIT={repository.first}" in said
    assert "GIT_CONFIG_KEY_0=safe.directory\n" in said
    assert "GIT_CONFIG_VALUE_0=/runvoy/work\n" in said
    assert said.splitlines()[-2:] == ["755", "777"], "whoever the image's user is may come and write"
    assert TOKEN not in said
    assert TOKEN not in (machine.state / "calls").read_text()
    (create,) = machine.calls("create")
    assert create[create.index("--workdir") + 1] == "/runvoy/work/envs/prod"
    assert not (machine.folder(launch) / "checkout").exists()


def test_a_token_that_is_refused_makes_no_container(machine: Machine, http: HttpHost) -> None:
    launch, result = machine.run("echo ran", **checkout(http, token="another-token"))
    assert result["outcome"] == "setup_failed"
    assert "its host refused the secret that sets RUNVOY_GIT_TOKEN" in result["message"]
    assert machine.calls("create") == []
    assert machine.log(launch, "out") == ""


def test_a_copy_that_fails_is_a_reason_and_the_container_is_removed(machine: Machine, http: HttpHost) -> None:
    (machine.state / "fails-cp").write_text("no space left on device")
    _, result = machine.run("echo ran", **checkout(http))
    assert result["outcome"] == "setup_failed"
    assert "the checkout could not be copied into the container: no space left on device" in result["message"]


def test_a_kill_while_it_is_cloned(machine: Machine, http: HttpHost) -> None:
    http.is_stuck.set()
    launch = machine.start("echo ran", **checkout(http))
    assert http.asked.wait(60)
    machine.launcher.stop(launch.execution_id, 1)
    machine.await_stopped(launch)
    assert machine.result(launch)["outcome"] == "killed"
    assert machine.calls("create") == []


def test_without_a_repository_nothing_is_copied_and_no_folder_is_said(machine: Machine) -> None:
    machine.run("true")
    assert machine.calls("cp") == []
    (create,) = machine.calls("create")
    assert "--workdir" not in create
