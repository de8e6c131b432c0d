"""The options of `run`, `submit` and `playbook run`, and the run request they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from typer.core import TyperCommand, TyperOption

from runvoy_cli.input import values
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import git_sources, ids
from runvoy_protocol.codec import MAX_ENVELOPE_BYTES
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import NO_ID, NO_TIME, GitSource, RunRequest, check, encode

if TYPE_CHECKING:
    from typer._click import Command, Context, Parameter

    from runvoy_cli.deployment.target import Target

LIFETIME = timedelta(minutes=15)
_SEAL_BYTES = 512  # more than a signature and what names it take
_META = "runvoy.request"
_LITERAL = "runvoy.literal"


class LiteralCommand(TyperCommand):
    """A command whose words after its options belong to another program, `--help` too."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = ctx.params.get("words") or ()
        # Whoever wrote `--` said where the command begins; then nothing in it looks like a slip.
        before = len(given) - len(words) - 1
        ctx.meta[_LITERAL] = before >= 0 and given[before] == "--"
        return rest


class _Spec(NamedTuple):
    field: str
    metavar: str
    help: str
    convert: Callable[[Any], Any]
    is_list: bool = False


def _choice(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise UsageProblem(f"{text!r} is none of {', '.join(allowed)}", "Choose one of them.")
        return text

    return convert


def _text(text: str) -> str:
    return values.exact_text(text, "the value")


def _texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_text(text) for text in texts))


_OPTIONS = (
    _Spec("image", "NAME", "The image to run in; without it the deployment's default.", _text),
    _Spec("lock", "NAME", "A lock to hold while running. Repeatable, up to 8; all are taken at once.", _texts, True),
    _Spec(
        "if_locked",
        "[wait|fail]",
        "Where a lock is held: wait, or end at once with 122.  [default: wait]",
        _choice("wait", "fail"),
    ),
    _Spec(
        "queue_timeout", "DURATION", "How long to wait for locks and room, then end TIMED_OUT (124).", values.duration
    ),
    _Spec(
        "env",
        "NAME[=VALUE]",
        "A variable for the command; NAME alone takes it from here. Repeatable; stronger than --env-file, and that than "
        "RUNVOY_USER_NAME.",
        list,
        True,
    ),
    _Spec("env_file", "FILE", "Variables for the command, NAME=VALUE a line. Repeatable; the last wins.", list, True),
    _Spec("secret", "NAME", "A secret to put into the command's environment. Repeatable.", _texts, True),
    _Spec("git_repo", "URL", "A repository to clone first; the command runs in it.", _text),
    _Spec("git_ref", "REF", "The branch, tag or full SHA to check out.", _text),
    _Spec("git_path", "FOLDER", "The folder of the repository to run in.", _text),
    _Spec("git_depth", "COMMITS", "How many commits to fetch, 0 for all.  [default: 1]", values.git_depth),
    _Spec(
        "cpu",
        "CPU",
        "vCPUs, like 0.5 or 2, or units like 512 (1,024 a vCPU). No limit for a process of one machine.",
        values.cpu_units,
    ),
    _Spec(
        "memory",
        "SIZE",
        "Memory, like 512m or 2g, or MiB: 512. No limit for a process of one machine.",
        values.memory_mib,
    ),
    _Spec("label", "NAME=VALUE", "A label to find the execution by. Repeatable.", list, True),
    _Spec("name", "TEXT", "A name for people to read.", _text),
    _Spec(
        "id",
        "TEXT",
        "Names this piece of work: the same text and content again is the same execution, run once.",
        values.id_text,
    ),
    _Spec("isolation", "[process|container]", "How to run on one machine.", _choice("process", "container")),
)
_IN_AN_OPTIONS_WORDS = {
    "timeout_seconds": "--timeout: its seconds",
    "queue_timeout_seconds": "--queue-timeout: its seconds",
    "memory_mib": "--memory: its MiB",
    "cpu": "--cpu: its units",
    "name": "--name: it",
    "git_repo": "--git-repo: it",
    "git_ref": "--git-ref: it",
    "git_path": "--git-path: it",
}
DRY_RUN_HELP = "Start nothing: show what the deployment would make of it, and exit with 0 or 121."
TIMEOUT_HELP = "The command's deadline, e.g. 30s, 10m, 1h30m, 600.  [default: 10m]"


def prepare(command: Command) -> None:
    """Give `run` or `submit` the options that make a request."""
    command.params.extend(
        TyperOption(
            param_decls=[f"--{spec.field.replace('_', '-')}"],
            metavar=spec.metavar,
            help=spec.help,
            multiple=spec.is_list,
            expose_value=False,
            callback=_storing(spec),
        )
        for spec in _OPTIONS
    )


def _storing(spec: _Spec) -> Callable[[Context, Parameter, Any], None]:
    def store(context: Context, parameter: Parameter, value: Any) -> None:
        if value is None or (spec.is_list and not value):
            return
        try:
            context.meta.setdefault(_META, {})[spec.field] = spec.convert(value)
        except UsageProblem as problem:
            raise UsageProblem(f"{parameter.opts[0]}: {problem.message}", problem.hint) from None

    return store


