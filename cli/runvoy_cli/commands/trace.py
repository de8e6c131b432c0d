"""`runvoy trace`: the story of one execution, from its admission to the release of its locks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple

import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.terminal.render import columns, print_json, print_line
from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.trace import TracePage, TraceStep

_HEADER = ("TIME", "WHO", "WHAT", "OUTCOME", "ABOUT")
# Of one moment, in the order in which it happens.
_IN_ORDER = (
    "admit joined-locks locks-granted pushed start launched command-began started kill expire command-ended result"
)
_RANKS = f"{_IN_ORDER} stopped mend-lock release-lock released over".split()
app = new_app()


class _Line(NamedTuple):
    at: datetime
    rank: int
    who: str
    what: str
    outcome: str
    about: str
    source: str
    origin: str
    event_id: str | None


@app.command(epilog="Example: runvoy trace 01890a5dac96774bbcceb302099a8057")
def trace(
    context: typer.Context,
    execution: Annotated[str, typer.Argument(metavar="ID", help=f"The execution: {short_ids.HELP}.")],
) -> None:
    """Tell the story of an execution in order: admission, locks, launches, the runner's words, kills, the end, and who looked.

    It is made of the audit and of the execution's own record. With --json one step a line; `origin` says of which.
    """
    written = short_ids.read(execution)
    session = open_session(context.obj, begins=False)
    [wanted] = short_ids.resolve([written], session.client)
    lines = _lines(session.client, wanted)
    if not any(line.origin == "record" or line.what == "admit" for line in lines):
        asked = "; these calls asked for it" if lines else ""
        session.console.say(f"no request with the id {wanted} was ever decided here{asked}")
    if context.obj.json:
        for line in lines:
            print_json({name: value for name, value in line._asdict().items() if name != "rank"})
        return
    rows = [(_time(line.at), line.who, line.what, line.outcome, line.about) for line in lines]
    for text in columns(_HEADER, rows):
        print_line(text)


def _lines(client: Client, of: str) -> list[_Line]:
    lines: list[_Line] = []
    after: str | None = None
    while True:
        page = client.ask(TracePage, "GET", f"/trace/{of}", query={"after": after} if after else None)
        lines += [_of_record(step) for step in page.steps]
        lines += [_of_audit(entry) for entry in page.entries]
        after = page.after
        if after is None:
            return sorted(lines, key=_order)


def _order(line: _Line) -> tuple[datetime, int]:
    """By the millisecond that is shown, for audit and record note one moment with unlike exactness; then by what comes first."""
    return line.at.replace(microsecond=line.at.microsecond // 1000 * 1000), line.rank


def _of_audit(entry: AuditEntry) -> _Line:
    about = ": ".join(part for part in (entry.subject, entry.message) if part)
    source = f"from {entry.source}" if entry.source else ""
    return _Line(
        entry.at,
        _rank(entry.action),
        entry.actor or "(nobody known)",
        entry.action,
        entry.outcome,
        ", ".join(part for part in (about, source) if part),
        entry.source,
        "audit",
        entry.event_id,
    )


def _of_record(step: TraceStep) -> _Line:
    return _Line(step.at, _rank(step.what), step.who, step.what, "", step.about, "", "record", None)


def _rank(what: str) -> int:
    return _RANKS.index(what) if what in _RANKS else len(_RANKS)


def _time(at: datetime) -> str:
    local = at.astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S.") + f"{local.microsecond // 1000:03d}" + local.strftime(" %z")
