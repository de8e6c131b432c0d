"""Adding up what executions cost, by what they have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from runvoy_agent.core.cost import cost_of
from runvoy_agent.core.model import Execution
from runvoy_protocol.costs import Basis, CostGroup, CostPage, GroupBy, added, counted, so_far
from runvoy_protocol.errors import ErrorCode, RunvoyError

MOST_GROUPS = 2000
"""As many as one page may tell of: labels are the submitters' choice."""


def group_by(text: str | None) -> GroupBy:
    """By what a query adds up; by user, if it does not say."""
    for choice in get_args(GroupBy):
        if choice == (text or "user"):
            found: GroupBy = choice
            return found
    raise RunvoyError(ErrorCode.INVALID_REQUEST, f"by takes one of {', '.join(get_args(GroupBy))}")


class Sums:
    """The sums of one page, execution by execution."""

    def __init__(self, by: GroupBy, now: datetime) -> None:
        self._by = by
        self._now = now
        self._groups: dict[str, CostGroup] = {}
        self._total = CostGroup(key="")
        self._bases: set[Basis] = set()
        self._prices_of: set[str] = set()

    @property
    def is_full(self) -> bool:
        return len(self._groups) >= MOST_GROUPS

    def add(self, execution: Execution) -> None:
        cost = cost_of(execution)
        if cost is not None:
            cost = so_far(cost, self._now)
            self._bases.add(cost.rate.basis)
            self._prices_of.add(cost.rate.prices_of)
        for key in _keys(self._by, execution):
            one = counted(key, cost, is_over=execution.is_terminal)
            self._groups[key] = added(self._groups[key], one) if key in self._groups else one
        self._total = added(self._total, counted("", cost, is_over=execution.is_terminal))

    def page(self, after: str | None) -> CostPage:
        """What was added up, the dearest first."""
        groups = sorted(self._groups.values(), key=lambda group: (-group.nanodollars, group.key))
        return CostPage(
            by=self._by,
            groups=tuple(groups),
            total=self._total,
            bases=tuple(basis for basis in get_args(Basis) if basis in self._bases),
            prices_of=tuple(sorted(self._prices_of)),
            after=after,
        )


def _keys(by: GroupBy, execution: Execution) -> list[str]:
    """Under which keys an execution is counted; "" for none of the kind."""
    match by:
        case "user":
            return [execution.owner]
        case "image":
            return [execution.image_name or execution.image or ""]
        case "playbook":
            return [execution.playbook or ""]
        case "label":
            return [f"{name}={value}" for name, value in execution.labels.items()] or [""]
        case "day":
            return [execution.admitted_at.astimezone(UTC).strftime("%Y-%m-%d")]
