"""The reconciler: once a minute, mend what got lost between two steps. Every repair is one that a delivery would have
made, had it come; so running it twice, or beside the handlers, changes nothing more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from runvoy_agent.core import locks
from runvoy_agent.core.model import Execution
from runvoy_agent.core.progress import Reconciled
from runvoy_agent.handlers.audit import seals
from runvoy_agent.handlers.documents import commits, outbox, store
from runvoy_agent.handlers.documents.repairs import Repair
from runvoy_agent.handlers.locks import queues, releases
from runvoy_agent.handlers.quotas import recounts
from runvoy_agent.handlers.reconciler import batches, lost_uploads, runs, stop_alls
from runvoy_agent.handlers.reconciler.careful_launcher import CarefulLauncher
from runvoy_agent.handlers.reconciler.inbox_sweeps import BUDGETS, Budget
from runvoy_agent.handlers.resources import secret_values
from runvoy_agent.ports import Conflict, Ports, Put, Unavailable
from runvoy_protocol import object_keys

log = logging.getLogger("runvoy.reconcile")

FIRST_LOOK_BACK = timedelta(days=1)
"""Where no round ever came through: none may have for as long as that."""

RECOUNT_EVERY = timedelta(minutes=10)

OVERLAP = timedelta(minutes=5)
"""Index reads may be stale."""

LONGEST_ROUND = timedelta(minutes=5)
"""So long a function lives: one that looks at the inbox keeps others from it for no longer, if it died of it."""


class Round(NamedTuple):
    """One round: what it mended, and how many executions it left for the next one, because the platform would not say
    what became of their tasks, or not take the word to end them."""

    repairs: list[Repair]
    left: int = 0


def handle(ports: Ports, *, starting_up: bool = False, budgets: Mapping[str, Budget] = BUDGETS) -> Round:
    """One round. `starting_up`: nothing else runs yet, so nothing can be merely late and no grace is given. `budgets`: how much of
    each stretch of the inbox it may sweep.

    The inbox comes last and has a mark of its own: one that takes long must not hold up the rest, round after round. On AWS the next
    round begins meanwhile, and does all but that: two at once would read and deliver the same, and one of them for nothing.
    """
    launcher = CarefulLauncher(ports.launcher, ports.clock)
    ports = ports._replace(launcher=launcher)
    repairs = [
        *_of_the_records(ports, starting_up),
        *_of_the_audit(ports),
        *_of_the_counts(ports, starting_up),
        *_of_the_inbox(ports, starting_up, budgets),
    ]
    for repair in repairs:
        log.info("%s: %s; %s", *repair)
    if launcher.unanswered:
        log.warning("%d tasks could not be looked at, or stopped; the next round goes on there", launcher.unanswered)
    return Round(repairs, launcher.unanswered)


def _of_the_records(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    began = ports.clock.now()
    mark = store.load(ports.records, store.RECONCILED_KEY, Reconciled)
    since = mark.document.at if mark.document else began - FIRST_LOOK_BACK
    yield from stop_alls.stop_the_rest(ports)
    yield from runs.repair_active(ports, starting_up)
    yield from _held_up_locks(ports)
    yield from _stale_projections(ports, since - OVERLAP)
    yield from _discarded_values(ports)
    _mark(ports, mark, Reconciled(at=began))


def _of_the_audit(ports: Ports) -> Iterator[Repair]:
    late = seals.seal(ports)
    if late:
        yield Repair("the audit", f"{late} records came after their minute was sealed", "sealed them as late")


def _of_the_counts(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    """What is counted of each user, every ten minutes: no commit of this version makes it wrong, so a start does not wait for it."""
    now = ports.clock.now()
    mark = store.load(ports.records, store.RECONCILED_COUNTS_KEY, Reconciled)
    if starting_up or (mark.document is not None and now - mark.document.at < RECOUNT_EVERY):
        return

    def audit(user: str, words: str) -> Put:
        return store.audit(ports.clock, "reconciler", "recount-quotas", "ok", subject=user, message=words)

    result = recounts.round_of(ports, audit)
    for one in result.users:
        if one.is_corrected:
            yield Repair(f"the count of {one.user}", f"it was not that of the records: {one.words}", "put it right")
    if not result.left:
        _mark(ports, mark, Reconciled(at=now))


def _of_the_inbox(ports: Ports, starting_up: bool, budgets: Mapping[str, Budget]) -> Iterator[Repair]:
    mark = store.load(ports.records, store.RECONCILED_INBOX_KEY, Reconciled)
    yield from batches.lost_ranges(ports, starting_up)
    last = mark.document
    if last is not None:
        now = ports.clock.now()
        # A clock that was set back since would make it longer than it can be.
        is_busy = last.busy_until is not None and now < last.busy_until <= now + LONGEST_ROUND
        if is_busy and not starting_up:
            log.info("another round looks at the inbox")
            return
        if not _mark(ports, mark, msgspec.structs.replace(last, busy_until=now + LONGEST_ROUND)):
            return
        mark = mark._replace(version=mark.version + 1)
    look = lost_uploads.Look(ports, last, starting_up=starting_up, budgets=budgets)
    try:
        for object_key in look.deliver_again():
            yield Repair(object_key, "no delivery of it was handled", "delivered it again")
    except Unavailable:
        if last is not None:
            _mark(ports, mark, last)  # the next round need not wait until this one would be dead
        raise
    _mark(ports, mark, look.reached())


def _mark(ports: Ports, mark: store.Loaded[Reconciled], reached: Reconciled) -> bool:
    """Whether it was left. Of two rounds at once, the first to come through leaves what it reached from the mark that both began
    with; what the other did was for nothing, and nothing is lost by it."""
    try:
        ports.records.commit([store.put(mark, reached)])
    except Conflict:
        log.info("another round was finished meanwhile; the earlier mark stays")
        return False
    return True


def _held_up_locks(ports: Ports) -> Iterator[Repair]:
    """Locks whose head is over, or could start and was not granted. No commit leaves one so; a restored backup might."""
    for lock in queues.busy_locks(ports.records):
        repair = commits.with_retries(ports.clock, partial(_mend_lock, ports, lock.name))
        if repair is not None:
            yield repair


def _mend_lock(ports: Ports, name: str) -> Repair | None:
    queue = (store.load_lock(ports.records, name).document or locks.empty(name)).queue
    head = store.load_execution(ports.records, queue[0]).document if queue else None
    over = head is None or not head.is_active
    if not queue or (head is not None and not over and (head.granted or not _heads_all(ports, head))):
        return None
    # Taking out the dead head grants the next; with a living one, taking out nobody grants itself.
    leaver = queue[0] if over else ""
    problem = "its holder is over" if over else "its first waiter could start and was not granted"
    audit = store.audit(
        ports.clock,
        "reconciler",
        "mend-lock",
        "released" if over else "granted",
        subject=name,
        execution_id=queue[0],
        message=problem,
    )
    releases.announce(ports, releases.release(ports, leaver, [name], [audit]))
    return Repair(f"lock {name}", problem, "released it" if over else "granted it")


def _heads_all(ports: Ports, execution: Execution) -> bool:
    named = store.load_locks(ports.records, [lock.name for lock in execution.locks])
    held = {name: lock.document or locks.empty(name) for name, lock in named.items()}
    return locks.heads_all(held, execution.execution_id)


def _discarded_values(ports: Ports) -> Iterator[Repair]:
    for name in secret_values.sweep(ports):
        yield Repair(f"secret {name}", "a value that nothing refers to was still stored", "deleted it")


def _stale_projections(ports: Ports, since: datetime) -> Iterator[Repair]:
    """status.json behind its record, for what changed since the last round."""
    now = ports.clock.now()
    for hours in range(int((now - since) / timedelta(hours=1)) + 2):
        of_hour = store.hour(now - timedelta(hours=hours))
        for shard in range(store.SHARDS):
            partition = store.shard_partition(of_hour, shard)
            for record in store.partition_records(ports.records, store.INDEX_UPDATED, partition, descending=True):
                execution = msgspec.json.decode(record.body, type=Execution)
                if execution.updated_at < since:
                    break
                shown = ports.outbox.get(object_keys.status(execution.execution_id))
                if shown is None or outbox.shown_version(shown.data) < record.version:
                    outbox.publish_status(ports, execution, record.version)
                    yield Repair(execution.execution_id, "its status.json was behind its record", "wrote it")
