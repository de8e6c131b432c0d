"""`runvoy kill`: have executions end."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.following.follow import Follower
from runvoy_cli.following.progress import Progress, progress_of
from runvoy_cli.following.readers import StdoutReader
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import GaveUp, UsageProblem
from runvoy_cli.input.values import label_filter
from runvoy_cli.terminal.render import age, print_json, print_line, show_error
from runvoy_cli.terminal.words import status_json, what_ran_in_short
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.exit_codes import EXIT_GAVE_UP
from runvoy_protocol.states import TERMINAL, State
from runvoy_protocol.status import ExecutionStatus

TIMEOUT_HELP = "With --wait: how long to wait for the ends of all, then give up with 120.  [default: no limit]"
_OF_ONE = frozenset({ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.CONFLICT})  # the others may still be killed
app = new_app()


@app.command(epilog="Example: runvoy kill --wait 01890a5d-ac96-774b-bcce-b302099a8057")
def kill(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID...|-", help=f"The executions, each by {short_ids.HELP}; - reads whole ids from stdin."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="All with this label, or this value of it, that have not ended, beside the ids that are given.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return once they have ended.")] = False,
) -> int:
    """Have executions end: those that wait at once, those that run by SIGTERM, a grace, and SIGKILL.

    Returns once that is accepted. One that has ended already is left as it is, which is no failure. Exit code 1 if one of
    them could not be killed; the others are killed all the same. With --json one object for each, its status.

    Of an id that is written in short it is asked on a terminal whether that is the one; elsewhere only whole ids are taken.
    """
    if not ids and label is None:
        raise UsageProblem("there is nothing to kill", "Name executions by their ids, or with --label NAME=VALUE.")
    written = short_ids.read_all(ids or ())
    if not sys.stdin.isatty() and (short := next((one for one in written if not one.is_whole), None)):
        raise UsageProblem(
            f"to kill {short.text} it is asked which one is meant, and there is no terminal to ask on",
            f"Write its whole id; `runvoy status {short.text}` shows it.",
        )
    if label is not None:
        label_filter(label)
    session = open_session(context.obj, calls_are_limited=False, begins=False)
    wanted = short_ids.resolve(written, session.client)
    if not _are_meant(session, [one for one, by in zip(wanted, written, strict=True) if not by.is_whole]):
        session.console.say("nothing was killed")
        return 1
    if label is not None:
        labelled = [one for one in _labelled(session, label) if one not in wanted]
        wanted.extend(labelled)
        if not wanted:
            session.console.say("there are no such executions that have not ended")
    accepted = []
    code = 0
    for one in wanted:
        try:
            was_over, status = _kill(session, one)
        except RunvoyError as error:
            if error.code not in _OF_ONE:
                raise
            error.details.setdefault("execution_id", one)
            show_error(error, context.obj.json)
            code = 1
            continue
        accepted.append((was_over, status))
        if not wait:
            _tell(was_over, status, context.obj.json)
    if not wait:
        return code
    limit = context.obj.timeout_seconds
    deadline = None if limit is None else time.monotonic() + limit
    return _wait_for(session, accepted, deadline, context.obj.json) or code


def _are_meant(session: Session, execution_ids: list[str]) -> bool:
    """Whether those that were written in short are the right ones: somebody who sees what they are says so. A short id can fit
    another execution than the one in mind, which is older than what was searched, or not admitted yet."""
    shown = 0
    for one in dict.fromkeys(execution_ids):
        found = session.client.show(one)
        status = found.status
        if found.receipt is not None and found.receipt.error() is not None:
            continue  # it was refused: that is told when it is to be killed
        if status is None:
            session.console.say(f"{one} is submitted and not yet decided")
        elif status.is_terminal:
            continue  # it is left as it is
        else:
            old = age(status.admitted_at, session.client.now())
            session.console.say(
                f"{one} of {status.owner}, {status.state.value}, {old} old: {what_ran_in_short(status)}"
            )
        shown += 1
    return not shown or typer.confirm("Kill it?" if shown == 1 else "Kill them?", err=True)


def _labelled(session: Session, label: str) -> list[str]:
    """The executions with a label that have not ended."""
    query = {"label": label, "status": ",".join(state.value for state in State if state not in TERMINAL)}
    return [one.execution_id for one in session.client.executions(query)]


def _kill(session: Session, execution_id: str) -> tuple[bool, ExecutionStatus]:
    """Whether it had ended before, and how it stands now."""
    before = session.client.show(execution_id).status
    if before is not None and before.is_terminal:
        return True, before
    return False, session.client.kill(execution_id)


def _wait_for(
    session: Session, accepted: list[tuple[bool, ExecutionStatus]], deadline: float | None, as_json: bool
) -> int:
    progress, live = progress_of(session)
    code = 0
    with StdoutReader(), live:
        for was_over, status in accepted:
            last = status if status.is_terminal else _end_of(session, status, deadline, progress)
            if not last.is_terminal:
                session.console.say(f"{last.execution_id} gave up waiting; it is being killed")
                code = EXIT_GAVE_UP
            session.console.screen.erase()
            _tell(was_over, last, as_json)
    return code


def _end_of(session: Session, status: ExecutionStatus, deadline: float | None, progress: Progress) -> ExecutionStatus:
    progress.begin()
    follower = Follower(session.client, status.execution_id, deadline=deadline, on_status=progress.on_status)
    try:
        return follower.wait()
    except GaveUp:
        return follower.status or status


def _tell(was_over: bool, status: ExecutionStatus, as_json: bool) -> None:
    if as_json:
        print_json({**status_json(status), "had_ended": was_over})
    elif was_over:
        print_line(f"{status.execution_id} had already ended: {status.state.value}")
    elif not status.is_terminal:
        print_line(f"{status.execution_id} is being killed")
    elif status.state is State.STOPPED:
        print_line(f"{status.execution_id} killed" + ("" if status.started_at else " before it started"))
    else:
        print_line(f"{status.execution_id} ended by itself meanwhile: {status.state.value}")
