"""What a run costs on Fargate: its rate from the price table, and the time that counts."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from runvoy_agent.core.fargate_prices import INCLUDED_STORAGE_GIB, PRICES, PRICES_OF
from runvoy_agent.core.images import DEFAULT_SIZE, FARGATE_SIZES
from runvoy_agent.core.model import Execution
from runvoy_agent.core.task_definition import Architecture, architecture_of
from runvoy_protocol.costs import Basis, Cost, Rate, billed_seconds, charged
from runvoy_protocol.states import State

_UNITS_PER_VCPU = 1024
_MIB_PER_GB = 1024  # what Fargate calls a GB: its 0.5 GB are 512 MiB
COMPARED_REGION = "us-east-1"
"""Whose prices say what a run on one machine would have cost."""


class Pricing(NamedTuple):
    """By which prices a deployment's runs are reckoned. `is_spot`: tasks run on Fargate Spot. `is_own_machine`: they cost
    nothing by themselves, and what is told is what they would have cost on Fargate."""

    region: str
    is_spot: bool = False
    is_own_machine: bool = False

    @property
    def basis(self) -> Basis:
        if self.is_own_machine:
            return "would_have_cost"
        return "at_most" if self.is_spot else "billed"


OWN_MACHINE = Pricing(COMPARED_REGION, is_own_machine=True)


def hourly(
    region: str,
    architecture: Architecture,
    cpu: int,
    memory_mib: int,
    storage_gib: int = INCLUDED_STORAGE_GIB,
) -> int | None:
    """Nano-dollars that an hour of a task costs on demand: `cpu` in units (1,024 are one vCPU). None where a price that counts
    is not in the table. Rounded up, if it is not whole; of Fargate's sizes it always is."""
    prices = PRICES.get(region)
    price = None if prices is None else prices.by_architecture.get(architecture)
    if prices is None or price is None:
        return None
    storage = max(0, storage_gib - INCLUDED_STORAGE_GIB)
    if storage and prices.storage_gb_hour is None:
        return None
    computing = -(-(cpu * price.vcpu_hour) // _UNITS_PER_VCPU)
    remembering = -(-(memory_mib * price.gb_hour) // _MIB_PER_GB)
    return computing + remembering + storage * (prices.storage_gb_hour or 0)


def fitting_size(cpu: int | None, memory_mib: int | None) -> tuple[int, int] | None:
    """The smallest size of Fargate that has at least as much of both; None if none has."""
    if cpu is None and memory_mib is None:
        return DEFAULT_SIZE
    for units, choices in FARGATE_SIZES.items():
        fitting = [choice for choice in choices if choice >= (memory_mib or 0)]
        if units >= (cpu or 0) and fitting:
            return units, fitting[0]
    return None


def rate_of(pricing: Pricing, cpu: int | None, memory_mib: int | None, platform: str | None) -> Rate:
    """The rate of a run of that size."""
    architecture = architecture_of(platform)
    size = fitting_size(cpu, memory_mib)
    return Rate(
        nanodollars_per_hour=None if size is None else hourly(pricing.region, architecture, *size),
        basis=pricing.basis,
        region=pricing.region,
        architecture=architecture,
        cpu=None if size is None else size[0],
        memory_mib=None if size is None else size[1],
        prices_of=PRICES_OF,
    )


def cost_of(execution: Execution) -> Cost | None:
    """What an execution costs, as far as it is known; None for one from before rates were noted.

    Fargate charges from the moment it begins to pull the image until the task has stopped. Where the platform told these
    times they count; otherwise the launch is the beginning and the command's end is the end.
    """
    if execution.rate is None:
        return None
    cost = Cost(rate=execution.rate, is_final=execution.is_terminal and execution.stopped_at is not None)
    if not _had_a_task(execution):
        return charged(cost, 0) if execution.is_terminal else cost
    begin = execution.pull_started_at or execution.starting_at
    if begin is None or execution.state is State.STARTING:
        return cost
    if not execution.is_terminal:
        return Cost(rate=cost.rate, billed_from=begin)
    end = _end_of(execution, begin)
    return charged(
        Cost(rate=cost.rate, billed_from=begin, billed_until=end, is_final=cost.is_final), billed_seconds(begin, end)
    )


def _had_a_task(execution: Execution) -> bool:
    """Whether something of it ran, or may run: what ended before its launch, or whose launch came to nothing, had none."""
    if execution.starting_at is None:
        return False
    told = execution.started_at is not None or execution.pull_started_at is not None
    return told or execution.launches > 0 or not execution.is_terminal


def _end_of(execution: Execution, begin: datetime) -> datetime:
    return max(begin, execution.task_stopped_at or execution.ended_at or begin)
