"""The global options. They may stand before or after any command's name; the innermost one wins. And what else of options several
commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup, TyperOption

from runvoy_cli.input import values
from runvoy_cli.input.problems import UsageProblem

if TYPE_CHECKING:
    from typer._click import Command, Context, Parameter

DEFAULT_TIMEOUT_SECONDS = 600
CALL_TIMEOUT_HELP = "How long a call may take, e.g. 30s, 10m, 1h30m, 600.  [default: 10m]"
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
"""Of the commands that ask."""


class Settings:
    """What the global options say. `timeout_seconds` is None where `--timeout` was not given.

    `has_a_commands_code`: the exit code is the remote command's, so runvoy's own are 120 to 125. `request_has_options`: the
    command line makes the run request, so a hint about its fields names options (`advice`).
    """

    __slots__ = ("debug", "has_a_commands_code", "json", "profile", "request_has_options", "timeout_seconds", "verbose")

    def __init__(self) -> None:
        self.debug = False
        self.has_a_commands_code = False
        self.json = False
        self.profile: str | None = None
        self.request_has_options = False
        self.timeout_seconds: int | None = None
        self.verbose = False


def attach(command: Command, timeout_help: str) -> None:
    """Give a command, and all commands below it, the global options. One whose `--timeout` means another thing than its group's
    says so by an attribute `timeout_help`."""
    command.params.extend(_global_options(timeout_help))
    if isinstance(command, TyperGroup):
        for child in command.commands.values():
            child.short_help = summary_of(child.help or "")
            attach(child, getattr(child, "timeout_help", timeout_help))


def summary_of(text: str) -> str:
    """What a list of commands says of one: the first part of its help, whole; the parser's own would be cut anywhere."""
    first = re.split(r"[:;.](?:\s|$)", text.strip(), maxsplit=1)[0]
    if first.count("(") > first.count(")"):
        first = first.rpartition("(")[0].rstrip()
    return first.replace("\n", " ") + "."


def _global_options(timeout_help: str) -> list[TyperOption]:
    return [
        TyperOption(
            param_decls=["--timeout"],
            metavar="DURATION",
            help=timeout_help,
            expose_value=False,
            callback=_storing("timeout_seconds", values.duration),
        ),
        TyperOption(
            param_decls=["--profile"],
            metavar="NAME",
            help="The profile of the config file to use.",
            expose_value=False,
            callback=_storing("profile", str),
        ),
        _flag("json", "Print JSON: results on stdout, errors on stderr."),
        _flag("verbose", "Say on stderr what is being done."),
        _flag("debug", "Show HTTP traffic, and tracebacks of faults; never keys or signatures."),
    ]


def _flag(name: str, text: str) -> TyperOption:
    return TyperOption(
        param_decls=[f"--{name}"],
        is_flag=True,
        default=False,
        help=text,
        expose_value=False,
        callback=_storing(name, bool),
    )


def _storing(name: str, convert: Callable[[Any], object]) -> Callable[[Context, Parameter, Any], None]:
    def store(context: Context, parameter: Parameter, value: Any) -> None:
        if value is None or value is False:
            return  # not given here: what an outer level said stands
        try:
            setattr(context.obj, name, convert(value))
        except UsageProblem as problem:
            raise UsageProblem(f"{parameter.opts[0]}: {problem.message}", problem.hint) from None

    return store


def new_app() -> typer.Typer:
    """A command's Typer app, set for a quick start: no rich, no completion options."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
