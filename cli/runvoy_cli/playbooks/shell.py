"""From a command with `${{ parameter }}` in it to shell text in which no value can become code.

A placeholder becomes the expansion of a variable, in double quotes: the shell splits no word of it, matches no file and never
reads it again. So that this holds, what surrounds the placeholder must be understood; what is not is refused, for a command
with placeholders only. A command without any is the author's, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runvoy_cli.playbooks.placeholders import (
    OPENING,
    PLACEHOLDER,
    Compiled,
    Fault,
    Kind,
    compile_value,
    fault_of,
    first_variable,
    has_placeholders,
    objected,
    too_many,
)
from runvoy_cli.playbooks.rules import COMPARED, HOLE, NUMBER, OPAQUE, is_compared, objection

_SIMPLE_EXPANSION = re.compile(r"\$\{[^'\"`\\${}()\n]*\}")
_REDIRECTION = re.compile(r"<<<|<<-|<<|<>|<&|<|>>|>&|>\||>")
_MAX_DEPTH = 50
_DELIMITER = re.compile(r"[ \t]*((?:[^\s;&|<>()'\"\\`$]|'[^'\n]*'|\"[^\"\n]*\"|\\.)+)")


class _NotUnderstood(Exception):
    pass


def compile_line(text: str, kinds: Mapping[str, Kind]) -> Compiled:
    """Shell text with placeholders, as shell text with variables."""
    if not has_placeholders(text):
        return Compiled(text, [])
    if too_many(text):
        return Compiled("", too_many(text))
    scanner = _Scanner(text, kinds)
    return Compiled(scanner.scan(), scanner.faults)


def compile_words(words: Sequence[str], kinds: Mapping[str, Kind]) -> tuple[str, list[tuple[int, Fault]]]:
    """An argv as shell text that gives exactly these words; faults with the position of their word."""
    if too_many(*words):
        return "", [(0, fault) for fault in too_many(*words)]
    shell: list[str] = []
    faults: list[tuple[int, Fault]] = []
    before: list[str] = []
    for position, word in enumerate(words):
        piece, found = compile_value(word, kinds)
        literal = PLACEHOLDER.sub(lambda match: HOLE + NUMBER if _is_int(match[1], kinds) else HOLE, word)
        if HOLE in literal:
            why = objection(before, literal)
            found = found or ([objected(0, why, first_variable(word, kinds))] if why else [])
        faults += [(position, fault) for fault in found]
        shell.append(piece)
        before.append(literal)
    return " ".join(shell), faults


def _is_int(name: str | None, kinds: Mapping[str, Kind]) -> bool:
    return name is not None and name in kinds and kinds[name].is_int


class _Command:
    """The simple command that is being read: its finished words, and the one that is not."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.literal = ""
        self.in_word = False
        self.redirection = ""  # whose target the word is; then it is no word of the command
        self.holes: list[tuple[int, str]] = []
        self.last_holes: list[tuple[int, str]] = []  # of the word before

    def add(self, literal: str) -> None:
        self.in_word = True
        self.literal += literal

    def start_word(self) -> None:
        self.literal, self.in_word, self.redirection, self.holes = "", False, "", []


