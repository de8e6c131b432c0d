"""What the parser of command lines says of a mistake, in the words of the other messages, with the way out as a hint."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runvoy_cli.problems import UsageProblem

if TYPE_CHECKING:
    import typer
    from typer._click import Context

_KIND_OF_NUMBER = {"integer", "int range", "float", "float range"}


def as_usage_problem(error: typer.TyperException, program: str, invoked: str) -> UsageProblem:
    """The parser's complaint. `invoked`: the command that was called, where the complaint itself does not know."""
    context: Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"{program} {invoked}".strip()
    see = f"See `{path} --help`."
    said = " ".join(error.format_message().split())
    possible: Sequence[str] | None = getattr(error, "possibilities", None)
    if said.startswith("No such option"):
        near = f"Did you mean {' or '.join(sorted(possible))}? " if possible else ""
        return UsageProblem(f"there is no option {getattr(error, 'option_name', '')}", near + see)
    if said in ("Missing command.", "") or said.startswith("No such command"):
        return _of_a_group(said, path, _names(context), see)
    if said.startswith("Got unexpected extra argument"):
        words = said.partition("(")[2].partition("(")[2].removesuffix(")")
        # Which may be a secret's value, or a key: this may be a CI's log.
        is_secret = path.startswith(f"{program} secrets") or re.search("rv[kc]1_", words) is not None
        shown = "" if is_secret else f": {words}"
        return UsageProblem(f"there are more words than this takes{shown}", see)
    for pattern, told in _SAID:
        if found := re.match(pattern, said):
            message, hint = told(*found.groups(""))
            return UsageProblem(message, f"{hint} {see}".strip())
    return UsageProblem(said[:1].lower() + said[1:].removesuffix("."), see)


def _of_a_group(said: str, path: str, names: Sequence[str], see: str) -> UsageProblem:
    """A group's command is missing, or there is none of that name."""
    has = f"`{path}` has: {', '.join(names)}. " if names else ""
    wrong = re.match(r"No such command '(.*?)'\.(?: Did you mean (.*)\?)?", said)
    if wrong is None:
        return UsageProblem(f"`{path}` needs a further word: what to do", has + see)
    near = f"Did you mean {wrong[2]}? " if wrong[2] else ""
    return UsageProblem(f"there is no command '{path.partition(' ')[2]} {wrong[1]}'", near + has + see)


def _names(context: Context | None) -> Sequence[str]:
    list_commands: Callable[[Any], Sequence[str]] | None = getattr(
        getattr(context, "command", None), "list_commands", None
    )
    return list_commands(context) if list_commands is not None else ()


def _missing(what: str, choices: str) -> tuple[str, str]:
    what = what.removesuffix("|-").removesuffix("...")
    return f"{what} is missing", f"Choose {choices.replace(', ', ' or ')}." if choices else ""


def _without_value(option: str) -> tuple[str, str]:
    return f"{option} needs a value", ""


def _invalid(what: str, why: str) -> tuple[str, str]:
    kind = re.fullmatch(r"('.*') is not a valid (.*?)\.?", why)
    if kind is not None and kind[2] in _KIND_OF_NUMBER:
        why = f"{kind[1]} is no {'whole number' if 'int' in kind[2] else 'number'}"
    least = re.fullmatch(r"(\S+) is not in the range x>=(\d+)\.?", why)
    if least is not None:
        why = f"{least[1]} is less than {least[2]}"
    return f"{what}: {why.removesuffix('.')}", ""


_SAID: Sequence[tuple[str, Callable[..., tuple[str, str]]]] = (
    (r"Missing (?:argument|option|parameter) '(.+?)'\.(?: Choose from: (.*))?$", _missing),
    (r"Option '(.+)' requires an argument", _without_value),
    (r"Invalid value for '(.+?)'(?: / '.*?')*: (.*)", _invalid),
)