def command_of(context: Context, words: list[str] | None) -> tuple[str, ...] | str:
    """What to run: one word is a shell's line, several are an argv. UsageProblem where an option came too late."""
    name = context.info_name
    context.obj.request_has_options = True
    if not words:
        raise UsageProblem("no command is given", f"Write it after the options: runvoy {name} -- make test")
    exact = values.words(words)
    if len(exact) == 1:
        return exact[0]
    first, second = exact[0], exact[1].partition("=")[0]
    options = {option for parameter in context.command.params for option in parameter.opts}
    if not context.meta.get(_LITERAL) and any(map(str.isspace, first)) and second in options:
        raise UsageProblem(
            f"{second} stands after the command, where it would be the command's own",
            f"Options stand before the command: runvoy {name} {second} … {first!r}. "
            f"If it is meant for the command, put -- before: runvoy {name} -- {first!r} {second} …",
        )
    return exact


def variables_given(context: Context) -> dict[str, str]:
    """The variables that `--env`, `--env-file` and `--git-depth` set."""
    return _environment(context.meta.get(_META, {}))


def id_text(context: Context) -> str | None:
    """What `--id` says; None if it was not given."""
    found: str | None = context.meta.get(_META, {}).get("id")
    return found


def build(context: Context, command: tuple[str, ...] | str, environ: Mapping[str, str]) -> RunRequest:
    """The request that the options describe, but for deployment, id and times (`addressed`): all that can be wrong with it
    is told before there is a deployment to ask. UsageProblem for what none would accept."""
    bare = RunRequest(
        version=1,
        deployment_id="none",
        request_id=NO_ID,
        issued_at=NO_TIME,
        expires_at=NO_TIME + LIFETIME,
        command=command,
        env=values.user_environment(environ),
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
    )
    return overridden(context, bare)


def addressed(request: RunRequest, id_text: str | None, target: Target, now: datetime) -> RunRequest:
    """A request for this deployment, by the id that a text stands for, or else by a new one."""
    chosen = None if id_text is None else values.chosen_id(id_text, target.signing_key)
    return msgspec.structs.replace(
        request,
        deployment_id=target.deployment_id,
        request_id=chosen or ids.uuid7(now, os.urandom(10)),
        issued_at=now,
        expires_at=now + LIFETIME,
    )


def overridden(context: Context, request: RunRequest) -> RunRequest:
    """The request with what the options say: one value takes another's place, names and variables come on top.

    UsageProblem for what no deployment would accept.
    """
    if context.obj.timeout_seconds is not None:
        request = msgspec.structs.replace(request, timeout_seconds=context.obj.timeout_seconds)
    given: dict[str, Any] = context.meta.get(_META, {})
    fields = {"queue_timeout": "queue_timeout_seconds", "memory": "memory_mib"}
    fields |= {field: field for field in ("image", "if_locked", "cpu", "name", "isolation")}
    changed = msgspec.structs.replace(
        request,
        env={**request.env, **_environment(given)},
        secrets=tuple(dict.fromkeys((*request.secrets, *given.get("secret", ())))),
        locks=tuple(dict.fromkeys((*request.locks, *given.get("lock", ())))),
        labels={**request.labels, **values.pairs("--label", given.get("label", ()))},
        git=_git(given, request.git),
        **{name: given[field] for field, name in fields.items() if field in given},
    )
    try:
        check(changed)
    except RunvoyError as error:
        hint = "" if error.code is ErrorCode.INVALID_REQUEST else error.hint
        raise UsageProblem(_in_an_options_words(error.message), hint, error.code) from error
    size = len(encode(changed))
    if size > MAX_ENVELOPE_BYTES - _SEAL_BYTES:
        raise UsageProblem(
            f"the request has {size:,} bytes; at most {MAX_ENVELOPE_BYTES:,} are allowed, signed",
            "Fetch large inputs in the command, instead of carrying them in arguments or variables.",
            ErrorCode.TOO_LARGE,
        )
    return changed


def _in_an_options_words(message: str) -> str:
    field, space, rest = message.partition(" ")
    return f"{_IN_AN_OPTIONS_WORDS.get(field, field)}{space}{rest}"


def _environment(given: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in given.get("env_file", ()):
        found.update(values.env_file(Path(path)))
    found.update(values.variables("--env", given.get("env", ())))
    if "git_depth" in given:
        found[git_sources.DEPTH] = given["git_depth"]
    return found


def _git(given: Mapping[str, Any], before: GitSource | None) -> GitSource | None:
    known = before or GitSource("", "", "")
    made = GitSource(
        given.get("git_repo", known.repo), given.get("git_ref", known.ref), given.get("git_path", known.path)
    )
    if made.repo or "git_repo" in given:
        return made
    for field in ("git_ref", "git_path", "git_depth"):
        if field in given:
            raise UsageProblem(
                f"--{field.replace('_', '-')} needs --git-repo", "Name the repository with --git-repo URL."
            )
    if before is not None:
        raise UsageProblem(
            "the playbook leaves the repository to whoever runs it, and none is given",
            "Name it with --git-repo URL.",
        )
    return None
