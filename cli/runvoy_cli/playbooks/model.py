"""A playbook that was read and found right, and the values of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.yaml_nodes import did_you_mean
from runvoy_cli.playbooks.placeholders import Kind
from runvoy_protocol import playbooks
from runvoy_protocol.requests import DEFAULT_TIMEOUT_SECONDS, GitSource


class Parameter(playbooks.Parameter, frozen=True, kw_only=True):
    """A parameter as its caller gives it, and as the commands have it."""

    @property
    def kind(self) -> Kind:
        return Kind(self.variable, self.type == "int")

    def value_of(self, text: str) -> str:
        """The value as the commands get it; UsageProblem, which does not show a secret, if it is none."""
        value = self.exact(text)
        why = self.objection(value)
        if why:
            shown = "" if self.secret else f", not {text[:80]!r}"
            raise UsageProblem(f"the parameter {self.name} {why}{shown}", self._hint(text))
        return value

    def _hint(self, text: str) -> str:
        """What would do, for a value that does not; nothing of a secret is shown."""
        near = "" if self.secret or self.allowed is None else did_you_mean(text, self.allowed)
        if self.allowed is not None:
            takes = " or ".join(self.allowed)
        elif self.type == "int":
            takes = "a whole number such as 42 or -1"
        else:
            takes = f"text that matches {self.pattern} as a whole" if self.pattern is not None else "text"
        return f"{near}{self.name} takes {takes}" + (f": {self.description}" if self.description else ".")


class Command(NamedTuple):
    """`source` as it was written; `shell` with variables in place of placeholders, for `/bin/sh -e`."""

    source: str | tuple[str, ...]
    shell: str


class Playbook(msgspec.Struct, frozen=True, kw_only=True):
    """A playbook. `env` and `labels` are as written, placeholders included; `exports` are the shell words of those variables
    of `env` that parameters have a part in."""

    name: str
    path: Path
    commands: tuple[Command, ...]
    description: str = ""
    image: str | None = None
    env: dict[str, str] = {}
    exports: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS
    cpu: int | None = None
    memory_mib: int | None = None
    git: GitSource | None = None
    labels: dict[str, str] = {}
    parameters: dict[str, Parameter] = {}

    @property
    def fixed_env(self) -> dict[str, str]:
        return {name: text for name, text in self.env.items() if name not in self.exports}

    @property
    def has_whole_request(self) -> bool:
        """Whether all but the parameters is here. Else the repository is left to whoever runs it."""
        return self.git is None or bool(self.git.repo)

    def parameter(self, name: str) -> Parameter:
        """UsageProblem, with the nearest one, if there is none of this name."""
        if name not in self.parameters:
            known = ", ".join(self.parameters) or "none"
            raise UsageProblem(
                f"the playbook {self.name} has no parameter {name!r}",
                f"{did_you_mean(name, self.parameters)}Its parameters: {known}.",
            )
        return self.parameters[name]

    def missing(self, given: Mapping[str, str]) -> list[Parameter]:
        """The required parameters that are not given."""
        return [one for one in self.parameters.values() if one.required and one.name not in given]

    def values_of(self, given: Mapping[str, str], *, are_secrets_to_come: bool = False) -> dict[str, str]:
        """The value of every parameter; UsageProblem for what is unknown, missing or not as declared.

        `are_secrets_to_come`: no secret one is missing; it is empty for now.
        """
        checked = {name: self.parameter(name).value_of(text) for name, text in given.items()}
        missing = [one for one in self.missing(given) if not (one.secret and are_secrets_to_come)]
        if missing:
            names = "`params: {" + ", ".join(f"{one.name}: …" for one in missing) + "}`"
            rules = [f"{one.name} {one.rule()}" for one in missing if one.rule()]
            raise UsageProblem(
                f"the playbook {self.name} needs the parameter{'s' if len(missing) > 1 else ''} "
                f"{', '.join(one.name for one in missing)}",
                "; ".join([f"Give {names}", *rules]) + ".",
            )
        return {name: checked.get(name, one.default or "") for name, one in self.parameters.items()}
