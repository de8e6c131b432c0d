"""`--dry-run`: the request is shown, with what the deployment would make of it, and nothing is started."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import msgspec

from runvoy_cli.deployment.session import Session
from runvoy_cli.input.advice import in_options
from runvoy_cli.submission import request_view
from runvoy_cli.submission.request import LIFETIME
from runvoy_cli.terminal.render import facts, print_json, print_line, span, whole
from runvoy_cli.terminal.words import lock_text, rate_text, size_rows
from runvoy_protocol import requests
from runvoy_protocol.costs import dollars
from runvoy_protocol.dry_runs import DryRunAnswer, DryRunRequest
from runvoy_protocol.errors import OF_CLOCKS
from runvoy_protocol.exit_codes import EXIT_REFUSED
from runvoy_protocol.receipts import Resolved
from runvoy_protocol.requests import RunRequest


def try_out(
    session: Session,
    request: RunRequest,
    as_json: bool,
    head: Mapping[str, str] | None = None,
    hidden: Collection[str] = (),
    shown: Iterable[str] | None = None,
) -> int:
    """Ask what would become of a request, and tell; 0 if it would be accepted, 121 if not.

    `head` are facts to begin with. Variables that are `hidden` keep their values here: they are neither shown nor sent. `shown`
    are lines in place of the request's variables and command, for people.
    """
    blank = {name: "" if name in hidden else value for name, value in request.env.items()}
    sent = msgspec.structs.replace(request, env=blank)
    answer = _ask(session, sent)
    if answer.refused is not None and answer.refused.code in OF_CLOCKS:
        answer = _ask(session, sent)  # once more, by the deployment's clock, which the call has learned
    code = 0 if answer.allowed else EXIT_REFUSED
    if as_json:
        document = {**(head or {}), **request_view.as_json(request, hidden)}
        print_json({**document, "exit_code": code, "verdict": whole(answer)})
        return code
    for line in facts(_facts(request, answer, session.client.now(), head or {})):
        print_line(line)
    for line in request_view.command_lines(request, hidden) if shown is None else shown:
        print_line(line)
    return code


def _ask(session: Session, request: RunRequest) -> DryRunAnswer:
    """The answer to the request as it would be sent now."""
    now = session.client.now()
    current = msgspec.structs.replace(request, issued_at=now, expires_at=now + LIFETIME)
    body = DryRunRequest(request=requests.encode(current))
    return session.client.ask(DryRunAnswer, "POST", "/dry-run", msgspec.json.encode(body))


def _facts(request: RunRequest, answer: DryRunAnswer, now: datetime, head: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs = [*_verdict(answer), *((name, text) for name, text in head.items())]
    if answer.resolved is None:
        return pairs + request_view.settings(request)
    return pairs + _resolved(request, answer, answer.resolved, now)


def _verdict(answer: DryRunAnswer) -> list[tuple[str, str]]:
    if answer.refused is not None:
        why = answer.refused
        return [
            ("verdict", f"refused ({why.code.value})"),
            ("why", why.message),
            ("rule", why.rule),
            ("hint", in_options(why.hint)),
        ]
    if answer.is_known:
        return [("verdict", "allowed: this very request was accepted before, and nothing would be started anew")]
    return [("verdict", "allowed; it would wait for its locks" if answer.waits else "allowed")]


def _resolved(request: RunRequest, answer: DryRunAnswer, made: Resolved, now: datetime) -> list[tuple[str, str]]:
    """What the deployment would make of it; an empty value is not shown."""
    named = {name: text for name, text in request_view.settings(request) if name in ("git", "labels", "name")}
    image = made.image or ""
    if made.image_name not in (None, made.image):
        image = f"{made.image_name} ({made.image})"
    most = ""
    if answer.most_nanodollars is not None:
        most = f"; {dollars(answer.most_nanodollars)} if it goes on to its deadline"
    return [
        ("owner", made.owner),
        ("isolation", made.isolation),
        ("image", image),
        *size_rows(made.isolation, made.cpu, made.memory_mib),
        ("platform", made.platform or ""),
        ("task role", made.task_role or ""),
        *(("secret", f"{secret.name} as {secret.env_name}") for secret in answer.secrets),
        *(("lock", f"{lock.name}: {lock_text(lock, now) if lock.position else 'free'}") for lock in answer.locks),
        ("if locked", request.if_locked if request.locks else ""),
        ("queue timeout", span(request.queue_timeout_seconds) if request.queue_timeout_seconds else ""),
        ("deadline", f"{span(made.timeout_seconds)} after its start"),
        ("cost", rate_text(answer.rate) + most if answer.rate is not None else ""),
        *named.items(),
    ]
