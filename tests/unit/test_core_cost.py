"""What a run costs: the rate of its size, the time that counts, and the sum, in whole nano-dollars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_agent.core import cost, fargate_prices
from runvoy_agent.core.cost import OWN_MACHINE, Pricing
from runvoy_agent.core.fargate_prices import PRICES
from runvoy_agent.core.images import FARGATE_SIZES
from runvoy_agent.core.model import Execution
from runvoy_agent.core.task_definition import Architecture
from runvoy_protocol import costs
from runvoy_protocol.states import Reason, State

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
RATE = cost.rate_of(Pricing("us-east-1"), 256, 512, None)
SIZES = [(cpu, memory) for cpu, choices in FARGATE_SIZES.items() for memory in choices]
ARCHITECTURES: tuple[Architecture, ...] = ("ARM64", "X86_64")


def execution(state: State, **fields: object) -> Execution:
    values: dict[str, object] = {
        "execution_id": "e",
        "state": state,
        "owner": "ada",
        "key_id": "k",
        "content_digest": "",
        "object_sha256": "",
        "command": "true",
        "isolation": "container",
        "timeout_seconds": 60,
        "issued_at": NOW,
        "admitted_at": NOW,
        "updated_at": NOW,
        "granted": True,
        "rate": RATE,
    }
    return Execution(**(values | fields))  # type: ignore[arg-type]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# --- the rate


def test_the_least_size_on_arm_in_northern_virginia() -> None:
    # 0.25 × $0.03238 + 0.5 × $0.00356
    assert cost.hourly("us-east-1", "ARM64", 256, 512) == 9_875_000


@pytest.mark.parametrize("region", PRICES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_rate_of_every_size_is_exact(region: str, architecture: Architecture) -> None:
    price = PRICES[region].by_architecture.get(architecture)
    for cpu, memory_mib in SIZES:
        found = cost.hourly(region, architecture, cpu, memory_mib)
        if price is None:
            assert found is None
            continue
        assert found == Fraction(cpu * price.vcpu_hour + memory_mib * price.gb_hour, 1024)


def test_storage_counts_beyond_what_is_included() -> None:
    least = cost.hourly("us-east-1", "ARM64", 256, 512)
    assert least is not None
    assert cost.hourly("us-east-1", "ARM64", 256, 512, fargate_prices.INCLUDED_STORAGE_GIB) == least
    assert cost.hourly("us-east-1", "ARM64", 256, 512, 120) == least + 100 * 111_000
    assert cost.hourly("ap-southeast-2", "ARM64", 256, 512, 120) is None  # its price of storage is not in the table


@pytest.mark.parametrize(
    ("pricing", "platform"),
    [(Pricing("mars-north-1"), None), (Pricing("eu-central-1"), "linux/arm64"), (Pricing(""), "linux/amd64")],
)
def test_what_is_not_in_the_table_is_unknown(pricing: Pricing, platform: str | None) -> None:
    rate = cost.rate_of(pricing, 256, 512, platform)
    assert rate.nanodollars_per_hour is None
    ended = execution(
        State.SUCCEEDED, rate=rate, starting_at=NOW, started_at=NOW, ended_at=after(90), stopped_at=after(91)
    )
    found = cost.cost_of(ended)
    assert found is not None
    assert (found.billed_seconds, found.nanodollars, found.is_final) == (90, None, True)


def test_a_rate_says_of_what_it_is() -> None:
    rate = cost.rate_of(Pricing("us-east-1"), 300, 512, "linux/amd64")
    assert (rate.region, rate.architecture, rate.cpu, rate.memory_mib) == ("us-east-1", "X86_64", 512, 1024)


def test_each_kind_of_sum_says_what_it_is() -> None:
    assert Pricing("us-east-1").basis == "billed"
    assert Pricing("us-east-1", is_spot=True).basis == "at_most"
    assert OWN_MACHINE.basis == "would_have_cost"
    spot = cost.rate_of(Pricing("us-east-1", is_spot=True), 256, 512, None)
    assert spot.nanodollars_per_hour == RATE.nanodollars_per_hour


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ((None, None), (256, 512)),
        ((100, None), (256, 512)),
        ((256, 700), (256, 1024)),
        ((None, 3000), (512, 3072)),
        ((300, 512), (512, 1024)),
        ((16_384, 122_880), (16_384, 122_880)),
        ((256, 122_880), (16_384, 122_880)),
        ((20_000, None), None),
    ],
)
def test_the_size_that_fits(asked: tuple[int | None, int | None], size: tuple[int, int] | None) -> None:
    assert cost.fitting_size(*asked) == size


@given(st.integers(64, 16_384), st.integers(64, 122_880))
def test_the_size_that_fits_has_enough_and_no_smaller_one_has(cpu: int, memory_mib: int) -> None:
    size = cost.fitting_size(cpu, memory_mib)
    enough = [(units, memory) for units, memory in SIZES if units >= cpu and memory >= memory_mib]
    assert size == min(enough, default=None)


# --- the time, and the sum


@pytest.mark.parametrize(
    ("seconds", "billed"), [(0, 60), (-5, 60), (59.999, 60), (60, 60), (60.001, 61), (3600, 3600), (3600.5, 3601)]
)
def test_the_seconds_that_count(seconds: float, billed: int) -> None:
    assert costs.billed_seconds(NOW, after(seconds)) == billed


@given(st.integers(0, 10**12), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_sum_is_exact_to_half_a_nanodollar_and_never_falls(rate: int, seconds: int, more: int) -> None:
    exact = Fraction(rate * seconds, 3600)
    assert abs(costs.amount(rate, seconds) - exact) <= Fraction(1, 2)
    assert costs.amount(rate, seconds + more) >= costs.amount(rate, seconds)


@given(st.timedeltas(timedelta(0), timedelta(days=14)))
def test_what_is_reckoned_while_it_runs_is_what_it_is_in_the_end(duration: timedelta) -> None:
    """Whoever reckons it at the moment of the end, by the status alone, comes to the deployment's sum."""
    running = cost.cost_of(execution(State.RUNNING, starting_at=NOW, started_at=NOW))
    ended = cost.cost_of(
        execution(State.SUCCEEDED, starting_at=NOW, started_at=NOW, ended_at=NOW + duration, stopped_at=NOW + duration)
    )
    assert running is not None
    assert ended is not None
    live = costs.so_far(running, NOW + duration)
    assert (live.billed_seconds, live.nanodollars) == (ended.billed_seconds, ended.nanodollars)
    assert (live.is_final, ended.is_final) == (False, True)
    assert costs.so_far(ended, NOW + timedelta(days=99)) == ended


