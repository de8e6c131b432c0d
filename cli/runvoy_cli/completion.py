"""What a shell is offered for the word that is being written: names that the deployment knows, and those that are fixed.

A shell calls runvoy for each Tab, so a question has little time, no stack is started for one, and whatever goes wrong leaves the
shell with nothing to offer: there is nobody to tell, in the middle of a line.
"""

from __future__ import annotations

import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from typer._click.shell_completion import CompletionItem, ShellComplete, add_completion_class, split_arg_string
from typer.core import TyperGroup

from runvoy_cli.deployment.client import Client
from runvoy_cli.input.options import Settings
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.members import Role
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from typer._click import Command, Context, Parameter

Offered = Iterable[tuple[str, str]]  # a word, and what it is

LINE_VARIABLE = "_RUNVOY_LINE"  # the line up to the cursor
WORD_VARIABLE = "_RUNVOY_WORD"  # what of its last word the shell will replace
_SECONDS = 1.5
_MOST_EXECUTIONS = 30
_CHOICE = re.compile(r"\[([a-z-]+(?:\|[a-z-]+)+)\]")
_UNFINISHED = "QUEUED,STARTING,RUNNING"


def offer(command: Command, path: str = "") -> None:
    """Have a command, and those below it, complete their words by what this module knows of them."""
    for parameter in command.params:
        asked = _source(path, parameter)
        if asked is not None:
            parameter.shell_complete = _completer(asked)  # type: ignore[method-assign,assignment]
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            offer(child, f"{path} {name}".strip())


def _completer(asked: Callable[[Settings], Offered]) -> Callable[[Context, str], list[CompletionItem]]:
    def complete(context: Context, incomplete: str) -> list[CompletionItem]:
        try:
            found = list(asked(context.obj))
        except (RunvoyError, OSError):
            return []
        return [CompletionItem(word, help=what) for word, what in found if word.startswith(incomplete)]

    return complete


def _source(path: str, parameter: Parameter) -> Callable[[Settings], Offered] | None:
    name, metavar = parameter.name or "", parameter.metavar or ""
    choice = _CHOICE.fullmatch(metavar)
    if choice is not None:
        words = choice[1].split("|")
        return lambda _settings: ((word, "") for word in words)
    if parameter.param_type_name == "option":
        return _OF_OPTIONS.get(name)
    if metavar in ("ID", "[ID]", "ID...|-"):
        return _unfinished if path == "kill" else _executions
    return _OF_ARGUMENTS.get((path, name))


def _ask(settings: Settings) -> Client | None:
    from runvoy_cli.deployment.session import running_client

    return running_client(settings, _SECONDS)


def _executions(settings: Settings, query: dict[str, str] | None = None) -> Offered:
    from runvoy_cli.deployment.short_ids import LAST
    from runvoy_cli.terminal.render import age
    from runvoy_cli.terminal.words import what_ran_in_short

    client = _ask(settings)
    if client is None:
        return
    found = list(islice(client.executions(query or {}, _MOST_EXECUTIONS), _MOST_EXECUTIONS))
    last = client.cache.last_submitted
    if last is not None and (query is None or any(one.execution_id == last for one in found)):
        yield LAST, "what was submitted from here last"
    now = datetime.now(UTC)
    for one in found:
        yield one.execution_id, f"{one.state.value} {age(one.admitted_at, now)}  {what_ran_in_short(one)}"


def _unfinished(settings: Settings) -> Offered:
    return _executions(settings, {"status": _UNFINISHED})


def _images(settings: Settings) -> Offered:
    from runvoy_protocol.images import ImagesAnswer

    client = _ask(settings)
    found = client.ask(ImagesAnswer, "GET", "/images").images if client is not None else ()
    return ((one.name, one.reference if one.reference != one.name else "") for one in found)


def _secrets(settings: Settings) -> Offered:
    from runvoy_protocol.secret_messages import SecretsAnswer

    client = _ask(settings)
    found = client.ask(SecretsAnswer, "GET", "/secrets").secrets if client is not None else ()
    return ((one.name, one.description or one.env_name) for one in found)


def _locks(settings: Settings) -> Offered:
    from runvoy_protocol.control import LocksAnswer

    client = _ask(settings)
    found = client.ask(LocksAnswer, "GET", "/locks").locks if client is not None else ()
    return ((one.name, f"{one.length:,} in its queue") for one in found)


