"""What Fargate charges: one table, as data. See docs/cost.md for where it is from and how it is kept.

Source: the AWS Fargate pricing page (https://aws.amazon.com/fargate/pricing/), Linux, on demand, in US dollars, without
savings plans and free tier. A region or an architecture that is not in the table has
no price here, and its cost is told as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runvoy_agent.core.task_definition import Architecture

PRICES_OF = "2026-10-03"
"""The day that the table is of."""

INCLUDED_STORAGE_GIB = 20
"""Ephemeral storage that a task has without a charge."""


class Price(NamedTuple):
    """Nano-dollars per vCPU and hour, and per GB of memory and hour."""

    vcpu_hour: int
    gb_hour: int


class RegionPrices(NamedTuple):
    """`storage_gb_hour` is for ephemeral storage beyond what is included; None where it is not known."""

    by_architecture: Mapping[Architecture, Price]
    storage_gb_hour: int | None = None


_FIRST = RegionPrices(
    {"ARM64": Price(32_380_000, 3_560_000), "X86_64": Price(40_480_000, 4_445_000)}, storage_gb_hour=111_000
)
"""Northern Virginia, Ohio, Oregon and Ireland have one price."""

PRICES: Mapping[str, RegionPrices] = {
    "us-east-1": _FIRST,
    "us-east-2": _FIRST,
    "us-west-2": _FIRST,
    "eu-west-1": _FIRST,
    "us-west-1": RegionPrices({"X86_64": Price(46_560_000, 5_110_000)}),
    "eu-central-1": RegionPrices({"X86_64": Price(46_560_000, 5_110_000)}),
    "ap-northeast-1": RegionPrices({"X86_64": Price(50_560_000, 5_530_000)}),
    "ap-southeast-2": RegionPrices({"ARM64": Price(38_850_000, 4_260_000), "X86_64": Price(48_560_000, 5_320_000)}),
}
