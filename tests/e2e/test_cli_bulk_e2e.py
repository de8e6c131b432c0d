"""Thousands of runs as one signed object: submitted, submitted again, waited for, killed; and nobody else has to wait."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.conftest import Machine


def write(path: Path, runs: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in runs))
    return str(path)


def waited(machine: Machine, ids: list[str], *options: str) -> tuple[int, str]:
    reader = Path(machine.home.parent / "ids")
    reader.write_text("\n".join(ids))
    with reader.open("rb") as stdin:
        done = machine("wait", "-", *options, stdin=stdin, patience=180)
    return done.returncode, done.stderr.decode()


@pytest.mark.shared
def test_a_file_is_submitted_and_waited_for_and_sending_it_again_starts_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    runs: list[dict[str, object]] = [
        {"command": f"echo {number} >> {seen}", "id": f"job {number}"} for number in range(20)
    ]
    runs[7]["command"] = f"echo 7 >> {seen}; exit 9"
    runs[3]["command"] = f"echo 3 >> {seen}; exit 5"
    file = write(tmp_path / "runs.jsonl", runs)
    ids = machine.ok("submit", "--bulk", file, "--label", "team=bulk").split()
    assert len(ids) == 20
    code, told = waited(machine, ids)
    assert code == 5, told
    assert "20 executions: SUCCEEDED 18, FAILED 2" in told
    assert machine.ok("submit", "--bulk", file, "--label", "team=bulk").split() == ids
    assert waited(machine, ids)[0] == 5
    assert Counter(seen.read_text().split()) == Counter(str(number) for number in range(20))
    listed = json.loads(machine.ok("list", "--label", "team=bulk", "--limit", "50", "--json"))
    assert {one["execution_id"] for one in listed} == set(ids)
    # Another content under the same id is refused, and that one alone.
    runs[0]["command"] = "echo other"
    again = machine.ok("submit", "--bulk", write(tmp_path / "other.jsonl", runs), "--label", "team=bulk").split()
    assert again == ids
    assert Counter(seen.read_text().split())["0"] == 1


def test_a_mistake_anywhere_sends_nothing(machine: Machine, tmp_path: Path) -> None:
    file = write(tmp_path / "runs.jsonl", [{"command": "true"}, {"comand": "true"}])
    done = machine("submit", "--bulk", file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"{file}:2: a run has no 'comand'. Did you mean 'command'?".encode() in done.stderr
    assert json.loads(machine.ok("list", "--json")) == []
    assert machine("submit", "--bulk", file, "--", "true").returncode == 2
    assert machine("submit", "--no-batch", "--", "true").returncode == 2
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert machine("submit", "--bulk", str(empty)).returncode == 2


@pytest.mark.shared
def test_runs_sent_as_objects_of_their_own_are_those_of_a_batch(machine: Machine, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    runs: list[dict[str, object]] = [
        {"command": f"echo {number} >> {seen}", "id": f"apart {number}"} for number in range(40)
    ]
    file = write(tmp_path / "runs.jsonl", runs)
    rows = [json.loads(line) for line in machine.ok("submit", "--bulk", file, "--no-batch", "--json").splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 41))
    ids = [row["execution_id"] for row in rows]
    assert machine.ok("submit", "--bulk", file).split() == ids, "the same runs in a batch are the same executions"
    assert machine.ok("submit", "--bulk", file, "--no-batch").split() == ids
    assert waited(machine, ids)[0] == 0
    assert Counter(seen.read_text().split()) == Counter(str(number) for number in range(40))


@pytest.mark.shared
def test_the_first_end_and_the_first_failure_can_be_waited_for(machine: Machine, tmp_path: Path) -> None:
    runs: list[dict[str, object]] = [{"command": "sleep 300", "labels": {"k": "v"}}, {"command": "exit 4"}]
    runs += [{"command": "true"}, {"command": "true", "secrets": ["no-such"]}]
    *ids, good, refused = machine.ok("submit", "--bulk", write(tmp_path / "runs.jsonl", runs)).split()
    assert waited(machine, ids, "--any")[0] == 4
    code, told = waited(machine, [ids[0], good], "--any")
    assert (code, f"{good} SUCCEEDED" in told) == (0, True), "which one it was is told, whatever its end"
    code, told = waited(machine, [good, refused])
    assert (code, f"runvoy: {refused}: there is no secret 'no-such'" in told) == (121, True)
    assert waited(machine, ids, "--fail-fast")[0] == 4
    code, told = waited(machine, ids, "--timeout", "0")
    assert (code, "gave up waiting for 1; they go on" in told) == (120, True)
    assert machine.ok("kill", "--wait", "--label", "k=v").split()[0] == ids[0]
    assert waited(machine, ids)[0] == 123
    assert machine("kill").returncode == 2


def test_a_person_s_run_does_not_wait_for_a_bulk(machine: Machine, tmp_path: Path) -> None:
    """More sleepers than the machine takes at once, and a run that gets through while they stand in line."""
    runs: list[dict[str, object]] = [{"command": "sleep 600", "labels": {"bulk": "1"}} for _ in range(300)]
    ids = machine.ok("submit", "--bulk", write(tmp_path / "runs.jsonl", runs)).split()
    machine.wait_until(lambda: machine.status(ids[0])["state"] == "RUNNING")
    assert machine.ok("run", "echo through") == "through\n"
    states = Counter(
        one["state"] for one in json.loads(machine.ok("list", "--label", "bulk", "--limit", "400", "--json"))
    )
    assert states["SUCCEEDED"] == states["FAILED"] == 0
    # And again once the bulk has all the room that it may have.
    most = machine.ok("list", "--label", "bulk", "--status", "RUNNING", "--limit", "400", "--json")
    assert 0 < len(json.loads(most)) < 300
    assert machine.ok("run", "echo through again") == "through again\n"


@pytest.mark.shared
def test_a_batch_survives_the_death_of_the_stack_and_runs_once(machine: Machine, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    runs: list[dict[str, object]] = [
        {"command": f"echo {number} >> {seen}", "id": f"again {number}"} for number in range(60)
    ]
    file = write(tmp_path / "runs.jsonl", runs)
    ids = machine.ok("submit", "--bulk", file).split()
    machine.kill_stack()
    assert machine.ok("submit", "--bulk", file).split() == ids
    machine.kill_stack()
    code, told = waited(machine, ids)
    assert code == 0, told
    assert Counter(seen.read_text().split()) == Counter(str(number) for number in range(60))
