"""From a prepared request to a durable one, against a server that answers as it likes: times, lost objects, and what may be repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.unit.test_cli_client import ID, KEY, LOSE, client_of, server

from runvoy_cli.deployment.session import Session
from runvoy_cli.input.options import Settings
from runvoy_cli.submission import submitting
from runvoy_cli.submission.submitting import Prepared, Submitted
from runvoy_cli.terminal.render import Console
from runvoy_protocol import envelope, requests
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import NO_TIME, RunRequest

__all__ = ["client_of", "server"]

REQUEST = RunRequest(
    version=1,
    deployment_id="d-1",
    request_id=ID,
    issued_at=NO_TIME,
    expires_at=NO_TIME + timedelta(minutes=1),
    command="true",
)


class Kept(Console):
    """A console that keeps what is said."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def console() -> Kept:
    settings = Settings()
    settings.verbose = True
    return Kept(settings)


@pytest.fixture
def session(client_of: Any, console: Kept) -> Session:
    return Session(client_of(), console, 600, is_embedded=False)


def sent_to(server: Any) -> list[RunRequest]:
    """What was uploaded, verified."""
    found = []
    for _, _, _, body in server.sent_to("/inbox"):
        sealed = body.partition(b'filename="request"')[2].partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        payload = envelope.verified_payload(envelope.parse(sealed, PayloadType.RUN_REQUEST), KEY.key_id, KEY.public_key)
        found.append(requests.decode(payload))
    return found


def test_a_request_that_the_inbox_took_by_a_wrong_clock_is_signed_anew(server: Any, session: Session) -> None:
    """Its refusal would come when nobody is there to see it."""
    theirs = datetime.now(UTC) + timedelta(hours=1)
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant(expires_in=9000))]
    server.answers["/inbox"] = [(204, b"", ("Date", format_datetime(theirs)))]
    submitted = submitting.send(session, REQUEST)
    first, second = sent_to(server)
    assert (first.request_id, second.request_id, submitted.execution_id) == (ID, ID, ID)
    assert abs(first.issued_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert abs(second.issued_at - theirs) < timedelta(minutes=1)


def test_a_clock_that_goes_wild_has_a_request_signed_twice_at_most(server: Any, session: Session) -> None:
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    dates = [format_datetime(datetime.now(UTC) + timedelta(days=number)) for number in range(9, 0, -1)]
    server.answers["/inbox"] = [(204, b"", ("Date", date)) for date in dates]
    submitting.send(session, REQUEST)
    assert len(sent_to(server)) == 2


def test_what_is_sent_again_is_the_same_object(server: Any, session: Session, console: Kept) -> None:
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b"")]
    submitted = submitting.send(session, REQUEST)
    submitting.send_again(session, submitted)
    assert len(server.sent_to("/inbox")) == 2
    first, second = sent_to(server)
    assert first == second
    assert f"{ID} was not decided, and is sent again" in console.said[-1]


def test_that_it_cannot_be_sent_again_ends_nothing(server: Any, session: Session, console: Kept) -> None:
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b""), (400, b"<Error><Code>No</Code></Error>")]
    submitted = submitting.send(session, REQUEST)
    submitting.send_again(session, submitted)
    assert f"{ID} is not decided yet, and cannot be sent again" in console.said[-1]


def test_that_a_batch_cannot_be_sent_again_ends_nothing_either(server: Any, session: Session, console: Kept) -> None:
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [(204, b""), (400, b"<Error><Code>No</Code></Error>")]
    batch = Submitted(ID, b"a signed batch")
    submitting.send_again(session, batch, session.client.upload_batch)
    submitting.send_again(session, batch, session.client.upload_batch)
    assert all(f"requests/{KEY.key_id}/{ID}.batch".encode() in body for *_, body in server.sent_to("/inbox"))
    assert f"{ID} is not decided yet, and cannot be sent again" in console.said[-1]


@pytest.mark.parametrize(("has_chosen_id", "answer", "retryable"), [(False, LOSE, False), (True, LOSE, True)])
def test_what_may_have_arrived_is_not_repeated_under_another_id(
    server: Any, client_of: Any, has_chosen_id: bool, answer: Any, retryable: bool
) -> None:
    server.answers["/api/v1/grants/inbox"] = [(200, server.grant())]
    server.answers["/inbox"] = [answer]
    session = Session(client_of(limit=0.05), Console(Settings()), 600, is_embedded=False)
    with (
        pytest.raises(RunvoyError, match="may or may not") as failed,
        submitting.not_to_be_repeated(session, Prepared(REQUEST, has_chosen_id)),
    ):
        submitting.send(session, REQUEST)
    assert (failed.value.code, failed.value.retryable) == (ErrorCode.UNAVAILABLE, retryable)
    assert failed.value.details["execution_id"] == ID


def test_what_never_left_may_be_repeated(server: Any, client_of: Any) -> None:
    server.answers["/api/v1/grants/inbox"] = [(503, b"")]
    session = Session(client_of(limit=0.05), Console(Settings()), 600, is_embedded=False)
    with (
        pytest.raises(RunvoyError, match="nothing was submitted") as failed,
        submitting.not_to_be_repeated(session, Prepared(REQUEST, has_chosen_id=False)),
    ):
        submitting.send(session, REQUEST)
    assert failed.value.retryable
