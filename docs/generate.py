"""Make the pages that say what code says: docs/reference.md, from the command line's tree of commands, docs/errors.md, from the
table of error codes, docs/access.md, from the routes and the rights of roles, and the schema of playbooks.

`python docs/generate.py` writes them; with `--check` it writes nothing and exits 1 if a page is not current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from runvoy_agent.core.access import ALLOWED, ALLOWED_TO_LIMITED_KEYS, Action
from runvoy_agent.handlers.control import ROUTES
from runvoy_agent.handlers.routes import Route, answer
from runvoy_agent.wiring import gc_route, stack_route
from runvoy_cli import app
from runvoy_cli.home import environment
from runvoy_cli.input import problems
from runvoy_cli.playbooks import schema
from runvoy_protocol.control import API_PREFIX, LocksAnswer
from runvoy_protocol.errors import ERRORS, ErrorCode
from runvoy_protocol.exit_codes import EXIT_CODES_OF_RUNVOY
from runvoy_protocol.explanations import CAUSES, HINTS, Cause
from runvoy_protocol.members import Role
from runvoy_protocol.states import TRANSITIONS, State

DOCS = Path(__file__).parent
_NOTICE = "<!-- Made by docs/generate.py from the code: change that, then run `just docs`. -->"


def errors_page() -> str:
    """docs/errors.md: every error code, and the exit codes they lead to."""
    lines = [
        "# Errors",
        "",
        _NOTICE,
        "",
        "Every refusal and failure carries one of these codes, in receipts, in the control API's answers and in the",
        "command line's `--json`. Match on the code: messages may be reworded. A code is never renamed or given another",
        "meaning.",
        "",
        "*Retry* says whether the very same call may succeed later. *Exit* is the exit code of `run` and `wait`; every other",
        "command exits 1, or 2 when it was called wrongly.",
        "",
        "| code | what happened | what to do | retry | exit |",
        "|---|---|---|---|---|",
    ]
    for code in ErrorCode:
        spec = ERRORS[code]
        retry = "yes" if spec.retryable else "no"
        lines.append(f"| `{code}` | {_cell(spec.meaning)} | {_cell(spec.hint)} | {retry} | {spec.exit_code} |")
    lines += [
        "",
        "## Exit codes of `run` and `wait`",
        "",
        "A command that ended by itself gives its own code: 0 to 255, 126 or 127 if it could not be executed, 128 + n if",
        "signal n ended it. For what is not the command's doing:",
        "",
        "| exit | why |",
        "|---|---|",
        *(f"| {code} | {_cell(meaning)} |" for code, meaning in sorted(EXIT_CODES_OF_RUNVOY.items())),
        "",
        "A command may exit with one of these by itself; `--json` always says which it was.",
        "",
        "## States of an execution",
        "",
        "| state | may become |",
        "|---|---|",
        *(f"| {state} | {_followers(state)} |" for state in State),
        "",
        "A state that may become nothing is final.",
        "",
        "## Why an execution waits or failed",
        "",
        "The `explanation` of a status: its `reason`, told in `words`, and a `hint` where there is something to do. The words of a",
        "refusal are its message and its hint, and its reason is its code.",
        "",
        "| reason | when | hint |",
        "|---|---|---|",
        *(f"| `{cause}` | {_cell(CAUSES[cause])} | {_cell(HINTS.get(cause, ''))} |" for cause in Cause),
    ]
    return "\n".join(lines) + "\n"


def _followers(state: State) -> str:
    return ", ".join(follower for follower in State if follower in TRANSITIONS[state]) or "nothing"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def access_page() -> str:
    """docs/access.md: who may do what, route by route."""
    roles = (Role.VIEWER, Role.DEVELOPER, Role.OPERATOR, Role.ADMIN)
    lines = [
        "# Who may do what",
        "",
        _NOTICE,
        "",
        "Every call of the control API, by the caller's role. Where things have owners the cell says whose: `own` is what is",
        "the caller's, `any` is everybody's; `yes` and `-` (refused) stand where there is no owner to tell apart. The tests",
        "drive real signed calls through every cell, with one's own and with another member's.",
        "",
        f"| call | the audit calls it | {' | '.join(roles)} | a limited key |",
        f"|---|---|{'---|' * (len(roles) + 1)}",
    ]
    for route in (*ROUTES, *(made(lambda _call: answer(LocksAnswer(locks=()))) for made in (stack_route, gc_route))):
        cells = " | ".join(_right(route, ALLOWED[role]) for role in roles)
        limited = _right(route, ALLOWED_TO_LIMITED_KEYS)
        path = route.path.removeprefix(f"{API_PREFIX}/")
        lines.append(f"| `{route.method} {path}` | `{route.name}` | {cells} | {limited} |")
    lines += [
        "",
        "`GET health` and `POST claim` are public. `GET stack` and `POST stack/gc` are the embedded stack's alone.",
        "",
        "**A limited key** may do what its column says and its user's role allows as well, whatever the role; its own is what",
        "that very key submitted, not what another key of its user did. It revokes itself and the key it replaced, no other. A",
        "run request is held to the key's limits when it is admitted: image, locks, playbook, labels.",
        "",
        "**Secrets** that are shared with a caller are theirs to see in lists and to use, and nobody's but their owner's (and",
        "operators' and admins') to read, change or delete: that is `FORBIDDEN`.",
        "",
        "**What a caller may not see** is `NOT_FOUND`, not `FORBIDDEN`: an execution, a key, or a secret of somebody else.",
        "But who may read an execution and not its request, for the values of its variables, is told so: `FORBIDDEN`.",
        "",
        "**An admin is always left**: with a key that neither expires nor is limited. Revoking or demoting the last one, or",
        "revoking the last such key, is `FORBIDDEN`.",
        "",
        "**Rights are looked at again** when an execution is about to start: by then the key may be revoked or expired, its",
        "user revoked or a viewer, or the right to a secret, or to an image that is not registered, gone. And each change that",
        "a call makes holds only if the caller's key and user are still what they were when the call was let in.",
    ]
    return "\n".join(lines) + "\n"


def _right(route: Route, allowed: Collection[Action]) -> str:
    if route.action not in allowed:
        return "-"
    if route.other is None:
        return "yes"
    return "any" if route.other in allowed else "own"


def playbook_schema_page() -> str:
    """docs/playbook.schema.json: what an editor checks a playbook by."""
    return json.dumps(schema.schema(), indent=2, ensure_ascii=False) + "\n"


def reference_page() -> str:
    """docs/reference.md: every command with its usage, arguments and options, the exit codes, and the variables."""
    root = app.root()
    context = root.make_context(app.PROGRAM, ["--verbose"], obj=None, resilient_parsing=True)
    commands = list(_commands(root, context))
    of_every_command = {"timeout", *(one.name for one in commands[0][0].params if one.name in _GLOBAL)}
    lines = [
        "# Reference of the command line",
        "",
        _NOTICE,
        "",
        "What `--help` says, on one page. What each command prints with `--json`, and what holds beyond its options:",
        "[cli.md](cli.md). Codes of errors: [errors.md](errors.md).",
        "",
        *(f"- {_link(own)}: {_first(command)}" for command, own in commands),
        "",
        "## Options of every command",
        "",
        "They stand before or after the command's name, and, as all options, before the command to run.",
        "",
        *_table("option", [one for one in root.params if one.name in of_every_command], context),
        "| `-h, --help` | Show what the command does, and its options. |",
        "",
        f"`{app.PROGRAM} --version` prints the client's version.",
    ]
    for command, command_context in commands:
        lines += ["", *_command_section(command, command_context)]
    lines += ["", *_exit_codes(), "", *_variables()]
    return "\n".join(lines) + "\n"


_GLOBAL = frozenset({"timeout", "profile", "json", "verbose", "debug"})


def _commands(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Every command below a group with a context that knows its full name, in the order of the help."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        own = type(context)(command, info_name=name, parent=context)
        yield command, own
        if hasattr(command, "list_commands"):
            yield from _commands(command, own)


def _command_section(command: Any, context: Any) -> list[str]:
    lines = [f"## {context.command_path}", "", f"`{' '.join((context.command_path, *_usage(command, context)))}`", ""]
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    lines += [line for part in paragraphs for line in (*_wrapped(part), "")]
    arguments = [one for one in command.params if one.param_type_name == "argument" and one.help]
    if arguments:
        lines += [*_table("argument", arguments, context), ""]
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in _GLOBAL]
    timeout = next(one for one in command.params if one.name == "timeout")
    if hasattr(command, "commands"):
        children = [own for _child, own in _commands(command, context)]
        lines += [f"Its commands: {', '.join(_link(own) for own in children)}.", ""]
    if not hasattr(command, "commands") or command.invoke_without_command:
        lines += [*_table("option", [*options, timeout], context), ""]
    example = (command.epilog or "").removeprefix("Example: ")
    lines += [f"For example: `{example}`"]
    return lines


def _link(context: Any) -> str:
    return f"[`{context.command_path}`](#{context.command_path.replace(' ', '-')})"


def _usage(command: Any, context: Any) -> list[str]:
    return [piece for piece in command.collect_usage_pieces(context) if piece]


def _first(command: Any) -> str:
    """The first sentence of a command's help, without the dot."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"\. |\.$", text)[0]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 125, break_long_words=False, break_on_hyphens=False)


