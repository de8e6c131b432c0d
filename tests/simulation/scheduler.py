"""One seeded scheduler under virtual time: every handler invocation is a thread, and one of them runs at a time.

Threads, because handlers are ordinary synchronous functions and must run as they are. A baton decides who runs: whoever
holds it works through the heap of events, and passes it on only when an event belongs to another thread. So a seed
decides everything, and what a run did can be done again.
"""

from __future__ import annotations

import heapq
import random
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Set
from enum import StrEnum
from types import CodeType
from typing import NamedTuple, TypeVar

from runvoy_agent.ports import Unavailable

R = TypeVar("R")
TRACE_LENGTH = 4000


class Crash(BaseException):
    """The death of an invocation. No Exception: nothing in production code may survive it."""


class When(StrEnum):
    BEFORE = "before"  # the effect never happened
    AFTER = "after"  # it happened, and the caller never learned of it


class Point(NamedTuple):
    """A place where an invocation can die: which kind of invocation, what it called, and from where."""

    kind: str
    operation: str
    site: str

    def __str__(self) -> str:
        return f"{self.operation} from {self.site} in {self.kind}"


class Step(NamedTuple):
    """One line of the trace."""

    at_ms: int
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_ms / 1000:11.3f} s  {self.who:<16} {self.what}"


class Faults:
    """Where invocations die. A point is tried eagerly until it was crashed at, before and after, and rarely from then on:
    so each run crashes at most of the places that it comes to, however rarely it comes there. `hunted` places are
    crashed at as soon as they are reached, and what is hunted after its effect does not die before it. `eagerness` 0: no
    point is tried more than another."""

    def __init__(
        self, *, base: float, unavailable: float, eagerness: float = 1, hunted: Set[tuple[Point, When]] = frozenset()
    ) -> None:
        self._base = base
        self._eagerness = eagerness
        self._unavailable = unavailable
        self._hunted = hunted
        self.enabled = False
        self.seen: dict[Point, int] = {}
        self.crashed: set[tuple[Point, When]] = set()

    def draw(self, point: Point, when: When, rng: random.Random) -> type[BaseException] | None:
        """What is to happen at this point to an invocation with this randomness; None for nothing."""
        if not self.enabled:
            return None
        if when is When.BEFORE:
            self.seen[point] = self.seen.get(point, 0) + 1
        drawn = rng.random()
        if (
            when is When.BEFORE
            and (point, When.AFTER) in self._hunted - self.crashed
            and (point, when) not in self._hunted
        ):
            return None
        is_round = point.kind in _ROUNDS
        seldom = 0.05 if is_round else 1.0
        if (point, when) in self.crashed:
            limit = self._base * seldom
        elif (point, when) in self._hunted:
            limit = 1.0
        else:
            eager = 0.05 / self.seen[point] if is_round else 0.06 if point.kind in _CALLS else 0.25
            limit = max(eager * self._eagerness, self._base * seldom)
        if drawn < limit:
            self.crashed.add((point, when))
            return Crash
        return Unavailable if drawn > 1 - self._unavailable * seldom else None


# A round of the reconciler makes hundreds of calls, most of them at a few places. It must not die at the first of these each
# time, or what comes after them would never be seen.
_ROUNDS = frozenset({"reconcile", "recovery"})
# A call that nobody repeats would nearly never come through.
_CALLS = frozenset({"kill", "release"})


class Invocation:
    """One run of a handler. `finished(error)` is told how it ended; None is well."""

    __slots__ = ("finished", "killed", "kind", "label", "mortal", "rng", "run", "slow", "strand")

    def __init__(
        self, kind: str, label: str, run: Callable[[], object], finished: Callable[[BaseException | None], None]
    ) -> None:
        self.kind = kind
        self.label = label
        self.run = run
        self.finished = finished
        self.killed = False
        self.mortal = True
        self.slow = kind not in ("reconcile", "recovery")  # those make too many calls to pause at each
        self.strand: Strand | None = None
        self.rng = _UNSEEDED


class Wake:
    """Lets a parked strand go on; void if the strand has another by then."""

    __slots__ = ("strand",)

    def __init__(self, strand: Strand) -> None:
        self.strand = strand


class Strand:
    """A thread and the gate it waits at."""

    __slots__ = ("gate", "invocation", "job", "thread", "wake")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Invocation | None = None
        self.invocation: Invocation | None = None
        self.wake: Wake | None = None
        self.thread: threading.Thread | None = None


