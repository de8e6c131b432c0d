"""Patterns of parameters: the part of POSIX extended regular expressions that Python, too, takes for the very same thing.

A pattern is asked twice: here, for a good message, and by `grep -E` beside the command, where nobody can go round it. A browser
asks as well, by `web/runvoy_web/patterns.js`, which is this file's matching once more.

They come from colleagues' playbooks, so nothing here goes back to try again, as the engines of Python and of browsers do, which
takes for ever with `(a+)+b`. A pattern becomes a set of places to be at, and each byte of a value moves all that one may be
at by one: the steps of a comparison are at most the pattern's size times the value's length (ADR 24).
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator
from typing import NamedTuple

MAX_LENGTH = 512
MAX_SIZE = 3000
"""The size of a pattern with its repeats written out: a place for each character, and one for each choice."""
MAX_STEPS = 9_000_000
"""For one comparison: a second or two of Python at the worst. What a pattern of MAX_SIZE can match without * and + is shorter than
what this leaves of a value."""
_MAX_REPEATS = 255  # POSIX promises no more
_SPECIAL = frozenset(".[\\()*+?{|^$")
_PLAIN = frozenset(string.printable) - _SPECIAL - frozenset("}]\t\n\r\x0b\x0c")
_REPEAT = re.compile(r"\{([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}")
_SET = re.compile(r"(\^?)([^\]\[\\]+)\]")
_KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_BYTES = frozenset(range(256)) - {10}


def matches(pattern: str, value: str) -> bool:
    """Whether the whole value is as the pattern says, which is one, and not longer than `longest` bytes. By bytes, as grep does in
    the C locale."""
    return "\n" not in value and walk(pattern, value.encode()).is_match


def longest(pattern: str) -> int:
    """How many bytes a value may have to be compared with the pattern, so that the steps stay below MAX_STEPS."""
    return MAX_STEPS // len(_compiled(pattern).places)


def without_anchors(pattern: str) -> str:
    """`^` and `$` around the pattern say what is meant anyway."""
    return pattern.removeprefix("^").removesuffix("$") if not pattern.endswith("\\$") else pattern.removeprefix("^")


def problem_of(pattern: str) -> str:
    """Why this is no pattern; empty if it is one."""
    if not pattern or len(pattern) > MAX_LENGTH:
        return f"a pattern has 1 to {MAX_LENGTH} characters"
    try:
        size = _Reader(pattern).read().size
    except _NoPatternError as error:
        return str(error)
    if size >= MAX_SIZE:
        return f"with its repeats written out it has more than {MAX_SIZE} characters and choices: ask for less often"
    return ""


class Walk(NamedTuple):
    """How a comparison went. `steps`: how often a place was come to."""

    is_match: bool
    steps: int


class _Place(NamedTuple):
    """A state of the automaton that a pattern becomes. With `allowed`: one of these bytes leads on, to the one place in
    `after`. With None: it leads on at once to all places in `after`; the last place has none, and is where a match ends."""

    allowed: frozenset[int] | None
    after: tuple[int, ...]


class _Compiled(NamedTuple):
    places: list[_Place]
    first: int


def walk(pattern: str, data: bytes) -> Walk:
    """Hold all of `data` against the pattern."""
    places, first = _compiled(pattern)
    seen = [-1] * len(places)  # at how many bytes a place was come to last: it is not come to twice at one
    steps = 0
    reached = [first]
    for position in range(len(data) + 1):
        todo, reached, is_end = reached, [], False
        here = data[position] if position < len(data) else -1
        while todo:
            number = todo.pop()
            if seen[number] == position:
                continue
            seen[number] = position
            steps += 1
            allowed, after = places[number]
            if allowed is None:
                todo.extend(after)
                is_end = is_end or not after
            elif here in allowed:
                reached.extend(after)
        if not reached:  # at the last, behind the last byte
            break
    return Walk(is_end and position == len(data), steps)


@functools.lru_cache(maxsize=128)
def _compiled(pattern: str) -> _Compiled:
    places = [_Place(None, ())]
    return _Compiled(places, _Reader(pattern).read().put(places, 0))


class _One(NamedTuple):
    """One byte of these."""

    allowed: frozenset[int]

    @property
    def size(self) -> int:
        return 1

    def put(self, places: list[_Place], after: int) -> int:
        """Add the node's places before the place `after`; the first of them."""
        places.append(_Place(self.allowed, (after,)))
        return len(places) - 1


class _Row(NamedTuple):
    """One node after the other."""

    nodes: list[_Node]
    size: int

    def put(self, places: list[_Place], after: int) -> int:
        for node in reversed(self.nodes):
            after = node.put(places, after)
        return after


class _Choice(NamedTuple):
    """One of these."""

    nodes: list[_Node]
    size: int

    def put(self, places: list[_Place], after: int) -> int:
        firsts = []
        for node in self.nodes:
            firsts.append(node.put(places, after))
        places.append(_Place(None, tuple(firsts)))
        return len(places) - 1


