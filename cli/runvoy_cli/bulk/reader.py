"""The file of `submit --bulk`: JSON lines, or YAML documents, each one run. What stands there, with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from runvoy_cli.input.problems import UsageProblem

MAX_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 8  # of a YAML document: the deepest field is two deep
_SHOWN = 50
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_YAML_SUFFIXES = {".yml", ".yaml"}


class Entry(NamedTuple):
    """One run as it stands in the file: the line that it begins in, its fields by name, and where a field has a line of its
    own, that. Values are as JSON has them; of YAML all scalars are text."""

    line: int
    fields: dict[str, object]
    lines: Mapping[str, int] = {}


class Problem(NamedTuple):
    line: int
    text: str


class BadBulk(UsageProblem):
    """A file with mistakes: every one of them with its line. Nothing was sent."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name, self.problems = name, sorted(problems)
        count = len(problems)
        lines = [f"{name}:{one.line}: {one.text}" for one in self.problems[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"… and {count - _SHOWN:,} more")
        head = f"{name} has {count:,} mistake{'s' if count != 1 else ''}; nothing was submitted"
        super().__init__("\n".join([head, *lines]), "Mend them all; then send the file again.")
        self.details["problems"] = [{"line": one.line, "text": one.text} for one in self.problems]

    def __reduce__(self) -> tuple[type[BadBulk], tuple[str, list[Problem]]]:  # type: ignore[override]
        return type(self), (self.name, self.problems)


def read(place: str) -> tuple[str, str]:
    """The file's name for messages, and its text; `-` is standard input."""
    name = "standard input" if place == "-" else place
    try:
        if place == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(place).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UsageProblem(f"{name} has over {MAX_BYTES:,} bytes; it is not read", "Cut it into several.")
        return name, raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageProblem(f"{name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{name} is not valid UTF-8 (byte {error.start})") from error


def parse(text: str, name: str, problems: list[Problem]) -> list[Entry]:
    """The runs in a text. What cannot be read is a problem, and the rest is read all the same."""
    suffix = Path(name).suffix.lower()
    is_json = suffix in _JSON_SUFFIXES or (suffix not in _YAML_SUFFIXES and text.lstrip()[:1] in ("{", "["))
    return list(_json_lines(text, problems) if is_json else _yaml_documents(text, problems))


def _json_lines(text: str, problems: list[Problem]) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            problems.append(Problem(number, f"this is no JSON: {error}"))
            continue
        if isinstance(found, dict):
            yield Entry(number, found)
        else:
            problems.append(Problem(number, "a JSON object is expected on each line"))


def _yaml_documents(text: str, problems: list[Problem]) -> Iterator[Entry]:
    import yaml

    from runvoy_cli.input.yaml_nodes import is_empty, loader, place_of

    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader()):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            line = place_of(event).line
            if depth > _MAX_DEPTH:
                problems.append(Problem(line, "this nests too deep"))
                return
            if isinstance(event, yaml.AliasEvent):
                problems.append(Problem(line, f"aliases (*{event.anchor}) are not allowed"))
                return
        for node in yaml.compose_all(text, Loader=loader()):
            if node is None or is_empty(node):
                continue
            line = place_of(node).line
            if isinstance(node, yaml.MappingNode):
                before = len(problems)
                found = _value(node, problems)
                if len(problems) == before and isinstance(found, dict):
                    yield Entry(line, found, {str(key.value): place_of(key).line for key, _ in node.value})
            else:
                problems.append(Problem(line, "`name: value` pairs are expected in each document"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # Not str(error): that quotes the line.
        problem = str(getattr(error, "problem", None) or "it holds characters that are not allowed")
        problems.append(Problem(mark.line + 1 if mark is not None else 1, f"this is no valid YAML: {problem}"))


def _value(node: object, problems: list[Problem]) -> object:
    import yaml

    from runvoy_cli.input.yaml_nodes import entries, is_empty, place_of

    if isinstance(node, yaml.MappingNode):
        found: dict[str, object] = {}
        for name, _, value in entries(node, lambda at, text: problems.append(Problem(place_of(at).line, text))):
            found[name] = _value(value, problems)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(one, problems) for one in node.value]
    if isinstance(node, yaml.ScalarNode):
        return None if is_empty(node) else str(node.value)
    raise TypeError(f"{node!r} is no YAML node")
