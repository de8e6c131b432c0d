"""What the parser of command lines says of a mistake, in the words of the other messages, with the way out as a hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runvoy_cli.input.problems import UsageProblem

if TYPE_CHECKING:
    import typer
    from typer._click import Context

# What other programs of this kind call the like: where a group has none of that name, who comes from there is told.
_CALLED_ELSEWHERE = {
    "apply": ("deploy", "create", "up", "upgrade", "update"),
    "create": ("add", "new", "set", "put", "invite"),
    "delete": ("rm", "remove", "del"),
    "destroy": ("delete", "down", "rm", "remove"),
    "down": ("stop",),
    "register": ("add", "create", "push"),
    "release": ("unlock", "free", "force-unlock", "rm", "delete"),
    "revoke": ("rm", "remove", "delete", "disable"),
    "rotate": ("renew", "roll"),
    "show": ("get", "describe", "inspect", "view", "validate", "lint", "check"),
    "list": ("ls", "show", "get", "status"),  # after `show`: where a group has both, that is nearer
    "template": ("synth", "print"),
    "unregister": ("rm", "remove", "delete"),
    "up": ("start",),
    "update": ("edit", "change", "rotate"),
}
_MOST_NAMED = 2
_ALIKE = 0.65
_KIND_OF_NUMBER = {"integer", "int range", "float", "float range"}


def as_usage_problem(error: typer.TyperException, program: str, invoked: str) -> UsageProblem:
    """The parser's complaint. `invoked`: the command that was called, where the complaint itself does not know."""
    context: Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"{program} {invoked}".strip()
    see = f"See `{path} --help`."
    said = " ".join(error.format_message().split())
    possible: Sequence[str] | None = getattr(error, "possibilities", None)
    if said.startswith("No such option"):
        name = str(getattr(error, "option_name", ""))
        near = _nearest_options(name, possible or (), context)
        return UsageProblem(f"there is no option {name}", (f"Did you mean {' or '.join(near)}? " if near else "") + see)
    if said in ("Missing command.", "") or said.startswith("No such command"):
        return _of_a_group(said, path, _names(context), see)
    if said.startswith("Got unexpected extra argument"):
        words = said.partition("(")[2].partition("(")[2].removesuffix(")")
        # Which may be a secret's value, or a key: this may be a CI's log.
        is_secret = path.startswith(f"{program} secrets") or re.search("rv[kc]1_", words) is not None
        shown = "" if is_secret else f": {words}"
        hint = see
        if path == f"{program} playbook run" and "=" in words:
            hint = f"A parameter is given as --param NAME=VALUE. {see}"
        return UsageProblem(f"there are more words than this takes{shown}", hint)
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
    elsewhere = next((name for name, theirs in _CALLED_ELSEWHERE.items() if name in names and wrong[1] in theirs), None)
    near = f"Did you mean {wrong[2]}? " if wrong[2] else ""
    if elsewhere is not None:
        near = f"Perhaps `{path} {elsewhere}` is what you look for. "
    elif not near and path.endswith(" playbook"):
        near = f"A playbook is run with `{path} run NAME`. "
    return UsageProblem(f"there is no command '{path.partition(' ')[2]} {wrong[1]}'", near + has + see)


def _nearest_options(name: str, possible: Sequence[str], context: Context | None) -> Sequence[str]:
    """Those that may have been meant: of a single letter what begins with it, else those that are written alike, the nearest
    first. Without their dashes, which all of them have in common."""
    if re.fullmatch(r"-[a-z]", name) and context is not None:
        long_names = [option for one in context.command.params for option in one.opts if option.startswith("--")]
        return [option for option in long_names if option.startswith(f"-{name}")][:_MOST_NAMED]
    bare = {option.lstrip("-"): option for option in possible}
    near = difflib.get_close_matches(name.lstrip("-"), bare, n=_MOST_NAMED, cutoff=_ALIKE)
    return [bare[one] for one in near] or possible[:1]


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
