"""Patterns of parameters: the part of POSIX extended regular expressions that Python, too, takes for the very same thing.

A pattern is asked twice: here, for a good message, and by `grep -E` beside the command, where nobody can go round it.
"""

from __future__ import annotations

import re
import string

MAX_LENGTH = 512
_MAX_REPEATS = 255  # POSIX promises no more
_SPECIAL = frozenset(".[\\()*+?{|^$")
_PLAIN = frozenset(string.printable) - _SPECIAL - frozenset("}]\t\n\r\x0b\x0c")
_REPEAT = re.compile(r"\{(\d{1,3})(?:(,)(\d{1,3})?)?\}")
_KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


def matches(pattern: str, value: str) -> bool:
    """Whether the whole value is as the pattern says. By bytes, as grep does in the C locale."""
    return "\n" not in value and re.compile(pattern.encode()).fullmatch(value.encode()) is not None


def without_anchors(pattern: str) -> str:
    """`^` and `$` around the pattern say what is meant anyway."""
    return pattern.removeprefix("^").removesuffix("$") if not pattern.endswith("\\$") else pattern.removeprefix("^")


def problem_of(pattern: str) -> str:
    """Why this is no pattern; empty if it is one."""
    if not pattern or len(pattern) > MAX_LENGTH:
        return f"a pattern has 1 to {MAX_LENGTH} characters"
    return _Reader(pattern).problem()


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def problem(self) -> str:
        depth = 0
        may_repeat = False  # whether an atom stands before
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "*+?{":
                why = self._repeat(may_repeat)
                may_repeat = False
            elif character in "(|)":
                depth += {"(": 1, ")": -1, "|": 0}[character]
                # Read backwards, an alternative is empty if it begins where it ends.
                is_empty = character != "(" and self._text[self._at - 1 : self._at] in ("", "(", "|")
                why = "an alternative is empty" if is_empty else "a `)` has no `(`" if depth < 0 else ""
                may_repeat = character == ")"
                self._at += 1
            else:
                why = self._atom(character)
                may_repeat = True
            if why:
                return why
        if depth:
            return "a `(` is never closed"
        return "an alternative is empty" if self._text.endswith("|") else ""

    def _repeat(self, may_repeat: bool) -> str:
        character = self._text[self._at]
        if not may_repeat:
            return f"`{character}` repeats nothing that can be repeated"
        if character != "{":
            self._at += 1
            return ""
        match = _REPEAT.match(self._text, self._at)
        if match is None:
            return "`{` begins no {m}, {m,} or {m,n}"
        self._at = match.end()
        low, high = int(match[1]), int(match[3] or match[1])
        if not low <= high <= _MAX_REPEATS:
            return f"{match[0]} repeats too often, or not at all (0 to {_MAX_REPEATS})"
        return ""

    def _atom(self, character: str) -> str:
        self._at += 1
        if character == "\\":
            escaped = self._text[self._at : self._at + 1]
            self._at += 1
            if escaped in _SPECIAL and escaped:
                return ""
            return (
                f"`\\{escaped}` does not mean the same everywhere; write [0-9] for a digit, [A-Za-z0-9_] for a word's"
            )
        if character == "[":
            return self._bracket()
        if character in "^$":
            return f"`{character}` has no place here: the whole value is compared"
        if character != "." and character not in _PLAIN:
            return f"{character!r} cannot stand here; in brackets it may, if it is plain ASCII"
        return ""

    def _bracket(self) -> str:
        match = re.compile(r"\^?([^\]\[\\]+)\]").match(self._text, self._at)
        if match is None:
            return "`[` begins no plain set such as [A-Za-z0-9._-]; `[`, `]` and `\\` cannot be in one"
        self._at = match.end()
        members = match[1]
        if any(one not in string.printable or one in "\t\n\r\x0b\x0c&~|" for one in members) or members.startswith("^"):
            return "a set in brackets holds what is not plain ASCII, or one of ^ & ~ | where it may mean something else"
        position = 0
        while position < len(members):
            if members[position + 1 : position + 2] == "-" and position + 2 < len(members):
                low, high = members[position], members[position + 2]
                if not any(low in kind and high in kind and low <= high for kind in _KINDS):
                    return f"`{low}-{high}` is no range of digits or of letters of one case; a plain - stands last"
                position += 3
            elif members[position] == "-" and 0 < position < len(members) - 1:
                return "a plain - stands first or last in a set"
            else:
                position += 1
        return ""
