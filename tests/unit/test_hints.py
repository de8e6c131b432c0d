"""What the program tells people to type, in errors, hints and help, is there to be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.test_cli_docs import COMMANDS, options_of
from tests.unit.test_docs_commands import unknown_in

ROOT = Path(__file__).parents[2]
FOLDERS = ("protocol", "agent", "cli", "sync", "infra")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = sorted((ROOT / "web/runvoy_web").rglob("*.js"))
OPTIONS = frozenset().union(*map(options_of, COMMANDS.values()), {"--help", "--version"})
"""Of all commands: which one is meant, a text need not say."""

OF_OTHER_PROGRAMS = frozenset({"--unshallow", "--command", "--no-files", "--arguments", "--condition", "--port"})
"""Of git, of fish's `complete`, and of the worker on a machine, which is started by itself."""

_COMMAND = re.compile(r"`(?:\w+=\S* )*runvoy ([^`]+)`")
_OPTION_OF = re.compile(r"`(--[^`]+)` of `runvoy ([^`]+)`")
_ANOTHER_PROGRAM_S = re.compile(r"`(?:aws|docker|git|just|podman|python) [^`]*`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def texts_of(source: str) -> Iterator[str]:
    """The texts in a program, whole ones: what is put together is joined, with … for what is only known when it runs."""
    inner: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in node.values)
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def wrong_in(text: str, options: frozenset[str] = OPTIONS) -> list[str]:
    """What a text tells to type that the program does not have. `options` are those it may name without a command."""
    text = _OPTION_OF.sub(r"`runvoy \2 \1`", text)
    found = [f"`runvoy {shown}`: {unknown_in(shown)}" for shown in _COMMAND.findall(text) if unknown_in(shown)]
    is_prose = " " in text.strip() and not text.startswith("-")
    rest = _ANOTHER_PROGRAM_S.sub("", _COMMAND.sub("", text)) if is_prose else ""
    return found + [option for option in _OPTION.findall(rest) if option not in options | OF_OTHER_PROGRAMS]


def options_at(path: Path) -> frozenset[str]:
    """Those that a text of a module may name without a command: a command's own file speaks of that command, or of `run`."""
    name = f"runvoy {path.stem}"
    if path.parent.name != "commands" or name not in COMMANDS:
        return OPTIONS
    own = [options_of(command) for one, command in COMMANDS.items() if f"{one} ".startswith(f"{name} ")]
    return frozenset().union(*own, options_of(COMMANDS["runvoy run"]), {"--help"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_tells_to_type_is_there(path: Path) -> None:
    wrong = [(one, text) for text in texts_of(path.read_text()) for one in wrong_in(text, options_at(path))]
    assert wrong == []


def test_what_the_viewer_tells_to_type_is_there() -> None:
    shown = re.compile(r"runvoy ((?:[a-z]+ ?)+(?:--[a-z-]+)?)(?=[`\"<])")
    for path in PAGES:
        for text in shown.findall(path.read_text()):
            assert not unknown_in(text), f"{path.name}: runvoy {text}"


def test_what_is_not_there_is_found() -> None:
    for text in (
        "Give it `runvoy images register --role NAME` first.",
        "See `runvoy usres list`.",
        "Use --rolle for it.",
    ):
        assert wrong_in(text), text
    assert texts_of("x = f'Try `runvoy logs {own_id}` --{name}'").__next__() == "Try `runvoy logs …` --…"
    assert wrong_in("See `runvoy logs …`, or wait with `RUNVOY_HOME=… runvoy wait @last`; --json works.") == []
