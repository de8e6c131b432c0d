"""On a real embedded stack: an execution's story and its signed request, the day's seals, dead letters, and what is forgotten."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.e2e.test_cli_json import check

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


def lines(machine: Machine, *args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine.ok("--json", *args).splitlines()]


def test_the_story_the_proofs_and_the_export(machine: Machine) -> None:
    first = machine.ok("submit", "--lock", "prod", "exit 3").strip()
    assert machine("wait", first).returncode == 3
    machine.wait_until(lambda: "released" in {one["what"] for one in lines(machine, "trace", first)})
    story = lines(machine, "trace", first)
    told = [one["what"] for one in story if one["what"] != "grant-outbox"]
    assert told[:3] == ["admit", "joined-locks", "locks-granted"]
    assert [one["at"] for one in story] == sorted(one["at"] for one in story)
    assert {"start", "launched", "command-began", "command-ended", "released"} <= set(told)
    assert machine.ok("trace", first).splitlines()[0].split() == ["TIME", "WHO", "WHAT", "OUTCOME", "ABOUT"]

    proof = lines(machine, "audit", "verify", first)[0]
    assert proof["holds"] is True, proof
    folder = machine.home / "local" / "objects" / "inbox" / "requests" / proof["key_id"]
    kept = folder / first
    raw = bytearray(kept.read_bytes())
    raw[len(raw) // 2] ^= 1
    kept.write_bytes(bytes(raw))
    wrong = machine("audit", "verify", first)
    assert wrong.returncode == 1
    assert b"WRONG" in wrong.stdout

    today = datetime.now(UTC).strftime("%Y-%m-%d")
    day = lines(machine, "audit", "verify", "--day", today)[0]
    assert (day["holds"], day["findings"]) == (True, [])
    assert day["unproven"] == day["records"]
    assert machine("audit", "verify", "--day", today, "--head", "ab" * 32).returncode == 1
    number, head, *_ = machine.ok("audit", "head").split()
    assert (number, head) == ("0", "0" * 64)
    check(machine, "trace", first)
    check(machine, "audit verify", first)
    check(machine, "audit verify", "--day", today)
    check(machine, "audit head")
    check(machine, "audit export")
    check(machine, "health")
    check(machine, "health redrive")
    check(machine, "local gc", "--keep", "90d")
    exported = lines(machine, "audit", "export", "--since", "1h")
    assert {"admit", "start", "audit-head"} <= {one["action"] for one in exported}
    assert len(exported) == len({one["event_id"] for one in exported})
    for wrongly in (
        ("verify",),
        ("verify", first, "--day", today),
        ("verify", "--day", "today"),
        ("export", "--format", "x"),
    ):
        assert machine("audit", *wrongly).returncode == 2, wrongly
    assert machine("audit", "--user", "x", "head").returncode == 2


def test_dead_letters_are_told_and_put_back(machine: Machine) -> None:
    healthy = lines(machine, "health")[0]
    assert (healthy["problems"], {one["dead"] for one in healthy["queues"]}) == ([], {0})
    machine.ok("local", "down")
    with closing(sqlite3.connect(machine.home / "local" / "queue.db")) as connection, connection:
        connection.execute(
            "INSERT INTO messages (queue, body, sent_at, due_at, receives, died_at) VALUES ('ends', ?, 1, 1, 5, 1)",
            (b'{"execution_id":"01890a5dac96774bbcceb302099a8057","event":"result"}',),
        )
    ill = machine("--json", "health")
    assert ill.returncode == 1
    assert [one["problem"] for one in json.loads(ill.stdout)["problems"]] == ["1 dead letter in the queue ends"]
    assert b"runvoy health redrive" in machine("health").stderr
    assert machine.ok("health", "redrive").strip() == "ends: 1 put back"
    machine.wait_until(lambda: machine("health").returncode == 0)
    assert machine.ok("health", "redrive").strip() == "there are no dead letters"
    assert lines(machine, "audit", "--action", "redrive")[1]["message"] == "dead letters: 1 of ends"


def test_what_ended_long_ago_is_forgotten(machine: Machine) -> None:
    # An id that tells when it was made is kept for as long from then on; one that was chosen tells nothing.
    old, young = (machine.ok("submit", "--id", name, "echo hello").strip() for name in ("old", "young"))
    assert machine("wait", old, young).returncode == 0
    machine.wait_until(lambda: "over" in {one["what"] for one in lines(machine, "trace", old)})
    machine.ok("local", "down")
    make_older(machine, old, timedelta(days=40))
    assert machine("local", "gc").returncode == 1  # nobody said how long
    assert machine("local", "gc", "--keep", "1h").returncode == 2
    told = lines(machine, "local", "gc", "--keep", "30d", "--dry-run")[0]
    assert (told["executions"], told["dry_run"]) == (1, True)
    assert machine.ok("logs", old) == "hello\n"
    done = lines(machine, "local", "gc", "--keep", "30d")[0]
    assert {name: done[name] for name in ("executions", "objects", "bytes")} == {
        name: told[name] for name in ("executions", "objects", "bytes")
    }
    assert machine("status", old).returncode == 1
    assert not list((machine.home / "local").rglob(f"*{old}*"))
    assert machine.ok("logs", young) == "hello\n"
    assert machine("local", "up", "--keep", "30d").returncode == 2  # it runs
    machine.ok("local", "down")
    assert lines(machine, "local", "up", "--keep", "30d")[0]["keep_seconds"] == 30 * 86_400
    assert lines(machine, "local", "gc")[0]["executions"] == 0
    machine.ok("local", "down")
    again = lines(machine, "local", "up", "--keep", "forever", "--host-processes")[0]
    assert (again["keep_seconds"], again["host_processes"]) == (None, True)


def make_older(machine: Machine, execution_id: str, by: timedelta) -> None:
    """An execution, and its deployment, as if all had been earlier. Its times are of today, or around midnight of the day before."""
    folder = machine.home / "local"
    now = datetime.now(UTC)
    days = [(now - timedelta(days=ago)).strftime("%Y-%m-%d") for ago in (0, 1)]
    earlier = [(datetime.fromisoformat(day) - by).strftime("%Y-%m-%d") for day in days]
    deployment = json.loads((folder / "deployment.json").read_bytes())
    deployment["created_at"] = (now - 2 * by).isoformat()
    (folder / "deployment.json").write_text(json.dumps(deployment))
    key = f"execution#{execution_id}"
    with closing(sqlite3.connect(folder / "state.db")) as connection, connection:
        for day, other in zip(days, earlier, strict=True):
            connection.execute("UPDATE records SET body = replace(body, ?, ?) WHERE key = ?", (day, other, key))
            connection.execute(
                "UPDATE entries SET partition = replace(partition, ?, ?), sort = replace(sort, ?, ?) WHERE key = ?",
                (day, other, day, other, key),
            )
