"""From what stands in a bulk file to run requests: every field checked, every mistake told with its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from runvoy_cli.bulk.reader import Entry, Problem
from runvoy_cli.input import values
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.yaml_nodes import did_you_mean
from runvoy_cli.submission.request import addressed
from runvoy_protocol import requests
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.requests import GitSource, RunRequest

if TYPE_CHECKING:
    from runvoy_cli.deployment.target import Target


class _Wrong(Exception):
    """A value that its field cannot have; the text says what it can."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not requests.is_utf8(value):
        raise _Wrong("must be a text")
    return value


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, list):
        raise _Wrong("must be a name or a list of names")
    names = tuple(_text(one) for one in value)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _Wrong(f"{name[:64]!r} stands there a second time")
        seen.add(name)
    return names


def _command(value: object) -> tuple[str, ...] | str:
    if isinstance(value, list):
        return tuple(_text(one) for one in value)
    if not isinstance(value, str):
        raise _Wrong("must be a line for the shell, or a list of words")
    return _text(value)


def _pairs(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise _Wrong("must be `NAME: text` pairs")
    return {_text(name): _text(one) for name, one in value.items()}


def _number(convert: Callable[[str], int]) -> Callable[[object], int]:
    def converted(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise _Wrong("must be a number, or a text such as the command line takes")
        try:
            return convert(str(value))
        except UsageProblem as problem:
            raise _Wrong(f"{problem.message}. {problem.hint}") from problem

    return converted


def _choice(*allowed: str) -> Callable[[object], str]:
    def converted(value: object) -> str:
        if value not in allowed:
            raise _Wrong(f"must be {' or '.join(allowed)}")
        return str(value)

    return converted


# The name in a file → the field of the request, and what makes its value. The names are those of request files and playbooks
# (`tests/unit/test_cli_fields.py` holds the three together).
FIELDS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "command": ("command", _command),
    "image": ("image", _text),
    "env": ("env", _pairs),
    "secrets": ("secrets", _names),
    "locks": ("locks", _names),
    "if_locked": ("if_locked", _choice("wait", "fail")),
    "timeout": ("timeout_seconds", _number(values.duration)),
    "queue_timeout": ("queue_timeout_seconds", _number(values.duration)),
    "cpu": ("cpu", _number(values.cpu_units)),
    "memory": ("memory_mib", _number(values.memory_mib)),
    "git_repo": ("git", _text),
    "git_ref": ("git", _text),
    "git_path": ("git", _text),
    "labels": ("labels", _pairs),
    "name": ("name", _text),
    "id": ("request_id", _text),
    "isolation": ("isolation", _choice("process", "container")),
}
_MERGED = ("env", "labels")


class Made(NamedTuple):
    """A run of a file that can be one, but for deployment, id and times."""

    request: RunRequest
    id_text: str | None
    """What its id stands for; without it the id is a new one."""
    has_own_timeout: bool

    def addressed(self, target: Target, now: datetime, default_timeout_seconds: int | None) -> RunRequest:
        """The request to this deployment. `default_timeout_seconds` is for those that say nothing of it, where the command
        line says nothing either."""
        request = self.request
        if default_timeout_seconds is not None and not self.has_own_timeout:
            request = msgspec.structs.replace(request, timeout_seconds=default_timeout_seconds)
        return addressed(request, self.id_text, target, now)


class Maker:
    """Makes the requests of a file. `base` is what the command line says: the defaults of all."""

    def __init__(self, base: RunRequest, id_prefix: str | None) -> None:
        self._base = base
        self._id_prefix = id_prefix
        self._lines: dict[str, int] = {}  # what an id stands for → the line that has it

    def make(self, entry: Entry, number: int, problems: list[Problem]) -> Made | None:
        """The file's `number`-th run; None, and its problems, if it cannot be one."""
        found: list[Problem] = []
        changes = self._changes(entry, found)
        if "command" not in entry.fields and not any("Did you mean 'command'?" in one.text for one in found):
            found.append(Problem(entry.line, "`command` is missing"))
        id_text: str | None = None
        try:
            if not found:
                id_text = self._id_text(changes.pop("request_id", None), number)
                request = msgspec.structs.replace(self._base, **changes)
                requests.check(request)
        except (RunvoyError, UsageProblem) as error:
            found.append(Problem(entry.line, error.message))
        if not found and id_text is not None:
            earlier = self._lines.setdefault(id_text, entry.line)
            if earlier != entry.line:
                found.append(Problem(entry.line, f"its id is that of line {earlier}"))
        problems.extend(found)
        return None if found else Made(request, id_text, has_own_timeout="timeout_seconds" in changes)

    def _changes(self, entry: Entry, found: list[Problem]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name, value in entry.fields.items():
            line = entry.lines.get(name, entry.line)
            if name not in FIELDS:
                nearest = did_you_mean(name, FIELDS)
                found.append(Problem(line, f"a run has no {name[:64]!r}. {nearest}It has: {', '.join(FIELDS)}."))
                continue
            field, convert = FIELDS[name]
            if value is None and name != "command":
                continue  # nothing stands there: the default
            try:
                made = convert(value)
            except _Wrong as wrong:
                found.append(Problem(line, f"{name}: {wrong}"))
                continue
            if field == "git":
                git = changes.get("git") or self._base.git or GitSource("")
                changes["git"] = msgspec.structs.replace(git, **{name.removeprefix("git_"): made})
            else:
                changes[field] = {**getattr(self._base, field), **made} if field in _MERGED else made  # type: ignore[dict-item]
        if "git" in changes and not changes["git"].repo:
            found.append(Problem(entry.line, "git_ref and git_path need git_repo"))
        return changes

    def _id_text(self, text: str | None, number: int) -> str | None:
        if text is not None:
            return values.id_text(text)
        return None if self._id_prefix is None else f"{self._id_prefix}/{number}"
