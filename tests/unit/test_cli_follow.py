"""Waiting and following against a scripted outbox: order, news, backoff, expired grants, and no busy loops."""

import gzip
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from runvoy_cli.following.follow import PATIENCE_SECONDS, SEND_AGAIN_SECONDS, WAIT_SECONDS, Follower
from runvoy_cli.http.transport import Answer, NoAnswer
from runvoy_cli.input.problems import GaveUp
from runvoy_protocol import status
from runvoy_protocol.control import OutboxGrant
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import uuid7
from runvoy_protocol.logs import LogRecord
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ID = uuid7(NOW, bytes(10))


def chunk(*texts, first=1, end=False):
    records = [LogRecord(n=first + index, t=0, s="out", m=text) for index, text in enumerate(texts)]
    if end:
        records.append(LogRecord(n=first + len(texts), t=0, s="out", end=True))
    return gzip.compress(b"\n".join(msgspec.json.encode(record) for record in records))


def execution(version, state, chunks=None, code=None):
    return ExecutionStatus(
        execution_id=ID,
        record_version=version,
        state=state,
        owner="ann",
        key_id="k" * 32,
        command="x",
        isolation="process",
        timeout_seconds=600,
        issued_at=NOW,
        admitted_at=NOW,
        chunks=chunks,
        exit_code=code,
    )


class World:
    """An outbox whose objects appear at given times, a clock that moves by sleeping and waiting, and a client of both.

    `honours_wait` is a gateway; without it every read is answered at once, as by S3.
    """

    def __init__(self, honours_wait=True):
        self.time = 0.0
        self.honours_wait = honours_wait
        self.objects = {}  # name -> [(time, bytes)]
        self.reads = []
        self.grants = 0
        self.limits = []  # of calls that are made in less than the usual time
        self.grant_answers = []
        self.failures = []  # raised or answered instead of the next reads

    def put(self, at, name, content):
        self.objects.setdefault(name, []).append((at, content))

    def put_status(self, at, *args, **kwargs):
        self.put(at, "status", status.encode(execution(*args, **kwargs)))

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds

    def outbox_grant(self, execution_id, from_chunk=1, object_sha256=None):
        self.grants += 1
        assert execution_id == ID
        if self.grant_answers:
            answer = self.grant_answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        urls = tuple(f"http://h/{number}" for number in range(from_chunk, from_chunk + 4))
        return OutboxGrant(
            state="admitted", expires_at=NOW, status_url="http://h/status", from_chunk=from_chunk, chunk_urls=urls
        )

    def within(self, limit_seconds):
        self.limits.append(limit_seconds)
        return self

    def read(self, url, etag="", wait_seconds=0.0):
        name = url.removeprefix("http://h/")
        self.time += 0.001
        self.reads.append((round(self.time, 3), name, wait_seconds))
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return Answer(failure, {}, b"")
        answer = self._look(name, etag)
        if answer.status != 200 and wait_seconds and self.honours_wait:
            coming = [at for versions in self.objects.values() for at, _ in versions if at > self.time]
            self.time = min([*coming, self.time + wait_seconds])
            answer = self._look(name, etag)
        return answer

    def _look(self, name, etag):
        versions = [(at, content) for at, content in self.objects.get(name, []) if at <= self.time]
        if not versions:
            return Answer(404, {}, b"")
        tag = f'"{len(versions)}"'
        return Answer(304, {}, b"") if tag == etag else Answer(200, {"etag": tag}, versions[-1][1])

    def parse(self, raw, kind):
        return msgspec.json.decode(raw, type=kind)

    def follower(self, **options):
        client: Any = self
        return Follower(client, ID, clock=self.now, sleep=self.sleep, **options)


def texts_of(follower):
    texts = []
    ended = follower.follow(lambda record: texts.append(record.text))
    return ended, texts


def a_run(world):
    world.put_status(0, 1, State.QUEUED)
    world.put_status(2, 2, State.RUNNING)
    world.put(3, "1", chunk("a\n", "b\n"))
    world.put(8, "2", chunk("c\n", first=3, end=True))
    world.put_status(8.5, 3, State.SUCCEEDED, chunks=2, code=0)


@pytest.mark.parametrize("honours_wait", [True, False])
def test_a_run_is_followed_to_its_end(honours_wait):
    world = World(honours_wait)
    a_run(world)
    ended, texts = texts_of(world.follower())
    assert (ended.state, texts) == (State.SUCCEEDED, ["a\n", "b\n", "c\n"])
    assert world.time < (8.6 if honours_wait else 9.6)


