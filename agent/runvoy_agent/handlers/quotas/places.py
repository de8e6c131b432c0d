"""Waiting for a place of one's owner's (`max_running`), as for a lock: whoever waits does nothing, and whoever frees a place has the
next one pushed. What is lost of that the reconciler does in its next round.

A place is not handed over but taken: by a push's own commit, which is held to the limit. So a push too many changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from runvoy_agent.core import access, quotas
from runvoy_agent.core.model import DefaultQuotas, Execution, Key, User
from runvoy_agent.handlers.documents import pushes, store
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.ports import Ports, Versioned
from runvoy_protocol.errors import RunvoyError

_SHOWN = 20
"""So many of those that wait are looked at when a place is free. More than one, for the index may still show some that have got
one."""

_MOST_PUSHED = 1000
"""Of one owner, in a round: as when a limit is raised."""


class Waiting:
    """What a round of the reconciler saw of one owner's executions: the keys of those that wait for a place (`key_ids`), and
    how many others have no place because the platform had no room (`for_room`); each of those takes a place whenever it is
    tried again."""

    __slots__ = ("for_room", "key_ids")

    def __init__(self) -> None:
        self.key_ids: set[str] = set()
        self.for_room = 0


def wake(ports: Ports, owner: str, most: int = _SHOWN) -> int:
    """Push as many of those that wait for a place of the owner's as there are free ones, `most` at most; how many."""
    shown = [one.execution_id for one in _in_order(ports, owner, _SHOWN)]
    if not shown:
        return 0
    execution_keys = [store.execution_key(execution_id) for execution_id in shown]
    user_key, running_key = store.user_key(owner), counts.running_key(owner)
    known = store.Several(ports.records, [user_key, running_key, store.DEFAULT_QUOTAS_KEY, *execution_keys])
    user = known.document(user_key, User).document
    found = (known.document(key, Execution).document for key in execution_keys)
    waiting = [one for one in found if one is not None and one.waits_for_place]
    free = _free(known, user, running_key, most)
    for execution in waiting[:free]:
        pushes.push(ports.queue, execution)
    return min(free, len(waiting))


def repair(ports: Ports, owner: str, seen: Waiting) -> Iterator[Repair]:
    """Push those for whom there is a place, and those that may not run any more: their push ends them, and nothing else would."""
    user_key, running_key = store.user_key(owner), counts.running_key(owner)
    key_keys = [store.key_key(key_id) for key_id in sorted(seen.key_ids)]
    known = store.Several(ports.records, [user_key, running_key, store.DEFAULT_QUOTAS_KEY, *key_keys])
    user = known.document(user_key, User).document
    keys = [known.document(key, Key).document for key in key_keys]
    now = ports.clock.now()
    lost = {key_id for key_id, key in zip(sorted(seen.key_ids), keys, strict=True) if not _may_run(key, user, now)}
    free = _free(known, user, running_key, _MOST_PUSHED)
    # Those that wait for the platform's room will take a place each when they are tried again. But one that never gets room must not
    # keep all others from the free places: so at least one is pushed in each round, and takes a place between two of its tries.
    free = max(min(free, 1), free - seen.for_room)
    if not free and not lost:
        return
    pushed = 0
    for execution in _in_order(ports, owner):
        if execution.key_id in lost:
            problem = "it waits for a place, and may not run any more"
        elif free:
            free -= 1
            problem = "a place of its owner's was free"
        elif not lost:
            return
        else:
            continue
        pushes.push(ports.queue, execution)
        pushed += 1
        yield Repair(execution.execution_id, problem, "pushed it again")
        if pushed >= _MOST_PUSHED:
            return


def _in_order(ports: Ports, owner: str, most: int | None = None) -> Iterable[Execution]:
    partition = store.places_partition(owner)
    if most is None:
        records: Iterable[Versioned] = store.partition_records(ports.records, store.INDEX_KIND, partition)
    else:
        records = ports.records.query(store.INDEX_KIND, partition, limit=most).records
    return (msgspec.json.decode(record.body, type=Execution) for record in records)


def _free(known: store.Several, user: User | None, running_key: str, most: int) -> int:
    if user is None:
        return 0
    running = counts.number_in(known, running_key).value
    default = known.document(store.DEFAULT_QUOTAS_KEY, DefaultQuotas).document
    return quotas.free_places(user, running, default, most)


def _may_run(key: Key | None, user: User | None, now: datetime) -> bool:
    try:
        access.check_allowed(access.check_key(key, user, now), access.Action.RUN)
    except RunvoyError:
        return False
    return True
