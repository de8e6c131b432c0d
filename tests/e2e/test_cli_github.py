"""A step of GitHub Actions: what a hostile log prints is obeyed by nobody, and failures are told where people look.

`Runner` obeys a step's output as GitHub's does (actions/runner, ActionCommandManager): lines that begin with `::`, and
anything behind `##[`, unless it was told to stop.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.e2e.conftest import Machine

HOSTILE = r"printf '::error::evil\n  ::add-mask::x\nsome ##[error]evil\n::stop-commands::x\n::x::\n::endgroup::\n'"
PRINTED = "::error::evil\n  ::add-mask::x\nsome ##[error]evil\n::stop-commands::x\n::x::\n::endgroup::\n"


class Runner:
    """What a step's output makes the runner do."""

    def __init__(self) -> None:
        self.obeyed: list[tuple[str, str]] = []
        self.stop_token: str | None = None

    def read(self, text: str) -> Runner:
        for line in text.splitlines():
            match = re.match(r"\s*::([A-Za-z0-9-]+)(?: [^:]*)?::(.*)", line) or re.search(
                r"##\[([a-z-]+)[^\]]*\](.*)", line
            )
            if match is None:
                continue
            name, data = match.groups()
            if self.stop_token is not None:
                self.stop_token = None if name == self.stop_token else self.stop_token
            elif name == "stop-commands":
                self.stop_token = data
            else:
                self.obeyed.append((name, data))
        return self


@pytest.mark.shared
def test_a_hostile_log_is_obeyed_by_nobody_and_arrives_as_it_is(machine: Machine, tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    options = ("--name", "night|ly <b> ##[error]x ::error::y")
    done = machine("run", *options, f"({HOSTILE}); ({HOSTILE}) >&2; exit 3", env=env)
    assert done.returncode == 3
    assert done.stdout.decode() == PRINTED, "stdout is the command's output, byte for byte"
    err = done.stderr.decode()
    # The runner has read what stops it before the output came, and goes on once it is over.
    before, stop, after = err.partition("::stop-commands::")
    token = after.split("\n", 1)[0]
    assert len(token) == 32
    runner = Runner().read(before + stop + token + "\n")
    runner.read(done.stdout.decode())
    runner.read(after.split("\n", 1)[1])
    assert runner.stop_token is None
    names = [name for name, _ in runner.obeyed]
    assert names == ["group", "endgroup", "error"]
    assert "FAILED, exit code 3" in runner.obeyed[-1][1]
    assert "::error title=runvoy night|ly <b> ## [error]x %3A%3Aerror%3A%3Ay::" in err
    table = summary.read_text()
    assert "1 execution, 1 failed" in table
    assert "night&#124;ly &#60;b&#62; &#35;&#35;&#91;error&#93;x" in table
    execution_id = re.findall(r"`([0-9a-f]{32})`", table)[0]
    # The same log, read and waited for by others.
    for command in (("logs", execution_id), ("wait", execution_id)):
        again = machine(*command, env=env)
        told = Runner().read(again.stderr.decode())
        assert {name for name, _ in told.obeyed} <= {"error"}
        assert told.stop_token is None


@pytest.mark.shared
def test_a_bulk_is_told_with_its_failures_first(machine: Machine, tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    file = tmp_path / "runs.jsonl"
    file.write_text(
        "".join(f'{{"command": "exit {number % 2 * 7}", "id": "github {number}"}}\n' for number in range(30))
    )
    ids = tmp_path / "ids"
    ids.write_text(machine.ok("submit", "--bulk", str(file), env=env))
    with ids.open("rb") as stdin:
        done = machine("wait", "-", stdin=stdin, env=env)
    assert done.returncode == 7
    runner = Runner().read(done.stderr.decode())
    assert [name for name, _ in runner.obeyed] == ["error"] * 10, "GitHub shows ten"
    rows = [line for line in summary.read_text().splitlines() if "| `" in line]
    assert ["❌" in row for row in rows] == [True] * 15 + [False] * 15


@pytest.mark.shared
def test_errors_of_runvoy_s_own_are_annotated_and_outside_of_github_nothing_is(machine: Machine) -> None:
    done = machine("wait", "0" * 32, env={"GITHUB_ACTIONS": "true"})
    assert done.returncode == 2
    assert [name for name, _ in Runner().read(done.stderr.decode()).obeyed] == ["error"]
    assert b"::" not in machine("wait", "0" * 32).stderr
    done = machine("run", "exit 3", env={"GITHUB_ACTIONS": "false"})
    assert (done.returncode, b"::" in done.stderr) == (3, False)


def test_what_others_named_commands_nothing_in_any_listing(machine: Machine) -> None:
    """Names, labels and command lines are their submitters' choice, and `##[` is obeyed wherever it stands in a line."""
    label, name = "::set-output name=x::evil", "##[set-output name=x;]evil"
    named = ("--name", name, "--label", f"a={label}", "--label", f"b={name}")
    execution_id = machine.ok("submit", *named, "--", "true", name).strip()
    assert machine("wait", execution_id).returncode == 0
    env = {"GITHUB_ACTIONS": "true"}
    for command in (
        *(("list",), ("status", execution_id), ("trace", execution_id), ("audit",), ("kill", execution_id)),
        *(("cost", "--by", "label"), ("list", "--status", name), ("secrets", "show", name)),
    ):
        for form in ((), ("--json",)):
            done = machine(*command, *form, env=env)
            told = Runner().read(done.stdout.decode() + done.stderr.decode())
            assert {name for name, _ in told.obeyed} <= {"error"}, command  # an annotation of our own
    assert f"b={name}" in machine.ok("cost", "--by", "label"), "outside of a job it is as it is"
    (listed,) = json.loads(machine.ok("list", "--json", env=env))
    assert listed["name"] == name, "JSON means the same"


@pytest.mark.shared
def test_a_summary_that_cannot_be_written_fails_nothing(machine: Machine, tmp_path: Path) -> None:
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "folder")}
    done = machine("run", "true", env=env)
    assert done.returncode == 0
    assert b"the job's summary cannot be written" in done.stderr