def test_a_gateway_is_asked_about_twice_for_each_change():
    world = World()
    a_run(world)
    texts_of(world.follower())
    assert len(world.reads) <= 14


def test_s3_is_polled_with_a_pause_that_grows_to_a_second():
    world = World(honours_wait=False)
    world.put_status(0, 1, State.RUNNING)
    world.put_status(60, 2, State.SUCCEEDED, chunks=0, code=0)
    texts_of(world.follower())
    assert len(world.reads) < 2 * 60 + 30
    quiet = sorted({round(at) for at, name, _ in world.reads if name == "status" and 20 < at < 55})
    assert len(quiet) > 25


def test_waiting_for_the_status_alone_asks_rarely():
    world = World()
    world.put_status(0, 1, State.RUNNING)
    world.put_status(100, 2, State.FAILED, code=7)
    assert world.follower().wait().exit_code == 7
    assert len(world.reads) < 2 + 100 / WAIT_SECONDS + 2


def test_news_that_is_none_does_not_make_a_busy_loop():
    world = World()
    world.put_status(0, 1, State.RUNNING)
    for tick in range(1, 2000):
        world.put(tick / 100, "another", b"x")  # a sibling changes a hundred times a second
    world.put_status(20, 2, State.SUCCEEDED, chunks=0, code=0)
    world.follower().wait()
    assert len(world.reads) < 60


def test_an_older_status_never_replaces_a_newer_one():
    world = World()
    world.put_status(0, 5, State.RUNNING)
    world.put_status(1, 4, State.QUEUED)
    world.put_status(2, 6, State.SUCCEEDED, code=0)
    seen = []
    world.follower(on_status=lambda found: seen.append(found.record_version)).wait()
    assert seen == [5, 6]


def test_an_expired_grant_is_renewed_from_the_next_chunk():
    world = World()
    a_run(world)
    world.failures = [403]
    ended, texts = texts_of(world.follower())
    assert (ended.state, texts) == (State.SUCCEEDED, ["a\n", "b\n", "c\n"])
    assert world.grants == 2


def test_more_chunks_than_a_grant_holds():
    world = World()
    world.put_status(0, 1, State.SUCCEEDED, chunks=10, code=0)
    for number in range(1, 11):
        world.put(0, str(number), chunk(f"{number}\n", first=number, end=number == 10))
    _, texts = texts_of(world.follower())
    assert texts == [f"{number}\n" for number in range(1, 11)]
    assert world.grants == 3


def test_an_unreachable_deployment_is_borne_with_and_not_for_ever():
    world = World()
    a_run(world)
    world.failures = [NoAnswer("h", "reset", reused=False)] * 20
    _, texts = texts_of(world.follower())
    assert texts == ["a\n", "b\n", "c\n"]
    world = World()
    world.put_status(0, 1, State.RUNNING)
    world.failures = [NoAnswer("h", "reset", reused=False)] * 1000
    with pytest.raises(RunvoyError, match="cannot be read any more") as caught:
        world.follower().wait()
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert PATIENCE_SECONDS < world.time < PATIENCE_SECONDS + 5
    assert len(world.reads) < 100


def test_a_grant_that_cannot_be_had_for_a_while_is_borne_with():
    world = World()
    a_run(world)
    world.failures = [403]
    first = world.outbox_grant(ID)
    world.grant_answers = [
        first,
        RunvoyError(ErrorCode.UNAVAILABLE, "down"),
        RunvoyError(ErrorCode.UNAVAILABLE, "down"),
    ]
    assert texts_of(world.follower())[1] == ["a\n", "b\n", "c\n"]


DOWN = RunvoyError(ErrorCode.UNAVAILABLE, "down")


@pytest.mark.parametrize("state", ["admitted", "pending"])
def test_who_submitted_bears_with_a_deployment_that_is_away_before_the_first_look(state):
    world = World()
    a_run(world)
    world.grant_answers = [DOWN, DOWN, *([pending(), DOWN, DOWN] if state == "pending" else [])]
    assert texts_of(world.follower(object_sha256="0" * 64))[1] == ["a\n", "b\n", "c\n"]
    world = World()
    world.grant_answers = [DOWN] * 1000
    with pytest.raises(RunvoyError, match="cannot be read any more: down"):
        world.follower(object_sha256="0" * 64).receipt()
    assert PATIENCE_SECONDS < world.time < PATIENCE_SECONDS + 5
    world.grant_answers = [DOWN] * 1000
    with pytest.raises(GaveUp):
        world.follower(object_sha256="0" * 64, deadline=world.time + 3).receipt()


