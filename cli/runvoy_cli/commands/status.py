"""`runvoy status`: what is known of one execution."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import open_session
from runvoy_cli.following.announce import say_where_to_watch
from runvoy_cli.input.options import new_app
from runvoy_cli.terminal.render import command_text, facts, moment, print_json, print_line, ran_for, span, whole
from runvoy_cli.terminal.words import cost_text, explanation_of, image_text, lock_text, size_rows, status_json
from runvoy_protocol.control import ExecutionAnswer
from runvoy_protocol.explanations import exit_meaning
from runvoy_protocol.signed_requests import SignedRequestAnswer
from runvoy_protocol.status import ExecutionStatus, GitStatus, LockStatus, exit_code_of

app = new_app()


@app.command(epilog="Example: runvoy status 01890a5d-ac96-774b-bcce-b302099a8057")
def status(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="ID", help=f"The execution: {short_ids.HELP}.")],
    request: Annotated[
        bool, typer.Option("--request", help="Show the request as it was signed, and its receipt, instead.")
    ] = False,
) -> None:
    """Show what is known of an execution.

    Of one that waits for locks: its place in each queue, and who holds the lock since when. With --json: the status as
    the deployment publishes it and, once it has ended, the exit code that `runvoy wait` has for it, whose that is and
    what it means. Of a refused request it is the refusal that is shown, with exit code 1.

    With --request: what was signed, all of it, and the receipt, accepted or refused; with --json the values of a
    playbook's parameters too, some of which may be secret. It is shown to the owner, operators and admins.
    """
    written = short_ids.read(one)
    session = open_session(context.obj, begins=False)
    client = session.client
    [wanted] = short_ids.resolve([written], client)
    if request:
        _show_request(client, wanted, context.obj.json)
        return
    answer = client.show(wanted)
    if answer.receipt is not None:
        refusal = answer.receipt.error()
        if refusal is not None:
            raise refusal
    if context.obj.json:
        print_json(as_json(wanted, answer))
        return
    if answer.status is None:
        print_line(f"{wanted} is submitted and not yet decided")
        return
    for line in facts(block(answer.status, client.now())):
        print_line(line)
    say_where_to_watch(session, wanted)


def _show_request(client: Client, wanted: str, as_json: bool) -> None:
    from runvoy_cli.submission import signed_view

    found = client.ask(SignedRequestAnswer, "GET", f"/executions/{wanted}/request")
    if as_json:
        print_json(whole(found))
        return
    for line in signed_view.lines(found):
        print_line(line)


def as_json(wanted: str, answer: ExecutionAnswer) -> dict[str, object]:
    return {"execution_id": wanted, "state": None} if answer.status is None else status_json(answer.status)


def block(found: ExecutionStatus, now: datetime) -> list[tuple[str, str]]:
    """The status as names and values for people; an empty value is not shown."""
    why = explanation_of(found)
    return [
        ("id", found.execution_id),
        ("name", found.name or ""),
        ("state", found.state.value + (f" ({found.reason.value})" if found.reason else "")),
        ("why", why.words if why is not None else ""),
        ("hint", why.hint if why is not None else ""),
        ("message", found.message if why is None or found.message not in why.words else ""),
        ("exit code", _exit_code(found)),
        ("command", command_text(found.command)),
        ("owner", found.owner),
        ("playbook", found.playbook or ""),
        ("isolation", found.isolation + (f", image {image_text(found)}" if found.image else "")),
        ("repository", _repository(found.git)),
        ("commit", (found.git.commit or "") if found.git is not None else ""),
        *size_rows(found.isolation, found.cpu, found.memory_mib),
        ("platform", found.platform or ""),
        ("task role", found.task_role or ""),
        *(("lock", _lock(lock, found, now)) for lock in found.locks),
        ("labels", ", ".join(f"{name}={value}" for name, value in found.labels.items())),
        ("submitted", moment(found.issued_at)),
        ("admitted", moment(found.admitted_at)),
        ("started", moment(found.started_at)),
        ("ended", moment(found.ended_at)),
        ("waited", span(((found.started_at or found.ended_at or now) - found.admitted_at).total_seconds())),
        ("ran for", ran_for(found, now)),
        ("cost", cost_text(found.cost, now)),
        ("timeout", span(found.timeout_seconds)),
        ("lines", "" if found.lines is None else str(found.lines)),
        ("lost output", f"{found.lost_bytes:,} bytes" if found.lost_bytes else ""),
    ]


def _repository(git: GitStatus | None) -> str:
    if git is None:
        return ""
    return git.repo + (f" at {git.ref}" if git.ref else "") + (f", in {git.path}" if git.path else "")


def _lock(lock: LockStatus, found: ExecutionStatus, now: datetime) -> str:
    if found.is_terminal:
        return lock.name + (f" (fence {lock.fence})" if lock.fence is not None else "")
    text = lock_text(lock, now)
    return f"{lock.name}: {text}" if text else lock.name


def _exit_code(found: ExecutionStatus) -> str:
    return f"{exit_code_of(found)} ({exit_meaning(found)})" if found.is_terminal else ""
