"""config.yaml: read with a line for every complaint, written whole and at once.

Apart from config.py because it imports yaml, which a machine without a config file need not wait for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from runvoy_cli.input import values, yaml_nodes
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.requests import MAX_TIMEOUT_SECONDS

FIELDS = ("endpoint", "deployment_id", "api_key", "web_url", "timeout")
_INHERITED = ("web_url", "timeout")  # never what says where and as whom: a mixture of two deployments helps nobody
_STRING = "tag:yaml.org,2002:str"
_SHOWN_CHARACTERS = 24
_INTEGER = "tag:yaml.org,2002:int"


class ConfigFile(NamedTuple):
    top: dict[str, str]
    profiles: dict[str, dict[str, str]]

    def settings(self, profile: str | None, path: Path) -> dict[str, str]:
        """The values of a profile, or of the top level; UsageProblem if there is no such profile."""
        if profile is None:
            return self.top
        if profile not in self.profiles:
            known = ", ".join(_shown(name).strip("'") for name in sorted(self.profiles)) or "none"
            raise UsageProblem(
                f"{path} has no profile {profile!r}; its profiles: {known}",
                f"Make it with `runvoy configure --profile {profile}`.",
            )
        inherited = {name: self.top[name] for name in _INHERITED if name in self.top}
        return {**inherited, **self.profiles[profile]}


def load(path: Path) -> ConfigFile:
    """Read and check the file; UsageProblem with the line of the first mistake."""
    try:
        root = yaml_nodes.compose(yaml_nodes.read_text(path), "configuration")
    except yaml_nodes.BadYaml as error:
        line = f", line {error.place.line}" if error.place is not None else ""
        raise UsageProblem(f"{path}{line}: {error.text}") from error
    top: dict[str, str] = {}
    profiles: dict[str, dict[str, str]] = {}
    if root is None:
        return ConfigFile(top, profiles)
    for name, key, value in _entries(root, path):
        if name == "profiles":
            for profile, _, body in _entries(value, path):
                profiles[profile] = _fields(body, path)
        else:
            top[name] = _field(name, key, value, path, (*FIELDS, "profiles"))
    return ConfigFile(top, profiles)


def _fields(node: yaml.Node, path: Path) -> dict[str, str]:
    return {name: _field(name, key, value, path, FIELDS) for name, key, value in _entries(node, path)}


def _entries(node: yaml.Node, path: Path) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    def report(where: yaml.Node, what: str) -> None:
        raise _mistake(path, where, what)

    return yaml_nodes.entries(node, report)


def _field(name: str, key: yaml.Node, value: yaml.Node, path: Path, known: tuple[str, ...]) -> str:
    if name not in known:
        hint = f"{yaml_nodes.did_you_mean(name, known)}The settings are: {', '.join(known)}."
        raise _mistake(path, key, f"there is no setting {_shown(name)}", hint)
    is_text = isinstance(value, yaml.ScalarNode) and value.tag in (_STRING, _INTEGER)
    if not is_text or (value.tag == _INTEGER and name != "timeout"):
        kind = (
            "a duration such as 10m" if name == "timeout" else "text; put it in quotes if it looks like something else"
        )
        raise _mistake(path, value, f"{name} must be {kind}")
    if not value.value.strip():
        raise _mistake(path, value, f"{name} is empty")
    if name != "timeout":
        return str(value.value)
    try:
        seconds = values.duration(value.value)
    except UsageProblem as problem:
        # Not the value: lines that were swapped put the API key there, and this may end up in a CI's log.
        raise _mistake(path, value, "timeout is no duration such as 30s, 10m or 1h", problem.hint) from problem
    if not 1 <= seconds <= MAX_TIMEOUT_SECONDS:
        raise _mistake(path, value, "timeout is not from 1s to 7d", "It is the deadline of commands that get no other.")
    return str(seconds)


def _shown(name: str) -> str:
    """A name of the file, shortened: an API key may have got into one."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[: _SHOWN_CHARACTERS - 1] + "…")


def _mistake(path: Path, node: yaml.Node, what: str, hint: str = "") -> UsageProblem:
    return UsageProblem(
        f"{path}, line {yaml_nodes.place_of(node).line}: {what}", hint or "Mend it, or run `runvoy configure`."
    )


def save(path: Path, profile: str | None, changed: Mapping[str, str]) -> None:
    """Set values of one profile (None: the top level), keep everything else; whole or not at all, mode 0600."""
    real = Path(os.path.realpath(path))  # a link into somebody's dotfiles stays a link
    current = load(real) if real.exists() else ConfigFile({}, {})
    if profile is None:
        current.top.update(changed)
    else:
        current.profiles.setdefault(profile, {}).update(changed)
    document: dict[str, object] = {**current.top}
    if current.profiles:
        document["profiles"] = current.profiles
    from runvoy_cli.home.files import write_private

    write_private(real, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
