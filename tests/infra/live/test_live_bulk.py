"""A batch on the deployed stack: ranges bounded by time, queues of their own, and nobody else's run behind them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.infra.live.conftest import Live, wait_for

pytestmark = pytest.mark.slow

COUNT = 260
"""Two ranges: one that an invocation may well have no time for, and a small one."""

_PATIENCE_SECONDS = 600


def runs() -> list[dict[str, object]]:
    """Every tenth is a command that runs, in each of the ranges. The others are refused, each alone: two cores do not run
    hundreds of tasks, each with its functions, in the time that a test has."""
    made: list[dict[str, object]] = []
    for number in range(COUNT):
        one: dict[str, object] = {"command": f"exit {number // 50 + 3}", "id": f"live bulk {number}"}
        made.append(one | ({} if number % 10 == 7 else {"image": "nobody-registered-this"}))
    return made


def waited(live: Live, ids: list[str]) -> int:
    """The code of `wait -`, however often it has to be asked: a busy machine's deployment may not answer in time (125)."""

    def once() -> list[int]:
        code = live.admin("wait", "-", stdin="\n".join(ids), timeout=_PATIENCE_SECONDS).returncode
        return [] if code == 125 else [code]

    (code,) = wait_for(once, patience=_PATIENCE_SECONDS)
    return int(code)


@pytest.mark.timeout(1200)
def test_a_batch_is_admitted_once_and_in_order_and_nobody_waits_behind_it(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in runs()))
    ids = live.admin.ok("submit", "--bulk", str(path), "--label", "live=bulk").split()
    assert len(set(ids)) == COUNT
    # A person's run, and the batch again, in the midst of it all.
    assert live.admin("run", "echo through").stdout == "through\n"
    assert live.admin.ok("submit", "--bulk", str(path), "--label", "live=bulk").split() == ids
    running = ids[7::10]
    assert waited(live, running) == 3  # the first of them
    found = {one["execution_id"]: one for one in live.admin.json("list", "--label", "live=bulk", "--limit", "100")}
    assert [found[one]["exit_code"] for one in running] == [number // 5 + 3 for number in range(len(running))]
    assert len(found) == len(running)
    # What cannot be is refused, each alone, and says why.
    alone = live.admin("wait", ids[0])
    assert (alone.returncode, "IMAGE_NOT_FOUND" in alone.stderr) == (121, True), alone
    # Once more, when all is over: nothing starts again.
    assert live.admin.ok("submit", "--bulk", str(path), "--label", "live=bulk").split() == ids
    wait_for(live.drained, patience=_PATIENCE_SECONDS)
    started = Counter(task.started_by.partition("-")[0] for task in list(live.ecs.tasks.values()))
    assert [started[one] for one in ids] == [int(number % 10 == 7) for number in range(COUNT)]
