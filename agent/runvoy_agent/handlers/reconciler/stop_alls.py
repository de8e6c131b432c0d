"""Stopping all that a user has under way, as an admin wished who revoked them.

The call (`members/users`) killed what indexes showed. What was started a moment before may not have been among it, for indexes may
lag; nothing is admitted or started later, for the user is revoked. So the wish stands for a while, and what comes to be seen is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from runvoy_agent.core import lifecycle
from runvoy_agent.core.model import Execution, Key, StopAll
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.handlers.executions import kills
from runvoy_agent.handlers.reconciler.careful_launcher import Unanswered
from runvoy_agent.ports import Conflict, Delete, Ports
from runvoy_protocol.states import State

LONGER = timedelta(minutes=5)
"""So much longer than indexes lag the wish stands: two functions' clocks may differ, and rounds may fail."""

LONGEST = timedelta(seconds=30)
"""How long a round kills: thousands may wait, and there is more to mend. The next round goes on, for the wish stands until one came
through."""


def stop_the_rest(ports: Ports) -> Iterator[Repair]:
    """Kill what an admin wished to have stopped and was not shown then."""
    began = ports.clock.now()
    wishes = {
        wish.user: (wish, version) for wish, version in store.of_kind(ports.records, store.KIND_STOP_ALL, StopAll)
    }
    if not wishes:
        return
    ends: datetime | None = None
    for execution in all_executions.active(ports.records):
        if execution.owner not in wishes:
            continue
        if ends is not None and ports.clock.now() >= ends:
            return
        if _kill(ports, execution, wishes[execution.owner][0]):
            ends = ends or ports.clock.now() + LONGEST  # from the first on: a long way to it leaves time for some
            problem = "its owner was revoked and all of theirs was to be stopped"
            yield Repair(execution.execution_id, problem, "had it stopped")
    for wish, version in wishes.values():
        if began > wish.at + ports.records.index_lag + LONGER:
            try:
                ports.records.commit([Delete(store.stop_all_key(wish.user), version)])
            except Conflict:
                continue  # it is wished anew


def _kill(ports: Ports, shown: Execution, wish: StopAll) -> bool:
    if shown.is_terminal or shown.state is State.TERMINATING:
        return False  # told again by whoever looks after its end
    key = store.load(ports.records, store.key_key(shown.key_id), Key).document
    if key is not None and key.life > wish.life:
        return False  # the user came back
    try:
        return kills.end(
            ports,
            shown.execution_id,
            lambda execution: lifecycle.kill(execution, ports.clock.now(), wish.by),
            lambda changed: store.audit(
                ports.clock,
                "reconciler",
                "kill",
                changed.state.value,
                execution_id=changed.execution_id,
                message=f"{changed.message}, who revoked {wish.user} and had all of theirs stopped",
            ),
        )
    except Unanswered:
        return True  # it is on record, and its task is told again by the next round
