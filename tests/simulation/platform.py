"""A platform that runs tasks, and the runner in each: they start late, end somehow, are killed, hang, or vanish.

It forgets: a task is adopted by a further launch while it lives and for a quarter of an hour after its first launch,
which is a little more than a deployment may count on. Later the same launch starts the command again. What it refused, and
what was to be stopped before it was there, it forgets at once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from tests.simulation.ports import START, SimObjects
from tests.simulation.scheduler import Scheduler

from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import EndEvent, EndMessage
from runvoy_agent.ports import Attempt, Launch, Launched, LaunchOutcome, LaunchRefused, NoCapacity, TaskState
from runvoy_protocol import object_keys, run_objects
from runvoy_protocol.run_objects import RunnerPayload

MINUTE_MS = 60_000
RELAUNCH_WINDOW = timedelta(minutes=10)
REMEMBERED_MS = 15 * MINUTE_MS
GRACE_MS = 30_000
# What the reconciler believes of a platform (reconciler.runs.GONE_LOOKS_APART and GONE_LOOKS_WITHIN): an omission is shorter than the two
# minutes between two looks that count, and the next one does not begin within the five in which they must be.
LONGEST_OMISSION_MS = 90_000
OMISSIONS_APART_MS = 6 * MINUTE_MS
_START_MS = int(START.timestamp() * 1000)


class Plan(NamedTuple):
    """What will become of a task, unless it is stopped before. `boots` and `reports` may never come."""

    boot_ms: int | None = 500
    duration_ms: int = 5_000
    exit_code: int = 0
    outcome: str = "exited"
    dies: bool = False  # the task is killed at the end of `duration_ms`: no result
    vanishes: bool = False  # and the platform forgets it as well
    no_room: bool = False  # it is taken, and stops for want of room without beginning
    deaf: bool = False  # its runner does not enforce the deadline
    lingers: bool = False  # it leaves its result, and goes on until it is stopped
    skew_ms: int = 0  # how far its runner's clock is ahead
    lag_ms: int = 0  # how long listings do not show it
    stop_delay_ms: int = 100  # from the runner's end to the platform's noticing


class Task:
    """One task. `began_ms` is set when its command really started."""

    def __init__(self, launch: Launch, payload: RunnerPayload, plan: Plan, at_ms: int) -> None:
        self.execution_id = launch.execution_id
        self.attempt = launch.attempt
        self.payload = payload
        self.plan = plan
        self.launched_ms = at_ms
        self.rng = random.Random(0)
        self.began_ms: int | None = None
        self.omitted_until_ms = -OMISSIONS_APART_MS
        self.stop_asked = False
        self.ended = False  # its runner is gone; the platform may not have noticed
        self.stopped = False
        self.vanished = False
        self.result: dict[str, Any] | None = None

    def copy(self) -> Task:
        made = Task.__new__(Task)
        made.__dict__.update(self.__dict__)
        return made

    @property
    def runs(self) -> bool:
        return self.began_ms is not None and not self.ended


class Watching(NamedTuple):
    """Who is told what the platform really does."""

    launched: Callable[[Task], None]
    began: Callable[[Task], None]
    stopped: Callable[[Task], None]
    stop_asked: Callable[[Task], None]


class SimPlatform:
    """The launcher port, and what it launches. `send` carries what runner and platform tell; it may lose it."""

    def __init__(
        self,
        scheduler: Scheduler,
        outbox: SimObjects,
        secret: bytes,
        send: Callable[[EndMessage, bytes], None],
        watching: Watching,
    ) -> None:
        self._scheduler = scheduler
        self._outbox = outbox
        self._secret = secret
        self._send = send
        self._watching = watching
        self.tasks: dict[tuple[str, int], Task] = {}
        self._surveys = scheduler.stream("surveys")
        self.plan: Callable[[Launch], Plan] = lambda _launch: Plan()
        self.refusal: Callable[[], LaunchOutcome | None] = lambda: None
        self.omitted = 0.05  # as many looks begin an omission, if none is just over
        self.left_out = 0.3  # as many of those looked at together are not come to

    # -- the port

    @property
    def relaunch_window(self) -> timedelta | None:
        return RELAUNCH_WINDOW

    def start(self, launch: Launch) -> LaunchOutcome:
        outcome = self._scheduler.call("launcher.start", launch.execution_id, lambda: self._start(launch))
        if not isinstance(outcome, Launched):
            self._scheduler.note("platform", f"{type(outcome).__name__} for {launch.execution_id}")
        return outcome

    def stop(self, execution_id: str, attempt: int) -> None:
        self._scheduler.call("launcher.stop", execution_id, lambda: self._stop(execution_id, attempt))

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        return self._scheduler.call("launcher.describe", execution_id, lambda: self._describe(execution_id, attempt))

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        return self._scheduler.call("launcher.survey", str(len(attempts)), lambda: self._survey(attempts))

    def _survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        """Those that listings show, but for some: calls failed, or it was too long a way to them."""
        seen = {one: self._describe(*one) for one in attempts if self._surveys.random() >= self.left_out}
        return {one: state for one, state in seen.items() if state.phase != "missing"}

    def _start(self, launch: Launch) -> LaunchOutcome:
        now = self._scheduler.now_ms
        known = self.tasks.get((launch.execution_id, launch.attempt))
        if known is not None and (not known.ended or now < known.launched_ms + REMEMBERED_MS):
            return Launched(launch.execution_id)
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        payload = msgspec.json.decode(launch.payload, type=RunnerPayload)
        task = Task(launch, payload, self.plan(launch), now)
        task.rng = self._scheduler.stream(f"task {launch.execution_id}-{launch.attempt}")
        self.tasks[launch.execution_id, launch.attempt] = task
        self._watching.launched(task)
        if task.plan.boot_ms is not None:
            self._scheduler.at(task.plan.boot_ms, lambda: self._boot(task))
        return Launched(launch.execution_id)

    def _stop(self, execution_id: str, attempt: int) -> None:
        task = self.tasks.get((execution_id, attempt))
        if task is None or task.ended:
            return
        self._watching.stop_asked(task)
        if not task.stop_asked:
            task.stop_asked = True
            delay = task.rng.randrange(GRACE_MS) if task.runs else 50
            self._scheduler.at(delay, lambda: self._end(task, "killed", None))

    def _describe(self, execution_id: str, attempt: int) -> TaskState:
        task = self.tasks.get((execution_id, attempt))
        now = self._scheduler.now_ms
        if task is None or task.vanished or now < task.launched_ms + task.plan.lag_ms or self._is_omitted(task, now):
            return TaskState("missing")
        if task.stopped:
            return TaskState("stopped", never_began=task.plan.no_room, no_room=self._had_no_room(task))
        return TaskState("running", supervised=self._is_supervised(task))

    @staticmethod
    def _had_no_room(task: Task) -> bool:
        return task.plan.no_room and not task.stop_asked

    def _is_omitted(self, task: Task, now_ms: int) -> bool:
        """Now and then a task that is there is left out for a while."""
        if now_ms > task.omitted_until_ms + OMISSIONS_APART_MS and task.rng.random() < self.omitted:
            task.omitted_until_ms = now_ms + task.rng.randrange(LONGEST_OMISSION_MS)
        return now_ms <= task.omitted_until_ms

    @staticmethod
    def _is_supervised(task: Task) -> bool:
        return task.runs and not task.plan.deaf and not task.plan.lingers

    # -- what tasks do

    def _boot(self, task: Task) -> None:
        if task.ended:
            return
        if task.plan.no_room:
            self._end(task, "had no room", None)
            return
        task.began_ms = self._scheduler.now_ms
        self._scheduler.note("platform", f"command of {task.execution_id} began")
        self._watching.began(task)
        self._leave(task, "started", object_keys.started(task.execution_id), {"pid": 1})
        plan = task.plan
        deadline_ms = task.payload.timeout_seconds * 1000
        if plan.dies or plan.vanishes:
            self._scheduler.at(plan.duration_ms, lambda: self._die(task))
        elif plan.duration_ms >= deadline_ms and plan.deaf:
            return  # only a stop ends it
        elif plan.duration_ms >= deadline_ms:
            self._scheduler.at(deadline_ms, lambda: self._end(task, "timed_out", None))
        else:
            self._scheduler.at(plan.duration_ms, lambda: self._end(task, plan.outcome, plan.exit_code))

    def _end(self, task: Task, outcome: str, exit_code: int | None) -> None:
        """The runner ends: it leaves its result, if the command ever began, and goes."""
        if task.ended:
            return
        if task.began_ms is not None and task.result is None:
            task.result = {"outcome": outcome, "exit_code": exit_code}
            self._leave(task, "result", object_keys.result(task.execution_id), task.result)
        if task.plan.lingers and not task.stop_asked:
            return
        task.ended = True
        self._scheduler.note("platform", f"task of {task.execution_id} ended: {outcome}")
        self._scheduler.at(task.plan.stop_delay_ms, lambda: self._notice(task))

    def _die(self, task: Task) -> None:
        if task.ended:
            return
        task.ended = True
        self._scheduler.note("platform", f"task of {task.execution_id} died")
        if task.plan.vanishes:
            task.vanished = True
            self._watching.stopped(task)
        else:
            self._scheduler.at(task.plan.stop_delay_ms, lambda: self._notice(task))

    def _notice(self, task: Task) -> None:
        task.stopped = True
        self._watching.stopped(task)
        word = EndMessage(
            execution_id=task.execution_id,
            event="stopped",
            attempt=task.attempt,
            never_began=task.plan.no_room,
            no_room=self._had_no_room(task),
        )
        self._tell(word)

    def _leave(self, task: Task, event: EndEvent, object_key: str, fields: dict[str, Any]) -> None:
        """The runner writes a report, signed with its execution's key."""
        at_ms = _START_MS + self._scheduler.now_ms + task.plan.skew_ms
        began_ms = _START_MS + (task.began_ms or 0) + task.plan.skew_ms
        body: dict[str, Any] = {"execution_id": task.execution_id, "attempt": task.attempt, "started_at_ms": began_ms}
        if event == "result":
            body |= {"signal": None, "message": "", "ended_at_ms": at_ms, "lines": 0, "chunks": 1, "lost_bytes": 0}
        text = json.dumps(body | fields)
        mac = run_objects.mac_of(bytes.fromhex(task.payload.execution_key), event.encode(), text)
        self._outbox._put(object_key, json.dumps({"body": text, "mac": mac}).encode(), False, None)
        self._tell(EndMessage(execution_id=task.execution_id, event=event))

    def _tell(self, message: EndMessage) -> None:
        self._send(message, messages.encode(message))


CAPACITY = NoCapacity("no room now")
REFUSED = LaunchRefused("the platform will not run this")