def test_who_only_asks_is_told_at_once_that_nobody_answers():
    world = World()
    world.grant_answers = [DOWN]
    with pytest.raises(RunvoyError, match="down"):
        world.follower().wait()
    assert world.time == 0


def test_who_looks_again_bears_with_a_deployment_that_answered_before():
    world = World()
    a_run(world)
    follower = world.follower(deadline=1.0)
    with pytest.raises(GaveUp):
        follower.follow(print)
    follower.deadline = None
    world.grant_answers = [DOWN, DOWN]
    assert texts_of(follower)[1] == ["a\n", "b\n", "c\n"]


def test_who_leaves_gives_no_call_more_time_than_that():
    world = World()
    world.put_status(0, 1, State.RUNNING)
    follower = world.follower(deadline=2.0)
    with pytest.raises(GaveUp):
        follower.wait()
    assert world.limits == []
    follower.leave_at(world.time + 3.0)
    with pytest.raises(GaveUp):
        follower.wait()
    assert world.limits
    assert all(3.9 < limit <= 4.0 for limit in world.limits)
    calls = len(world.limits)
    follower.leave_at(None)
    world.put_status(world.time, 2, State.SUCCEEDED, code=0)
    follower.wait()
    assert len(world.limits) == calls


def test_giving_up_looks_at_least_once_and_then_on_time():
    world = World()
    world.put_status(0, 1, State.RUNNING)
    follower = world.follower(deadline=0.0)
    with pytest.raises(GaveUp):
        follower.wait()
    assert follower.status.state is State.RUNNING
    world = World()
    world.put_status(0, 1, State.RUNNING)
    with pytest.raises(GaveUp):
        world.follower(deadline=7.0).wait()
    assert 7.0 <= world.time < 7.2


def test_an_execution_that_has_ended_is_told_even_past_the_deadline():
    world = World()
    world.put_status(0, 1, State.SUCCEEDED, code=0)
    assert world.follower(deadline=0.0).wait().state is State.SUCCEEDED


def pending(receipt_url=None):
    return OutboxGrant(state="pending", expires_at=NOW, receipt_url=receipt_url)


def receipt(outcome, code=None):
    return Receipt(
        outcome=outcome, execution_id=ID, key_id="k", object_sha256="0" * 64, at=NOW, code=code, message="no", hint="h"
    )


def test_a_pending_request_is_waited_for_by_its_receipt():
    world = World()
    world.grant_answers = [pending("http://h/receipt")]
    world.put(5, "receipt", msgspec.json.encode(receipt("accepted")))
    world.put_status(5, 1, State.SUCCEEDED, chunks=0, code=0)
    world.follower(object_sha256="0" * 64).wait()
    assert 5 <= world.time < 5.2
    assert world.grants == 2


def test_a_request_that_is_not_decided_for_long_is_sent_again_once():
    """The word of its upload was lost: nobody but the reconciler would find it, in about a minute."""
    world = World()
    world.grant_answers = [pending("http://h/receipt")] * 100
    sent = []

    def send_again():
        sent.append(world.time)
        if len(sent) == 1:
            world.put(world.time + 500, "receipt", msgspec.json.encode(receipt("accepted")))

    world.follower(object_sha256="0" * 64, send_again=send_again).receipt()
    assert [SEND_AGAIN_SECONDS <= at <= SEND_AGAIN_SECONDS + WAIT_SECONDS for at in sent] == [True]


def test_a_request_whose_object_is_gone_is_sent_again_at_once_and_once():
    gone = RunvoyError(ErrorCode.NOT_FOUND, "there is no execution")
    world = World()
    world.put_status(0, 1, State.SUCCEEDED, chunks=0, code=0)
    world.grant_answers = [gone]
    sent = []
    world.follower(object_sha256="0" * 64, send_again=lambda: sent.append(world.time)).wait()
    assert sent == [0]
    world.grant_answers = [gone, gone]
    with pytest.raises(RunvoyError, match="there is no execution"):
        world.follower(object_sha256="0" * 64, send_again=lambda: sent.append(world.time)).wait()
    assert len(sent) == 2


