"""`runvoy list`: executions, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from runvoy_cli.deployment.client import EXECUTIONS_PAGE, Client
from runvoy_cli.deployment.session import NothingRanHere, open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import check_moments, label_filter, moment
from runvoy_cli.terminal.render import Console, age, columns, print_json, print_line, ran_for
from runvoy_cli.terminal.words import what_ran
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
        list[str] | None,
        typer.Option(metavar="STATE", help="Only in this state, e.g. RUNNING. Repeatable, or several with commas."),
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's; `me` for your own.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="NAME[=VALUE]", help="Only with this label, or this value of it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only admitted since then: 10m (ago), or 2030-01-31T09:00:00Z."),
    ] = None,
) -> None:
    """List executions, newest first.

    With --json one array of the executions' statuses.
    """
    check_moments(since)
    query = {
        "status": ",".join(_state(one) for text in status or () for one in text.split(",")),
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
        found = list(islice(_newest(session.client, wanted, limit, since), limit + 1))
        if not found:
            session.console.remark("there are no such executions")
    shown = found[:limit]
    if context.obj.json:
        print_json(shown)
    elif shown:
        now = datetime.now(UTC)
        for line in columns(_HEADER, [_row(one, now) for one in shown]):
            print_line(line)
    if len(found) > limit:
        Console(context.obj).remark(f"these are the newest {limit:,}; --limit shows more")


def _newest(client: Client, query: dict[str, str], limit: int, since: str | None) -> Iterator[ExecutionStatus]:
    """The executions that fit the query, newest first; no more than needs be is asked for if `limit` and one are taken."""
    page_size = min(limit + 1, EXECUTIONS_PAGE)
    if since is None:
        yield from client.executions(query, page_size)
        return
    begins = moment(since, client.now())
    # What was admitted since then was updated since then: that spares the deployment to look further back.
    for one in client.executions({**query, "updated_since": begins.isoformat()}, page_size):
        if one.admitted_at >= begins:
            yield one


def _state(text: str) -> str:
    wanted = text.strip().upper().replace("-", "_")
    if wanted not in State.__members__:
        raise UsageProblem(
            f"{text!r} is no state",
            f"The states are {', '.join(State.__members__)}. For several, put commas between them.",
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
