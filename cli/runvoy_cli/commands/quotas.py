"""`runvoy quotas`: how much of the deployment each user may take up, and does."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import quota
from runvoy_cli.members.words import by_name, own_quotas_text
from runvoy_cli.terminal.render import columns, print_json, print_line, whole
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol.members import (
    Quotas,
    QuotasAnswer,
    QuotaUse,
    RecountAnswer,
    RecountedUser,
    RecountQuotas,
    SetQuotas,
    UserAnswer,
)

_HEADER = ("USER", "UNFINISHED", "AT MOST", "RUNNING", "AT ONCE", "LOG MIB")
_DEFAULT = "(default)"
_ANY = "any"
app = new_app()
OfUser = Annotated[str | None, typer.Option("--user", metavar="USER", help="Of this user alone.", show_default=False)]
Unfinished = Annotated[
    str | None,
    typer.Option(
        "--max-unfinished",
        metavar="N",
        help="How many may wait or run, from 0 on; `default` sets it back.",
        show_default=False,
    ),
]
Running = Annotated[
    str | None,
    typer.Option(
        "--max-running",
        metavar="N",
        help="How many may run at once, from 0 on; `default` sets it back.",
        show_default=False,
    ),
]
Log = Annotated[
    str | None,
    typer.Option(
        "--max-log-mib",
        metavar="N",
        help="How many MiB of its output the log of a run keeps, from 1 on; `default` sets it back.",
        show_default=False,
    ),
]


@app.callback(epilog="Example: runvoy quotas list")
def quotas() -> None:
    """Quotas: how many executions each user may have waiting and running, and how much the log of one keeps, so that nobody keeps
    everybody else out. Setting them takes an admin; operators may look. Yours are in `runvoy whoami`."""


@app.command(name="list", epilog="Example: runvoy quotas list")
def list_quotas(context: typer.Context) -> None:
    """List the users with what they take up and may at most. What is marked with a * is their own, the rest the default."""
    session = open_session(context.obj)
    found = session.client.ask(QuotasAnswer, "GET", "/quotas")
    if context.obj.json:
        print_json(whole(found))
        return
    default = (
        _DEFAULT,
        "",
        _number(found.max_unfinished),
        "",
        _number(found.default.max_running),
        _number(found.max_log_mib, ""),
    )
    for line in columns(_HEADER, [default, *(_row(use) for use in found.users)]):
        print_line(line)


@app.command(name="set", epilog="Example: runvoy quotas set --user ci@example.com --max-unfinished 500 --max-running 4")
def set_quotas(
    context: typer.Context,
    user: OfUser = None,
    max_unfinished: Unfinished = None,
    max_running: Running = None,
    max_log_mib: Log = None,
) -> None:
    """Set the quotas of a user, or without --user the default of all who have none of their own.

    It holds for what is admitted and started from now on: what waits and runs stays.
    """
    given = {"max_unfinished": max_unfinished, "max_running": max_running, "max_log_mib": max_log_mib}
    asked = {name: quota(text) for name, text in given.items() if text is not None}
    if not asked:
        raise UsageProblem("nothing is to be set", "Give --max-unfinished N, --max-running N or --max-log-mib N.")
    session = open_session(context.obj)
    if user is None:
        _set_default(session, asked, as_json=context.obj.json)
    else:
        _set_for(session, user, asked, as_json=context.obj.json)


@app.command(name="recount", epilog="Example: runvoy quotas recount --user ci@example.com")
def recount_quotas(
    context: typer.Context,
    user: OfUser = None,
) -> None:
    """Compare what is counted of all users, or of one, with the executions there are, and put right what is wrong.

    The deployment does so by itself every ten minutes. A count that is wrong tells of a bug, of two versions at once, or of a record
    that somebody changed: each correction is in the audit.
    """
    body = msgspec.json.encode(RecountQuotas(user=user))
    found = open_session(context.obj).client.ask(RecountAnswer, "POST", "/quotas/recount", body)
    if context.obj.json:
        print_json(whole(found))
        return
    for one in found.users:
        print_line(one_line(f"{one.user}: {_recounted(one)}"))
    if not found.users:
        print_line("every count was right")


def _recounted(one: RecountedUser) -> str:
    both = (
        ("unfinished", one.unfinished, one.unfinished_added, one.unfinished_suspected),
        ("running", one.running, one.running_added, one.running_suspected),
    )
    told = [f"{what} was {now - added:,} and is {now:,}" for what, now, added, _ in both if added]
    told += [f"{what} is {now:,}, which seems {more:,} too high" for what, now, _, more in both if more]
    later = (
        "; that is told, and put right, within half an hour"
        if one.unfinished_suspected or one.running_suspected
        else ""
    )
    return ", ".join(told) + later


def _set_default(session: Session, asked: dict[str, int | None], *, as_json: bool) -> None:
    found = session.client.ask(QuotasAnswer, "GET", "/quotas")
    body = SetQuotas(version=found.version, quotas=msgspec.structs.replace(found.default, **asked))
    changed = session.client.ask(QuotasAnswer, "PUT", "/quotas", msgspec.json.encode(body))
    if as_json:
        print_json(whole(changed))
        return
    running = _number(changed.default.max_running, "any number")
    unfinished, log_mib = _number(changed.max_unfinished), _number(changed.max_log_mib)
    print_line(f"by default at most {unfinished} unfinished, {running} running, {log_mib} MiB of log")


def _set_for(session: Session, name: str, asked: dict[str, int | None], *, as_json: bool) -> None:
    found = by_name(name, lambda wanted: session.client.ask(UserAnswer, "GET", f"/users/{quote(wanted, safe='')}"))
    body = SetQuotas(version=found.version, quotas=msgspec.structs.replace(found.quotas or Quotas(), **asked))
    path = f"/users/{quote(found.name, safe='')}/quotas"
    changed = session.client.ask(UserAnswer, "PUT", path, msgspec.json.encode(body))
    if as_json:
        print_json(whole(changed))
        return
    own = own_quotas_text(changed.quotas)
    told = f"at most {own}; for the rest the default holds" if own else "the default holds"
    print_line(one_line(f"{changed.name}: {told}"))


def _row(use: QuotaUse) -> tuple[str, ...]:
    own = use.own or Quotas()
    return (
        use.user,
        f"{use.unfinished:,}",
        _number(use.max_unfinished) + _mark(own.max_unfinished),
        f"{use.running:,}",
        _number(use.max_running) + _mark(own.max_running),
        _number(use.max_log_mib, "") + _mark(own.max_log_mib),
    )


def _mark(own: int | None) -> str:
    return "" if own is None else " *"


def _number(number: int | None, otherwise: str = _ANY) -> str:
    return otherwise if number is None else f"{number:,}"
