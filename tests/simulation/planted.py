"""Bugs planted in the production code, to see that they are caught. Each is one that somebody could have made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.simulation.explorer import Bounds, explore
from tests.simulation.patches import MAKERS, Patch
from tests.simulation.platform import MINUTE_MS
from tests.simulation.simulation import Settings, Simulation


class Planted(NamedTuple):
    """A bug: what is replaced by what while it is planted."""

    name: str
    patches: Sequence[Patch]
    bounds: Bounds | None = None  # the explorer is to find it, within these
    world: Settings = Settings(requests=100)  # or the simulator is to find it, in this one


class Caught(NamedTuple):
    name: str
    how: str | None  # None: it was not
    seed: int | None = None  # the simulator's, if it was by that


@contextlib.contextmanager
def planted(bug: Planted) -> Iterator[None]:
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in bug.patches]
    for owner, name, mutant in bug.patches:
        setattr(owner, name, mutant)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


SEEDS = range(24)


def hunt(bug: Planted) -> Caught:
    """Look for the bug with the explorer, or with one seed after the other."""
    with planted(bug):
        if bug.bounds is not None:
            result = explore(bug.bounds)
            return Caught(bug.name, result.violation and f"explorer, {result.states} states: {result.violation}")
        for seed in SEEDS:
            violation = Simulation(seed, bug.world).run().violation
            # One that cannot even be called shows nothing: the code has moved on, and it must follow.
            if violation is not None and not violation.startswith("a handler raised"):
                return Caught(bug.name, f"seed {seed}: {violation}", seed)
    return Caught(bug.name, None)


_NOTHING_WRONG = Bounds(crashes=0, duplicates=0)
_ONE_PLACE = _NOTHING_WRONG._replace(locks=((), ()), max_unfinished=1)
_REFUSED = Bounds((("a",),), crashes=0, launches=True, refusals=1)
_BY_EXPLORER = {
    "no Check of a lock that was only read": _NOTHING_WRONG,
    "no Check of the key": _NOTHING_WRONG._replace(locks=((), ()), revocations=1),
    "launched before the commit": _NOTHING_WRONG,
    "answered before the record": _NOTHING_WRONG._replace(duplicates=1),
    "a refusal ends what another delivery launches": _REFUSED,
    "a launch that is made again is not counted": _REFUSED,
    "a quota is not held in the commit": _ONE_PLACE,
    "a refusal for a quota is not held to the count": _ONE_PLACE,
}
# Long runs on a platform whose listings leave out many of them, and rounds that nothing holds up.
_OMITTING = Settings(
    requests=60,
    duplicates=0,
    reorder=0,
    loss=0,
    process_crashes=False,
    window_ms=2 * 60 * MINUTE_MS,
    long_runs=0.9,
    omitted=0.4,
)
# All keys are revoked soon after a request by them, whose task is slow to begin and left out of listings.
_REVOKING = Settings(
    requests=200,
    duplicates=0.9,
    reorder=0.5,
    omitted=0.9,
    slow_boots=0.9,
    locks=200,
    revoked=1.0,
    revoked_within_ms=10_000,
)
# Rounds come through, for it is what they leave out that shows.
_ROUNDS = Settings(requests=60, process_crashes=False, eagerness=0)
# The reconciler is away for longer than anybody's grant lives, and deliveries are lost again and again.
_AWAY = _ROUNDS._replace(loss=0.4, window_ms=10 * 60 * MINUTE_MS, tick_ms=100 * MINUTE_MS)
# Most ids tell nothing of when they were sent, and deliveries are lost.
_ODD = _ROUNDS._replace(loss=0.4, odd_ids=0.8)
_BATCHED = _ROUNDS._replace(loss=0.3, batches=12)
# Half of the members may have one running, which goes on for long; and who is told that it ended is lost.
_LIMITED = _ROUNDS._replace(loss=0.5, duplicates=0, long_runs=0.3, locks=200, limited=2)
# Words on starts are lost, and on ends come twice and late; many tasks have no room, and all are slow to begin.
_DEAF = Settings(requests=200, duplicates=0, reorder=0, loss=0.5)
_FULL = Settings(requests=200, duplicates=0.3, reorder=0.9, loss=0, no_room=0.6, slow_boots=0.9)
# Nobody but the reconciler ends what is overdue, and all clocks of runners are off.
_CLOCKS = Settings(requests=60, loss=0, process_crashes=False, deaf=0.5, skewed=1.0)
# Somebody makes numbers wrong, indexes are far behind, and several count at once.
_MISCOUNTED = Settings(requests=150, tick_ms=MINUTE_MS // 2, miscounts=25, longest_index_lag_ms=5 * MINUTE_MS)
# Everything happens within a minute, and somebody counts at each moment of it.
_COUNTING = _ROUNDS._replace(requests=200, window_ms=MINUTE_MS, miscounts=40, locks=200)
IN_WORLDS = {
    "a recount believes the indexes": _MISCOUNTED,
    "a recount takes what changed for what it was": _COUNTING,
    "two recounts put the same right twice": _COUNTING,
    "nothing recounts": _MISCOUNTED._replace(recounted=False),
    "uploads are looked for during a grant only": _AWAY,
    "unanswered uploads are not remembered": _AWAY,
    "ids that hold no time are not listed": _ODD,
    "ids that hold another time are not listed": _ODD,
    "a sweep that was cut short is through": _ODD,
    "a sweep goes on from the end of the last one": _ODD,
    "a sweep forgets what it left behind": _ODD,
    "lost ranges are not looked for": _BATCHED,
    "a lost push for a place is not made again": _LIMITED,
    "what stopped is launched again": _DEAF,
    "a word on an earlier attempt is taken for one on this": _FULL,
    "looks at one omission count for two": _OMITTING,
    "what a look at many tasks leaves out is missing": _OMITTING,
    "looks at two omissions count together": _OMITTING._replace(tick_ms=7 * MINUTE_MS),
    "a start is withdrawn because one look misses its task": _REVOKING,
    "a start is withdrawn although its key is good": _REVOKING,
}


# Worlds in which nothing but the bug is more likely than in others.
_OTHER_WORLDS = {"a deadline counts by the runner's clock": _CLOCKS}


def bugs() -> list[Planted]:
    """Every planted bug."""
    worlds = IN_WORLDS | _OTHER_WORLDS
    return [
        Planted(name, tuple(make()), _BY_EXPLORER.get(name), worlds.get(name, Settings(requests=100)))
        for name, make in MAKERS.items()
    ]
