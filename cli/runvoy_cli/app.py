"""The assembly: which commands there are, and the one place where an error becomes a message and an exit code.

Only the used command's module is imported: start-up is what people wait for most often.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup, TyperOption

from runvoy_cli import __version__
from runvoy_cli.input import options, problems
from runvoy_cli.input.options import Settings
from runvoy_protocol.errors import ErrorCode, RunvoyError

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter, Parameter
    from typer._click.shell_completion import CompletionItem

PROGRAM = "runvoy"
_COMPLETION_VARIABLE = "_RUNVOY_COMPLETE"
_EXIT_FAILED = 125
_WITH_A_COMMANDS_CODE = frozenset(
    {"run", "wait"}
)  # their exit code is the remote command's, so runvoy's are 120 to 125
_ONLY_LOOKS = frozenset({"wait", "logs"})  # Ctrl-C in them ends nothing but them, which is not so in `run`


COMMANDS = {
    "run": "Run a command, follow its output, exit with its code.",
    "submit": "Submit a command and print its execution id.",
    "wait": "Wait for executions and exit with their code.",
    "logs": "Print an execution's log.",
    "status": "Show what is known of an execution.",
    "list": "List executions, newest first.",
    "kill": "Have executions end.",
    "sync": "Keep a folder: submit what is dropped into it, copy logs and results there.",
    "playbook": "List, show, run and publish playbooks.",
    "cost": "What executions cost, by user, image, playbook, label or day.",
    "locks": "Who holds a lock, who waits for it; take it from its holder.",
    "users": "Who may use the deployment, and as what.",
    "quotas": "How much of the deployment users may take up, and do.",
    "keys": "Keys: yours, and those you make for machines.",
    "claim": "Make a key on this machine, with a claim token.",
    "images": "What runs may use: list, show, register, unregister.",
    "secrets": "Values that commands get as variables, masked in their output.",
    "audit": "Who did what, when, from where, and how it went; verify it.",
    "trace": "The story of one execution, step by step.",
    "web": "Open the viewer in a browser.",
    "whoami": "Show who the deployment takes you for.",
    "configure": "Set the deployment and the API key to use.",
    "health": "Whether the deployment answers; have it repaired.",
    "infra": "A deployment in an AWS account.",
    "local": "The embedded stack on this machine.",
    "version": "Print the versions of client and deployment.",
    "completion": "Print a shell's completion script.",
}


# What other programs of this kind call the like: who comes from there is told, and no name is taken twice.
_CALLED_ELSEWHERE = {
    "run": ("exec", "execute", "start"),
    "logs": ("log", "tail", "output", "attach"),
    "status": ("show", "inspect", "describe", "info", "get"),
    "list": ("ls", "ps", "history", "jobs", "executions", "runs"),
    "kill": ("cancel", "stop", "terminate", "abort", "rm"),
    "configure": ("config", "login", "init", "auth"),
    "local": ("up", "down", "daemon", "server"),
    "secrets": ("secret",),
}


class LazyGroup(TyperGroup):
    """The commands by name; a command's module is imported when the command is used."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - the base's signature
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002 - the base's signature
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        if args[0] == "help" and ctx.resilient_parsing:
            args = args[1:] or args  # what is offered is what is offered without it
        elif args[0] == "help":
            args = _of_help(args[1:])
            if not args:
                sys.stdout.write(ctx.get_help() + "\n")
                raise typer.Exit
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            from difflib import get_close_matches

            written = args[0].lower()
            nearest = get_close_matches(written, COMMANDS, n=1)
            elsewhere = next((one for one, names in _CALLED_ELSEWHERE.items() if written in names), None)
            raise problems.UsageProblem(
                f"there is no command {args[0]!r}"
                + (f"; did you mean {nearest[0]!r}?" if nearest and elsewhere is None else ""),
                (f"Perhaps `{PROGRAM} {elsewhere}` is what you look for. " if elsewhere is not None else "")
                + "`runvoy --help` lists the commands. To run one of your own: runvoy run -- COMMAND",
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        # From the table, too.
        from typer._click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=what) for name, what in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - the base's signature
        # From the table: help for all of them must not import all of them.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _of_help(words: list[str]) -> list[str]:
    """What `help` with these words is short for; nothing: the help of runvoy itself. Of `run` and `submit` what stands behind
    their name is somebody's command, which must not run for it."""
    names = list(takewhile(lambda word: not word.startswith("-"), words))
    if names[:1] == ["help"]:
        names = []
    return [*(names[:1] if names[:1] in (["run"], ["submit"]) else names), "--help"] if names else []


def _load(name: str) -> Command:
    module = importlib.import_module(f"runvoy_cli.commands.{name}")
    command = typer.main.get_command(module.app)
    command.name = name
    if hasattr(module, "prepare"):
        module.prepare(command)
    options.attach(command, getattr(module, "TIMEOUT_HELP", options.CALL_TIMEOUT_HELP))
    if _COMPLETION_VARIABLE in os.environ:
        from runvoy_cli import completion

        completion.offer(command, name)
    return command


