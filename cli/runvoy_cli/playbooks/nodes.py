"""The fields of a playbook as nodes: what is read from one, and what is told of one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml

from runvoy_cli.input import yaml_nodes
from runvoy_cli.input.yaml_nodes import Place, did_you_mean, is_empty, place_of
from runvoy_cli.playbooks.placeholders import Fault
from runvoy_protocol import requests

C = TypeVar("C", bound=str)


class Problem(NamedTuple):
    place: Place
    text: str
    hint: str = ""

    def line(self, path: Path) -> str:
        hint = f" ({self.hint.strip()})" if self.hint else ""
        return f"{path}, line {self.place.line}, column {self.place.column}: {self.text}{hint}"


def _anything(_node: yaml.Node, _text: str) -> bool:
    return True


class Nodes:
    """Reads nodes and keeps every problem. What it returns for a wrong one is None."""

    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self._text = text

    def _text_of(self, nodes: Mapping[str, yaml.Node], field: str) -> str | None:
        return self._scalar(nodes[field], field) if field in nodes else None

    def _names_in(
        self, nodes: Mapping[str, yaml.Node], field: str, may_stand: Callable[[yaml.Node, str], bool] = _anything
    ) -> tuple[str, ...]:
        """A name, or a list of names, each once. What `may_stand` denies it reports itself."""
        node = nodes.get(field)
        if node is None:
            return ()
        is_list = isinstance(node, yaml.SequenceNode)
        if not is_list and (not isinstance(node, yaml.ScalarNode) or is_empty(node)):
            self._report(
                node,
                f"{field} must be a name or a list of names",
                "Write each after a dash, or in brackets: [a, b]",
            )
            return ()
        found: list[str] = []
        for item in node.value if is_list else [node]:
            name = self._scalar(item, f"a name in {field}")
            if name is None or not may_stand(item, name):
                continue
            if not requests.is_name(name):
                self._report(item, f"{name[:64]!r} is no valid name (letters, digits and ._/:@+-, at most 128)")
            elif name in found:
                self._report(item, f"{name!r} stands here a second time")
            else:
                found.append(name)
        return tuple(found)

    def _chosen(self, nodes: Mapping[str, yaml.Node], field: str, allowed: tuple[C, ...]) -> C | None:
        text = self._text_of(nodes, field)
        if text is None:
            return None
        for choice in allowed:
            if text == choice:
                return choice
        self._report(
            nodes[field], f"{field} is {text[:64]!r}", f"{did_you_mean(text, allowed)}One of {', '.join(allowed)}."
        )
        return None

    def _truth(self, nodes: Mapping[str, yaml.Node], field: str) -> bool | None:
        text = self._text_of(nodes, field)
        if text in ("true", "false", None):
            return None if text is None else text == "true"
        self._report(nodes[field], f"{field} must be true or false")
        return None

    def _fields(self, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for name, key, value in yaml_nodes.entries(node, self._report):
            if name in known:
                found[name] = value
            else:
                self._report(
                    key, f"{what} has no {name[:64]!r}", f"{did_you_mean(name, known)}It has: {', '.join(known)}."
                )
        return found

    def _scalar(self, node: yaml.Node, what: str, hint: str = "", *, may_be_empty: bool = False) -> str | None:
        """The text as it stands in the file, whatever YAML takes it for (`yes`, `1.10`); None, reported, if it is none."""
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, f"{what} must be text", hint)
            return None
        text = str(node.value)
        if is_empty(node) or not (text.strip() or may_be_empty):
            self._report(node, f"{what} is empty", hint)
            return None
        if "\0" in text:
            self._report(node, f"{what} holds a NUL character")
            return None
        return text

    def _fault(self, node: yaml.Node, fault: Fault) -> None:
        """Report a placeholder where it stands in the file; at the value's beginning if escapes hide it there."""
        place = place_of(node)
        start, end = node.start_mark, node.end_mark
        if start is not None and end is not None:
            found = [match.start() for match in re.finditer(r"\$\{\{", self._text[start.index : end.index])]
            if fault.ordinal < len(found):
                before = self._text[: start.index + found[fault.ordinal]]
                place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        self.problems.append(Problem(place, fault.text, fault.hint))

    def _report(self, node: yaml.Node, text: str, hint: str = "") -> None:
        self.problems.append(Problem(place_of(node), text, hint))