def test_who_is_leaving_sends_nothing_again():
    """An upload that hangs would keep them: they leave in 3 s."""
    world = World()
    world.grant_answers = [pending("http://h/receipt")] * 100
    follower = world.follower(object_sha256="0" * 64, send_again=lambda: pytest.fail("they are leaving"))
    world.time = SEND_AGAIN_SECONDS
    follower.leave_at(world.time + 3)
    with pytest.raises(GaveUp):
        follower.receipt()
    assert world.time == pytest.approx(SEND_AGAIN_SECONDS + 3, abs=0.1)
    world.grant_answers = [RunvoyError(ErrorCode.NOT_FOUND, "there is no execution")]
    with pytest.raises(RunvoyError, match="there is no execution"):
        follower.receipt()


def test_a_request_that_is_decided_in_time_is_not_sent_again():
    world = World()
    world.grant_answers = [pending("http://h/receipt")]
    world.put(5, "receipt", msgspec.json.encode(receipt("accepted")))
    world.put_status(5, 1, State.RUNNING)
    world.put_status(500, 2, State.SUCCEEDED, chunks=0, code=0)
    world.follower(object_sha256="0" * 64, send_again=lambda: pytest.fail("it was decided")).wait()


def test_a_pending_request_of_somebody_else_is_asked_about_with_pauses():
    world = World()
    world.grant_answers = [pending() for _ in range(10)]
    world.put_status(0, 1, State.SUCCEEDED, code=0)
    world.follower().wait()
    assert 3 < world.time < 9


def test_a_pending_request_is_given_up_too():
    world = World()
    world.grant_answers = [pending() for _ in range(100)]
    with pytest.raises(GaveUp):
        world.follower(deadline=5.0).receipt()


def test_refusals_are_errors_however_they_are_learnt():
    refused = receipt("refused", ErrorCode.LOCK_HELD)
    world = World()
    world.grant_answers = [OutboxGrant(state="refused", expires_at=NOW, receipt=refused)]
    follower = world.follower()
    with pytest.raises(RunvoyError) as caught:
        follower.wait()
    assert (caught.value.code, caught.value.exit_code) == (ErrorCode.LOCK_HELD, 122)
    assert caught.value is follower.refusal
    assert not caught.value.retryable, "to wait again never gets another answer"
    world = World()
    world.grant_answers = [pending("http://h/receipt")]
    world.put(0, "receipt", msgspec.json.encode(refused))
    with pytest.raises(RunvoyError, match="no") as caught:
        world.follower(object_sha256="0" * 64).wait()
    assert caught.value.retryable, "of who submitted it, and may submit another"


def test_what_was_refused_is_not_waited_for_to_begin():
    world = World()
    refused = receipt("refused", ErrorCode.FORBIDDEN)
    world.grant_answers = [OutboxGrant(state="refused", expires_at=NOW, receipt=refused)]
    with pytest.raises(RunvoyError, match="no"):
        world.follower().await_start(lambda: pytest.fail("it will never begin"), print)


def test_a_run_that_never_began_has_no_log_to_wait_for():
    world = World()
    world.put_status(0, 1, State.QUEUED)
    world.put_status(4, 2, State.TIMED_OUT)
    follower = world.follower()
    ended, texts = texts_of(follower)
    assert (ended.state, texts, follower.log_is_whole) == (State.TIMED_OUT, [], True)
    assert world.time < 4.2


def test_a_missing_end_of_the_log_is_waited_for_a_while_and_told():
    world = World()
    world.put_status(0, 1, State.SUCCEEDED, chunks=2, code=0)
    world.put(0, "1", chunk("a\n"))
    follower = world.follower()
    assert texts_of(follower)[1] == ["a\n"]
    assert not follower.log_is_whole
    assert 9 < world.time < 12


def test_a_chunk_that_is_no_chunk_is_told_and_passed_over():
    world = World()
    world.put_status(0, 1, State.SUCCEEDED, chunks=2, code=0)
    world.put(0, "1", b"no gzip")
    world.put(0, "2", chunk("b\n", end=True))
    records = []
    world.follower().follow(records.append)
    assert [(record.s, "cannot be read" in record.text) for record in records] == [("sys", True), ("out", False)]


def test_reading_what_is_there_does_not_wait():
    world = World()
    world.put_status(0, 1, State.RUNNING)
    world.put(0, "1", chunk("a\n"))
    texts = []
    world.follower().read_now(lambda record: texts.append(record.text))
    assert texts == ["a\n"]
    assert world.time < 0.1
    world.grant_answers = [pending()]
    assert world.follower().read_now(texts.append) is None
