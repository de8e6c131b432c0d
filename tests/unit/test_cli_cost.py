"""`runvoy cost` and `--dry-run`, against a world's own control API."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import ok

from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.cost import Pricing
from runvoy_cli.commands import cost as cost_command
from runvoy_cli.terminal.words import cost_text, rate_text
from runvoy_protocol.costs import Cost, CostGroup, CostPage, Rate
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import Run, World


def runs(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    for seconds, key, name in ((3600, None, "deploy"), (7200, bob, None)):
        request = world.request(playbook=name)
        world.submit(request, key)
        world.start(request.request_id)
        world.leave_started(request.request_id)
        world.tell(request.request_id, "started")
        world.clock.move(seconds=seconds)
        world.leave_result(request.request_id)
        world.tell(request.request_id, "stopped", attempt=1)


def test_sums_in_columns_with_what_they_are_made_of(runvoy: Run, world: World) -> None:
    runs(world)
    code, out, err = runvoy("cost")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["USER", "WOULD", "HAVE", "COST", "RUNS", "TIME"],
        ["bob", "$0.0198", "1", "2h00m"],
        ["ada", "$0.0099", "1", "1h00m"],
        ["total", "$0.0296", "2", "3h00m"],
    ]
    assert "it ran on this machine" in err
    assert "prices of 2026-10-03" in err
    code, out, _ = runvoy("cost", "--by", "playbook", "--owner", "me", "--since", "1d")
    assert [line.split()[0] for line in out.splitlines()] == ["PLAYBOOK", "deploy", "total"]


def test_sums_as_json(runvoy: Run, world: World) -> None:
    runs(world)
    found = json.loads(runvoy("cost", "--by", "day", "--json")[1])
    assert found["by"] == "day"
    assert found["groups"] == [
        {
            "key": "2026-05-04",
            "executions": 2,
            "billed_seconds": 10_800,
            "nanodollars": 3 * 9_875_000,
            "unpriced": 0,
            "running": 0,
        }
    ]
    assert (found["bases"], found["after"]) == (["would_have_cost"], None)


def test_nothing_to_add_up(runvoy: Run) -> None:
    assert runvoy("cost") == (0, "", "")
    assert json.loads(runvoy("--json", "cost")[1])["groups"] == []


@pytest.mark.parametrize("arguments", [["--by", "color"], ["--since", ""], ["--since", "soon"], ["--until", "x"]])
def test_what_cannot_be_asked(runvoy: Run, arguments: list[str]) -> None:
    code, out, err = runvoy("cost", *arguments)
    assert (code, out) == (2, "")
    assert "hint:" in err or "runvoy:" in err


@pytest.mark.parametrize(
    ("part", "largest", "shown"),
    [(0, 10, ""), (10, 10, "█" * 24), (5, 10, "█" * 12), (1, 10_000, "▏"), (1, 48, "▌"), (0, 0, ""), (3, 64, "█▏")],
)
def test_bars(part: int, largest: int, shown: str) -> None:
    assert cost_command.bar(part, largest) == shown


def test_what_is_in_no_sum_is_said() -> None:
    total = CostGroup(key="", executions=3, unpriced=2)
    page = CostPage(by="user", groups=(total,), total=total, bases=("billed", "at_most"), prices_of=("2026-10-03",))
    told = " ".join(cost_command.notes(page))
    for part in ("on demand", "on Spot", "2026-10-03", "2 of 3 have no known price"):
        assert part in told


def test_the_cost_of_one_execution_in_words(world: World) -> None:
    now = world.clock.now()
    rate = Rate(
        nanodollars_per_hour=9_875_000,
        basis="would_have_cost",
        region="us-east-1",
        architecture="ARM64",
        cpu=256,
        memory_mib=512,
        prices_of="2026-10-03",
    )
    hourly = "on Fargate it would cost $0.0099 an hour (0.25 vCPU, 512 MiB; us-east-1, ARM64, prices of 2026-10-03)"
    assert rate_text(rate) == hourly
    assert cost_text(Cost(rate=rate), now) == hourly
    running = Cost(rate=rate, billed_from=now - timedelta(hours=2))
    assert cost_text(running, now) == f"would have cost $0.0198 for 7200 s so far; {hourly}"
    nothing = Cost(rate=rate, billed_seconds=0, nanodollars=0, is_final=True)
    assert cost_text(nothing, now) == f"would have cost $0.0000 (nothing ran); {hourly}"
    unknown = Rate(
        nanodollars_per_hour=None,
        basis="billed",
        region="mars-north-1",
        architecture="ARM64",
        cpu=256,
        memory_mib=512,
        prices_of="2026-10-03",
    )
    assert cost_text(Cost(rate=unknown, billed_from=now), now) == (
        "unknown: no price for mars-north-1, ARM64, prices of 2026-10-03"
    )


# --- dry runs


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_dry_run_shows_what_would_become_of_it(runvoy: Run, world: World, command: str) -> None:
    both = Capabilities("process", frozenset({"process", "container"}), fargate_sizes=True)
    world.deployment = world.deployment._replace(capabilities=both, pricing=Pricing("us-east-1"))
    ok(world, "POST", "/images", {"reference": "docker.io/library/tools:1", "name": "tools"})
    ok(world, "POST", "/secrets", {"name": "db", "env_name": "DB_PASSWORD", "value": "aHVudGVyMjI="})
    holder = world.request(locks=("prod",))
    world.submit(holder)
    options = [
        "--image",
        "tools",
        "--secret",
        "db",
        "--lock",
        "prod",
        "--lock",
        "free",
        "--timeout",
        "2h",
        "--env",
        "A=b",
    ]
    code, out, _ = runvoy(command, "--dry-run", *options, "--", "make", "test it")
    assert code == 0
    for told in (
        "allowed; it would wait for its locks",
        "tools (docker.io/library/tools:1)",
        "db as DB_PASSWORD",
        f"prod: next, held by {holder.request_id} (ada)",
        "free: free",
        "2h00m after its start",
        "$0.0099 an hour (0.25 vCPU, 512 MiB; us-east-1, ARM64, prices of 2026-10-03); $0.0198 if it goes on",
        "A=b",
        "make 'test it'",
    ):
        assert told in out, told
    assert [one["execution_id"] for one in ok(world, "GET", "/executions")["executions"]] == [holder.request_id]
    code, out, _ = runvoy(command, "--dry-run", "--json", *options, "--if-locked", "fail", "--", "make")
    assert code == 121
    found = json.loads(out)
    assert (found["exit_code"], found["verdict"]["refused"]["code"]) == (121, "LOCK_HELD")
    assert (found["command"], found["locks"], found["env"]) == ("make", ["prod", "free"], {"A": "b"})
    assert found["verdict"]["resolved"]["image"] == "docker.io/library/tools:1"


def test_a_dry_run_of_what_would_be_refused_names_the_rule(runvoy: Run) -> None:
    code, out, _ = runvoy("run", "--dry-run", "--image", "nothing", "--", "true")
    assert code == 121
    for told in ("refused (IMAGE_NOT_FOUND)", "no image is registered", "No such image is registered", "hint "):
        assert told in out


def test_a_dry_run_of_a_file_is_a_mistake(runvoy: Run) -> None:
    code, out, err = runvoy("submit", "--dry-run", "--bulk", "-")
    assert (code, out) == (2, "")
    assert "tries one run out" in err


def test_bars_are_drawn_where_there_is_room_for_the_longest() -> None:
    group = CostGroup(key="ann", executions=3, billed_seconds=180, nanodollars=500_000, unpriced=0, running=0)
    page = CostPage(by="user", groups=(group,), total=group, bases=("would_have_cost",), prices_of=())
    widest = max(map(len, cost_command.lines_of(page, 1_000)))
    for room, has_bars in ((0, False), (widest - 1, False), (widest, True)):
        lines = cost_command.lines_of(page, room)
        assert any("█" in line for line in lines) == has_bars
        assert [line.split()[0] for line in lines] == ["USER", "ann", "ann"]
