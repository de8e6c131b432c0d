"""`runvoy audit` on a real embedded stack: a run's whole story, and where calls and uploads came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


def records(machine: Machine, *args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine.ok("--json", "audit", *args).splitlines()]


def test_a_run_s_story_is_told_with_the_address_it_came_from(machine: Machine) -> None:
    execution_id = machine.ok("submit", "exit 3").strip()
    assert machine("wait", execution_id).returncode == 3
    machine.wait_until(lambda: "stopped" in {one["action"] for one in records(machine, "--execution", execution_id)})
    story = [one for one in records(machine, "--execution", execution_id) if one["action"] != "read-audit"]
    steps = [(one["action"], one["outcome"]) for one in reversed(story)]
    decided = [step for step in steps if step[0] != "grant-outbox"]
    assert decided[0] == ("admit", "accepted")
    assert ("start", "STARTING") in decided
    # Whichever was looked at first: the result itself, or that the task was seen stopped, upon which the result is read.
    assert {("result", "FAILED"), ("stopped", "FAILED")} & set(decided)
    assert {one["source"] for one in story if one["action"] in ("admit", "grant-outbox")} == {"127.0.0.1"}
    granted = records(machine, "--action", "grant-inbox")
    assert [one["source"] for one in granted] == ["127.0.0.1"]
    assert granted[0]["actor"] == story[0]["actor"] or story[0]["actor"] in ("runner", "platform")


def test_the_table_and_its_filters(machine: Machine) -> None:
    machine.ok("whoami")
    assert machine("locks", "show", "nothing").returncode == 1
    table = machine.ok("audit", "--since", "1h", "--limit", "20").splitlines()
    assert table[0].split() == ["WHEN", "WHO", "KEY", "ACTION", "OUTCOME", "FROM", "EXECUTION", "ABOUT"]
    assert any(" whoami " in line and "127.0.0.1" in line for line in table)
    refused = machine.ok("audit", "--outcome", "refused").splitlines()
    assert len(refused) == 2
    assert "show-lock" in refused[1]
    assert "NOT_FOUND" in refused[1]
    assert records(machine, "--user", "nobody") == []
    assert len(records(machine, "--limit", "2")) == 2
    assert records(machine, "--until", "1h") == []
    assert machine("audit", "--since", "yesterday").returncode == 2
    assert machine("audit", "--execution", "x").returncode == 2


def test_its_json_has_the_documented_shape(machine: Machine) -> None:
    machine.ok("whoami")
    from tests.e2e.test_cli_json import check

    check(machine, "audit")
