"""How the reconciler looks at tasks: together where it can, and what the platform does not answer is left for the next round."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.served import served
from tests.unit.test_handlers_ends import call, kill, running, started

from runvoy_agent.handlers import ends, reconcile
from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import EndMessage
from runvoy_agent.handlers.reconciler import careful_launcher
from runvoy_agent.ports import LaunchRefused, NoCapacity, StoredObject, TaskState, Unavailable
from runvoy_cli import app
from runvoy_protocol import object_keys
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.unit.conftest import World

    from runvoy_agent.ports import Attempt

FINISHED = TaskState("stopped", 0)


def stopped_unseen(world: World, count: int, *, listed: bool = True) -> list[str]:
    """Executions whose tasks stopped, and nobody was told."""
    made = [running(world, timeout_seconds=3600) for _ in range(count)]
    world.launcher.tasks |= dict.fromkeys(made, FINISHED)
    world.launcher.unlisted |= set() if listed else set(made)
    world.clock.move(minutes=2)
    world.launcher.looks.clear()
    return made


def told(world: World) -> set[str]:
    return {repair.subject for repair in world.reconcile() if "nobody was told" in repair.problem}


def test_what_runs_is_looked_at_together(world: World) -> None:
    alive = [running(world, timeout_seconds=3600) for _ in range(5)]
    ended = stopped_unseen(world, 5)
    assert told(world) == set(ended)
    assert world.launcher.looks == []
    assert {world.status(one).state for one in alive} == {State.RUNNING}


def test_what_is_left_out_is_looked_at_alone(world: World) -> None:
    left_out, others = stopped_unseen(world, 2, listed=False), stopped_unseen(world, 2)
    assert told(world) == {*left_out, *others}
    assert sorted(world.launcher.looks) == sorted(left_out)


def test_only_a_look_of_its_own_says_that_a_task_is_missing(world: World) -> None:
    execution_id = running(world, timeout_seconds=3600)
    world.launcher.unlisted.add(execution_id)
    for _ in range(20):
        world.clock.move(minutes=1)
        assert world.reconcile() == []
    assert world.execution(execution_id).missing_since is None
    del world.launcher.tasks[execution_id]
    for _ in range(2):
        assert world.reconcile() == []
        world.clock.move(minutes=1)
    assert [repair.problem for repair in world.reconcile()] == ["the platform knows no task of it"]


def test_a_look_that_is_not_answered_holds_up_no_other(world: World) -> None:
    ended = stopped_unseen(world, 4, listed=False)
    world.launcher.busy = 1
    first = reconcile.handle(world.ports)
    assert (len(first.repairs), first.left) == (3, 1)
    second = reconcile.handle(world.ports)
    assert {repair.subject for repair in (*first.repairs, *second.repairs)} == set(ended)
    assert second.left == 0


def test_a_platform_that_answers_nothing_holds_up_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "runvoy.reconcile")
    waits = world.request(queue_timeout_seconds=60, locks=("db",))
    running(world, locks=("db",), timeout_seconds=3600)
    world.submit(waits)
    stopped_unseen(world, 9, listed=False)
    world.launcher.busy = 1000
    with caplog.at_level(logging.WARNING, logger="runvoy"):
        done = reconcile.handle(world.ports)
    assert done.left == 9
    assert 1000 - world.launcher.busy == careful_launcher.MOST_FAILED, (
        "a platform that throttles is not asked on and on"
    )
    assert "9 tasks could not be looked at" in caplog.text
    assert [repair.subject for repair in done.repairs] == [waits.request_id]
    assert world.status(waits.request_id).state is State.TIMED_OUT


def test_looks_have_a_part_of_the_round_s_time_and_no_more(world: World) -> None:
    stopped_unseen(world, 9, listed=False)
    describe = world.launcher.describe

    def slowly(execution_id: str, attempt: int) -> TaskState:
        world.clock.move(seconds=25)
        return describe(execution_id, attempt)

    world.launcher.describe = slowly  # type: ignore[method-assign]
    done = reconcile.handle(world.ports)
    assert (len(done.repairs), done.left) == (3, 6)


def test_one_that_was_missed_before_has_its_second_look_first(world: World) -> None:
    gone = running(world, timeout_seconds=3600)
    del world.launcher.tasks[gone]
    world.clock.move(minutes=11)
    world.reconcile()
    stopped_unseen(world, 9, listed=False)
    world.reconcile()
    assert world.launcher.looks[0] == gone


def test_a_stop_that_is_not_taken_is_told_in_the_next_round(world: World) -> None:
    first, second = running(world), running(world)
    for execution_id in (first, second):
        kill(world, execution_id)
    world.launcher.stops.clear()
    world.clock.move(minutes=1)
    world.launcher.busy = 1
    assert reconcile.handle(world.ports).left == 1
    assert len(world.launcher.stops) == 1
    assert reconcile.handle(world.ports).left == 0
    assert set(world.launcher.stops) == {first, second}


def test_what_is_stopping_is_not_told_again(world: World) -> None:
    execution_id = running(world)
    kill(world, execution_id)
    world.launcher.stops.clear()
    world.launcher.tasks[execution_id] = TaskState("running", stopping=True)
    world.clock.move(minutes=1)
    world.reconcile()
    assert world.launcher.stops == []
    assert world.status(execution_id).state is State.TERMINATING


def test_a_deadline_whose_stop_is_not_taken_is_kept_all_the_same(world: World) -> None:
    execution_id = running(world, timeout_seconds=60)
    world.clock.move(minutes=10)
    world.launcher.busy = 1
    assert reconcile.handle(world.ports).left == 1
    assert world.status(execution_id).state is State.TERMINATING
    world.clock.move(minutes=1)
    world.reconcile()
    assert world.launcher.stops == [execution_id]


def test_who_asks_for_a_round_is_told_what_is_left(world: World) -> None:
    started(world)
    stopped_unseen(world, 2, listed=False)
    world.launcher.busy = 1
    answer = call(world, "POST", "/health/reconcile")
    assert (len(answer["repairs"]), answer["left"]) == (1, 1)


@pytest.mark.parametrize("how", ["killed", "queue timeout"])
def test_what_waited_for_room_and_could_not_be_looked_at_ends_in_the_next_round(world: World, how: str) -> None:
    """Its record says that no launch of it can have gone through: nothing has to be waited for."""
    request = world.request(locks=("db",), queue_timeout_seconds=300)
    world.submit(request)
    world.launcher.outcome = NoCapacity("full")
    world.start(request.request_id)
    waiting = world.request(locks=("db",))
    world.submit(waiting)
    world.messages("starts")
    world.launcher.busy = 1
    if how == "killed":
        assert kill(world, request.request_id) is ErrorCode.UNAVAILABLE
    else:
        world.clock.move(minutes=6)
        with pytest.raises(Unavailable):
            world.start(request.request_id)
    assert world.execution(request.request_id).state is State.TERMINATING
    world.clock.move(seconds=40)
    assert [repair.action for repair in world.reconcile()] == ["ended it"]
    ended = world.status(request.request_id)
    assert ended.state is (State.STOPPED if how == "killed" else State.TIMED_OUT)
    assert world.pushed() == [waiting.request_id], "its lock is free"


def test_what_has_a_launch_counted_is_not_ended_by_that(world: World) -> None:
    """It may be under way, and a listing may leave it out."""
    execution_id = started(world)
    world.launcher.unlisted.add(execution_id)
    world.launcher.gaps = 100
    kill(world, execution_id)
    for _ in range(9):
        world.clock.move(minutes=1)
        assert world.reconcile() == []
    assert world.status(execution_id).state is State.TERMINATING


def test_a_refusal_that_could_not_be_looked_at_is_one_when_it_comes_again(world: World) -> None:
    request = world.request()
    world.submit(request)
    world.launcher.outcome = LaunchRefused("no such image")
    world.launcher.busy = 1
    with pytest.raises(Unavailable):
        world.start(request.request_id)
    assert world.execution(request.request_id).launches == 0
    world.start(request.request_id)
    ended = world.status(request.request_id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.LAUNCH_FAILED)


def test_the_command_line_says_what_is_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_unseen(world, 1, listed=False)
    world.launcher.busy = 1
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNVOY_DEPLOYMENT", "here")
    monkeypatch.setenv("RUNVOY_API_KEY", world.signing_key.to_api_key())
    monkeypatch.delenv("RUNVOY_PROFILE", raising=False)
    with served(world) as endpoint:
        monkeypatch.setenv("RUNVOY_ENDPOINT", endpoint)
        assert app.main(["health", "reconcile"]) == 0
        left = capsys.readouterr()
        assert app.main(["health", "reconcile"]) == 0
        mended = capsys.readouterr()
    assert left.out == "", "that nothing was wrong is not known"
    assert "the tasks of 1 executions" in left.err
    assert "its task stopped and nobody was told" in mended.out
    assert mended.err == ""


def test_a_look_says_nothing_of_what_came_after_it(world: World) -> None:
    """The second look is at the same gap of the listing as the first; whoever made it was held up for minutes then."""
    execution_id = running(world, timeout_seconds=36_000)
    world.clock.move(minutes=11)
    world.launcher.gaps = 2
    world.launcher.unlisted.add(execution_id)
    world.reconcile()
    world.clock.move(seconds=30)
    describe = world.launcher.describe

    def held_up(execution_id: str, attempt: int) -> TaskState:
        seen = describe(execution_id, attempt)
        world.clock.move(minutes=3)
        return seen

    world.launcher.describe = held_up  # type: ignore[method-assign]
    assert world.reconcile() == []
    assert world.messages("ends") == []


def test_what_began_while_the_reconciler_was_held_up_is_not_ended_for_not_having_begun(world: World) -> None:
    execution_id = started(world)
    world.clock.move(minutes=14)
    survey = world.launcher.survey

    def held_up(attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        seen = survey(attempts)
        world.clock.move(minutes=2)
        return seen

    world.launcher.survey = held_up  # type: ignore[method-assign]
    assert world.reconcile() == []
    assert world.status(execution_id).state is State.STARTING
    assert [repair.action for repair in world.reconcile()] == ["had it stopped"]


def test_what_outlives_its_end_is_stopped_and_lets_go_of_its_locks(world: World) -> None:
    """Its runner hangs behind its last word, or the command gave that word itself."""
    execution_id = running(world, locks=("db",), timeout_seconds=3600)
    waits = world.request(locks=("db",))
    world.submit(waits)
    world.messages("starts")
    world.leave_result(execution_id)
    world.tell(execution_id, "result")
    assert world.status(execution_id).state is State.SUCCEEDED
    world.clock.move(seconds=149)
    assert world.reconcile() == []
    world.clock.move(seconds=1)
    assert [(repair.subject, repair.action) for repair in world.reconcile()] == [(execution_id, "had it stopped")]
    world.launcher.tasks[execution_id] = TaskState("running", stopping=True)
    assert world.reconcile() == []
    assert world.launcher.stops == [execution_id]
    assert world.messages("starts") == []
    world.tell(execution_id, "stopped", 1)
    assert world.pushed() == [waits.request_id]
    assert world.status(execution_id).state is State.SUCCEEDED


def test_a_word_on_its_start_that_proves_nothing_holds_off_no_clock_for_good(world: World) -> None:
    """The command may write what its runner may, and over what its runner wrote."""
    execution_id = started(world, timeout_seconds=600)
    world.outbox.put(object_keys.started(execution_id), b"{}", content_type="")
    world.clock.move(hours=1)
    assert [repair.action for repair in world.reconcile()] == ["told it again"]
    assert world.status(execution_id).state is State.STARTING, "nobody has looked yet whether it proves something"
    world.tell(execution_id, "started")
    world.clock.move(minutes=2)
    assert [repair.action for repair in world.reconcile()] == ["had it stopped"]
    assert world.status(execution_id).state is State.TERMINATING
    world.launcher.stops.clear()
    world.clock.move(minutes=1)
    world.reconcile()
    assert world.launcher.stops == [execution_id], "and it is told again until it is seen stopped"


def test_a_word_that_comes_while_another_is_judged_is_told_of_all_the_same(world: World) -> None:
    execution_id = started(world)
    object_key = object_keys.started(execution_id)
    world.outbox.put(object_key, b"{}", content_type="")

    class Overwritten:
        def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
            found = world.outbox.get(object_key, version)
            world.outbox.put(object_key, b"the runner's own", content_type="")
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(world.outbox, name)

    ports = world.ports._replace(outbox=Overwritten())
    told = EndMessage(execution_id=execution_id, event="started")
    ends.handle(ports, world.deployment, messages.encode(told))
    world.clock.move(minutes=2)
    assert [repair.action for repair in world.reconcile()] == ["told it again"]


def test_what_outlives_its_end_is_stopped_whatever_lies_there_as_the_word_on_its_start(world: World) -> None:
    execution_id = started(world)
    body = {"started_at_ms": None, "outcome": "exited", "exit_code": 0, "signal": None, "message": "", "lines": 0}
    ended_at_ms = int(world.clock.now().timestamp() * 1000)
    told = {
        **body,
        "execution_id": execution_id,
        "attempt": 1,
        "ended_at_ms": ended_at_ms,
        "chunks": 0,
        "lost_bytes": 0,
    }
    world.leave_signed(object_keys.result(execution_id), b"result", json.dumps(told), execution_id)
    world.tell(execution_id, "result")
    assert world.status(execution_id).state is State.SUCCEEDED
    world.outbox.put(object_keys.started(execution_id), b"{}", content_type="")
    world.clock.move(minutes=3)
    assert [repair.action for repair in world.reconcile()] == ["had it stopped"]
