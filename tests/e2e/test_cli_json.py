"""What every command prints with --json has the shape that docs/cli.md gives it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
# Of a status only these are always there; the page says that the others are absent where they are not known.
STATUS = frozenset(
    {"execution_id", "record_version", "state", "owner", "key_id", "command", "isolation", "timeout_seconds"}
    | {"issued_at", "admitted_at"}
)
VERDICT = frozenset({"exit_code_of", "decided_by", "exit_meaning"})


def documented(command: str) -> list[Any]:
    section = PAGE.partition(f"\n## runvoy {command}\n")[2].partition("\n## ")[0]
    return [
        json.loads(line)
        for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL)
        for line in block.splitlines()
    ]


def keys_of(shape: Any) -> set[str]:
    return set(shape[0] if isinstance(shape, list) else shape)


def check(machine: Machine, command: str, *args: str) -> list[Any]:
    """Run the command; each document it prints must have exactly the keys of a documented one, statuses aside."""
    shapes = documented(command)
    done = machine("--json", *command.split(), *args)
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert printed, done
    for value in printed:
        keys = keys_of(value)
        if any(keys == keys_of(shape) for shape in shapes):
            continue
        assert any(STATUS <= keys <= keys_of(shape) for shape in shapes), (command, keys)
    return printed


def test_runs(machine: Machine) -> None:
    printed = check(machine, "run", "--lock", "prod", "echo hello; exit 3")
    assert (printed[0]["text"], printed[-1]["exit_code"], printed[-1]["exit_meaning"]) == ("hello", 3, "failure")
    execution_id = printed[-1]["execution_id"]
    assert set(printed[-1]["status"]) >= STATUS
    assert check(machine, "wait", execution_id)[0]["decided_by"] == "command"
    assert check(machine, "logs", execution_id)[0]["text"] == "hello"
    assert set(check(machine, "status", execution_id)[0]) >= VERDICT
    [signed] = check(machine, "status", "--request", execution_id)
    assert (signed["request"]["locks"], signed["receipt"]["outcome"]) == (["prod"], "accepted")
    assert set(signed["request"]) == set(documented("status")[-1]["request"])
    check(machine, "list")
    why = machine.status(execution_id)["explanation"]
    assert (why["reason"], why["words"]) == ("exit", "the command exited with code 3")
    price = machine.status(execution_id)["cost"]
    assert (price["rate"]["basis"], price["billed_seconds"]) == ("would_have_cost", 60)
    [sums] = check(machine, "cost", "--by", "day")
    assert sums["total"]["nanodollars"] == price["nanodollars"] == 164_583
    for command in ("run", "submit"):
        [tried] = check(machine, command, "--dry-run", "--lock", "prod", "echo hello")
        assert (tried["verdict"]["allowed"], tried["exit_code"]) == (True, 0)
    refused = machine("run", "--dry-run", "--secret", "nobody-s", "true")
    assert (refused.returncode, b"SECRET_NOT_FOUND" in refused.stdout) == (121, True)
    assert len(json.loads(machine.ok("--json", "list"))) == 1
    assert check(machine, "kill", execution_id)[0]["had_ended"] is True
    given_up = machine("--json", "wait", "--timeout", "0", machine.ok("submit", "sleep 9").strip())
    assert set(json.loads(given_up.stdout)) == keys_of(documented("wait")[0])


@pytest.mark.shared
def test_locks(machine: Machine) -> None:
    [submitted] = check(machine, "submit", "--lock", "as-json", "sleep 30")
    holder = submitted["execution_id"]
    machine.wait_until(lambda: machine.status(holder)["state"] == "RUNNING")
    waiter = machine.ok("submit", "--lock", "as-json", "true").strip()
    machine.wait_until(lambda: json.loads(machine.ok("--json", "locks", "show", "as-json"))["length"] == 2)
    [status] = check(machine, "status", waiter)
    [lock] = documented("status")[1]["locks"]
    assert set(status["locks"][0]) == set(lock)
    for command, args in (("locks list", ()), ("locks show", ("as-json",)), ("locks release", ("as-json", "--yes"))):
        [printed] = check(machine, command, *args)
        shape = documented(command)[0]
        lock, known = (printed[0], shape[0]) if isinstance(shape, list) else (printed, shape)
        assert set(lock["queue"][0] if lock["queue"] else known["queue"][0]) == set(known["queue"][0])
    machine.ok("kill", holder)


def test_the_rest(machine: Machine) -> None:
    check(machine, "local up")
    check(machine, "local status")
    check(machine, "local logs")
    [who] = [json.loads(machine.ok("--json", "whoami"))]
    assert set(who) == keys_of(documented("whoami")[0]) - {"key_expires_at"}
    [quotas] = check(machine, "quotas list")
    assert set(quotas["users"][0]) == set(documented("quotas list")[0]["users"][0])
    for args in (("--max-running", "2"), ("--user", who["user"], "--max-unfinished", "50")):
        check(machine, "quotas set", *args)
    assert (
        json.loads(machine.ok("--json", "whoami"))["quota"].items() >= {"max_unfinished": 50, "max_running": 2}.items()
    )
    assert check(machine, "quotas recount") == [{"users": []}]
    check(machine, "health")
    [repairs] = check(machine, "health reconcile")
    assert repairs == {"repairs": [], "left": 0}
    [version] = check(machine, "version")
    assert set(version["server"]) == set(documented("version")[0]["server"])
    check(machine, "completion", "fish")
    check(machine, "local down")
    check(machine, "local reset", "--yes")


@pytest.mark.shared
def test_errors_are_json_too(machine: Machine) -> None:
    machine.ok("local", "up")
    [shape] = [json.loads(line) for line in re.findall(r'^\{"error".*$', PAGE, re.MULTILINE)]
    unknown = "01890a5dac96774bbcceb302099a8057"
    for args, code in (
        (["status", unknown], 1),
        (["wait", unknown], 121),
        (["kill", unknown], 1),
        (["logs", unknown], 1),
        (["locks", "show", "nobody"], 1),
        (["locks", "release", "nobody"], 2),
        (["run", "--secret", "nobody", "true"], 121),
        (["run"], 2),
        (["list", "--status", "bogus"], 2),
    ):
        done = machine("--json", *args)
        assert (done.returncode, done.stdout) == (code, b""), (args, done)
        [told] = [json.loads(line) for line in done.stderr.splitlines()]
        assert set(told["error"]) == set(shape["error"]), args
