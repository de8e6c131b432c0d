"""Compiled playbooks: what a client makes of a playbook's file, and what a browser, which has neither files nor compiler, makes
run requests of; and the bodies of the routes about those that a user published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from runvoy_protocol import patterns, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.instants import Instant
from runvoy_protocol.members import PlaybookPin
from runvoy_protocol.requests import DEFAULT_TIMEOUT_SECONDS, GitSource, RunRequest, is_utf8

MAX_PUBLISHED = 100
MAX_PLAYBOOK_BYTES = 128 * 1024
MAX_PUBLISHED_BYTES = 256 * 1024  # with when and by whom each was published, one item of DynamoDB (400 KB) holds them
MAX_PARAMETERS = 64
MAX_SOURCE_LENGTH = 256
VARIABLE_PREFIX = "PARAM_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")

_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,17})\Z")
_TRUTHS = {"true": "true", "yes": "true", "on": "true", "1": "true"}
_TRUTHS |= {"false": "false", "no": "false", "off": "false", "0": "false"}

Type = Literal["string", "int", "bool"]


class Parameter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a caller chooses. The value reaches the commands in `variable`; what is not given and has no default is ''."""

    name: str
    type: Type = "string"
    description: str = ""
    enum: tuple[str, ...] | None = None
    pattern: str | None = None
    default: str | None = None
    required: bool = False
    secret: bool = False

    @property
    def variable(self) -> str:
        """The variable, prefixed: a parameter that could be named PATH would be one that chooses programs."""
        return VARIABLE_PREFIX + self.name.upper()

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """All values there can be, where they are few."""
        return ("true", "false") if self.type == "bool" else self.enum

    @property
    def may_be_empty(self) -> bool:
        """Whether it may be left out with nothing in its place: then it is empty, whatever else it must be."""
        return not self.required and self.default is None

    def exact(self, text: str) -> str:
        """The value that a text stands for: `yes` is `true`."""
        return _TRUTHS.get(text.lower(), text) if self.type == "bool" else text

    def rule(self) -> str:
        """What a value must be, in words; empty if it may be anything."""
        if self.allowed is not None:
            return f"must be {' or '.join(self.allowed)}"
        if self.type == "int":
            return "must be a whole number such as 42 or -1, of 18 digits at most"
        return f"must match {self.pattern} as a whole" if self.pattern is not None else ""

    def objection(self, value: str) -> str:
        """Why the parameter cannot have this exact value, in words; empty if it can."""
        if not value and self.may_be_empty:
            return ""
        if not is_utf8(value):
            return "holds a character that cannot be sent"
        if self.pattern is not None:
            most = patterns.longest(self.pattern)
            if len(value.encode()) > most:
                return f"has more than {most} bytes, too many to be held against its pattern"
            if not patterns.matches(self.pattern, value):
                return self.rule()
        return self.objection_but_pattern(value)

    def objection_but_pattern(self, value: str) -> str:
        """The same without the pattern, for a deployment that checks thousands of values from somebody else: comparing one may
        take a second."""
        if self.type == "int" and not _INTEGER.match(value):
            return self.rule()
        if self.allowed is not None and value not in self.allowed:
            return self.rule()
        return "holds a NUL character" if "\0" in value else ""


