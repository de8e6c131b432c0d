"""`runvoy audit`: who did what, when, from where, and how it went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from runvoy_cli.client import Client
from runvoy_cli.options import new_app
from runvoy_cli.problems import UsageProblem
from runvoy_cli.render import columns, moment, print_json, print_line
from runvoy_cli.session import open_session
from runvoy_cli.values import execution_id
from runvoy_cli.values import moment as moment_of
from runvoy_protocol.audit import AuditEntry, AuditPage

DEFAULT_LIMIT = 50
_PAGE = 200
_KEY_SHOWN = 8
_HEADER = ("WHEN", "WHO", "KEY", "ACTION", "OUTCOME", "FROM", "EXECUTION", "ABOUT")
app = new_app()


@app.command(epilog="Example: runvoy audit --user dave@example.com --outcome refused --since 2d")
def audit(
    context: typer.Context,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only what this user did, or `reconciler`, `runner`, `platform`; an empty name for nobody known.",
        ),
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this action, e.g. create-user, admit or kill.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only since then: 10m (ago), or 2030-01-31T09:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only before then, written like --since.")] = None,
    execution: Annotated[
        str | None, typer.Option(metavar="ID", help="Only what was about this execution, from its admission on.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="Only this outcome: ok, accepted, a state, an error code; or refused, for every error code.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many to show at most.")] = DEFAULT_LIMIT,
) -> None:
    """Show the audit, newest first: every call and decision. For admins.

    With --json one record a line, with whole ids.
    """
    session = open_session(context.obj)
    now = session.client.now()
    query = {
        "user": user,
        "action": action,
        "since": _instant(since, now),
        "until": _instant(until, now),
        "execution": None if execution is None else execution_id(execution),
        "outcome": outcome,
    }
    found = _pages(session.client, {name: value for name, value in query.items() if value is not None}, limit)
    if context.obj.json:
        for entry in found:
            print_json(_as_json(entry))
        return
    if not found:
        session.console.remark("there are no such records")
        return
    for line in columns(_HEADER, [_row(entry) for entry in found]):
        print_line(line)


def _instant(text: str | None, now: datetime) -> str | None:
    if text is None:
        return None
    if not text.strip():
        raise UsageProblem("a time is empty", "Write it like 10m (ago), or 2030-01-31T09:00:00Z.")
    return moment_of(text, now).isoformat()


def _pages(client: Client, query: dict[str, str], limit: int) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    after: str | None = None
    while len(found) < limit:
        paging = {"limit": str(min(limit - len(found), _PAGE))} | ({"after": after} if after else {})
        page = client.ask(AuditPage, "GET", "/audit", query={**query, **paging})
        found.extend(page.entries)
        after = page.after
        if after is None:
            break
    return found[:limit]


def _as_json(entry: AuditEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _row(entry: AuditEntry) -> tuple[str, ...]:
    return (
        moment(entry.at),
        entry.actor or "(nobody known)",
        (entry.key_id or "")[:_KEY_SHOWN],
        entry.action,
        entry.outcome,
        entry.source,
        entry.execution_id or "",
        ": ".join(part for part in (entry.subject, entry.message) if part),
    )
