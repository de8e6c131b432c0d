"""A playbook as people read it and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import compiling
from runvoy_cli.playbooks.model import Parameter, Playbook
from runvoy_cli.playbooks.publishing import Change, NotRight
from runvoy_cli.submission.request_view import git_json, indented, settings, variable_lines
from runvoy_cli.terminal.render import columns, command_text, facts, moment
from runvoy_protocol.playbooks import PublishedPlaybook

_HEADER = ("PARAMETER", "TYPE", "DEFAULT", "DESCRIPTION")


def lines(playbook: Playbook) -> Iterator[str]:
    """What `playbook show` prints."""
    made = compiling.to_request(playbook, {name: f"${{{{ {name} }}}}" for name in playbook.parameters})
    head = [("playbook", playbook.name), ("description", playbook.description), ("file", str(playbook.path))]
    yield from facts([*head, *settings(made)])
    yield from variable_lines(playbook.env)
    if playbook.parameters:
        yield ""
        yield from columns(_HEADER, [_row(one) for one in playbook.parameters.values()])
    yield from _commands(playbook)


def dry_run_lines(playbook: Playbook, values: Mapping[str, str], env: Mapping[str, str]) -> Iterator[str]:
    """What a dry run shows of it after the verdict: what its parameters are (secret ones without their values), the variables of
    the request's `env` that they are not in, and the commands as they were written."""
    if playbook.parameters:
        yield ""
        rows = [(name, "(secret)" if one.secret else values[name]) for name, one in playbook.parameters.items()]
        yield from columns(("PARAMETER", "VALUE"), rows)
    own = {one.variable for one in playbook.parameters.values()}
    variables = {**playbook.env, **{name: text for name, text in env.items() if name not in own}}
    yield from variable_lines(variables)
    yield from _commands(playbook)


def _commands(playbook: Playbook) -> Iterator[str]:
    yield ""
    for command in playbook.commands:
        yield from indented(command_text(command.source))


def _row(parameter: Parameter) -> tuple[str, ...]:
    default = parameter.default if parameter.default is not None else "(required)" if parameter.required else "(none)"
    kind = " | ".join(parameter.allowed) if parameter.allowed is not None else parameter.pattern or parameter.type
    return (parameter.name, kind + (", secret" if parameter.secret else ""), default, parameter.description)


def as_json(playbook: Playbook) -> dict[str, object]:
    """What `playbook show --json` prints."""
    return {
        "name": playbook.name,
        "path": str(playbook.path),
        "description": playbook.description,
        "image": playbook.image,
        "commands": [command.source for command in playbook.commands],
        "env": playbook.env,
        "secrets": playbook.secrets,
        "locks": playbook.locks,
        "timeout_seconds": playbook.timeout_seconds,
        "cpu": playbook.cpu,
        "memory_mib": playbook.memory_mib,
        "git": git_json(playbook.git),
        "labels": playbook.labels,
        "parameters": [_parameter_json(one) for one in playbook.parameters.values()],
        "digest": compiling.pin(playbook).digest if playbook.has_whole_request else None,
    }


def _parameter_json(parameter: Parameter) -> dict[str, object]:
    return {
        "name": parameter.name,
        "variable": parameter.variable,
        "type": parameter.type,
        "description": parameter.description,
        "enum": parameter.enum,
        "pattern": parameter.pattern,
        "default": parameter.default,
        "required": parameter.required,
        "secret": parameter.secret,
    }


def hidden(playbook: Playbook) -> set[str]:
    """The variables of its secret parameters."""
    return {one.variable for one in playbook.parameters.values() if one.secret}


def published_row(one: PublishedPlaybook) -> tuple[str, ...]:
    """A line of `playbook list --published`."""
    return (one.playbook.name, moment(one.published_at), one.playbook.source, one.playbook.description)


def published_as_json(one: PublishedPlaybook) -> dict[str, object]:
    return {
        "name": one.playbook.name,
        "source": one.playbook.source,
        "description": one.playbook.description,
        "parameters": [parameter.name for parameter in one.playbook.parameters],
        "published_at": one.published_at,
        "key_id": one.key_id,
        "digest": one.digest,
    }


def change_row(change: Change) -> tuple[str, ...]:
    """A line of `playbook publish`."""
    return (change.published.playbook.name, change.becomes, change.published.playbook.source)


def changes_as_json(changes: Sequence[Change], not_right: Sequence[NotRight]) -> dict[str, object]:
    return {
        "playbooks": [{**published_as_json(one.published), "change": one.becomes} for one in changes],
        "problems": [
            {
                "name": one.found.name,
                "path": str(one.found.path),
                "message": one.problem.message,
                "problems": one.problem.details.get("problems", []),
            }
            for one in not_right
        ],
    }


def not_published(problem: UsageProblem) -> str:
    """What is told of a file that is no playbook: each problem with its place."""
    return f"not published: {problem.message}"
