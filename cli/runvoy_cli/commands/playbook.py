"""`runvoy playbook`: list, show, run and publish the playbooks of the project and of the user."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runvoy_cli.commands.run import run_through
from runvoy_cli.deployment.session import open_session
from runvoy_cli.input import values
from runvoy_cli.input.options import CALL_TIMEOUT_HELP, new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import compiling, finding, publishing, view
from runvoy_cli.playbooks.model import Parameter, Playbook
from runvoy_cli.submission import request, submitting
from runvoy_cli.terminal.render import columns, print_json, print_line, write_stderr
from runvoy_protocol.playbooks import VARIABLE_PREFIX

if TYPE_CHECKING:
    from typer._click import Command

TIMEOUT_HELP = "The command's deadline, e.g. 30s, 10m, 1h30m, 600.  [default: the playbook's, else 10m]"
_PUBLISHED_HEADER = ("PLAYBOOK", "PUBLISHED", "FROM", "DESCRIPTION")
_CHANGE_HEADER = ("PLAYBOOK", "CHANGE", "FROM")
_LIST_HEADER = ("PLAYBOOK", "FROM", "PARAMETERS", "DESCRIPTION")
app = new_app()


def prepare(command: Command) -> None:
    children: dict[str, Command] = command.commands  # type: ignore[attr-defined]
    request.prepare(children["run"])
    for name in ("list", "publish"):
        children[name].timeout_help = CALL_TIMEOUT_HELP  # type: ignore[attr-defined]


@app.callback(epilog="Example: runvoy playbook run deploy --param stage=test")
def playbook() -> None:
    """Playbooks: commands of a team with their image, locks, secrets and parameters, in `.runvoy/NAME.yml` of the project or
    `playbooks/NAME.yml` of RUNVOY_HOME. The project's win."""


@app.command(name="list", epilog="Example: runvoy playbook list --json")
def list_playbooks(
    context: typer.Context,
    is_published: Annotated[
        bool, typer.Option("--published", help="List those that your browsers offer, wherever they came from.")
    ] = False,
) -> None:
    """List the playbooks there are here, and say which of them have problems."""
    if is_published:
        _list_published(context)
        return
    rows: list[tuple[str, ...]] = []
    documents: list[dict[str, object]] = []
    for found in finding.find_all():
        description, parameters, problem = "", [], None
        try:
            read = found.load()
            description, parameters = read.description, list(read.parameters)
        except UsageProblem as error:
            problem = error.message
        documents.append(
            {
                "name": found.name,
                "origin": found.origin,
                "path": str(found.path),
                "description": description,
                "parameters": parameters,
                "problem": problem,
            }
        )
        told = description if problem is None else f"not right: runvoy playbook show {found.name}"
        rows.append((found.name, found.origin, " ".join(parameters), told))
    if context.obj.json:
        print_json(documents)
    elif rows:
        for line in columns(_LIST_HEADER, rows):
            print_line(line)
    else:
        write_stderr("runvoy: there are no playbooks here; `.runvoy/NAME.yml` makes one\n")


def _list_published(context: typer.Context) -> None:
    found = publishing.published(open_session(context.obj).client).playbooks
    if context.obj.json:
        print_json([view.published_as_json(one) for one in found])
    elif found:
        for line in columns(_PUBLISHED_HEADER, map(view.published_row, found)):
            print_line(line)
    else:
        write_stderr("runvoy: no playbooks are published; `runvoy web` and `runvoy playbook publish` do it\n")


def _complete_names(incomplete: str) -> list[str]:
    try:
        return [found.name for found in finding.find_all() if found.name.startswith(incomplete)]
    except UsageProblem:
        return []  # nobody to tell: the shell is in the middle of a line