class ParameterValue(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a parameter's value in a label."""

    parameter: str


class CompiledPlaybook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A playbook but for the values of its parameters. `command` is its whole text for `/bin/sh -c`, `env` what no parameter
    has a part in. A label's value is its parts in a row. `source` says for people where it comes from: host:folder."""

    name: str
    command: str
    source: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    image: str | None = None
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS
    cpu: int | None = None
    memory_mib: int | None = None
    git: GitSource | None = None
    labels: dict[str, tuple[str | ParameterValue, ...]] = {}


class PublishedPlaybook(msgspec.Struct, frozen=True, kw_only=True):
    """A playbook that a user published, by which key, when; `digest` is what a key is limited to (requests.playbook_digest)."""

    playbook: CompiledPlaybook
    digest: str
    key_id: str
    published_at: Instant


class PublishPlaybooks(msgspec.Struct, frozen=True, kw_only=True):
    """PUT playbooks: all playbooks that the caller has published from now on. `version` is that of the answer they saw:
    CONFLICT if it is not that any more."""

    playbooks: tuple[CompiledPlaybook, ...]
    version: int


class PlaybooksAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET playbooks: what the caller has published, by name. `version` rises with each change."""

    playbooks: tuple[PublishedPlaybook, ...]
    version: int


def to_request(playbook: CompiledPlaybook, values: Mapping[str, str]) -> RunRequest:
    """The request of a playbook with the exact value of each parameter, but for deployment, id and times."""
    variables = {one.variable: values[one.name] for one in playbook.parameters}
    return RunRequest(
        version=1,
        deployment_id="none",
        request_id=requests.NO_ID,
        issued_at=requests.NO_TIME,
        expires_at=requests.NO_TIME + requests.MAX_LIFETIME,
        command=playbook.command,
        image=playbook.image,
        env={**playbook.env, **variables},
        secrets=playbook.secrets,
        locks=playbook.locks,
        timeout_seconds=playbook.timeout_seconds,
        cpu=playbook.cpu,
        memory_mib=playbook.memory_mib,
        git=playbook.git,
        playbook=playbook.name,
        labels={name: _filled(parts, values) for name, parts in playbook.labels.items()},
        name=playbook.name,
    )


def _filled(parts: tuple[str | ParameterValue, ...], values: Mapping[str, str]) -> str:
    return "".join(part if isinstance(part, str) else values[part.parameter] for part in parts)


def pin(playbook: CompiledPlaybook) -> PlaybookPin:
    """What limits a key to this playbook: its parameters stay the caller's choice."""
    variables = tuple(sorted(one.variable for one in playbook.parameters))
    template = to_request(playbook, {one.name: "" for one in playbook.parameters})
    return PlaybookPin(name=playbook.name, digest=requests.playbook_digest(template, variables), parameters=variables)


def check(playbooks: Sequence[CompiledPlaybook]) -> None:
    """Refuse, naming every problem, what nobody's client compiled, or more of it than a user may publish."""
    if len(playbooks) > MAX_PUBLISHED:
        raise _too_large(f"{len(playbooks)} playbooks are there; at most {MAX_PUBLISHED} are allowed")
    sizes = {one.name: len(msgspec.json.encode(one)) for one in playbooks}
    for name, size in sizes.items():
        if size > MAX_PLAYBOOK_BYTES:
            raise _too_large(
                f"the playbook {name[:100]!r} has {size:,} bytes; at most {MAX_PLAYBOOK_BYTES:,} are allowed"
            )
    if sum(sizes.values()) > MAX_PUBLISHED_BYTES:
        raise _too_large(
            f"all playbooks together have {sum(sizes.values()):,} bytes; at most {MAX_PUBLISHED_BYTES:,} are allowed"
        )
    problems = [f"the playbook {one.name[:100]!r}: {text}" for one in playbooks for text in _problems(one)]
    if len(sizes) < len(playbooks):
        problems.append("two playbooks have one name")
    if problems:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "; ".join(problems[:5]))


def _too_large(message: str) -> RunvoyError:
    hint = "Publish by name those alone that are run from a browser: `runvoy playbook publish NAME… --replace`."
    return RunvoyError(ErrorCode.TOO_LARGE, message, hint)


def _problems(playbook: CompiledPlaybook) -> Iterator[str]:
    if not NAME.match(playbook.name):
        yield "this is no playbook's name"
    if len(playbook.source) > MAX_SOURCE_LENGTH or not playbook.source.isprintable():
        yield f"its source is over {MAX_SOURCE_LENGTH} characters or not printable"
    if not is_utf8(playbook.description):
        yield "its description is not valid UTF-8"
    names = [one.name for one in playbook.parameters]
    if len(names) > MAX_PARAMETERS or len(set(names)) < len(names):
        yield f"it has over {MAX_PARAMETERS} parameters, or two of one name"
    for parameter in playbook.parameters:
        yield from (f"its parameter {parameter.name[:64]!r} {text}" for text in _parameter_problems(parameter))
    if any(name.startswith(VARIABLE_PREFIX) for name in playbook.env):
        yield f"a variable's name begins with {VARIABLE_PREFIX}, as the parameters' do"
    shown = {one.name for one in playbook.parameters if not one.secret}
    for parts in playbook.labels.values():
        yield from (
            f"a label names {part.parameter[:64]!r}, which it has no parameter of that all may read"
            for part in parts
            if not isinstance(part, str) and part.parameter not in shown
        )
    try:
        requests.check(to_request(playbook, _Empty()))
    except RunvoyError as error:
        yield error.message


class _Empty(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def _parameter_problems(parameter: Parameter) -> Iterator[str]:
    if not PARAMETER_NAME.match(parameter.name):
        yield "has a name that is none"
    if not is_utf8(parameter.description):
        yield "has a description that is not valid UTF-8"
    if parameter.type != "string" and (parameter.enum is not None or parameter.pattern is not None):
        yield "has an enum or a pattern, which are for strings alone"
    if parameter.enum is not None and (
        parameter.pattern is not None
        or not parameter.enum
        or len(set(parameter.enum)) < len(parameter.enum)
        or not all(value and value.isprintable() for value in parameter.enum)
    ):
        yield "has an enum with no value, one value twice, one that is not printable, or a pattern beside it"
    if parameter.pattern is not None and (why := patterns.problem_of(parameter.pattern)):
        yield f"has a pattern that is none: {why}"
    if parameter.default is not None:
        if parameter.required or parameter.secret:
            yield "has a default, though it is required or secret"
        elif parameter.exact(parameter.default) != parameter.default:
            yield "has a default that is written otherwise"
        elif why := parameter.objection_but_pattern(parameter.default):
            yield f"has a default that is no value of it: it {why}"