def _users(settings: Settings) -> Offered:
    from runvoy_protocol.members import UsersAnswer

    client = _ask(settings)
    found = client.ask(UsersAnswer, "GET", "/users").users if client is not None else ()
    return ((one.name, one.role.value) for one in found if one.revoked_at is None)


def _owners(settings: Settings) -> Offered:
    yield "me", "your own"
    yield from _users(settings)


def _keys(settings: Settings) -> Offered:
    from runvoy_protocol.members import KeysAnswer

    client = _ask(settings)
    found = client.ask(KeysAnswer, "GET", "/keys").keys if client is not None else ()
    return ((one.key_id, one.name) for one in found if one.revoked_at is None)


def _profiles(_settings: Settings) -> Offered:
    from runvoy_cli.home import config, config_file

    path = config.home() / config.CONFIG_NAME
    return ((name, "") for name in config_file.load(path).profiles) if path.exists() else ()


def _playbooks(_settings: Settings) -> Offered:
    from runvoy_cli.playbooks import finding

    return ((found.name, "") for found in finding.find_all())


def _states(_settings: Settings) -> Offered:
    return ((one.value, "") for one in State)


def _roles(_settings: Settings) -> Offered:
    return ((one.value, "") for one in Role)


_OF_OPTIONS: dict[str, Callable[[Settings], Offered]] = {
    "execution": _executions,
    "holder": _executions,
    "image": _images,
    "lock": _locks,
    "only_image": _images,
    "only_lock": _locks,
    "only_playbook": _playbooks,
    "owner": _owners,
    "profile": _profiles,
    "secret": _secrets,
    "share": _users,
    "status": _states,
    "unshare": _users,
    "user": _users,
    "wanted": _roles,
}
_OF_ARGUMENTS: dict[tuple[str, str], Callable[[Settings], Offered]] = {
    ("images show", "name"): _images,
    ("images unregister", "name"): _images,
    ("keys revoke", "key_ids"): _keys,
    ("locks show", "name"): _locks,
    ("locks release", "name"): _locks,
    **{(f"secrets {verb}", "name"): _secrets for verb in ("show", "get", "update", "delete")},
    **{(f"users {verb}", "name"): _users for verb in ("show", "role", "revoke")},
    ("users role", "wanted"): _roles,
}


class _Shell(ShellComplete, ABC):
    """A shell that hands over the line up to the cursor, and takes a candidate a line."""

    source_template = ""  # `runvoy completion` prints the scripts

    def source_vars(self) -> dict[str, object]:
        return {}

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get(LINE_VARIABLE, "")
        words = split_arg_string(line)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)  # a variable before the command
        incomplete = words.pop() if len(words) > 1 and not line[-1:].isspace() else ""
        return words[1:], incomplete

    def complete(self) -> str:
        words, incomplete = self.get_completion_args()
        option = re.match(r"--[\w-]+=", incomplete)  # of `--option=value` the value alone is completed
        begun = option[0] if option is not None else ""
        items = self.get_completions(words, incomplete)
        return "\n".join(self.line(begun + str(item.value), item.help or "", incomplete) for item in items)

    def format_completion(self, item: CompletionItem) -> str:
        return str(item.value)

    @abstractmethod
    def line(self, word: str, what: str, incomplete: str) -> str:
        """A candidate for the whole word that is `incomplete`, as the shell's script takes it."""


class Bash(_Shell):
    """bash replaces only what stands behind the last `=`, `:` or `@` of a word, and quotes nothing."""

    name = "bash"

    def line(self, word: str, what: str, incomplete: str) -> str:  # noqa: ARG002 - bash shows words alone
        replaced = os.environ.get(WORD_VARIABLE, "")
        kept = incomplete[: len(incomplete) - len(replaced)] if incomplete.endswith(replaced) else ""
        return _quoted(word.removeprefix(kept))


class Zsh(_Shell):
    """zsh replaces the whole word, and shows what each candidate is; it takes `word:what`."""

    name = "zsh"

    def line(self, word: str, what: str, incomplete: str) -> str:  # noqa: ARG002 - bash's
        escaped = one_line(word).replace("\\", "\\\\").replace(":", "\\:")
        return f"{escaped}:{one_line(what)}" if what else escaped


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./~-]*", word) else shlex.quote(word)


def register() -> None:
    """Make the shells known by whose scripts runvoy is called."""
    for shell in (Bash, Zsh):
        add_completion_class(shell, shell.name)
