"""What executions cost, in their status and in sums, in a world of real ports."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.calls import add_key, call, code_of, ok

from runvoy_agent.core.cost import Pricing
from runvoy_agent.handlers import ends
from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import EndMessage
from runvoy_protocol.costs import CostGroup, CostPage, added
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from tests.unit.conftest import World

HOURLY = 9_875_000  # of the least size on ARM in us-east-1


def run_for(world: World, seconds: float, key: SigningKey | None = None, **fields: Any) -> str:
    """A run that takes so long, from its launch to its end."""
    request = world.request(**fields)
    assert world.submit(request, key).outcome == "accepted"
    world.start(request.request_id)
    world.leave_started(request.request_id)
    world.tell(request.request_id, "started")
    world.clock.move(seconds=seconds)
    world.leave_result(request.request_id)
    world.tell(request.request_id, "stopped", attempt=1)
    return request.request_id


def sums(world: World, query: str = "", key: SigningKey | None = None) -> dict[str, Any]:
    found: dict[str, Any] = ok(world, "GET", f"/cost{query}", None, key)
    return found


def by_key(page: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {group["key"]: (group["executions"], group.get("nanodollars", 0)) for group in page["groups"]}


def test_the_status_has_the_rate_then_the_beginning_then_the_sum(world: World) -> None:
    request = world.request(playbook="deploy")
    world.submit(request)
    waiting = world.status(request.request_id)
    assert waiting.playbook == "deploy"
    assert waiting.cost is not None
    assert (waiting.cost.rate.nanodollars_per_hour, waiting.cost.billed_from) == (HOURLY, None)
    assert waiting.cost.rate.basis == "would_have_cost"
    world.start(request.request_id)
    world.leave_started(request.request_id)
    world.tell(request.request_id, "started")
    running = world.status(request.request_id).cost
    assert running is not None
    assert (running.billed_from, running.nanodollars, running.is_final) == (world.clock.now(), None, False)
    world.clock.move(minutes=30)
    world.leave_result(request.request_id)
    world.tell(request.request_id, "stopped", attempt=1)
    ended = world.status(request.request_id).cost
    assert ended is not None
    assert (ended.billed_seconds, ended.nanodollars, ended.is_final) == (1800, HOURLY // 2, True)


def test_on_aws_the_platform_s_times_are_what_is_charged_for(world: World) -> None:
    world.deployment = world.deployment._replace(pricing=Pricing("eu-west-1", is_spot=True))
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    began = world.clock.now() + timedelta(seconds=12)
    world.clock.move(minutes=10)
    world.leave_result(request.request_id)
    world.tell(request.request_id, "result")
    assert world.status(request.request_id).cost.is_final is False  # type: ignore[union-attr]
    stopped = EndMessage(
        execution_id=request.request_id,
        event="stopped",
        attempt=1,
        pull_started_at=began,
        task_stopped_at=began + timedelta(seconds=100.5),
    )
    ends.handle(world.ports, world.deployment, messages.encode(stopped))
    found = world.status(request.request_id).cost
    assert found is not None
    assert (found.billed_seconds, found.is_final, found.rate.basis) == (101, True, "at_most")
    assert (found.rate.region, found.rate.architecture) == ("eu-west-1", "ARM64")


def test_what_the_platform_knows_of_memory_is_said(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.leave_result(request.request_id, outcome="exited", exit_code=137)
    world.tell(request.request_id, "result")
    assert world.status(request.request_id).explanation.reason == "signal"  # type: ignore[union-attr]
    stopped = EndMessage(
        execution_id=request.request_id, event="stopped", attempt=1, message="OutOfMemoryError: Container killed"
    )
    ends.handle(world.ports, world.deployment, messages.encode(stopped))
    assert world.status(request.request_id).explanation.reason == "out_of_memory"  # type: ignore[union-attr]


def test_sums_by_each_kind(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    run_for(world, 3600, playbook="deploy", labels={"team": "data", "env": "prod"})
    run_for(world, 1800, playbook="deploy", labels={"team": "data"})
    world.clock.move(days=1)
    run_for(world, 7200, bob)
    half = HOURLY // 2
    assert by_key(sums(world)) == {"bob": (1, 4 * half), "ada": (2, 3 * half)}
    assert by_key(sums(world, "?by=playbook")) == {"deploy": (2, 3 * half), "": (1, 4 * half)}
    assert by_key(sums(world, "?by=label")) == {
        "team=data": (2, 3 * half),
        "env=prod": (1, 2 * half),
        "": (1, 4 * half),
    }
    assert by_key(sums(world, "?by=image")) == {"": (3, 7 * half)}
    assert by_key(sums(world, "?by=day")) == {"2026-05-04": (2, 3 * half), "2026-05-05": (1, 4 * half)}
    page = sums(world, "?by=label")
    assert (page["total"]["key"], page["total"]["executions"], page["total"]["nanodollars"]) == ("", 3, 7 * half)
    assert (page["bases"], page["prices_of"]) == (["would_have_cost"], ["2026-10-03"])
    assert [group["key"] for group in sums(world)["groups"]] == ["bob", "ada"]  # the dearest first


def test_only_what_was_admitted_in_that_time_counts(world: World) -> None:
    first = world.clock.now()
    run_for(world, 60)
    world.clock.move(days=2)
    run_for(world, 60)
    later = (first + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    assert sums(world)["total"]["executions"] == 2
    assert sums(world, f"?since={later}")["total"]["executions"] == 1
    assert sums(world, f"?until={later}")["total"]["executions"] == 1
    world.clock.move(days=31)
    assert sums(world)["total"] == {"key": ""}  # by itself: the last 30 days
    assert sums(world, "?since=2026-01-01T00:00:00Z")["total"]["executions"] == 2


def test_what_runs_counts_as_far_as_it_is(world: World) -> None:
    request = world.request()
    world.submit(request)
    assert sums(world)["total"] == {"key": "", "executions": 1, "running": 1}
    world.start(request.request_id)
    world.leave_started(request.request_id)
    world.tell(request.request_id, "started")
    world.clock.move(hours=1)
    assert sums(world)["total"] == {
        "key": "",
        "executions": 1,
        "running": 1,
        "billed_seconds": 3600,
        "nanodollars": HOURLY,
    }


def test_what_has_no_price_is_counted_and_in_no_sum(world: World) -> None:
    world.deployment = world.deployment._replace(pricing=Pricing("mars-north-1"))
    run_for(world, 100)
    assert sums(world)["total"] == {"key": "", "executions": 1, "billed_seconds": 100, "unpriced": 1}


def test_members_see_their_own_and_operators_everybody_s(world: World) -> None:
    bob, eve = world.add_user("bob", Role.DEVELOPER), world.add_user("eve", Role.OPERATOR)
    run_for(world, 60, bob)
    run_for(world, 60)
    assert by_key(sums(world, "", bob)).keys() == {"bob"}
    assert by_key(sums(world, "?owner=me", bob)).keys() == {"bob"}
    assert code_of(call(world, "GET", "/cost?owner=ada", None, bob)) is ErrorCode.FORBIDDEN
    assert by_key(sums(world, "", eve)).keys() == {"ada", "bob"}
    assert by_key(sums(world, "?owner=bob", eve)).keys() == {"bob"}
    limited = add_key(world, "bob", KeyLimits(labels={"team": "data"}))
    assert code_of(call(world, "GET", "/cost", None, limited)) is ErrorCode.FORBIDDEN


@pytest.mark.parametrize(
    "query",
    [
        "by=color",
        "by=",
        "since=yesterday",
        "since=2026-05-04",
        "after=x",
        "color=red",
        "until=9",
        "limit=0",
        "limit=1001",
    ],
)
def test_what_cannot_be_asked(world: World, query: str) -> None:
    if query == "by=":  # as if it were not there
        assert sums(world, "?by=")["by"] == "user"
        return
    assert code_of(call(world, "GET", f"/cost?{query}")) is ErrorCode.INVALID_REQUEST


def in_pages(world: World, query: str) -> tuple[int, int, dict[str, int]]:
    """How many pages it took, how many executions were counted, and how often each key was."""
    groups: dict[str, int] = {}
    after, pages, counted = "", 0, 0
    while True:
        page = sums(world, f"?by=label{query}{after}")
        pages += 1
        counted += page["total"]["executions"]
        for group in page["groups"]:
            groups[group["key"]] = groups.get(group["key"], 0) + group["executions"]
        if "after" not in page:
            return pages, counted, groups
        after = f"&after={page['after']}"


def test_pages_add_up_to_the_whole(world: World) -> None:
    for number in range(7):
        world.submit(world.request(labels={"n": str(number), "all": "1"}))
        world.clock.move(minutes=1)
    expected = {"all=1": 7} | {f"n={number}": 1 for number in range(7)}
    assert in_pages(world, "") == (1, 7, expected)
    assert in_pages(world, "&limit=2") == (4, 7, expected)


def test_a_page_of_many_groups_ends_early(world: World) -> None:
    for number in range(66):
        world.submit(world.request(labels={f"n{number}-{own}": "" for own in range(32)}))
    pages, counted, groups = in_pages(world, "")
    assert (pages, counted, len(groups), set(groups.values())) == (2, 66, 66 * 32, {1})


def test_sums_of_one_key_are_added() -> None:
    one = CostGroup(key="a", executions=1, billed_seconds=2, nanodollars=3, unpriced=4, running=5)
    assert added(one, one) == CostGroup(key="a", executions=2, billed_seconds=4, nanodollars=6, unpriced=8, running=10)
    assert CostPage(by="user", groups=(), total=one).after is None


def test_a_run_that_was_never_started_costs_nothing(world: World) -> None:
    request = world.request()
    world.submit(request)
    ok(world, "DELETE", f"/executions/{request.request_id}")
    found = world.status(request.request_id)
    assert found.state is State.STOPPED
    assert found.cost is not None
    assert (found.cost.nanodollars, found.cost.is_final) == (0, True)
