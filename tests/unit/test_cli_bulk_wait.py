"""Waiting for thousands: every end is told once, whatever the deployment knows when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from runvoy_cli.bulk.waiting import PATIENCE_SECONDS, BulkProgress, BulkWait, counted
from runvoy_cli.deployment.client import Client
from runvoy_cli.terminal.screen import Screen
from runvoy_protocol import ids
from runvoy_protocol.control import MAX_STATUSES, KnownExecution
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def id_of(number: int, at: datetime = NOW) -> str:
    return ids.uuid7(at, number.to_bytes(10, "big"))


def status(execution_id: str, state: State, exit_code: int | None = None) -> KnownExecution:
    found = ExecutionStatus(
        execution_id=execution_id,
        record_version=1,
        state=state,
        owner="ada",
        key_id="k",
        command="true",
        isolation="process",
        timeout_seconds=600,
        issued_at=NOW,
        admitted_at=NOW,
        reason=Reason.EXIT if exit_code is not None else None,
        exit_code=exit_code,
    )
    return KnownExecution(execution_id=execution_id, state="admitted", status=found)


class Deployment:
    """Answers what `tell` says of each id, at most `most` at a time, and moves the time by each pause."""

    def __init__(self, tell: Callable[[str, float], KnownExecution | None], most: int = MAX_STATUSES) -> None:
        self.time = 0.0
        self.calls = 0
        self.fails_until = 0.0
        self._tell = tell
        self._most = most

    def statuses(self, execution_ids: Sequence[str]) -> list[KnownExecution]:
        self.calls += 1
        assert len(execution_ids) <= MAX_STATUSES
        if self.time < self.fails_until:
            raise RunvoyError(ErrorCode.UNAVAILABLE, "away")
        return [
            self._tell(one, self.time) or KnownExecution(execution_id=one, state="unknown")
            for one in execution_ids[: self._most]
        ]

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.time)

    def clock(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def wait(self, wanted: Sequence[str], deadline: float | None = None) -> BulkWait:
        return BulkWait(cast("Client", self), wanted, deadline, clock=self.clock, sleep=self.sleep)


WANTED = [id_of(number) for number in range(1200)]


def test_each_end_is_told_once_and_no_call_asks_for_too_many() -> None:
    def tell(one: str, at: float) -> KnownExecution:
        number = WANTED.index(one)
        return status(one, State.SUCCEEDED, 0) if at >= number / 100 else status(one, State.RUNNING)

    deployment = Deployment(tell)
    waiting = deployment.wait([*WANTED, *WANTED[:5]])
    ended = [end.execution_id for end in waiting.ends()]
    assert sorted(ended) == sorted(WANTED)
    assert waiting.counts() == {"SUCCEEDED": 1200}
    assert counted(waiting.counts()) == "SUCCEEDED 1,200"


def test_an_answer_that_holds_fewer_is_gone_on_with() -> None:
    deployment = Deployment(lambda one, _at: status(one, State.FAILED, 3), most=7)
    ended = list(deployment.wait(WANTED[:30]).ends())
    assert [end.exit_code for end in ended] == [3] * 30
    assert deployment.calls == 5


def test_unknown_ids_may_be_on_their_way_for_a_while() -> None:
    late = WANTED[0]
    deployment = Deployment(lambda one, at: status(one, State.SUCCEEDED, 0) if one == late and at > 30 else None)
    old = id_of(1, NOW - timedelta(hours=2))
    ended = {
        end.execution_id: (end.exit_code, deployment.time) for end in deployment.wait([old, late, WANTED[1]]).ends()
    }
    assert ended[old] == (121, 0.0), "an id that was made hours ago is on no way"
    assert ended[late][0] == 0
    code, at = ended[WANTED[1]]
    assert code == 121
    assert at >= 30 + PATIENCE_SECONDS, "news of another had to set the patience back"


def test_a_refusal_is_an_end() -> None:
    refused = Receipt(
        outcome="refused", execution_id=WANTED[0], key_id="k", object_sha256="", at=NOW, code=ErrorCode.LOCK_HELD
    )
    deployment = Deployment(lambda one, _at: KnownExecution(execution_id=one, state="refused", receipt=refused))
    waiting = deployment.wait(WANTED[:1])
    assert [end.exit_code for end in waiting.ends()] == [122]
    assert waiting.counts() == {"REFUSED": 1}


def test_the_deadline_ends_the_wait_after_one_look_at_least() -> None:
    deployment = Deployment(lambda one, _at: status(one, State.SUCCEEDED, 0) if one == WANTED[0] else None)
    waiting = deployment.wait(WANTED[:2], deadline=0.0)
    assert [end.execution_id for end in waiting.ends()] == WANTED[:1]
    assert list(waiting.left) == WANTED[1:2]


def test_a_deployment_that_is_away_is_borne_with_for_a_while() -> None:
    deployment = Deployment(lambda one, _at: status(one, State.SUCCEEDED, 0))
    deployment.fails_until = PATIENCE_SECONDS / 2
    assert len(list(deployment.wait(WANTED[:2]).ends())) == 2
    deployment = Deployment(lambda one, _at: status(one, State.SUCCEEDED, 0))
    deployment.fails_until = 10 * PATIENCE_SECONDS
    with pytest.raises(RunvoyError, match="away"):
        list(deployment.wait(WANTED[:2]).ends())


def test_the_bar_shows_counts_by_state() -> None:
    def tell(one: str, _at: float) -> KnownExecution:
        return status(one, State.SUCCEEDED, 0) if one in WANTED[:3] else status(one, State.RUNNING)

    class File:
        encoding = "utf-8"

    deployment = Deployment(tell)
    waiting = deployment.wait(WANTED[:6], deadline=0.0)
    screen = Screen(cast("Any", File()), is_rich=False, has_colour=False)
    progress = BulkProgress(screen, waiting, deployment.now)
    assert "PENDING 6" in screen.text_of(progress.rows(0)[0])
    list(waiting.ends())
    text = screen.text_of(progress.rows(1)[0])
    assert text.startswith("█" * 12 + "░" * 12 + " 3 of 6 ")
    assert "RUNNING 3  SUCCEEDED 3" in text


def test_who_leaves_at_the_first_end_knows_all_that_was_told_with_it() -> None:
    deployment = Deployment(lambda one, _at: status(one, State.FAILED, 3))
    waiting = deployment.wait(WANTED[:30])
    assert next(waiting.ends()).exit_code == 3
    assert waiting.counts() == {"FAILED": 30}
