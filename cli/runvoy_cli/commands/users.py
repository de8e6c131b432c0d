"""`runvoy users`: who may use the deployment, and as what."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.input.options import Yes, new_app
from runvoy_cli.input.problems import UsageProblem, called_wrongly
from runvoy_cli.input.values import role
from runvoy_cli.members.tokens import hand_out
from runvoy_cli.members.words import by_name, key_state, limits_text, own_quotas_text
from runvoy_cli.terminal.render import age, columns, facts, moment, print_json, print_line, whole
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol.members import (
    ChangeRole,
    ClaimTicket,
    CreateUser,
    KeyAnswer,
    KeysAnswer,
    RevokedAnswer,
    RevokeUser,
    Role,
    UserAnswer,
    UsersAnswer,
    check_user_name,
)

_HEADER = ("USER", "ROLE", "STATE", "SINCE", "MADE BY")
_KEYS_HEADER = ("KEY", "STATE", "LAST USED", "EXPIRES", "NAME")
_ROLE_HELP = "admin, operator, developer or viewer."
app = new_app()
Name = Annotated[str, typer.Argument(metavar="USER", help="An e-mail address, or a machine's name.")]


@app.callback(epilog="Example: runvoy users create ada@example.com --role developer")
def users() -> None:
    """Users: who may use the deployment, and as what. Managing them takes an admin; operators may look."""


@app.command(epilog="Example: runvoy users create ada@example.com --role developer")
def create(
    context: typer.Context,
    name: Name,
    wanted: Annotated[str, typer.Option("--role", metavar="ROLE", help=_ROLE_HELP, show_default=False)],
) -> None:
    """Make a user, or bring a revoked one back, and print the claim token of their key.

    The token is for them alone: `runvoy claim TOKEN` on their machine makes their key. It is good once, for 15 minutes;
    should it get lost, `runvoy keys create --user USER` gives another.
    """
    asked = CreateUser(name=name.strip().lower(), role=role(wanted))
    with called_wrongly():
        check_user_name(asked.name)
    body = msgspec.json.encode(asked)
    session = open_session(context.obj)
    ticket = session.client.ask(ClaimTicket, "POST", "/users", body)
    if session.is_embedded:
        session.console.remark(
            "commands of every member run on this machine, as the user the stack runs as, and can read what that user "
            "can, this stack's keys included; `runvoy local up --containers-only` prevents that"
        )
    hand_out(session, ticket, context.obj.json)


@app.command(name="list", epilog="Example: runvoy users list")
def list_users(context: typer.Context) -> None:
    """List the users by name, revoked ones included."""
    session = open_session(context.obj)
    found = session.client.ask(UsersAnswer, "GET", "/users").users
    if context.obj.json:
        print_json(whole(found))
        return
    for line in columns(_HEADER, [_row(user) for user in found]):
        print_line(line)


@app.command(epilog="Example: runvoy users show ada@example.com")
def show(context: typer.Context, name: Name) -> None:
    """Show a user and their keys."""
    session = open_session(context.obj)
    user = _ask(session, name)
    keys = session.client.ask(KeysAnswer, "GET", "/keys", query={"user": user.name}).keys
    if context.obj.json:
        print_json({"user": whole(user), "keys": whole(keys)})
        return
    pairs = [
        ("user", user.name),
        ("role", user.role.value),
        ("since", moment(user.created_at)),
        ("made by", user.created_by),
        ("revoked", moment(user.revoked_at)),
        ("own quotas", own_quotas_text(user.quotas)),
    ]
    for line in facts(pairs):
        print_line(line)
    if keys:
        print_line("")
        for line in columns(_KEYS_HEADER, [key_row(key, session.client.now()) for key in keys]):
            print_line(line)


@app.command(name="role", epilog="Example: runvoy users role ada@example.com operator")
def change_role(
    context: typer.Context,
    name: Name,
    wanted: Annotated[str, typer.Argument(metavar="ROLE", help=_ROLE_HELP)],
) -> None:
    """Give a user another role, from now on: what waits is judged again before it starts. One admin always stays."""
    asked = _role_of(name, wanted)
    session = open_session(context.obj)
    user = _ask(session, name)
    body = msgspec.json.encode(ChangeRole(role=asked, version=user.version))
    changed = session.client.ask(UserAnswer, "POST", f"/users/{quote(user.name, safe='')}/role", body)
    if context.obj.json:
        print_json(whole(changed))
        return
    as_before = ", as before" if user.role is changed.role else ""
    print_line(one_line(f"{changed.name} is {changed.role.value} now{as_before}"))


@app.command(epilog="Example: runvoy users revoke ada@example.com --stop-all")
def revoke(
    context: typer.Context,
    name: Name,
    stop_all: Annotated[bool, typer.Option("--stop-all", help="Kill what the user has under way, too.")] = False,
    yes: Yes = False,
) -> int:
    """Revoke a user with all their keys: from now on nothing of theirs is accepted or started. What runs goes on, unless
    --stop-all is given. One admin always stays.

    On a terminal it is asked; without a terminal --yes is needed.
    """
    if not yes and not sys.stdin.isatty():
        raise UsageProblem("there is no terminal to ask on", "Give --yes to revoke the user without being asked.")
    session = open_session(context.obj)
    user = _ask(session, name)
    if not yes and not typer.confirm(f"Revoke {user.name} ({user.role.value})?", err=True):
        session.console.say("nobody was revoked")
        return 1
    body = msgspec.json.encode(RevokeUser(version=user.version, stop_all=stop_all))
    done = session.client.ask(RevokedAnswer, "POST", f"/users/{quote(user.name, safe='')}/revoke", body)
    if context.obj.json:
        print_json(whole(done))
        return 0
    count = len(done.killed)
    killed = f"; {count} execution{'' if count == 1 else 's'} killed" if stop_all else ""
    print_line(one_line(f"{done.user.name} is revoked{killed}"))
    return 0


def _role_of(name: str, wanted: str) -> Role:
    try:
        return role(wanted)
    except UsageProblem as problem:
        if name.strip().lower() not in list(Role):
            raise
        raise UsageProblem(problem.message, f"The user stands first: runvoy users role {wanted} {name}") from problem


def _ask(session: Session, name: str) -> UserAnswer:
    return by_name(name, lambda wanted: session.client.ask(UserAnswer, "GET", f"/users/{quote(wanted, safe='')}"))


def _row(user: UserAnswer) -> tuple[str, ...]:
    state = "revoked" if user.revoked_at is not None else "active"
    return (user.name, user.role.value, state, moment(user.created_at), user.created_by)


def key_row(key: KeyAnswer, now: datetime) -> tuple[str, ...]:
    used = f"{age(key.last_used_at, now)} ago" if key.last_used_at is not None else "never"
    limits = limits_text(key.limits)
    name = key.name + (f" [{limits}]" if limits else "")
    return (key.key_id, key_state(key, now), used, moment(key.expires_at) or "never", name.strip())
