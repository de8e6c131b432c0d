"""A run request as people read it and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from runvoy_cli.terminal.render import command_text, span, without_workflow_commands
from runvoy_cli.terminal.sanitize import one_line
from runvoy_cli.terminal.words import cpu_text, memory_text
from runvoy_protocol.requests import GitSource, RunRequest
from runvoy_protocol.signed_requests import SignedRequest


def settings(request: RunRequest | SignedRequest) -> list[tuple[str, str]]:
    """What it asks for beside its command and its variables; an empty value is not shown."""
    git = request.git
    return [
        ("image", request.image or "(the deployment's default)"),
        ("secrets", ", ".join(request.secrets)),
        ("locks", ", ".join(request.locks)),
        ("if locked", request.if_locked if request.locks else ""),
        ("timeout", span(request.timeout_seconds)),
        ("queue timeout", span(request.queue_timeout_seconds) if request.queue_timeout_seconds else ""),
        ("cpu", cpu_text(request.cpu)),
        ("memory", memory_text(request.memory_mib)),
        ("git", " ".join(filter(None, (git.repo or "(the caller's)", git.ref, git.path))) if git else ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in request.labels.items())),
        ("name", request.name or ""),
        ("isolation", request.isolation),
    ]


def command_lines(
    request: RunRequest | SignedRequest, hidden: Collection[str], instead: str = "(secret)"
) -> Iterator[str]:
    """Its variables, those that are `hidden` with other words for their values, and its command."""
    yield from variable_lines({name: instead if name in hidden else value for name, value in request.env.items()})
    yield ""
    yield from indented(command_text(request.command))


def variable_lines(texts: Mapping[str, str]) -> Iterator[str]:
    if texts:
        yield ""
    yield from (without_workflow_commands(one_line(f"{name}={text}")) for name, text in texts.items())


def as_json(request: RunRequest, hidden: Collection[str]) -> dict[str, object]:
    """The request for programs; a variable that is `hidden` is null."""
    return {
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
        "git": git_json(request.git),
        "labels": request.labels,
        "name": request.name,
        "isolation": request.isolation or None,
    }


def git_json(git: GitSource | None) -> dict[str, str] | None:
    return None if git is None else {"repo": git.repo, "ref": git.ref, "path": git.path}


def indented(text: str) -> Iterator[str]:
    for line in text.rstrip("\n").split("\n"):
        yield without_workflow_commands(f"  {one_line(line)}")
