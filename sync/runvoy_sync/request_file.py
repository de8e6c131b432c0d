"""What a file in the inbox says: a run request, or the call of a playbook. Every problem of it with its line and column.

The fields are those of the command line and of playbooks. Nothing of the machine goes into a request (no RUNVOY_USER_
variable, no configured timeout): the same file is the same request wherever it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from runvoy_cli.input import values, yaml_nodes
from runvoy_cli.input.problems import SEE_HELP, UsageProblem
from runvoy_cli.input.yaml_nodes import Place
from runvoy_cli.playbooks import compiling, finding
from runvoy_cli.playbooks.nodes import Nodes, Problem
from runvoy_protocol import requests
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.requests import GitSource, RunRequest

FIELDS = (
    *("command", "image", "env", "secrets", "locks", "if_locked", "timeout", "queue_timeout", "cpu", "memory"),
    *("git_repo", "git_ref", "git_path", "labels", "name", "id", "isolation"),
)
CALL_FIELDS = ("playbook", "params", "if_locked", "queue_timeout", "labels", "name", "id")
_ISOLATIONS: tuple[Literal["process", "container"], ...] = ("process", "container")
_IF_LOCKED: tuple[Literal["wait", "fail"], ...] = ("wait", "fail")
# These stand in strings alone, for the text was read as JSON before.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


class Wanted(NamedTuple):
    """A request but for deployment, id and times; `chosen_id` is the file's own `id`."""

    request: RunRequest
    chosen_id: str | None


class _OfBoth(NamedTuple):
    """What a request and the call of a playbook can both say."""

    if_locked: Literal["wait", "fail"]
    queue_timeout_seconds: int | None
    labels: dict[str, str]
    name: str | None


