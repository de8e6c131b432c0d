"""YAML as nodes with their places: what the config file and playbooks read. Nothing is ever constructed from a tag.

Nodes rather than values, for a complaint needs its line, and because what stands there counts: `on` is text here, no truth.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from runvoy_cli.input.problems import UsageProblem

MAX_CHARACTERS = 64 * 1024
_MAX_DEPTH = 16
_NULL = "tag:yaml.org,2002:null"

# What the parser says, and what somebody who wrote a file can do with.
_MISTAKES = {
    "but found another document": "a second document begins here, and a file holds one",
    "could not find expected ':'": "a name{from_line} has no `:` after it",
    "did not find expected ',' or ']'": "the list{from_line} does not end with ]",
    "did not find expected ',' or '}'": "the mapping{from_line} does not end with }}",
    "did not find expected key": "this is not indented as what it belongs to is",
    "found character that cannot start any token": "a text that begins with this character needs quotes around it",
    "found unexpected end of stream": "a quoted text{from_line} does not end",
    "mapping values are not allowed in this context": "a text with `: ` in it needs quotes around it, or the line is "
    "indented wrongly",
}

Report = Callable[[yaml.Node, str], None]


class Place(NamedTuple):
    """Where something stands in a file, counted from 1."""

    line: int
    column: int


class BadYaml(Exception):
    """A text that is no YAML, or not YAML of the plain sort that runvoy takes. `place` where it is known."""

    def __init__(self, text: str, place: Place | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.place = place


def read_text(path: Path) -> str:
    """The text of a file, UTF-8; UsageProblem if it cannot be read. No more is read than a file may have."""
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARACTERS + 1)
        if len(raw) > 4 * MAX_CHARACTERS:
            raise UsageProblem(f"{path} has over {4 * MAX_CHARACTERS:,} bytes; it is not read")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{path} is not valid UTF-8 (byte {error.start})") from error


def compose(text: str, what: str, *, is_plain: bool = False) -> yaml.Node | None:
    """The root of a document, None for an empty one; BadYaml otherwise. `is_plain` refuses tags, anchors and aliases.

    `what` says what the file should be, for a complaint about its size.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadYaml(f"the file has over {MAX_CHARACTERS:,} characters; that is no {what}")
    try:
        _check_shape(text, what, is_plain)
        root: yaml.Node | None = yaml.compose(text, Loader=loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else None
        raise BadYaml(f"this is no valid YAML: {_in_words(error, text)}", place) from error
    return root


def _in_words(error: yaml.YAMLError, text: str) -> str:
    """What is wrong, and for the common mistakes what to do. Not str(error): that quotes the line, and the line may hold the API
    key."""
    problem = str(getattr(error, "problem", None) or "it holds characters that are not allowed")
    mark, began = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    lines = text.splitlines()
    before = lines[mark.line][: mark.column + 1] if mark is not None and mark.line < len(lines) else ""
    if "\t" in before and not before.strip():
        return "a tab stands here, and YAML takes only spaces there"
    from_line = f" that begins in line {began.line + 1}" if began is not None else ""
    known = _MISTAKES.get(problem)
    return known.format(from_line=from_line) if known is not None else problem


def _check_shape(text: str, what: str, is_plain: bool) -> None:
    """Refuse what nests too deep, event by event: composing recurses, in C until the stack ends."""
    depth = 0
    for event in yaml.parse(text, Loader=loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise BadYaml(f"this nests too deep for a {what}", place_of(event))
        if is_plain:
            unwanted = _unwanted(event)
            if unwanted:
                raise BadYaml(f"{unwanted} in a {what}", place_of(event))


def _unwanted(event: yaml.Event) -> str:
    if isinstance(event, yaml.AliasEvent):
        return f"aliases (*{event.anchor}) are not allowed"
    if getattr(event, "anchor", None) is not None:
        return f"anchors (&{getattr(event, 'anchor', '')}) are not allowed"
    if getattr(event, "tag", None) is not None:
        return f"tags ({getattr(event, 'tag', '')}) are not allowed"
    return ""


def loader() -> type[yaml.SafeLoader]:
    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it was built
    return loader


def entries(node: yaml.Node, report: Report) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Name, key and value of each pair of a mapping; what is no such pair, or is there twice, is reported and left out."""
    if not isinstance(node, yaml.MappingNode):
        report(node, "`name: value` pairs are expected here")
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            report(key, "a name is expected here")
        elif key.value in seen:
            report(key, f"{key.value!r} stands here a second time")
        else:
            seen.add(key.value)
            yield key.value, key, value


def is_empty(node: yaml.Node) -> bool:
    """Whether nothing stands there: `name:` alone, `~` or `null`."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def place_of(thing: yaml.Node | yaml.Event) -> Place:
    mark = thing.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`Did you mean 'x'? ` for the nearest of the known names; empty if none is near.

    A name that begins with a known one (`timeout_seconds`), or is the first word of one (`git`), is nearest to that.
    """
    begun = [one for one in known if one.startswith(f"{name}_") or name.startswith(f"{one}_")]
    nearest = begun[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]!r}? " if nearest else ""
