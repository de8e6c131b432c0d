"""A playbook, and the request it makes, as people read them and as JSON. Values of secret parameters are never in either."""

from __future__ import annotations

from collections.abc import Iterator

from runvoy_cli import playbook_compile
from runvoy_cli.playbook_model import Parameter, Playbook
from runvoy_cli.render import columns, command_text, facts
from runvoy_cli.sanitize import one_line
from runvoy_protocol.requests import GitSource, RunRequest

_HEADER = ("PARAMETER", "TYPE", "DEFAULT", "DESCRIPTION")


def lines(playbook: Playbook) -> Iterator[str]:
    """What `playbook show` prints."""
    made = playbook_compile.to_request(playbook, {name: f"${{{{ {name} }}}}" for name in playbook.parameters})
    head = [("playbook", playbook.name), ("description", playbook.description), ("file", str(playbook.path))]
    yield from facts([*head, *_settings(made)])
    if playbook.env:
        yield ""
    yield from (one_line(f"{name}={text}") for name, text in playbook.env.items())
    if playbook.parameters:
        yield ""
        yield from columns(_HEADER, [_row(one) for one in playbook.parameters.values()])
    yield ""
    for command in playbook.commands:
        yield from _indented(command_text(command.source))


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
        "git": _git_json(playbook.git),
        "labels": playbook.labels,
        "parameters": [_parameter_json(one) for one in playbook.parameters.values()],
        "digest": playbook_compile.pin(playbook).digest,
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


def request_lines(playbook: Playbook, request: RunRequest) -> Iterator[str]:
    """What `playbook run --dry-run` prints."""
    hidden = _hidden(playbook)
    yield from facts([("playbook", playbook.name), ("file", str(playbook.path)), *_settings(request)])
    if request.env:
        yield ""
    for variable, value in request.env.items():
        yield one_line(f"{variable}={'(secret)' if variable in hidden else value}")
    yield ""
    yield from _indented(command_text(request.command))


def request_json(playbook: Playbook, request: RunRequest) -> dict[str, object]:
    """What `playbook run --dry-run --json` prints; the variable of a secret parameter is null."""
    hidden = _hidden(playbook)
    return {
        "playbook": playbook.name,
        "path": str(playbook.path),
        "command": request.command,
        "image": request.image,
        "env": {name: None if name in hidden else value for name, value in request.env.items()},
        "secrets": request.secrets,
        "locks": request.locks,
        "if_locked": request.if_locked,
        "timeout_seconds": request.timeout_seconds,
        "queue_timeout_seconds": request.queue_timeout_seconds,
        "cpu": request.cpu,
        "memory_mib": request.memory_mib,
        "git": _git_json(request.git),
        "labels": request.labels,
        "name": request.name,
        "isolation": request.isolation or None,
    }


def _settings(request: RunRequest) -> list[tuple[str, str]]:
    git = request.git
    return [
        ("image", request.image or "(the deployment's default)"),
        ("secrets", ", ".join(request.secrets)),
        ("locks", ", ".join(request.locks)),
        ("if locked", request.if_locked if request.locks else ""),
        ("timeout", f"{request.timeout_seconds} s"),
        ("queue timeout", f"{request.queue_timeout_seconds} s" if request.queue_timeout_seconds else ""),
        ("cpu", f"{request.cpu} units" if request.cpu else ""),
        ("memory", f"{request.memory_mib} MiB" if request.memory_mib else ""),
        ("git", " ".join(filter(None, (git.repo, git.ref, git.path))) if git else ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in request.labels.items())),
        ("name", request.name or ""),
        ("isolation", request.isolation),
    ]


def _hidden(playbook: Playbook) -> set[str]:
    return {one.variable for one in playbook.parameters.values() if one.secret}


def _git_json(git: GitSource | None) -> dict[str, str] | None:
    return None if git is None else {"repo": git.repo, "ref": git.ref, "path": git.path}


def _indented(text: str) -> Iterator[str]:
    for line in text.rstrip("\n").split("\n"):
        yield f"  {one_line(line)}"
