"""What an execution costs: its rate, the time that counts, and the sum. Money is in whole nano-dollars (10⁻⁹ US dollars)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from runvoy_protocol.instants import Instant

MIN_BILLED_SECONDS = 60
_SECONDS_PER_HOUR = 3600
_SECOND = timedelta(seconds=1)
_SHOWN_DECIMALS = 4

Basis = Literal["billed", "at_most", "would_have_cost"]
"""What a sum says. `billed`: Fargate's published price. `at_most`: on Spot, whose price moves, so this is the price without it.
`would_have_cost`: it ran on a machine of one's own, and this is what the same would have cost on Fargate."""

GroupBy = Literal["user", "image", "playbook", "label", "day"]


class Rate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an hour of an execution costs, as it was known at its admission.

    `nanodollars_per_hour` is None where the price is not known (a region that is not in the table). `cpu` (units) and
    `memory_mib` are the size that is priced, `prices_of` the day of the price table (2026-10-03).
    """

    nanodollars_per_hour: int | None
    basis: Basis
    region: str
    architecture: str
    cpu: int | None
    memory_mib: int | None
    prices_of: str


class Cost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an execution costs. Billing begins at `billed_from` and ends at `billed_until`, absent while it goes on: then
    `nanodollars` is left out as well, and `so_far` reckons it for any moment. `billed_seconds` are whole ones, 60 at least, or 0
    of what was never started. `is_final` once its task was seen stopped."""

    rate: Rate
    billed_from: Instant | None = None
    billed_until: Instant | None = None
    billed_seconds: int | None = None
    nanodollars: int | None = None
    is_final: bool = False


class CostGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The executions that have `key` in common: what they cost together, and for how long they ran. `unpriced` of them have no
    known price and are not in the sum; `running` are not over and count as far as they are."""

    key: str
    executions: int = 0
    billed_seconds: int = 0
    nanodollars: int = 0
    unpriced: int = 0
    running: int = 0


class CostPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET cost: the sums of one stretch of executions, newest first; `after` asks for the next, and is absent on the last.

    Whoever reads several pages adds up what they say of the same key. `total` counts each of the page's executions once; by
    label one may be counted in several of the `groups`. `bases` and `prices_of` are of all that is in the sums.
    """

    by: GroupBy
    groups: tuple[CostGroup, ...]
    total: CostGroup
    bases: tuple[Basis, ...] = ()
    prices_of: tuple[str, ...] = ()
    after: str | None = None


def billed_seconds(begin: datetime, end: datetime) -> int:
    """The seconds that count: begun ones are whole, and a minute is the least."""
    return max(MIN_BILLED_SECONDS, -((begin - end) // _SECOND))


def amount(nanodollars_per_hour: int, seconds: int) -> int:
    """The sum for that many seconds, rounded to the nearest nano-dollar once, at the end."""
    return (nanodollars_per_hour * seconds + _SECONDS_PER_HOUR // 2) // _SECONDS_PER_HOUR


def so_far(cost: Cost, now: datetime) -> Cost:
    """The cost as it stands at `now`, if it is still rising; as it is otherwise."""
    if cost.billed_from is None or cost.billed_until is not None:
        return cost
    return charged(cost, billed_seconds(cost.billed_from, now))


def charged(cost: Cost, seconds: int) -> Cost:
    """The cost with the sum for that many seconds; without one where the rate is not known."""
    rate = cost.rate.nanodollars_per_hour
    nanodollars: int | None = 0  # no time costs nothing, at whatever rate
    if seconds:
        nanodollars = None if rate is None else amount(rate, seconds)
    return msgspec.structs.replace(cost, billed_seconds=seconds, nanodollars=nanodollars)


def dollars(nanodollars: int, decimals: int = _SHOWN_DECIMALS) -> str:
    """An amount for people: `$0.0002`, `$12.3456`; `<$0.0001` for what is not nothing and would be shown as that."""
    unit: int = 10 ** (9 - decimals)
    if 0 < nanodollars * 2 < unit:
        return f"<$0.{'1'.rjust(decimals, '0')}"
    whole, part = divmod((nanodollars + unit // 2) // unit, 10**decimals)
    return f"${whole:,}.{part:0{decimals}d}"


def added(one: CostGroup, other: CostGroup) -> CostGroup:
    """Two sums of the same key as one."""
    return CostGroup(
        key=one.key,
        executions=one.executions + other.executions,
        billed_seconds=one.billed_seconds + other.billed_seconds,
        nanodollars=one.nanodollars + other.nanodollars,
        unpriced=one.unpriced + other.unpriced,
        running=one.running + other.running,
    )


def counted(key: str, cost: Cost | None, *, is_over: bool) -> CostGroup:
    """One execution's part in a sum; its cost as it stands."""
    if cost is None:
        return CostGroup(key=key, executions=1, unpriced=1, running=int(not is_over))
    seconds = cost.billed_seconds or 0
    is_priced = cost.nanodollars is not None or not seconds
    return CostGroup(
        key=key,
        executions=1,
        billed_seconds=seconds,
        nanodollars=cost.nanodollars or 0,
        unpriced=int(not is_priced),
        running=int(not is_over),
    )