class Scheduler:
    """Virtual time, the heap of events, and the baton."""

    def __init__(
        self,
        seed: int,
        *,
        crash_rate: float = 0.002,
        unavailable_rate: float = 0.001,
        eagerness: float = 1,
        hunted: Set[tuple[Point, When]] = frozenset(),
    ) -> None:
        self._seed = seed
        self.now_ms = 0
        self.faults = Faults(base=crash_rate, unavailable=unavailable_rate, eagerness=eagerness, hunted=hunted)
        self.steps = 0
        self.digest = 0
        self.trace: deque[Step] = deque(maxlen=TRACE_LENGTH)
        self.live: dict[Invocation, None] = {}
        self._heap: list[tuple[int, int, Wake | Invocation | Callable[[], None]]] = []
        self._count = 0
        self._until_ms = 0
        self._stopping = False
        self._closing = False
        self._error: BaseException | None = None
        self._main = Strand()
        self._current = self._main
        self._strands: list[Strand] = []
        self._idle: list[Strand] = []
        self._sites: dict[CodeType, str | None] = {}

    def stream(self, purpose: str) -> random.Random:
        """A randomness of its own for each purpose. What one more or one less draw moves is what is drawn for the same purpose, and
        nothing else: a handler that makes another number of calls meets the same clients, messages and tasks."""
        return random.Random(f"{purpose} {self._seed}")

    # -- events

    def at(self, delay_ms: float, event: Callable[[], None]) -> None:
        """Run `event` after a delay."""
        self._push(delay_ms, event)

    def begin(self, invocation: Invocation, delay_ms: float = 0) -> None:
        """Start an invocation after a delay."""
        self._push(delay_ms, invocation)

    def kill(self, invocation: Invocation) -> None:
        """Have an invocation die where it stands, before anything else happens to it."""
        invocation.killed = True
        if invocation.strand is not None:
            self._wake(invocation.strand, 0)

    def stop(self) -> None:
        """Have `run` return at the next event."""
        self._stopping = True

    def run(self, until_ms: int) -> None:
        """Work through the events until then, or until there are none; raises what an event raised."""
        self._until_ms = until_ms
        self._dispatch(self._main)
        if self._error is not None:
            raise self._error
        if not self._stopping and until_ms < _FOREVER_MS:
            self.now_ms = max(self.now_ms, until_ms)

    @property
    def is_idle(self) -> bool:
        return not self._heap

    def drain(self) -> None:
        """Work through all events there are."""
        self.run(_FOREVER_MS)

    def close(self) -> None:
        """End every thread."""
        self._closing, self._stopping, self._error = True, False, None
        self._heap.clear()
        for invocation in list(self.live):
            self.kill(invocation)
        self._until_ms = _FOREVER_MS
        self._dispatch(self._main)
        for strand in self._strands:
            strand.gate.release()
            if strand.thread is not None:
                strand.thread.join()

    def note(self, who: str, what: str) -> None:
        """A line of the trace; part of the run's digest."""
        step = Step(self.now_ms, who, what)
        self.digest = zlib.crc32(f"{step.at_ms} {who} {what}".encode(), self.digest)
        self.trace.append(step)

    # -- what invocations call

    @property
    def invocation(self) -> Invocation | None:
        return self._current.invocation

    def call(self, operation: str, detail: str, effect: Callable[[], R]) -> R:
        """A port call: a point where others may go first, and where the caller may die before or after the effect."""
        invocation = self._current.invocation
        if invocation is None:
            return effect()
        if self._closing:
            raise Crash
        self.steps += 1
        delay_ms = self._latency_ms(invocation)
        if delay_ms:
            self.pause(delay_ms)
        point = Point(invocation.kind, operation, self._site())
        self._fault(point, When.BEFORE, invocation, detail)
        result = effect()
        self.note(invocation.label, f"{operation} {detail}")
        self._fault(point, When.AFTER, invocation, detail)
        return result

    def pause(self, delay_ms: float) -> None:
        """Let time pass for the running invocation."""
        strand = self._current
        self._wake(strand, delay_ms)
        self._dispatch(strand)
        strand.wake = None
        if strand.invocation is not None and strand.invocation.killed:
            raise Crash

    # -- inside

    def _latency_ms(self, invocation: Invocation) -> int:
        rng = invocation.rng
        drawn = rng.random()
        if drawn < (0.5 if invocation.slow else 0.99):
            return 0
        if drawn < (0.99 if invocation.slow else 0.999):
            return rng.randrange(1, 20)
        return rng.randrange(20, 2000 if drawn < 0.9995 else _LONGEST_STALL_MS)

    def _fault(self, point: Point, when: When, invocation: Invocation, detail: str) -> None:
        fault = self.faults.draw(point, when, invocation.rng) if invocation.mortal else None
        if fault is None:
            return
        self.note(invocation.label, f"{'CRASH' if fault is Crash else 'FAULT'} {when} {point.operation} {detail}")
        raise fault(f"{when} {point}")

    def _site(self) -> str:
        """The innermost function of a handler that is no mere helper: stable when lines move."""
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code not in self._sites:
                self._sites[code] = _label(code)
            label = self._sites[code]
            if label is not None:
                return label
            if frame.f_back is None:
                break
            frame = frame.f_back
        return "?"

    def _push(self, delay_ms: float, payload: Wake | Invocation | Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_ms + int(delay_ms), self._count, payload))

    def _wake(self, strand: Strand, delay_ms: float) -> None:
        strand.wake = Wake(strand)
        self._push(delay_ms, strand.wake)

    def _dispatch(self, me: Strand) -> None:
        """Work through events until it is this strand's turn: it is woken, or an idle one has a job."""
        heap = self._heap
        while True:
            if self._stopping or not heap or heap[0][0] > self._until_ms:
                if me is not self._main:
                    self._hand(me, self._main)
                return
            due_ms, _, payload = heapq.heappop(heap)
            self.now_ms = max(self.now_ms, due_ms)
            if isinstance(payload, Wake):
                if payload.strand.wake is not payload:
                    continue
                if payload.strand is not me:
                    self._hand(me, payload.strand)
                if me is self._main:
                    continue
                return
            if isinstance(payload, Invocation):
                self._hand_out(me, payload)
                if me is self._main:
                    continue
                return
            try:
                payload()
            except BaseException as error:  # noqa: BLE001  # told to whoever runs the simulation
                self._error = self._error or error
                self._stopping = True

    def _hand_out(self, me: Strand, invocation: Invocation) -> None:
        """Give an invocation to an idle strand: this one, if it is."""
        strand = self._idle.pop() if self._idle else self._new_strand()
        if me in self._idle:
            self._idle.remove(me)
            self._idle.append(strand)
            strand = me
        strand.job = invocation
        if strand is not me:
            self._hand(me, strand)

    def _hand(self, me: Strand, other: Strand) -> None:
        self._current = other
        other.gate.release()
        me.gate.acquire()

    def _new_strand(self) -> Strand:
        strand = Strand()
        strand.thread = threading.Thread(target=self._work, args=[strand], daemon=True)
        self._strands.append(strand)
        strand.thread.start()
        return strand

    def _work(self, strand: Strand) -> None:
        strand.gate.acquire()
        while strand.job is not None:
            invocation, strand.job = strand.job, None
            self._invoke(strand, invocation)
            self._idle.append(strand)
            self._dispatch(strand)

    def _invoke(self, strand: Strand, invocation: Invocation) -> None:
        strand.invocation = invocation
        invocation.strand = strand
        invocation.rng = self.stream(invocation.label)
        self.live[invocation] = None
        error: BaseException | None = None
        try:
            if invocation.killed:
                raise Crash
            invocation.run()
        except BaseException as raised:  # noqa: BLE001  # told to whoever runs the simulation
            error = raised
        strand.invocation, strand.wake, invocation.strand = None, None, None
        del self.live[invocation]
        if self._closing:
            return
        try:
            invocation.finished(error)
        except BaseException as raised:  # noqa: BLE001  # told to whoever runs the simulation
            self._error = self._error or raised
            self._stopping = True


_FOREVER_MS = 10**15
_UNSEEDED = random.Random(0)  # nothing is drawn before an invocation runs
# A launch is held up for less than the two minutes that lie between the last launch of an attempt and the first moment
# at which its task may be taken for gone: on AWS the function's timeout sees to that.
_LONGEST_STALL_MS = 45_000
_HELPERS = tuple(f"documents/{name}.py" for name in ("commits", "messages", "outbox", "store"))


def _label(code: CodeType) -> str | None:
    """Which function of the handlers it is, `package.module.function`; None for what serves all of them."""
    _, handlers, module = code.co_filename.rpartition("runvoy_agent/handlers/")
    if not handlers or module in _HELPERS or "<" in code.co_name:
        return None
    return f"{module.removesuffix('.py').replace('/', '.')}.{code.co_name}"