def test_the_platform_s_times_count_where_it_told_them() -> None:
    ended = execution(
        State.SUCCEEDED,
        starting_at=NOW,
        started_at=after(40),
        ended_at=after(300),
        stopped_at=after(320),
        pull_started_at=after(20),
        task_stopped_at=after(310.2),
    )
    found = cost.cost_of(ended)
    assert found is not None
    assert (found.billed_from, found.billed_until, found.billed_seconds) == (after(20), after(310.2), 291)
    assert found.nanodollars == costs.amount(9_875_000, 291)


def test_nothing_that_ran_costs_nothing() -> None:
    never = [
        execution(State.TIMED_OUT, reason=Reason.QUEUE, ended_at=after(99), stopped_at=after(99)),
        execution(State.FAILED, reason=Reason.LAUNCH_FAILED, starting_at=NOW, ended_at=after(99), stopped_at=after(99)),
    ]
    for one in never:
        found = cost.cost_of(one)
        assert found is not None
        assert (found.billed_seconds, found.nanodollars, found.is_final) == (0, 0, True)


def test_a_task_that_only_pulled_its_image_is_charged_for() -> None:
    pulled = execution(
        State.FAILED,
        reason=Reason.LAUNCH_FAILED,
        starting_at=NOW,
        ended_at=after(99),
        stopped_at=after(99),
        launches=1,
        pull_started_at=after(10),
        task_stopped_at=after(95),
    )
    found = cost.cost_of(pulled)
    assert found is not None
    assert found.billed_seconds == 85


def test_before_the_start_there_is_a_rate_and_no_sum() -> None:
    for one in (execution(State.QUEUED), execution(State.STARTING, starting_at=NOW, launches=1)):
        found = cost.cost_of(one)
        assert found is not None
        assert (found.billed_from, found.nanodollars, found.is_final) == (None, None, False)
        assert costs.so_far(found, after(500)) == found


def test_an_execution_from_before_there_were_rates_has_no_cost() -> None:
    assert cost.cost_of(msgspec.structs.replace(execution(State.RUNNING), rate=None)) is None


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [
        (0, "$0.0000"),
        (1, "<$0.0001"),
        (164_583, "$0.0002"),
        (49_999, "<$0.0001"),
        (50_000, "$0.0001"),
        (12_345_678_901, "$12.3457"),
        (1_234_567_000_000_000, "$1,234,567.0000"),
    ],
)
def test_dollars_for_people(nanodollars: int, text: str) -> None:
    assert costs.dollars(nanodollars) == text
