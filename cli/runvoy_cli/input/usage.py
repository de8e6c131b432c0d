"""What the parser of command lines says of a mistake, in the words of the other messages, with the way out as a hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runvoy_cli.input.problems import UsageProblem

if TYPE_CHECKING:
    import typer
    from typer._click import Command, Context

# What other programs of this kind call the like: where a group has none of that name, who comes from there is told.
_CALLED_ELSEWHERE = {
    "role": ("set", "set-role", "change", "update", "edit"),  # before `create`, which users have as well
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
    "up": ("start", "restart"),
    "update": ("edit", "change", "rotate"),
}
_MOST_NAMED = 2
_MOST_COMMANDS_NAMED = 3
# What other programs of this kind have as options, by the command that one meant: what does it here.
_OPTIONS_ELSEWHERE = (
    (
        ("run", "playbook run"),
        ("-d", "--detach", "--background", "--no-wait", "--async"),
        "`runvoy submit` leaves at once; Ctrl-C leaves a run, which goes on. ",
    ),
    (
        ("run", "submit", "playbook run"),
        ("-i", "-t", "--interactive", "--tty", "--stdin"),
        "A command has no terminal, and its stdin is empty: give it what it needs by --env, --secret or its arguments. ",
    ),
    (("list", "audit"), ("-n",), "Did you mean --limit? "),
    (("list",), ("-a", "--all"), "All are listed, whatever their state, the newest first; --limit N lists more. "),
    (("logs",), ("-n", "--lines"), "Did you mean --tail? "),
    (
        ("list", "status", "run", "submit"),
        ("-w", "--watch", "--follow", "-f"),
        "`runvoy logs --follow ID` shows the output as it comes, `runvoy wait ID` waits for the end, and `runvoy run` does both. ",
    ),
    (None, ("-o", "--output", "--format"), "With --json it prints JSON. "),
)

_EXAMPLE = "Example: "
_ALIKE = 0.65
_KIND_OF_NUMBER = {"integer", "int range", "float", "float range"}


def as_usage_problem(error: typer.TyperException, program: str, invoked: str) -> UsageProblem:
    """The parser's complaint. `invoked`: the command that was called, where the complaint itself does not know."""
    context: Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"{program} {invoked}".strip()
    see = f"See `{path} --help`."
    said = " ".join(error.format_message().split())
    possible: Sequence[str] | None = getattr(error, "possibilities", None)
    as_in = _example(context)
    if said.startswith("No such option"):
        name = str(getattr(error, "option_name", ""))
        way_out = _options_way_out(name, possible or (), context)
        if path == f"{program} playbook run" and not way_out:
            way_out = f"A parameter is given as --param {name.lstrip('-')}=VALUE. "
        return UsageProblem(f"there is no option {name}", way_out + see)
    if said in ("Missing command.", "") or said.startswith("No such command"):
        return _of_a_group(said, path, _names(context), see)
    if said.startswith("Got unexpected extra argument"):
        words = said.partition("(")[2].partition("(")[2].removesuffix(")")
        # Which may be a secret's value, or a key: this may be a CI's log.
        is_secret = path.startswith(f"{program} secrets") or re.search("rv[kc]1_", words) is not None
        shown = "" if is_secret else f": {words}"
        if path == f"{program} playbook run" and "=" in words:
            as_in = f"A parameter is given as --param NAME=VALUE. {as_in}"
        return UsageProblem(f"there are more words than this takes{shown}", as_in + see)
    if found := re.match(r"Missing (?:argument|option|parameter) '(.+?)'\.(?: Choose from: (.*))?$", said):
        is_what = getattr(getattr(error, "param", None), "help", None) or ""
        message, hint = _missing(found[1], found[2] or "", is_what)
        return UsageProblem(message, hint + as_in + see)
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


def _example(context: Context | None) -> str:
    """The example of the command's help."""
    epilog = (context.command.epilog if context is not None else None) or ""
    return f"As in: `{epilog.removeprefix(_EXAMPLE)}`. " if epilog.startswith(_EXAMPLE) else ""


def _options_way_out(name: str, possible: Sequence[str], context: Context | None) -> str:
    """Which of its own options is longer by a word, which commands have the option, if not this one, or which options it looks
    like."""
    path = context.command_path.partition(" ")[2] if context is not None else ""
    for commands, names, way_out in _OPTIONS_ELSEWHERE:
        if name in names and (commands is None or path in commands):
            return way_out
    longer = [one for one in _long_options(context) if name.startswith("--") and name[2:] in one[2:].split("-")]
    if longer:
        return f"Did you mean {' or '.join(longer)}? "
    those = _commands_with(name, context)
    if those:
        return f"{', '.join(f'`{one}`' for one in those)} {'has' if len(those) == 1 else 'have'} it, after its name. "
    near = _nearest_options(name, possible, context)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def _commands_with(name: str, context: Context | None) -> list[str]:
    """The commands that have an option of this name, those of the group in question before all others; none where so many have
    it that it says nothing."""
    if context is None or not name.startswith("--"):
        return []
    for within in (context, context.find_root()):
        found = [path for path, one in _below(within) if any(name in parameter.opts for parameter in one.params)]
        if found:
            return found if len(found) <= _MOST_COMMANDS_NAMED else []
    return []


def _below(context: Context) -> Iterator[tuple[str, Command]]:
    """All commands of a group and of its groups, each with its whole name."""
    for name in _names(context):
        command: Command = context.command.get_command(context, name)  # type: ignore[attr-defined]
        path = f"{context.command_path} {name}"
        yield path, command
        for word, child in getattr(command, "commands", {}).items():
            yield f"{path} {word}", child


def _nearest_options(name: str, possible: Sequence[str], context: Context | None) -> Sequence[str]:
    """Those that may have been meant: of a single letter what begins with it, else those that are written alike, the nearest
    first. Without their dashes, which all of them have in common."""
    if re.fullmatch(r"-[a-z]", name) and context is not None:
        return [option for option in _long_options(context) if option.startswith(f"-{name}")][:_MOST_NAMED]
    bare = {option.lstrip("-"): option for option in possible}
    near = difflib.get_close_matches(name.lstrip("-"), bare, n=_MOST_NAMED, cutoff=_ALIKE)
    return [bare[one] for one in near]


def _long_options(context: Context | None) -> Sequence[str]:
    params = context.command.params if context is not None else ()
    return [option for one in params for option in one.opts if option.startswith("--")]


def _names(context: Context | None) -> Sequence[str]:
    list_commands: Callable[[Any], Sequence[str]] | None = getattr(
        getattr(context, "command", None), "list_commands", None
    )
    return list_commands(context) if list_commands is not None else ()


def _missing(what: str, choices: str, is_what: str) -> tuple[str, str]:
    what = what.removesuffix("|-").removesuffix("...").removesuffix("…")
    hint = f"Choose {choices.replace(', ', ' or ')}. " if choices else ""
    return f"{what} is missing", hint or (f"{what}: {is_what.rstrip('.')}. " if is_what else "")


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
    (r"Option '(.+)' requires an argument", _without_value),
    (r"Invalid value for '(.+?)'(?: / '.*?')*: (.*)", _invalid),
)
