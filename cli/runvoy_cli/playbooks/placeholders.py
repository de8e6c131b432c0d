"""`${{ parameter }}`: what it looks like, which variable it stands for, and what is wrong with one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runvoy_cli.input.yaml_nodes import did_you_mean

OPENING = "${{"
MAX_PLACEHOLDERS = 200  # in one command or value: each is judged by all that stands before it
PLACEHOLDER = re.compile(r"\$\{\{(?:[ \t]*([^{}\n]*?)[ \t]*\}\})?")


class Kind(NamedTuple):
    """What the text needs to know of a parameter."""

    variable: str
    is_int: bool


class Fault(NamedTuple):
    """Why a placeholder cannot stand where it stands. `ordinal` counts the placeholders of the text from 0."""

    ordinal: int
    text: str
    hint: str = ""


class Compiled(NamedTuple):
    """`shell` means nothing if there are faults."""

    shell: str
    faults: list[Fault]


def quoted(text: str) -> str:
    """`text` in single quotes, whatever it holds."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def has_placeholders(text: str) -> bool:
    return OPENING in text


def too_many(*texts: str) -> list[Fault]:
    """The fault of texts that together have more placeholders than one command may."""
    count = sum(text.count(OPENING) for text in texts)
    why = f"{count:,} placeholders stand in one place; at most {MAX_PLACEHOLDERS} are allowed"
    return [Fault(0, why, "Use the variable itself where it is needed often.")] if count > MAX_PLACEHOLDERS else []


def compile_value(text: str, kinds: Mapping[str, Kind]) -> Compiled:
    """Literal text with placeholders as one shell word."""
    pieces: list[str] = []
    faults = too_many(text)
    if faults:
        return Compiled("", faults)
    end = 0
    for ordinal, match in enumerate(PLACEHOLDER.finditer(text)):
        if match.start() > end:
            pieces.append(shlex.quote(text[end : match.start()]))
        end = match.end()
        fault = fault_of(match, ordinal, kinds)
        if fault is not None:
            faults.append(fault)
        else:
            pieces.append(f'"${{{kinds[match[1]].variable}}}"')
    if end < len(text) or not pieces:
        pieces.append(shlex.quote(text[end:]))
    return Compiled("".join(pieces), faults)


def names_in(text: str) -> list[str]:
    """The parameters that a text names, in order."""
    return [match[1] for match in PLACEHOLDER.finditer(text) if match[1]]


def pieces(text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a text that has no faults, in order: whether each is a parameter's name, and it; for what no shell reads."""
    end = 0
    for match in PLACEHOLDER.finditer(text):
        if match.start() > end:
            yield False, text[end : match.start()]
        yield True, match[1]
        end = match.end()
    if end < len(text):
        yield False, text[end:]


def fault_of(match: re.Match[str], ordinal: int, kinds: Mapping[str, Kind]) -> Fault | None:
    name = match[1]
    if name is None:
        return Fault(ordinal, "this placeholder is never closed", "Write it as ${{ name }}.")
    if name not in kinds:
        known = ", ".join(kinds) or "none are declared"
        return Fault(ordinal, f"there is no parameter {name!r}", f"{did_you_mean(name, kinds)}The parameters: {known}.")
    return None


def first_variable(text: str, kinds: Mapping[str, Kind]) -> str:
    return next((kinds[name].variable for name in names_in(text) if name in kinds), "PARAM_NAME")


def objected(ordinal: int, why: str, variable: str) -> Fault:
    return Fault(
        ordinal,
        f"no parameter can stand here: {why}",
        f"Its value is in the variable {variable}, exported: let what runs there read it.",
    )
