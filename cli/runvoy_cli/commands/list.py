"""`runvoy list`: executions, newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from runvoy_cli.client import EXECUTIONS_PAGE
from runvoy_cli.options import new_app
from runvoy_cli.problems import UsageProblem
from runvoy_cli.render import Console, age, columns, print_json, print_line, ran_for
from runvoy_cli.session import NothingRanHere, open_session
from runvoy_cli.values import label_filter
from runvoy_cli.words import what_ran
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus, exit_code_of

DEFAULT_LIMIT = 20
_HEADER = ("ID", "STATE", "EXIT", "AGE", "RAN", "OWNER", "COMMAND")
app = new_app()


@app.command(epilog="Example: runvoy list --status running --label team=data")
def list_executions(
    context: typer.Context,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many to show at most.")] = DEFAULT_LIMIT,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only in this state, e.g. RUNNING. Repeatable.")
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's; `me` for your own.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="NAME[=VALUE]", help="Only with this label, or this value of it.")
    ] = None,
) -> None:
    """List executions, newest first.

    With --json one array of the executions' statuses.
    """
    query = {
        "status": ",".join(_state(text) for text in status or ()),
        "owner": owner or "",
        "label": label_filter(label) if label is not None else "",
    }
    wanted = {name: value for name, value in query.items() if value}
    try:
        session = open_session(context.obj, begins=False)
    except NothingRanHere as nothing:
        Console(context.obj).say(nothing.message)
        found = []
    else:
        found = list(islice(session.client.executions(wanted, min(limit, EXECUTIONS_PAGE)), limit))
        if not found:
            session.console.remark("there are no such executions")
    if context.obj.json:
        print_json(found)
        return
    if not found:
        return
    now = datetime.now(UTC)
    for line in columns(_HEADER, [_row(one, now) for one in found]):
        print_line(line)


def _state(text: str) -> str:
    wanted = text.strip().upper().replace("-", "_")
    if wanted not in State.__members__:
        raise UsageProblem(
            f"{text!r} is no state", f"The states are {', '.join(State.__members__)}. For several, repeat --status."
        )
    return wanted


def _row(one: ExecutionStatus, now: datetime) -> tuple[str, ...]:
    return (
        one.execution_id,
        one.state.value,
        str(exit_code_of(one)) if one.is_terminal else "",
        age(one.admitted_at, now),
        ran_for(one, now),
        one.owner,
        what_ran(one),
    )
