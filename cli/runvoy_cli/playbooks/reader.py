"""The check of a playbook's text: every problem of the file, each with its place and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from runvoy_cli.input import values, yaml_nodes
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.yaml_nodes import Place, is_empty
from runvoy_cli.playbooks import compiling, rules
from runvoy_cli.playbooks.model import Command, Parameter, Playbook
from runvoy_cli.playbooks.nodes import Nodes, Problem
from runvoy_cli.playbooks.placeholders import Fault, compile_value, has_placeholders, names_in
from runvoy_cli.playbooks.shell import compile_line, compile_words
from runvoy_protocol import patterns, requests
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.playbooks import MAX_PARAMETERS, PARAMETER_NAME, VARIABLE_PREFIX
from runvoy_protocol.requests import GitSource

FIELDS = (
    *("description", "image", "commands", "env", "secrets", "locks", "timeout", "cpu", "memory"),
    *("git_repo", "git_ref", "git_path", "labels", "parameters"),
)
PARAMETER_FIELDS = ("type", "description", "enum", "pattern", "default", "required", "secret")
TYPES = ("string", "int", "bool")


class BadPlaybook(UsageProblem):
    """A file that is no playbook: every problem of it in its message, a line each."""

    def __init__(self, name: str, path: Path, problems: Collection[Problem]) -> None:
        self.problems = sorted(problems)
        count = len(self.problems)
        head = f"the playbook {name} has {count} problem{'s' if count > 1 else ''}:"
        super().__init__(
            "\n".join([head, *(problem.line(path) for problem in self.problems)]),
            "Mend the file; docs/playbooks.md has every field.",
        )
        self.details["problems"] = [
            {"line": one.place.line, "column": one.place.column, "message": one.text, "hint": one.hint.strip()}
            for one in self.problems
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return UsageProblem, (self.message, self.hint, self.code)


def read(name: str, path: Path, text: str) -> Playbook:
    """The playbook of a file's text; BadPlaybook otherwise."""
    try:
        root = yaml_nodes.compose(text, "playbook", is_plain=True)
    except yaml_nodes.BadYaml as error:
        place = error.place or Place(1, 1)
        lines = text.splitlines()[place.line - 2 : place.line] if place.line > 1 else text.splitlines()[:1]
        hint = "Put a value with ${{ … }} in quotes." if any("${{" in line for line in lines) else ""
        raise BadPlaybook(name, path, [Problem(place, error.text, hint)]) from error
    reader = _Reader(name, path, text)
    playbook = reader.playbook(root) if root is not None else None
    if playbook is None:
        reader.problems.append(Problem(Place(1, 1), "`commands` is missing: a playbook runs at least one"))
    if playbook is None or reader.problems:
        raise BadPlaybook(name, path, reader.problems)
    return playbook