def _table(what: str, parameters: list[Any], context: Any) -> list[str]:
    rows = [f"| {what} | what |", "|---|---|"]
    for one in parameters:
        name, text = one.get_help_record(context)
        rows.append(f"| `{_cell(name)}` | {_cell(' '.join(text.split()))} |")
    return rows


def _exit_codes() -> list[str]:
    ended = ", ".join(f"{code} {meaning}" for code, meaning in sorted(EXIT_CODES_OF_RUNVOY.items()))
    return [
        "## Exit codes",
        "",
        "| exit | of | what |",
        "|---|---|---|",
        "| 0 | every command | It went well. |",
        "| 1 | every command but `run`, `wait`, `playbook run` | It failed; the error's code says why. |",
        f"| {problems.EXIT_USAGE} | every command | It was called wrongly, or the configuration is wrong: nothing was sent. |",
        "| 0 to 255 | `run`, `wait`, `playbook run`, `sync --once` | The command's own: 126 or 127 if it could not be executed, "
        "128 + n if signal n ended it. |",
        f"| {min(EXIT_CODES_OF_RUNVOY)} to {max(EXIT_CODES_OF_RUNVOY)} | the same, and `submit` where it is refused "
        f"| Not the command's: {ended}. |",
        f"| {problems.EXIT_INTERRUPTED} | every command | Ctrl-C. |",
        f"| {problems.EXIT_BROKEN_PIPE} | every command | Whoever read stdout went away. |",
    ]


def _variables() -> list[str]:
    return [
        "## Environment variables",
        "",
        "What runvoy reads:",
        "",
        "| variable | what |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in environment.READ.items()),
        "",
        "What a command finds, beside what it was given:",
        "",
        "| variable | what |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in environment.GIVEN.items()),
        "",
        "What the variable of a secret means for cloning: [git.md](git.md#private-repositories).",
    ]


PAGES: Mapping[str, Callable[[], str]] = {
    "reference.md": reference_page,
    "errors.md": errors_page,
    "access.md": access_page,
    "playbook.schema.json": playbook_schema_page,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, render in PAGES.items():
        path, page = DOCS / name, render()
        if path.exists() and path.read_text() == page:
            continue
        if check:
            print(f"docs/{name} is not current: run `just docs` (python docs/generate.py)", file=sys.stderr)
            stale += 1
        else:
            path.write_text(page)
            print(f"wrote docs/{name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
