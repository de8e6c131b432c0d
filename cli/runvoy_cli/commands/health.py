"""`runvoy health`: whether the deployment answers and gets on, and having it repaired."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec
import typer

from runvoy_cli import __version__
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.terminal.render import columns, facts, moment, print_json, print_line, span, whole, whole_fields
from runvoy_protocol.control import (
    CALL_LIFETIME,
    PROTOCOL_VERSION,
    Health,
    QueuesAnswer,
    ReconcileAnswer,
    RedriveAnswer,
    RedriveRequest,
)
from runvoy_protocol.errors import ErrorCode, RunvoyError

RECONCILED_WITHIN = timedelta(minutes=5)
SEALED_WITHIN = timedelta(hours=1)
OLDEST_SECONDS = 900.0
"""From when on something is told as wrong. The queues of batches are left out: in them it is usual to wait."""

_MIB = 1024 * 1024
_BULK = ("bulk", "ranges")
_HEADER = ("SUBJECT", "PROBLEM", "ACTION")
_QUEUES_HEADER = ("QUEUE", "DUE", "OLDEST", "LATER", "HANDLED", "DEAD")
app = new_app()


class Problem(NamedTuple):
    """What is wrong, and what to do about it."""

    problem: str
    hint: str


@app.callback(invoke_without_command=True, epilog="Example: runvoy --json health")
def health(context: typer.Context) -> int:
    """Show whether the deployment answers and gets on: versions, clocks, queues, dead letters.

    Exit code 1 if it does not answer, or if something is wrong; each problem is told with what to do. The queues are for
    operators and admins: others see the rest.
    """
    if context.invoked_subcommand is not None:
        return 0
    session = open_session(context.obj)
    found, skew, duration = session.client.health()
    queues, unanswered = _queues(session.client)
    problems = [*_problems(found, skew, queues), *unanswered]
    endpoint = session.client.target.endpoint
    if context.obj.json:
        print_json(
            {
                "status": found.status,
                "version": found.version,
                "client_version": __version__,
                "protocol": found.protocol,
                "deployment_id": found.deployment_id,
                "endpoint": endpoint,
                "time": found.time,
                "clock_skew_seconds": round(skew, 3) + 0.0,  # no -0.0
                "answered_in_seconds": round(duration, 3),
                "queues": None if queues is None else whole(queues.queues),
                "reconciled_at": None if queues is None else queues.reconciled_at,
                "audit_sealed_until": None if queues is None else queues.audit_sealed_until,
                "disk": None if queues is None else whole(queues.disk),
                "problems": [problem._asdict() for problem in problems],
            }
        )
        return 1 if problems else 0
    pairs = [
        ("status", found.status),
        ("version", found.version + ("" if found.version == __version__ else f" (this client: {__version__})")),
        ("protocol", str(found.protocol)),
        ("deployment", found.deployment_id),
        ("endpoint", endpoint + (" (this machine)" if session.is_embedded else "")),
        ("time", moment(found.time)),
        ("clock", _clock(skew, duration)),
        ("answered in", f"{duration * 1000:.0f} ms"),
        ("reconciled", "" if queues is None else _ago(queues.reconciled_at, found.time)),
        ("audit sealed", "" if queues is None else _ago(queues.audit_sealed_until, found.time)),
    ]
    for line in facts(pairs):
        print_line(line)
    if queues is not None:
        _show_queues(queues)
    for problem in problems:
        session.console.say(problem.problem)
        session.console.hint(problem.hint)
    return 1 if problems else 0


@app.command(epilog="Example: runvoy health reconcile")
def reconcile(context: typer.Context) -> None:
    """Have the deployment look for what was lost and mend it, now; print what was wrong and what was done.

    It does so by itself every minute. For operators and admins.
    """
    session = open_session(context.obj)
    done = session.client.ask(ReconcileAnswer, "POST", "/health/reconcile")
    if context.obj.json:
        print_json({"repairs": done.repairs, "left": done.left})
        return
    if done.left:
        session.console.say(
            f"the platform did not say what became of the tasks of {done.left} executions: the next round asks again"
        )
    if done.repairs:
        for line in columns(_HEADER, [(one.subject, one.problem, one.action) for one in done.repairs]):
            print_line(line)
    elif not done.left:
        print_line("nothing was wrong")


@app.command(epilog="Example: runvoy health redrive --queue starts")
def redrive(
    context: typer.Context,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this queue's; `runvoy health` names the queues.")
    ] = None,
) -> None:
    """Give dead letters another try: messages that were delivered five times and never handled. Mend the cause first.

    Up to 1,000 of each queue in one call. For operators and admins, and kept in the audit.
    """
    body = msgspec.json.encode(RedriveRequest(queue=queue))
    found = open_session(context.obj).client.ask(RedriveAnswer, "POST", "/health/redrive", body)
    if context.obj.json:
        print_json(whole_fields(found))
        return
    for one in found.queues:
        if one.redriven or one.left or queue is not None:
            left = f", {one.left} are left" if one.left else ""
            print_line(f"{one.queue}: {one.redriven} put back{left}")
    if not any(one.redriven or one.left for one in found.queues) and queue is None:
        print_line("there are no dead letters")


def _queues(client: Client) -> tuple[QueuesAnswer | None, list[Problem]]:
    """None for who may not look, and from a deployment that does not know the question. Whose key is not good is told so: the
    rest is answered to them all the same."""
    try:
        return client.ask(QueuesAnswer, "GET", "/health/queues"), []
    except RunvoyError as error:
        if error.code in (ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND):
            return None, []
        return None, [Problem(f"a signed call is refused: {error.message} ({error.code.value})", error.hint)]


def _problems(found: Health, skew: float, queues: QueuesAnswer | None) -> list[Problem]:
    problems = []
    if found.status == "low-disk":
        problems.append(
            Problem(
                f"the deployment's disk has too little room left{_room(queues)}, or cannot be written to: "
                "nothing new is taken in or started",
                "Make room on it; it goes on by itself. What ended and cannot be written down yet waits for that, and seems to run.",
            )
        )
    if found.protocol != PROTOCOL_VERSION:
        problems.append(
            Problem(
                f"the deployment speaks protocol {found.protocol}, this client {PROTOCOL_VERSION}",
                "Upgrade the older of the two: `runvoy version`.",
            )
        )
    if abs(skew) > CALL_LIFETIME.total_seconds():
        problems.append(
            Problem(
                f"the clocks of deployment and client are {abs(skew):.0f} s apart",
                "Mend the clock of this machine: signed calls are good for 60 s.",
            )
        )
    return problems if queues is None else [*problems, *_problems_of_queues(queues, found.time)]


def _room(queues: QueuesAnswer | None) -> str:
    """Of those who may see the queues only."""
    if queues is None or queues.disk is None:
        return ""
    return f" ({queues.disk.free_bytes / _MIB:,.1f} of {queues.disk.total_bytes / _MIB:,.0f} MiB)"


def _problems_of_queues(found: QueuesAnswer, now: datetime) -> list[Problem]:
    problems = []
    for queue in found.queues:
        if queue.dead:
            problems.append(
                Problem(
                    f"{queue.dead} dead letter{'s' if queue.dead > 1 else ''} in the queue {queue.name}",
                    "The stack's log (`runvoy local logs`, or the function's in CloudWatch) says why it could not be handled. "
                    "Mend that, then: runvoy health redrive",
                )
            )
        if queue.name not in _BULK and (queue.oldest_seconds or 0) > OLDEST_SECONDS:
            problems.append(
                Problem(
                    f"the queue {queue.name} does not get on: the oldest message waits for {span(queue.oldest_seconds or 0)}",
                    "Is there room to run (`runvoy list --status STARTING`)? The stack's log says what else may be wrong.",
                )
            )
    if found.reconciled_at is not None and now - found.reconciled_at > RECONCILED_WITHIN:
        problems.append(
            Problem(
                f"the reconciler's last whole round was {span((now - found.reconciled_at).total_seconds())} ago",
                "It should be one a minute: the stack's log, or that of the function `reconcile`, says what fails.",
            )
        )
    if found.audit_sealed_until is not None and now - found.audit_sealed_until > SEALED_WITHIN:
        problems.append(
            Problem(
                f"the audit is sealed until {moment(found.audit_sealed_until)} only",
                "After hours without the reconciler it catches up by itself; else its log says what is wrong with the chain.",
            )
        )
    return problems


def _show_queues(found: QueuesAnswer) -> None:
    print_line("")
    rows = [
        (
            queue.name,
            str(queue.visible),
            "" if queue.oldest_seconds is None else span(queue.oldest_seconds),
            str(queue.delayed),
            str(queue.in_flight),
            str(queue.dead),
        )
        for queue in found.queues
    ]
    for line in columns(_QUEUES_HEADER, rows):
        print_line(line)


def _ago(at: datetime | None, now: datetime) -> str:
    return "" if at is None else f"{moment(at)} ({span((now - at).total_seconds())} ago)"


def _clock(skew: float, duration: float) -> str:
    # An answer's time is from somewhere between question and answer: less than half of that is no difference.
    if abs(skew) <= duration / 2 + 0.1:
        return "as this machine's"
    return f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