def root() -> LazyGroup:
    """The whole program, as a group of its commands."""

    def show_version(context: Context, _parameter: Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            sys.stdout.write(f"{PROGRAM} {__version__}\n")
            raise typer.Exit

    group = LazyGroup(
        name=PROGRAM,
        help="Run commands for a team without giving the team credentials.\n\n"
        "With nothing configured, commands run on this machine; `runvoy configure` sets a deployment.",
        epilog="Example: runvoy run -- sh -c 'echo hello; exit 7'",
        rich_markup_mode=None,
        params=[
            TyperOption(
                param_decls=["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=show_version,
                help="Print the client's version.",
            )
        ],
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    options.attach(group, "A duration; what it bounds depends on the command: see its --help.")
    return group


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    settings = Settings()
    group = root()
    if _COMPLETION_VARIABLE in os.environ:
        from runvoy_cli import completion

        typer.main.get_install_completion_arguments()  # for its effect: it makes Typer's kinds of shells known
        completion.register()
        group.main(args=arguments, prog_name=PROGRAM, complete_var=_COMPLETION_VARIABLE, obj=settings)
        return 0
    if not arguments:
        sys.stderr.write(group.make_context(PROGRAM, ["--verbose"], obj=settings).get_help() + "\n")
        return problems.EXIT_USAGE
    invoked = ""
    try:
        context = group.make_context(PROGRAM, arguments, obj=settings)
        with context:
            try:
                result = group.invoke(context)
            finally:
                invoked = context.invoked_subcommand or ""
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the one boundary: everything that ends a command ends here
        return _ended_by(error, settings, invoked, arguments)
    return result if isinstance(result, int) else 0


def _open_missing_streams() -> None:
    """Where the shell closed stdin, stdout or stderr (`>&-`), Python has None, and the next file we open would take its
    number. What is written goes nowhere then, as asked, and the exit code is still the right one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _ended_by(error: BaseException, settings: Settings, invoked: str, arguments: list[str]) -> int:
    """Tell about what ended a command; the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        if isinstance(error, typer.Abort) and sys.stderr.isatty():
            sys.stderr.write("\n")  # the prompt's line is not ended yet
        elif invoked in _ONLY_LOOKS and sys.stderr.isatty() and not settings.json:
            sys.stderr.write("runvoy: left; what runs goes on\n")
        return problems.EXIT_INTERRUPTED
    if isinstance(error, (BrokenPipeError, problems.ReaderGone)):
        return _stdout_is_gone()
    if settings.debug and not isinstance(error, typer.TyperException):
        _show_traceback(error)
    from runvoy_cli.terminal import github
    from runvoy_cli.terminal.render import show_error

    as_json = settings.json or _asks_for_json(arguments)
    if isinstance(error, problems.Refused):
        _spell(error.error, settings)
        show_error(error.error, as_json)
        github.annotate(f"runvoy {invoked}".strip(), f"{error.error.message} ({error.error.code.value})")
        return error.error.exit_code
    whole_name = _whole_name(invoked, arguments) if invoked else ""
    told = _as_runvoy_error(error, whole_name)
    if told.hint == problems.SEE_HELP and invoked:
        told.hint = f"See `{PROGRAM} {whole_name} --help`."
    _spell(told, settings)
    show_error(told, as_json)
    github.annotate(f"runvoy {invoked}".strip(), f"{told.message} ({told.code.value})")
    if isinstance(told, problems.UsageProblem):
        return problems.EXIT_USAGE
    return told.exit_code if invoked in _WITH_A_COMMANDS_CODE or settings.has_a_commands_code else 1


def _spell(error: RunvoyError, settings: Settings) -> None:
    if settings.request_has_options:
        from runvoy_cli.input.advice import in_options

        error.hint = in_options(error.hint)


def _whole_name(invoked: str, arguments: list[str]) -> str:
    """The command's name, with the further word that a group's has."""
    children = getattr(_load(invoked), "commands", {})
    after = arguments[arguments.index(invoked) + 1 :] if invoked in arguments else []
    return " ".join([invoked, *islice((word for word in after if word in children), 1)])


def _show_traceback(error: BaseException) -> None:
    import traceback

    from runvoy_cli.terminal.sanitize import one_line

    # Line by line: a message may hold what a deployment or a proxy sent.
    text = "".join(traceback.format_exception(error))
    sys.stderr.write("".join(f"{one_line(line)}\n" for line in text.splitlines()))


def _as_runvoy_error(error: BaseException, invoked: str) -> RunvoyError:
    if isinstance(error, RunvoyError):
        return error
    if isinstance(error, typer.TyperException):
        from runvoy_cli.input.usage import as_usage_problem

        return as_usage_problem(error, PROGRAM, invoked)
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff":
        # The name of a file may be any bytes; whatever else is written on a command line travels as text.
        return problems.UsageProblem("a word that was given is not valid UTF-8, which is all that can be asked for")
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        hint = "Look whether it is there, whether you may use it, and whether its disk has room."
        return RunvoyError(
            ErrorCode.UNAVAILABLE, f"{place}{(error.strerror or str(error)).lower()}", hint if place else ""
        )
    return RunvoyError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")


def _asks_for_json(arguments: list[str]) -> bool:
    """Whether --json was meant in a command line that could not be parsed; a run's own words do not count."""
    with contextlib.suppress(ValueError):
        arguments = arguments[: arguments.index("--")]
    return "--json" in arguments


def _stdout_is_gone() -> int:
    """The reader went away, as `head` does: leave quietly, and keep the interpreter from flushing into nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return problems.EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