class BadRequest(UsageProblem):
    """A file that is no request: every problem of it in its message, a line each."""

    def __init__(self, path: Path, problems: Collection[Problem]) -> None:
        lines = [problem.line(path) for problem in sorted(problems)]
        super().__init__(
            "\n".join(lines), "Mend the file and put it into the inbox again; docs/sync.md has every field."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return UsageProblem, (self.message, self.hint, self.code)


def read(path: Path, raw: bytes) -> Wanted:
    """The request of a file's bytes; BadRequest, or UsageProblem of the playbook that it calls, otherwise.

    `path` is for messages, and tells JSON from YAML by its ending.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = Place(raw[: error.start].count(b"\n") + 1, 1)
        raise BadRequest(path, [Problem(place, f"this is not valid UTF-8 (byte {error.start})")]) from error
    if path.suffix == ".json":
        _check_json(path, text)
        text = _as_yaml(text)
    try:
        root = yaml_nodes.compose(text, "request", is_plain=True)
    except yaml_nodes.BadYaml as error:
        raise BadRequest(path, [Problem(error.place or Place(1, 1), error.text)]) from error
    if root is None:
        raise BadRequest(path, [Problem(Place(1, 1), "the file is empty")])
    return _Reader(text, path).wanted(root)


def _check_json(path: Path, text: str) -> None:
    try:
        json.loads(text, parse_int=str, parse_float=str)  # whatever number: Python refuses to read one of 5,000 digits
    except json.JSONDecodeError as error:
        place = Place(error.lineno, error.colno)
        raise BadRequest(path, [Problem(place, f"this is no valid JSON: {error.msg}")]) from error
    except RecursionError as error:
        raise BadRequest(path, [Problem(Place(1, 1), "this nests too deep for a request")]) from error


def _as_yaml(text: str) -> str:
    """JSON as YAML that means the same: without tabs, of which no string holds one; with characters beyond U+FFFF, which JSON writes
    as two escapes, as one; and with what YAML takes for the end of a line, or does not take at all, as escapes."""

    def joined(match: re.Match[str]) -> str:
        high, low = int(match[2], 16), int(match[3], 16)
        return f"{match[1]}\\U{0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF):08X}"

    text = _SURROGATES.sub(joined, text.replace("\t", " "))
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04X}", text)


class _Reader(Nodes):
    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path = path

    def wanted(self, root: yaml.Node) -> Wanted:
        is_call = isinstance(root, yaml.MappingNode) and any(
            isinstance(key, yaml.ScalarNode) and key.value == "playbook" for key, _ in root.value
        )
        nodes = self._fields(root, CALL_FIELDS if is_call else FIELDS, "a playbook call" if is_call else "a request")
        made = self._call(root, nodes) if is_call else self._request(root, nodes)
        chosen_id = self._text_of(nodes, "id")
        if not self.problems and made is not None:
            try:
                requests.check(msgspec.structs.replace(made, deployment_id="none"))
            except RunvoyError as error:
                self._report(root, error.message)
        if self.problems or made is None:
            raise BadRequest(self._path, self.problems)
        return Wanted(made, chosen_id)

    def _request(self, root: yaml.Node, nodes: Mapping[str, yaml.Node]) -> RunRequest | None:
        if "command" not in nodes:
            is_misspelt = any("Did you mean 'command'?" in one.hint for one in self.problems)
            if isinstance(root, yaml.MappingNode) and not is_misspelt:
                self._report(root, "`command` is missing", "Write a line for /bin/sh, or a list of words.")
            return None
        both = self._of_both(nodes)
        return RunRequest(
            version=1,
            deployment_id="",
            request_id=requests.NO_ID,
            issued_at=requests.NO_TIME,
            expires_at=requests.NO_TIME + requests.MAX_LIFETIME,
            command=self._command(nodes["command"]),
            image=self._text_of(nodes, "image"),
            env=self._pairs(nodes, "env"),
            secrets=self._names_in(nodes, "secrets"),
            locks=self._names_in(nodes, "locks"),
            timeout_seconds=self._number(nodes, "timeout", values.duration) or requests.DEFAULT_TIMEOUT_SECONDS,
            cpu=self._number(nodes, "cpu", values.cpu_units),
            memory_mib=self._number(nodes, "memory", values.memory_mib),
            git=self._git(nodes),
            isolation=self._chosen(nodes, "isolation", _ISOLATIONS) or "",
            if_locked=both.if_locked,
            queue_timeout_seconds=both.queue_timeout_seconds,
            labels=both.labels,
            name=both.name,
        )

    def _call(self, root: yaml.Node, nodes: Mapping[str, yaml.Node]) -> RunRequest | None:
        name = self._text_of(nodes, "playbook")
        params = self._pairs(nodes, "params")
        both = self._of_both(nodes)
        if name is None or self.problems:
            return None
        try:
            chosen = finding.load(name)
            made = compiling.to_request(chosen, chosen.values_of(params))
        except UsageProblem as problem:
            hint = "" if problem.hint == SEE_HELP else problem.hint
            self._report(nodes.get("params", root), problem.message, hint)
            return None
        return msgspec.structs.replace(
            made,
            deployment_id="",
            if_locked=both.if_locked,
            queue_timeout_seconds=both.queue_timeout_seconds,  # no playbook says one
            labels={**made.labels, **both.labels},
            name=made.name if both.name is None else both.name,
        )

    def _of_both(self, nodes: Mapping[str, yaml.Node]) -> _OfBoth:
        return _OfBoth(
            if_locked=self._chosen(nodes, "if_locked", _IF_LOCKED) or "wait",
            queue_timeout_seconds=self._number(nodes, "queue_timeout", values.duration),
            labels=self._pairs(nodes, "labels"),
            name=self._text_of(nodes, "name"),
        )

    def _command(self, node: yaml.Node) -> tuple[str, ...] | str:
        if isinstance(node, yaml.SequenceNode):
            words = [self._scalar(word, "a word of the command", may_be_empty=True) for word in node.value]
            if not words:
                self._report(node, "the command is empty")
            return tuple(word for word in words if word is not None)
        return self._scalar(node, "the command", "Write a line for /bin/sh, or a list of words.") or ""

    def _number(self, nodes: Mapping[str, yaml.Node], field: str, convert: Callable[[str], int]) -> int | None:
        text = self._text_of(nodes, field)
        if text is None:
            return None
        try:
            number = convert(text)
        except UsageProblem as problem:
            self._report(nodes[field], f"{field}: {problem.message}", problem.hint)
            return None
        if number == 0:
            self._report(nodes[field], f"{field} is 0")
        return number

    def _pairs(self, nodes: Mapping[str, yaml.Node], field: str) -> dict[str, str]:
        found: dict[str, str] = {}
        if field not in nodes or yaml_nodes.is_empty(nodes[field]):
            return found
        for name, key, value in yaml_nodes.entries(nodes[field], self._report):
            problem = requests.env_name_problem(name) if field == "env" else None
            if problem is not None:
                self._report(key, problem)
            text = self._scalar(value, f"{name} of {field}", "Write '' for an empty one.", may_be_empty=True)
            if text is not None:
                found[name] = text
        return found

    def _git(self, nodes: Mapping[str, yaml.Node]) -> GitSource | None:
        repo, ref, path = (self._text_of(nodes, field) or "" for field in ("git_repo", "git_ref", "git_path"))
        if "git_repo" in nodes:
            return GitSource(repo, ref, path)
        for field in ("git_ref", "git_path"):
            if field in nodes:
                self._report(nodes[field], f"{field} needs git_repo", "Name the repository with git_repo: URL.")
        return None
