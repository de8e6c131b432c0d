"""From a command line to a durable request: what `run` and `submit` share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from runvoy_cli.deployment.client import Client, digest
from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.home.cache import FAR_APART
from runvoy_cli.input.problems import called_wrongly
from runvoy_cli.submission import request as request_options
from runvoy_cli.terminal.render import write_stderr
from runvoy_cli.terminal.screen import is_capable
from runvoy_protocol import requests
from runvoy_protocol.errors import ERRORS, ErrorCode, RunvoyError
from runvoy_protocol.requests import RunRequest, seal_request

if TYPE_CHECKING:
    from typer._click import Context

_SIGNINGS = 2


class Prepared(NamedTuple):
    """A request before it is sent. `has_chosen_id`: another may have the same id."""

    request: RunRequest
    has_chosen_id: bool


class Submitted(NamedTuple):
    """What is durable: the signed request, or a signed batch under its own id."""

    execution_id: str
    sealed: bytes

    @property
    def object_sha256(self) -> str:
        return digest(self.sealed)


def prepare(context: Context, made: RunRequest, session: Session) -> Prepared:
    """Address a request to the session's deployment, under the id that `--id` asks for; nothing is sent."""
    client = session.client
    id_text = request_options.id_text(context)
    request = request_options.addressed(made, id_text, client.target, client.now())
    with called_wrongly():
        requests.check(request)
    return Prepared(request, has_chosen_id=id_text is not None)


def with_default_timeout(context: Context, made: RunRequest, session: Session) -> RunRequest:
    """The request with the configuration's timeout, where the command line gave none."""
    if context.obj.timeout_seconds is not None:
        return made
    return msgspec.structs.replace(made, timeout_seconds=session.default_timeout_seconds)


@contextlib.contextmanager
def nothing_is_sent_yet() -> Iterator[None]:
    """Around reading what a request is made of, which may take as long as somebody else likes: a file may be a pipe."""
    try:
        yield
    except KeyboardInterrupt:
        say_where_it_stands("", "")
        raise


def try_out(context: Context, made: RunRequest) -> int:
    """`--dry-run`: show what the deployment would make of the request; 0, or 121 if it would refuse it."""
    from runvoy_cli.submission import dry_run

    session = open_session(context.obj, calls_are_limited=False)
    prepared = prepare(context, with_default_timeout(context, made, session), session)
    return dry_run.try_out(session, prepared.request, context.obj.json)


@contextlib.contextmanager
def not_to_be_repeated(session: Session, prepared: Prepared) -> Iterator[None]:
    """Around sending a request. If it may have arrived, an error tells programs not to repeat the command line: that would run
    the command once more, under a new id. With a chosen id it runs once, however often it is sent."""
    try:
        yield
    except RunvoyError as error:
        if session.client.may_be_uploaded and not prepared.has_chosen_id:
            error.retryable = False
        raise


def send(session: Session, request: RunRequest) -> Submitted:
    """Sign and upload; returns once the request is durable. Its times are taken now, its id stays."""
    client = session.client
    try:
        sealed = _uploaded(client, request)
    except RunvoyError as error:
        if error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL):
            raise
        hint = "" if error.hint == ERRORS[error.code].hint else error.hint
        if not client.may_be_uploaded:
            raise RunvoyError(error.code, f"{error.message}; nothing was submitted", hint, error.details) from error
        # No answer, or one from a deployment that failed half-way: the object may lie in the inbox and run later.
        raise RunvoyError(
            error.code,
            f"{error.message}; the request may or may not have been submitted",
            f"`runvoy status {request.request_id}` tells which, before you try again. {hint}".rstrip(),
            {**error.details, "execution_id": request.request_id},
        ) from error
    session.console.detail(f"{request.request_id} is durable ({len(sealed):,} bytes)")
    return Submitted(request.request_id, sealed)


def send_again(session: Session, submitted: Submitted, upload: Callable[[str, bytes], None] | None = None) -> None:
    """Upload the same object once more, for who waits for its decision and hears nothing; `upload` is that of a single request
    unless it is given. Nothing runs twice by it: id, key and content are the same, so what was decided of the first is the
    answer to this one. A failure is told and not raised, for the first may yet be decided."""
    try:
        (upload or session.client.upload)(submitted.execution_id, submitted.sealed)
    except RunvoyError as error:
        session.console.remark(
            f"{submitted.execution_id} is not decided yet, and cannot be sent again: {error.message}"
        )
    else:
        session.console.remark(
            f"{submitted.execution_id} was not decided, and is sent again; nothing is started twice by that"
        )


def _uploaded(client: Client, request: RunRequest) -> bytes:
    """The signed request, durable. Where the upload's own answer tells that its times are those of a wrong clock, it is signed
    anew at once: nobody may be there to see the refusal, and the id is the same."""
    client.ready_upload()
    for _ in range(_SIGNINGS):
        known = client.cache.offset
        now = client.now()
        current = msgspec.structs.replace(request, issued_at=now, expires_at=now + request_options.LIFETIME)
        sealed = seal_request(current, client.target.signing_key)
        client.upload(request.request_id, sealed)
        if abs(client.cache.offset - known) < FAR_APART:
            break
    return sealed


def say_where_it_stands(sending_id: str, durable_id: str, becomes: str = "goes on") -> None:
    """After Ctrl-C: whether anything was submitted, what becomes of it, and how to come back to it.

    An upload that was cut off may have arrived, so only what was never begun is called not submitted.
    """
    if sys.stderr.isatty():
        write_stderr("\r\x1b[K" if is_capable(sys.stderr) else "\n")  # in place of the ^C that stands there
    if durable_id:
        write_stderr(
            f"runvoy: left; {durable_id} {becomes}\n"
            f"hint: runvoy logs --follow {durable_id}\n"
            f"      runvoy wait {durable_id}\n"
        )
    elif sending_id:
        write_stderr(
            "runvoy: interrupted while it was being submitted; it may or may not have been\n"
            f"hint: runvoy status {sending_id} tells which\n"
        )
    else:
        write_stderr("runvoy: not submitted\n")
