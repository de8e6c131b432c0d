"""The route about cost: sums over the executions of a while, a bounded stretch of them in each call."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from runvoy_agent.core import cost_sums
from runvoy_agent.core.access import Action
from runvoy_agent.core.cost_sums import Sums
from runvoy_agent.core.model import Execution
from runvoy_agent.handlers.documents import listings
from runvoy_agent.handlers.documents.listings import Span
from runvoy_agent.handlers.executions.reads import EXECUTIONS, owner_of, partitions_of
from runvoy_agent.handlers.routes import Call, Response, answer, route

MOST_COUNTED = 1000
"""Executions that one call adds up."""
DEFAULT_SPAN = timedelta(days=30)


def show_cost(call: Call) -> Response:
    """What the executions cost that were admitted from `since` up to `until`. Who may see only their own cost gets that."""
    query = dict(call.request.query)
    by = cost_sums.group_by(query.pop("by", None))
    now = call.ports.clock.now()
    since = listings.instant_of("since", query.pop("since", None)) or now - DEFAULT_SPAN
    until = listings.instant_of("until", query.pop("until", None))
    after = listings.position_of(query.pop("after", None), EXECUTIONS)
    most = listings.limit_of(query.pop("limit", None), MOST_COUNTED, MOST_COUNTED)
    asked_owner = query.pop("owner", None)
    listings.refuse_others(query)
    owner = owner_of(call, asked_owner)

    def matches(execution: Execution) -> bool:
        if owner is not None and execution.owner != owner:
            return False
        return since <= execution.admitted_at and (until is None or execution.admitted_at < until)

    newest = now + listings.CLOCKS_APART
    oldest = max(since, call.deployment.created_at)
    span = Span(partial(partitions_of, owner), oldest, newest if until is None else min(until, newest), after)
    rows, cursor = listings.page(call.ports.records, EXECUTIONS, span, most, matches)
    sums = Sums(by, now)
    for number, row in enumerate(rows, 1):
        sums.add(row.document)
        if sums.is_full and number < len(rows):
            cursor = row.cursor  # the rest is the next page's
            break
    return answer(sums.page(cursor))


ROUTES = (route("GET", "/cost", Action.OWN_COST, show_cost, other=Action.ANY_COST),)