class _Scanner:
    """Reads POSIX shell text once, left to right, knowing at each placeholder how it is quoted."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._kinds = kinds
        self._at = 0
        self._out: list[str] = []
        self._ordinal = 0
        self._depth = 0
        self._heredocs: list[tuple[str, bool, bool]] = []  # delimiter, whether quoted, whether tabs are stripped

    def scan(self) -> str:
        try:
            self._code("")
        except _NotUnderstood as problem:
            # Told of the first placeholder that was not passed yet, else of the last: they are what cannot be judged.
            last = len(PLACEHOLDER.findall(self._text)) - 1
            self.faults.append(
                Fault(
                    min(self._ordinal, last),
                    f"this command has {problem}, so what a placeholder in it would mean cannot be told",
                    f'Write it another way, or use the variable itself, in double quotes: "${self._variable()}".',
                )
            )
        return "".join(self._out)

    def _variable(self) -> str:
        return first_variable(self._text, self._kinds)

    # -- contexts

    def _code(self, closing: str) -> None:
        """Commands, up to `closing`, which is left."""
        command = _Command()
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "$":
                self._dollar(command, '"${{{}}}"')
            elif character == "\\":
                self._escape(command)
            elif character == "'":
                self._single(command)
            elif character == '"':
                self._double(command)
            elif character == "`":
                raise _NotUnderstood("backticks (use $(…))")
            elif character == "#" and not command.in_word:
                self._comment()
            elif character in "<>":
                self._redirection(command)
            elif character in " \t":
                self._take()
                self._end_word(command, closing)
            elif character in "\n;&|()":
                self._end_word(command, closing)
                if character == ")" and closing:
                    return
                command = _Command()
                self._operator(character)
            else:
                command.add(character)
                self._take()
        self._end_word(command, closing)
        if closing:
            raise _NotUnderstood("a parenthesis that is never closed")

    def _nested(self) -> None:
        """Commands in parentheses, the closing one as well."""
        if self._depth == _MAX_DEPTH:
            raise _NotUnderstood("parentheses that nest too deep")
        self._depth += 1
        self._code(")")
        self._take()
        self._depth -= 1

    def _operator(self, character: str) -> None:
        if self._text.startswith("((", self._at):
            raise _NotUnderstood("`((` (use $((…)), or a space between)")
        self._take()
        if character == "\n":
            self._bodies()
        elif character == "(":
            self._nested()

    def _dollar(self, command: _Command, template: str) -> None:
        text, at = self._text, self._at
        is_quoted = not template.startswith('"')
        if text.startswith(OPENING, at):
            self._placeholder(command, template)
        elif text.startswith("$((", at):
            self._arithmetic()
            command.add(OPAQUE)
        elif text.startswith("$(", at):
            self._take(2)
            self._nested()
            command.add(OPAQUE)
        elif text.startswith("${", at):
            match = _SIMPLE_EXPANSION.match(text, at)
            if match is None:
                raise _NotUnderstood("an expansion ${…} with more in it than names and plain text")
            self._take(len(match[0]))
            command.add(OPAQUE)
        elif not is_quoted and text[at + 1 : at + 2] in ("'", '"'):
            raise _NotUnderstood(f"the quotes ${text[at + 1]}, which not every sh knows")
        else:
            self._take()
            command.add(OPAQUE)

    def _placeholder(self, command: _Command | None, template: str, needs_int: bool = False) -> None:
        match = next(PLACEHOLDER.finditer(self._text, self._at))  # the one that begins here
        ordinal, self._ordinal = self._ordinal, self._ordinal + 1
        self._at = match.end()
        fault = fault_of(match, ordinal, self._kinds)
        if fault is not None:
            self.faults.append(fault)
            return
        kind = self._kinds[match[1]]
        if needs_int and not kind.is_int:
            hint = f"Declare it with `type: int`, if it is a number. {match[1]} is text, which arithmetic may run."
            self.faults.append(Fault(ordinal, "only a number can stand in arithmetic", hint))
            return
        self._out.append(template.format(kind.variable))
        if command is not None:
            command.holes.append((ordinal, kind.variable))
            command.add(HOLE + NUMBER if kind.is_int else HOLE)

    def _escape(self, command: _Command) -> None:
        if self._text.startswith(OPENING, self._at + 1):
            self._forbid(self._at + 1, self._at + 4, "a backslash stands before this placeholder", "Leave it away.")
        escaped = self._text[self._at + 1 : self._at + 2]
        self._take(2)
        if escaped != "\n":  # a line that goes on
            command.add(escaped)

    def _single(self, command: _Command) -> None:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise _NotUnderstood("a single quote that is never closed")
        hint = "Single quotes keep it as it stands: use double quotes, or close them before it and open them after it."
        self._forbid(self._at, end, "this placeholder stands in single quotes", hint)
        command.add(self._text[self._at + 1 : end])
        self._take(end + 1 - self._at)

    def _double(self, command: _Command) -> None:
        self._take()
        command.add("")
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == '"':
                self._take()
                return
            if character == "$":
                self._dollar(command, "${{{}}}")
            elif character == "\\":
                self._escape(command)
            elif character == "`":
                raise _NotUnderstood("backticks (use $(…))")
            else:
                command.add(character)
                self._take()
        raise _NotUnderstood("a double quote that is never closed")

    def _arithmetic(self) -> None:
        self._take(3)
        depth = 0
        while self._at < len(self._text):
            character = self._text[self._at]
            if self._text.startswith(OPENING, self._at):
                self._placeholder(None, "(${{{}}})", needs_int=True)
                continue
            if depth == 0 and self._text.startswith("))", self._at):
                self._take(2)
                return
            if character in "'\"`\\" or self._text.startswith(("$(", "${"), self._at):
                raise _NotUnderstood("quotes or expansions within $((…))")
            depth += {"(": 1, ")": -1}.get(character, 0)
            if depth < 0:
                break
            self._take()
        raise _NotUnderstood("a $(( without its ))")

    def _comment(self) -> None:
        end = self._text.find("\n", self._at)
        end = len(self._text) if end < 0 else end
        self._forbid(self._at, end, "this placeholder stands in a comment", "Leave it away: nothing reads it there.")
        self._take(end - self._at)

    def _redirection(self, command: _Command) -> None:
        if not (command.literal.isdigit() and not command.holes):  # `2>`: a descriptor, no word
            self._end_word(command, "")
        command.start_word()
        match = next(_REDIRECTION.finditer(self._text, self._at))  # the one that begins here
        if match[0] == "<<<":
            raise _NotUnderstood("`<<<`, which not every sh knows")
        self._take(len(match[0]))
        if match[0] in ("<<", "<<-"):
            self._delimiter(is_stripped=match[0] == "<<-")
        else:
            command.redirection = match[0]

    def _delimiter(self, is_stripped: bool) -> None:
        match = _DELIMITER.match(self._text, self._at)
        if match is None or self._text[match.end() : match.end() + 1] not in ("", *" \t\n;&|<>()"):
            raise _NotUnderstood("a here-document whose delimiter is no plain word")
        plain = re.sub(r"\\(.)|['\"]", lambda one: one[1] or "", match[1])
        self._heredocs.append((plain, plain != match[1], is_stripped))
        self._take(len(match[0]))

    def _bodies(self) -> None:
        """The here-documents that begin after this line; they are not code, and go out as they are."""
        for delimiter, is_quoted, is_stripped in self._heredocs:
            hint = f"Write ${self._variable()} there"
            hint += (
                ", and take the quotes off its delimiter." if is_quoted else ": its lines are expanded, and not run."
            )
            while self._at < len(self._text):
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._text[self._at : end]
                self._forbid(self._at, end, "this placeholder stands in a here-document", hint)
                self._take(min(end + 1, len(self._text)) - self._at)
                if (line.lstrip("\t") if is_stripped else line) == delimiter:
                    break
        self._heredocs = []

    # -- steps

    def _take(self, count: int = 1) -> None:
        self._out.append(self._text[self._at : self._at + count])
        self._at += count

    def _forbid(self, start: int, end: int, why: str, hint: str) -> None:
        for _ in range(self._text.count(OPENING, start, end)):
            self.faults.append(Fault(self._ordinal, why, hint))
            self._ordinal += 1

    def _end_word(self, command: _Command, closing: str) -> None:
        if not command.in_word:
            return
        if closing and command.literal == "case" and not command.redirection:
            raise _NotUnderstood("a `case` within parentheses")
        why, holes = self._objection(command) if command.holes else "", command.holes
        if is_compared(command.words, command.literal):
            why, holes = COMPARED, command.last_holes
        if why:
            ordinal, variable = holes[0]
            self.faults.append(objected(ordinal, why, variable))
        if not command.redirection:
            command.words.append(command.literal)
            command.last_holes = command.holes
        command.start_word()

    def _objection(self, command: _Command) -> str:
        if command.redirection in ("<&", ">&"):
            return f"bash expands what follows {command.redirection} twice"
        return "" if command.redirection else objection(command.words, command.literal)