class _Reader(Nodes):
    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(text)
        self._name = name
        self._path = path
        self._parameters: dict[str, Parameter] = {}

    def playbook(self, root: yaml.Node) -> Playbook | None:
        nodes = self._fields(root, FIELDS, "a playbook")
        if "parameters" in nodes:
            self._parameters = self._read_parameters(nodes["parameters"])
        commands = self._read_commands(nodes["commands"]) if "commands" in nodes else ()
        is_misspelt = any("Did you mean 'commands'?" in one.hint for one in self.problems)
        if "commands" not in nodes and not is_misspelt:
            self._report(root, "`commands` is missing: a playbook runs at least one")
        env, exports = self._read_env(nodes["env"]) if "env" in nodes else ({}, {})
        made = Playbook(
            name=self._name,
            path=self._path,
            commands=commands,
            description=self._text_of(nodes, "description") or "",
            image=self._fixed(nodes, "image"),
            env=env,
            exports=exports,
            secrets=self._names(nodes, "secrets", requests.MAX_SECRETS),
            locks=self._names(nodes, "locks", requests.MAX_LOCKS),
            timeout_seconds=self._converted(nodes, "timeout", values.duration) or requests.DEFAULT_TIMEOUT_SECONDS,
            cpu=self._converted(nodes, "cpu", values.cpu_units),
            memory_mib=self._converted(nodes, "memory", values.memory_mib),
            git=self._git(nodes),
            labels=self._read_labels(nodes["labels"]) if "labels" in nodes else {},
            parameters=self._parameters,
        )
        if not self.problems:
            self._check_whole(made, root)
        return made

    def _check_whole(self, playbook: Playbook, root: yaml.Node) -> None:
        """What the protocol asks of every request, and no field alone could tell."""
        made = compiling.to_request(playbook, dict.fromkeys(playbook.parameters, ""))
        if made.git is not None and not made.git.repo:  # the caller's to name: any will do for the rest
            git = msgspec.structs.replace(made.git, repo="https://git.example.com/repository")
            made = msgspec.structs.replace(made, git=git)
        try:
            requests.check(made)
        except RunvoyError as error:
            self._report(root, error.message)

    # -- commands

    def _read_commands(self, node: yaml.Node) -> tuple[Command, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self._report(node, "commands must be a list of one command or more", "Write each after a dash: - make test")
            return ()
        return tuple(filter(None, map(self._command, node.value)))

    def _command(self, node: yaml.Node) -> Command | None:
        kinds = {name: one.kind for name, one in self._parameters.items()}
        if isinstance(node, yaml.SequenceNode):
            return self._argv(node)
        text = self._scalar(node, "a command", "Put it in quotes, or write | and the lines below it.")
        if text is None:
            return None
        compiled = compile_line(text, kinds)
        for fault in compiled.faults:
            self._fault(node, fault)
        return Command(text, compiled.shell)

    def _argv(self, node: yaml.SequenceNode) -> Command | None:
        words = [self._scalar(word, "a word of a command", may_be_empty=True) for word in node.value]
        found = tuple(word for word in words if word is not None)
        if len(found) < len(words):
            return None
        if not found or not found[0] or found[0].startswith("-"):
            self._report(node, "the command's first word must be a program")
            return None
        kinds = {name: one.kind for name, one in self._parameters.items()}
        shell, faults = compile_words(found, kinds)
        for position, fault in faults:
            self._fault(node.value[position], fault)
        return Command(found, f"exec {shell}")  # a program, never a builtin of the same name

    # -- variables and labels

    def _read_env(self, node: yaml.Node) -> tuple[dict[str, str], dict[str, str]]:
        kinds = {name: one.kind for name, one in self._parameters.items()}
        written: dict[str, str] = {}
        exports: dict[str, str] = {}
        for name, key, value in yaml_nodes.entries(node, self._report):
            why = requests.env_name_problem(name)
            if name.startswith(VARIABLE_PREFIX):
                why = f"the variable {name} is reserved: {VARIABLE_PREFIX}… are the parameters"
            if why:
                self._report(key, why)
            text = self._scalar(value, f"the value of {name}", "Write '' for an empty one.", may_be_empty=True)
            if text is None:
                continue
            written[name] = text
            if not has_placeholders(text):
                continue
            if rules.is_powerful(name):
                self._report(value, f"no parameter can stand here: the variable {name} decides what code runs")
            compiled = compile_value(text, kinds)
            for fault in compiled.faults:
                self._fault(value, fault)
            exports[name] = compiled.shell
        return written, exports

    def _read_labels(self, node: yaml.Node) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, key, value in yaml_nodes.entries(node, self._report):
            if not requests.is_name(name):
                self._report(key, f"{name[:64]!r} is no label's name (letters, digits and ._/:@+-, at most 128)")
            text = self._scalar(value, f"the label {name}", may_be_empty=True)
            if text is None:
                continue
            if len(text) > 256 or not text.isprintable():
                self._report(value, f"the label {name} is over 256 characters, or not printable")
            for fault in compile_value(text, {one.name: one.kind for one in self._parameters.values()}).faults:
                self._fault(value, fault)
            for ordinal, used in enumerate(names_in(text)):
                if used in self._parameters and self._parameters[used].secret:
                    self._fault(value, Fault(ordinal, f"{used} is secret, and labels are for everybody to read"))
            found[name] = text
        return found

    # -- parameters

    def _read_parameters(self, node: yaml.Node) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {}
        for name, key, value in yaml_nodes.entries(node, self._report):
            if not PARAMETER_NAME.match(name):
                hint = "Write it like replica_count."
                self._report(key, f"{name[:64]!r} is no parameter's name (a-z, 0-9 and _, a letter first)", hint)
            else:
                found[name] = self._parameter(name, value)
        if len(found) > MAX_PARAMETERS:
            self._report(node, f"{len(found)} parameters are declared; at most {MAX_PARAMETERS} are allowed")
        return found

    def _parameter(self, name: str, node: yaml.Node) -> Parameter:
        nodes = {} if is_empty(node) else self._fields(node, PARAMETER_FIELDS, "a parameter")
        kind = self._chosen(nodes, "type", TYPES) or "string"
        enum = self._enum(nodes["enum"]) if "enum" in nodes else None
        pattern = self._pattern(nodes)
        for field in ("enum", "pattern"):
            if field in nodes and kind != "string":
                self._report(nodes[field], f"{field} is for strings alone")
        if "enum" in nodes and "pattern" in nodes:
            self._report(nodes["pattern"], "pattern says nothing more where enum lists every value")
        required = self._truth(nodes, "required")
        parameter = Parameter(
            name=name,
            type=kind,  # type: ignore[arg-type]
            description=self._text_of(nodes, "description") or "",
            enum=enum,
            pattern=pattern,
            required="default" not in nodes if required is None else required,
            secret=self._truth(nodes, "secret") or False,
        )
        return self._with_default(parameter, nodes)

    def _with_default(self, parameter: Parameter, nodes: Mapping[str, yaml.Node]) -> Parameter:
        node = nodes.get("default")
        if node is None:
            return parameter
        text = self._scalar(node, "default", "Write '' for an empty one.", may_be_empty=True)
        if parameter.secret:
            self._report(node, "a secret parameter has no default: it would stand in this file for all to read")
        elif "required" in nodes and parameter.required:
            self._report(nodes["required"], "a parameter with a default is never missing", "Leave one of the two away.")
        elif text is not None:
            try:
                # As one with this default: the empty text of one without is what it has where nothing is given.
                text = msgspec.structs.replace(parameter, default=text).value_of(text)
            except UsageProblem as problem:
                self._report(node, f"default is no value of it: {problem.message}")
        return msgspec.structs.replace(parameter, default=text)

    def _enum(self, node: yaml.Node) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self._report(node, "enum must be a list of the values there are")
            return ()
        found = [self._scalar(value, "a value of enum", "Put it in quotes.") for value in node.value]
        texts = tuple(text for text in found if text is not None)
        if len(set(texts)) < len(texts):
            self._report(node, "enum lists one value twice")
        for value, text in zip(node.value, found, strict=True):
            if text is not None and not text.isprintable():
                self._report(value, "a value of enum is not printable")
        return texts

    def _pattern(self, nodes: Mapping[str, yaml.Node]) -> str | None:
        text = self._text_of(nodes, "pattern")
        if text is None:
            return None
        pattern = patterns.without_anchors(text)
        why = patterns.problem_of(pattern)
        if why:
            self._report(nodes["pattern"], f"pattern: {why}")
            return None
        return pattern

    # -- simple fields

    def _git(self, nodes: Mapping[str, yaml.Node]) -> GitSource | None:
        """Without git_repo the caller names the repository; its ref or folder may be fixed all the same."""
        found = [self._fixed(nodes, field) or "" for field in ("git_repo", "git_ref", "git_path")]
        return GitSource(*found) if any(found) else None

    def _names(self, nodes: Mapping[str, yaml.Node], field: str, most: int) -> tuple[str, ...]:
        found = self._names_in(nodes, field, lambda node, name: not self._is_variable(node, name))
        if len(found) > most:
            self._report(nodes[field], f"{len(found)} {field} are named; at most {most} are allowed")
        return found

    def _converted(self, nodes: Mapping[str, yaml.Node], field: str, convert: Callable[[str], int]) -> int | None:
        text = self._fixed(nodes, field)
        if text is None:
            return None
        try:
            return convert(text)
        except UsageProblem as problem:
            self._report(nodes[field], problem.message, problem.hint)
            return None

    def _fixed(self, nodes: Mapping[str, yaml.Node], field: str) -> str | None:
        text = self._text_of(nodes, field)
        return None if text is None or self._is_variable(nodes[field], text) else text

    def _is_variable(self, node: yaml.Node, text: str) -> bool:
        """Whether a placeholder stands where all must be fixed; that is reported."""
        if has_placeholders(text):
            hint = (
                "Parameters stand in commands, env and labels; who runs the playbook may override the rest by options."
            )
            self._fault(
                node, Fault(0, "no parameter can stand here: this is part of what a key can be limited to", hint)
            )
        return has_placeholders(text)
