"""`runvoy secrets`: values that commands get as variables. One never stands on a command line, and only `get` shows it."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.input.options import Yes, new_app
from runvoy_cli.input.problems import UsageProblem, called_wrongly
from runvoy_cli.input.values import exact_text
from runvoy_cli.terminal import secret_input
from runvoy_cli.terminal.render import columns, facts, moment, print_json, print_line, whole, written_whole
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol.secret_messages import (
    EVERYONE,
    CreateSecret,
    SecretAnswer,
    SecretsAnswer,
    SecretValue,
    UpdateSecret,
    check_secret,
    check_value,
)

_HEADER = ("NAME", "VARIABLE", "OWNER", "SHARED WITH", "CHANGED", "DESCRIPTION")
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name.")]
_Description = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What it is for; everybody who may use it reads this.")
]
_Share = Annotated[
    list[str] | None,
    typer.Option(metavar="USER", help="Let this user's commands have it; '*' for everybody's. Repeatable."),
]
_TrimNewline = Annotated[
    bool, typer.Option("--trim-newline", help="Leave out the newline at the end of a value that is piped in.")
]
app = new_app()


@app.callback(epilog="Example: runvoy secrets create db-password DB_PASSWORD")
def secrets() -> None:
    """Secrets: values that a command gets as variables with `--secret NAME` of `runvoy run`, masked in its output."""


@app.command(epilog="Example: runvoy secrets create db-password DB_PASSWORD --share '*' < password.txt")
def create(
    context: typer.Context,
    name: _Name,
    env_name: Annotated[str, typer.Argument(metavar="VARIABLE", help="The variable that holds it in a command.")],
    description: _Description = None,
    share: _Share = None,
    trim_newline: _TrimNewline = False,
) -> None:
    """Create a secret of your own. The value is read from stdin; on a terminal it is asked for, twice, and not shown.

    It may have 8 bytes to 64 KiB, all but NUL, and is kept exactly as it comes. Those it is shared with can use it in
    their commands, and so read it; only you, operators and admins can change it, or `get` it.
    """
    shared_with = _users(share)
    text = exact_text(description or "", "--description")
    _check_variable(env_name)
    with called_wrongly():  # before a value is asked for
        check_secret(name, env_name, text, shared_with)
    session = open_session(context.obj)
    value = secret_input.read(name, session.console, trim_newline)
    check_value(value)
    body = CreateSecret(name=name, env_name=env_name, value=value, description=text, shared_with=shared_with)
    made = session.client.ask(SecretAnswer, "POST", "/secrets", msgspec.json.encode(body))
    _tell("created", made, context.obj.json)


@app.command(name="list", epilog="Example: runvoy secrets list")
def list_secrets(context: typer.Context) -> None:
    """List the secrets that you may use: never their values."""
    session = open_session(context.obj)
    found = session.client.ask(SecretsAnswer, "GET", "/secrets").secrets
    if context.obj.json:
        print_json(whole(found))
        return
    if not found:
        session.console.remark("there is no secret that you may use")
        return
    for line in columns(_HEADER, [_row(secret) for secret in found]):
        print_line(line)


@app.command(epilog="Example: runvoy secrets show db-password")
def show(context: typer.Context, name: _Name) -> None:
    """Show what is known of a secret, but for its value."""
    secret = _ask(open_session(context.obj), name)
    if context.obj.json:
        print_json(whole(secret))
        return
    pairs = [
        ("secret", secret.name),
        ("variable", secret.env_name),
        ("description", secret.description),
        ("owner", secret.owner),
        ("shared with", _listed(secret.shared_with) or "nobody"),
        ("created", moment(secret.created_at)),
        ("changed", f"{moment(secret.updated_at)} by {secret.updated_by}"),
    ]
    for line in facts(pairs):
        print_line(line)


@app.command(epilog="Example: runvoy secrets get tls-key > key.pem")
def get(context: typer.Context, name: _Name) -> None:
    """Print a secret's value: its exact bytes, without a newline after them. For its owner, operators and admins.

    That you read it is kept in the audit. What is not printable text is not written to a terminal.
    """
    session = open_session(context.obj)
    found = session.client.ask(SecretValue, "POST", f"{_path(name)}/value")
    text = _text_of(found.value)
    if context.obj.json:
        encoded = base64.b64encode(found.value).decode()
        print_json({"name": found.name, "env_name": found.env_name, "text": text, "base64": encoded})
        return
    if sys.stdout.isatty() and (text is None or not all(one.isprintable() or one in "\n\t" for one in text)):
        raise UsageProblem(
            f"the value of {name!r} is not printable text, and stdout is a terminal",
            f"Write it to a file: runvoy secrets get {name} > FILE. Or use --json.",
        )
    with written_whole():
        sys.stdout.flush()
        sys.stdout.buffer.write(found.value)
        sys.stdout.buffer.flush()


@app.command(epilog="Example: runvoy secrets update db-password --value-stdin < password.txt")
def update(
    context: typer.Context,
    name: _Name,
    env_name: Annotated[
        str | None, typer.Option("--env-name", metavar="VARIABLE", help="The variable that holds it in a command.")
    ] = None,
    description: _Description = None,
    share: _Share = None,
    unshare: Annotated[
        list[str] | None, typer.Option(metavar="USER", help="Let this user's commands have it no more. Repeatable.")
    ] = None,
    value_stdin: Annotated[
        bool, typer.Option("--value-stdin", help="Read a new value from stdin; on a terminal it is asked for.")
    ] = False,
    trim_newline: _TrimNewline = False,
) -> None:
    """Change a secret of yours; what is not named stays. Commands that have started keep the value they have.

    If somebody else changes it at the same time, one of you is told, and has changed nothing.
    """
    if env_name is None and description is None and not share and not unshare and not value_stdin:
        raise UsageProblem("nothing is to be changed", "Give --value-stdin, --env-name, --description or --share.")
    if trim_newline and not value_stdin:
        raise UsageProblem("--trim-newline is about a new value", "Give --value-stdin with it.")
    if env_name is not None:
        _check_variable(env_name)
    session = open_session(context.obj)
    seen = _ask(session, name)
    shared_with = _shared_after(seen, _users(share), _users(unshare))
    text = None if description is None else exact_text(description, "--description")
    with called_wrongly():
        check_secret(name, seen.env_name if env_name is None else env_name, text or "", shared_with)
    value = None
    if value_stdin:
        value = secret_input.read(name, session.console, trim_newline)
        check_value(value)
    body = UpdateSecret(
        version=seen.version,
        env_name=env_name,
        description=text,
        shared_with=shared_with if share or unshare else None,
        value=value,
    )
    changed = session.client.ask(SecretAnswer, "PUT", _path(name), msgspec.json.encode(body))
    _tell("changed", changed, context.obj.json)


@app.command(epilog="Example: runvoy secrets delete db-password --yes")
def delete(context: typer.Context, name: _Name, yes: Yes = False) -> int:
    """Delete a secret of yours, its value too. What waits to be started with it will not start; what runs goes on.

    On a terminal it is asked; without one --yes is needed. With --json the secret as it was.
    """
    if not yes and not sys.stdin.isatty():
        raise UsageProblem("there is no terminal to ask on", "Give --yes to delete the secret without being asked.")
    session = open_session(context.obj)
    seen = _ask(session, name)
    if not yes:
        session.console.say(f"{seen.name} sets {seen.env_name}; it is {seen.owner}'s")
        if not typer.confirm("Its value cannot be had again. Delete the secret?", err=True):
            session.console.say("nothing was deleted")
            return 1
    gone = session.client.ask(SecretAnswer, "DELETE", _path(name), query={"version": str(seen.version)})
    _tell("deleted", gone, context.obj.json)
    return 0


def _check_variable(text: str) -> None:
    """What is no variable's name may be the value itself: it is not shown, for this may be a CI's log."""
    if not (text.isascii() and text.isidentifier()):
        raise UsageProblem(
            "VARIABLE is no name for an environment variable (letters, digits and _ only)",
            "The value does not stand on the command line: pipe it, or type it when it is asked for.",
        )


def _users(names: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(exact_text(name, "a user's name").strip().lower() for name in names or ()))


def _shared_after(seen: SecretAnswer, added: Sequence[str], removed: Sequence[str]) -> tuple[str, ...]:
    for name in removed:
        if name in added:
            raise UsageProblem(f"--share and --unshare both name {name!r}", "Leave one of them out.")
        if name not in seen.shared_with:
            who = "everybody" if name == EVERYONE else name
            raise UsageProblem(f"{seen.name} is not shared with {who}", f"See `runvoy secrets show {seen.name}`.")
    return tuple(name for name in dict.fromkeys((*seen.shared_with, *added)) if name not in removed)


def _path(name: str) -> str:
    if not name:
        raise UsageProblem("the secret's name is empty", "See `runvoy secrets list`.")
    return f"/secrets/{quote(name, safe='')}"


def _ask(session: Session, name: str) -> SecretAnswer:
    return session.client.ask(SecretAnswer, "GET", _path(name))


def _tell(what: str, secret: SecretAnswer, as_json: bool) -> None:
    if as_json:
        print_json(whole(secret))
    else:
        print_line(one_line(f"{what} {secret.name}"))


def _text_of(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _listed(shared_with: Sequence[str]) -> str:
    return "everybody" if EVERYONE in shared_with else ", ".join(shared_with)


def _row(secret: SecretAnswer) -> tuple[str, ...]:
    changed = moment(secret.updated_at)
    return (secret.name, secret.env_name, secret.owner, _listed(secret.shared_with), changed, secret.description)