def _complete_parameters(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """`name=` for each parameter; after that the values, where they are few."""
    try:
        known = {found.name: found for found in finding.find_all()}
        # A line that ends in an option without its value cannot be parsed: then its words are all there is.
        words = [ctx.params.get("which"), *ctx.args]
        chosen = next((known[word].load() for word in words if word in known), None)
    except UsageProblem:
        return []
    if chosen is None:
        return []
    name, equals, begun = incomplete.partition("=")
    if not equals:
        return [(f"{one.name}=", one.description) for one in chosen.parameters.values() if one.name.startswith(name)]
    found = chosen.parameters.get(name)
    allowed = found.allowed or () if found is not None else ()
    return [(f"{name}={value}", "") for value in allowed if value.startswith(begun)]


_NAME = typer.Argument(metavar="NAME", help="The playbook's name.", autocompletion=_complete_names)


@app.command(epilog="Example: runvoy playbook show deploy")
def show(context: typer.Context, which: Annotated[str, _NAME]) -> None:
    """Show a playbook: what it runs, with what, and which parameters it takes. Every problem of one that is not right."""
    chosen = finding.load(which)
    if context.obj.json:
        print_json(view.as_json(chosen))
        return
    for line in view.lines(chosen):
        print_line(line)


@app.command(epilog="Example: runvoy playbook run deploy --param stage=test --dry-run")
def run(
    context: typer.Context,
    which: Annotated[str, _NAME],
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A parameter's value. Repeatable.",
            show_default=False,
            autocompletion=_complete_parameters,
        ),
    ] = None,
    param_stdin: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Read this parameter's value from stdin, its last newline aside."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=request.DRY_RUN_HELP)] = False,
) -> int:
    """Run a playbook, follow its output, and exit as `runvoy run` does: with the exit code of the command that failed, or 0.

    The options of `runvoy run` override what the playbook says: one value takes the other's place; locks, secrets, labels and
    variables come on top. RUNVOY_USER_X of the environment is not handed over: a playbook is the same on every machine.

    A secret parameter is asked for on a terminal, without echo; --param-stdin reads it from a pipe. With --dry-run none is
    needed, and none is sent.
    """
    context.obj.has_a_commands_code = context.obj.request_has_options = True
    chosen = finding.load(which)
    given = values.pairs("--param", param or ())
    if param_stdin is not None:
        given[param_stdin] = _from_stdin(chosen.parameter(param_stdin))
    if not dry_run:
        _ask_for_secrets(chosen, given)
    resolved = chosen.values_of(given, are_secrets_to_come=dry_run)
    _refuse_variables_of_parameters(chosen, request.variables_given(context))
    made = request.overridden(context, compiling.to_request(chosen, resolved))
    if not dry_run:
        return run_through(context.obj, lambda session: submitting.prepare(context, made, session))
    from runvoy_cli.submission.dry_run import try_out

    session = open_session(context.obj, calls_are_limited=False)
    head = {"playbook": chosen.name, "path": str(chosen.path)}
    addressed = submitting.prepare(context, made, session).request
    shown = None if context.obj.verbose else list(view.dry_run_lines(chosen, resolved, addressed.env))
    return try_out(session, addressed, context.obj.json, head, view.hidden(chosen), shown)


@app.command(epilog="Example: runvoy playbook publish")
def publish(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="These alone.", autocompletion=_complete_names)
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take out all others, those that came from elsewhere too.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take out those named, or all that are published; add none.")
    ] = False,
) -> int:
    """Publish playbooks to your browsers: the viewer offers them under "New run", and runs exactly what `runvoy playbook run`
    would. `runvoy web` does the same before it opens the viewer.

    Without names: all that are found here, in place of those that were published from here before. With names: these, in place
    of those of the same name. What else was published stays, unless --replace is given. Files that are not right are told of
    and left out, and the exit code is 1.
    """
    if replace and remove:
        raise UsageProblem("--replace and --remove exclude each other", "Give one of them.")
    not_right: Sequence[publishing.NotRight] = ()
    if remove:
        decide = publishing.without(names or ())
    elif names:
        chosen = [publishing.compile_one(finding.find(name)) for name in names]
        decide = publishing.alone(chosen) if replace else publishing.besides(chosen)
    else:
        here = publishing.compile_here()
        not_right = here.not_right
        decide = publishing.alone(here.by_name.values()) if replace else publishing.found_here(here)
    session = open_session(context.obj)
    changes = publishing.publish(session.client, decide)
    for one in not_right:
        session.console.warn(view.not_published(one.problem))
    if context.obj.json:
        print_json(view.changes_as_json(changes, not_right))
    elif changes:
        for line in columns(_CHANGE_HEADER, map(view.change_row, changes)):
            print_line(line)
    else:
        session.console.say("no playbooks are published; none were found here")
    return 1 if not_right else 0


def _refuse_variables_of_parameters(chosen: Playbook, given: Collection[str]) -> None:
    """What the playbook makes of its parameters would silently win over an option."""
    clash = next((one for one in given if one.startswith(VARIABLE_PREFIX) or one in chosen.exports), None)
    if clash is not None:
        raise UsageProblem(
            f"the variable {clash} is made of the playbook's parameters", "Set parameters with --param NAME=VALUE."
        )


def _from_stdin(parameter: Parameter) -> str:
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageProblem(
            f"the value of {parameter.name} on stdin is not valid UTF-8, which is all a request can carry"
        ) from error


def _ask_for_secrets(chosen: Playbook, given: dict[str, str]) -> None:
    for parameter in chosen.missing(given):
        if parameter.secret and sys.stdin.isatty():
            given[parameter.name] = typer.prompt(parameter.name, hide_input=True, err=True)