class _Repeat(NamedTuple):
    """The node, `low` to `high` times; as often as one likes where `high` is None."""

    node: _Node
    low: int
    high: int | None
    size: int

    def put(self, places: list[_Place], after: int) -> int:
        first = after
        if self.high is None:
            first = len(places)
            places.append(_Place(None, ()))
            again = self.node.put(places, first)
            places[first] = _Place(None, (again, after))
        else:
            for _ in range(self.high - self.low):
                places.append(_Place(None, (self.node.put(places, first), after)))
                first = len(places) - 1
        for _ in range(self.low):
            first = self.node.put(places, first)
        return first


_Node = _One | _Row | _Choice | _Repeat


def _repeated(node: _Node, low: int, high: int | None) -> _Repeat:
    more = 1 if high is None else high - low
    return _Repeat(node, low, high, node.size * low + (node.size + 1) * more)


class _NoPatternError(ValueError):
    """Says why."""


class _Group(NamedTuple):
    """An open bracket's alternatives; the last one is being read."""

    alternatives: list[list[_Node]]

    def node(self) -> _Node:
        rows: list[_Node] = []
        for nodes in self.alternatives:
            if not nodes:
                raise _NoPatternError("an alternative is empty")
            rows.append(nodes[0] if len(nodes) == 1 else _Row(nodes, sum(node.size for node in nodes)))
        return rows[0] if len(rows) == 1 else _Choice(rows, sum(row.size for row in rows) + 1)


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._groups = [_Group([[]])]

    def read(self) -> _Node:
        """The pattern as a tree; `_NoPatternError` if it is none."""
        may_repeat = False  # whether an atom stands before
        while self._at < len(self._text):
            character = self._text[self._at]
            row = self._groups[-1].alternatives[-1]
            if character in "*+?{":
                if not may_repeat:
                    raise _NoPatternError(f"`{character}` repeats nothing that can be repeated")
                row[-1] = _repeated(row[-1], *self._often(character))
                may_repeat = False
            elif character in "(|)":
                self._at += 1
                self._bracket_or_bar(character)
                may_repeat = character == ")"
            else:
                self._at += 1
                row.append(_One(self._atom(character)))
                may_repeat = True
        if len(self._groups) > 1:
            raise _NoPatternError("a `(` is never closed")
        return self._groups[0].node()

    def _bracket_or_bar(self, character: str) -> None:
        if character == "(":
            self._groups.append(_Group([[]]))
        elif not self._groups[-1].alternatives[-1]:
            raise _NoPatternError("an alternative is empty")
        elif character == "|":
            self._groups[-1].alternatives.append([])
        elif len(self._groups) == 1:
            raise _NoPatternError("a `)` has no `(`")
        else:
            node = self._groups.pop().node()
            self._groups[-1].alternatives[-1].append(node)

    def _often(self, character: str) -> tuple[int, int | None]:
        if character != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        match = _REPEAT.match(self._text, self._at)
        if match is None:
            raise _NoPatternError("`{` begins no {m}, {m,} or {m,n}")
        self._at = match.end()
        low, high = int(match[1]), int(match[3] or match[1])
        # `a{0}` would have no size: `((a{0}){255}){255}` no end of work, here and for grep, which dies of it.
        if not low <= high <= _MAX_REPEATS or not (high or (match[2] and not match[3])):
            raise _NoPatternError(f"{match[0]} repeats too often, or not at all (1 to {_MAX_REPEATS})")
        return low, None if match[2] and not match[3] else high

    def _atom(self, character: str) -> frozenset[int]:
        if character == "\\":
            escaped = self._text[self._at : self._at + 1]
            self._at += 1
            if escaped in _SPECIAL and escaped:
                return frozenset(escaped.encode())
            raise _NoPatternError(
                f"`\\{escaped}` does not mean the same everywhere; write [0-9] for a digit, [A-Za-z0-9_] for a word's"
            )
        if character == "[":
            return self._set()
        if character in "^$":
            raise _NoPatternError(f"`{character}` has no place here: the whole value is compared")
        if character == ".":
            return _BYTES
        if character not in _PLAIN:
            raise _NoPatternError(f"{character!r} cannot stand here; in brackets it may, if it is plain ASCII")
        return frozenset(character.encode())

    def _set(self) -> frozenset[int]:
        match = _SET.match(self._text, self._at)
        if match is None:
            raise _NoPatternError("`[` begins no plain set such as [A-Za-z0-9._-]; `[`, `]` and `\\` cannot be in one")
        self._at = match.end()
        members = match[2]
        if any(one not in string.printable or one in "\t\n\r\x0b\x0c&~|" for one in members) or members.startswith("^"):
            raise _NoPatternError(
                "a set in brackets holds what is not plain ASCII, or one of ^ & ~ | where it may mean something else"
            )
        allowed = frozenset(_members(members))
        return _BYTES - allowed if match[1] else allowed


def _members(members: str) -> Iterator[int]:
    position = 0
    while position < len(members):
        low = high = members[position]
        if members[position + 1 : position + 2] == "-" and position + 2 < len(members):
            high = members[position + 2]
            if not any(low in kind and high in kind and low <= high for kind in _KINDS):
                raise _NoPatternError(
                    f"`{low}-{high}` is no range of digits or of letters of one case; a plain - stands last"
                )
            position += 3
        elif low == "-" and 0 < position < len(members) - 1:
            raise _NoPatternError("a plain - stands first or last in a set")
        else:
            position += 1
        yield from range(ord(low), ord(high) + 1)
