"""A playbook as a user runs it: real processes, the real embedded stack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.test_cli_json import check, documented

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Machine

HOSTILE = "$(touch pwned) `touch pwned` '\"; touch pwned\n*  é -n \\"
TEXT = """\
description: Greet
locks: [greeting]
timeout: 1m
env: {GREETING: "hello ${{ who }}"}
labels: {who: "${{ short }}"}
parameters:
  who: {}
  short: {enum: [ann, bob], default: ann}
  code: {type: int, default: 0}
  token: {secret: true, required: false}
commands:
  - printf '%s\\n' "$GREETING"
  - [printf, "%s|%s|", "${{ who }}", "$(id)"]
  - if [ -e pwned ]; then exit 99; else exit ${{ code }}; fi
  - echo done
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".runvoy").mkdir(parents=True)
    (folder / ".runvoy" / "greet.yml").write_text(TEXT)
    return folder


@pytest.mark.shared
def test_it_runs_each_command_and_follows(machine: Machine, project: Path) -> None:
    done = machine("playbook", "run", "greet", "--param", f"who={HOSTILE}", cwd=project)
    assert done.returncode == 0, done
    assert done.stdout.decode() == f"hello {HOSTILE}\n{HOSTILE}|$(id)|done\n"
    announced = [line for line in done.stderr.decode().splitlines() if line.startswith("playbook greet: ")]
    assert announced[0] == "playbook greet: 1 of 4: printf '%s\\n' \"$GREETING\""
    assert announced[3] == "playbook greet: 4 of 4: echo done"


def test_it_stops_at_the_first_failure_and_exits_with_its_code(machine: Machine, project: Path) -> None:
    done = machine("playbook", "run", "greet", "--param", "who=x", "--param", "code=7", cwd=project)
    assert done.returncode == 7
    assert b"done" not in done.stdout
    [listed] = json.loads(machine.ok("--json", "list"))
    assert (listed["state"], listed["name"], listed["labels"]) == ("FAILED", "greet", {"who": "ann"})
    assert listed["locks"] == [{"name": "greeting", "fence": 1}]


@pytest.mark.shared
def test_what_is_not_the_commands_has_the_codes_of_run(machine: Machine, project: Path) -> None:
    run = ("playbook", "run", "greet", "--param", "who=x")
    assert machine(*run, "--secret", "nobody", cwd=project).returncode == 121
    assert machine(*run, "--param", "code=x", cwd=project).returncode == 2
    assert machine(*run, cwd=project, env={"RUNVOY_ENDPOINT": "https://x.example"}).returncode == 2
    assert machine(*run, "--timeout", "1s", "--env", "X=1", cwd=project).returncode in (0, 124)
    holder = machine.ok("submit", "--lock", "greeting", "sleep 30").strip()
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    assert machine(*run, "--if-locked", "fail", cwd=project).returncode == 122
    machine.ok("kill", "--wait", holder)


@pytest.mark.shared
def test_the_same_id_is_the_same_run(machine: Machine, project: Path) -> None:
    run = ("--json", "playbook", "run", "greet", "--id", "greet-1", "--param")
    ids = {
        json.loads(machine(*run, f"who={who}", cwd=project).stdout.splitlines()[-1])["execution_id"]
        for who in ("x", "x")
    }
    assert len(ids) == 1
    assert machine(*run, "who=y", cwd=project).returncode == 121


@pytest.mark.shared
def test_json_has_the_documented_shapes(machine: Machine, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    check(machine, "playbook list")
    [shown] = check(machine, "playbook show", "greet")
    assert set(shown["parameters"][0]) == set(documented("playbook show")[0]["parameters"][0])
    check(machine, "playbook run", "greet", "--param", "who=x", "--dry-run")
    printed: list[Any] = check(machine, "playbook run", "greet", "--param", "who=x")
    assert printed[-1]["exit_code"] == 0


@pytest.mark.shared
def test_a_key_made_for_one_playbook_runs_that_and_nothing_else(machine: Machine, project: Path) -> None:
    made = json.loads(machine.ok("--json", "keys", "create", "--only-playbook", "greet", cwd=project))
    endpoint = machine.endpoint()
    limited = {
        "RUNVOY_HOME": str(machine.home / "ci"),
        "RUNVOY_ENDPOINT": f"http://127.0.0.1:{endpoint['port']}",
        "RUNVOY_DEPLOYMENT": endpoint["deployment_id"],
        "RUNVOY_API_KEY": made["api_key"],
    }
    run = ("playbook", "run", "greet", "--param", "who=$(touch pwned)", "--param", "code=0")
    done = machine(*run, cwd=project, env=limited)
    assert done.returncode == 0, done
    assert b"$(touch pwned)" in done.stdout
    for refused in (("run", "echo hello"), (*run, "--env", "LD_PRELOAD=x"), (*run, "--timeout", "5s")):
        done = machine(*refused, cwd=project, env=limited)
        assert done.returncode == 121, done
        assert b"FORBIDDEN" in done.stderr
    assert machine("keys", "create", "--only-playbook", "nobody-wrote-it", cwd=project).returncode == 2
