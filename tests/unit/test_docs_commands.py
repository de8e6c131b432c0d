"""Every command that a page shows is run by a test (tests/e2e/test_transcripts.py), or says why not and is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.docs_scripts import load

from runvoy_cli import app
from runvoy_cli.input.options import Settings
from runvoy_cli.submission.request import LiteralCommand

ROOT = Path(__file__).parents[2]
# Pages whose blocks and words are of the protocol or the code, `runvoy execution key v1` and the like.
OF_DEVELOPERS = {"protocol.md", "architecture.md", "performance.md", "development.md"}
_ENDS_A_COMMAND = set("();<>|&")


TRANSCRIPTS = load("transcripts")
PAGES = TRANSCRIPTS.every_page()
OF_USERS = [page for page in PAGES if page.name not in OF_DEVELOPERS and page.parent.name != "adr"]
SHOWS_A_COMMAND = re.compile(r"(^|[\s(|;&])runvoy (?!-?[A-Z])[a-z-]")


def command_lines(line):
    """The calls of runvoy within a shell's line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = []
    at_command = True
    words: list[str] | None = None
    for token in lexer:
        if set(token) <= _ENDS_A_COMMAND:
            words, at_command = None, not set(token) & set("<>")
        elif words is not None:
            words.append(token)
        elif at_command and token == "runvoy":
            words = []
            found.append(words)
        else:
            at_command = at_command and re.fullmatch(r"\w+=.*|\$|\w+=\$", token) is not None
    return found


def parse(words):
    """Parse as the program would, every value too, and do nothing."""
    group: Any = app.root()
    name, context = app.PROGRAM, None
    while True:
        context = group.make_context(name, list(words), obj=Settings(), parent=context)
        words = [*context._protected_args, *context.args]
        if not hasattr(group, "resolve_command") or not words:
            return
        name, group, words = group.resolve_command(context, words)


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_run_or_says_why_not(page):
    for block in TRANSCRIPTS.blocks(page.read_text()):
        if block.kind in ("other", "file"):
            shown = [line for line in block.lines if SHOWS_A_COMMAND.search(line) and not line.lstrip().startswith("#")]
            assert block.kind == "file" or not shown, (
                f"line {block.first + 1}: make it ```console, or mark it <!-- not run: why -->"
            )
        if block.kind == "not run":
            assert len(block.word) > 10, f"line {block.first + 1}: what keeps it from running?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_is_taken_by_the_program(page):
    for block in TRANSCRIPTS.blocks(page.read_text()):
        if block.kind not in ("not run", "file"):
            continue
        for line in "\n".join(block.lines).replace("\\\n", " ").splitlines():
            if SHOWS_A_COMMAND.search(line):
                shown = line.removeprefix("$ ") if block.kind == "not run" else line[line.index("runvoy ") :]
                for words in command_lines(shown):
                    parse(words)


def unknown_in(shown):
    """What of a command in running text, with placeholders and alternatives, the program does not have; empty if all is there."""
    command: Any = app.root()
    context = command.make_context(app.PROGRAM, ["--verbose"], resilient_parsing=True)
    words = shown.replace("\\|", "|").split()
    while words and words[0] != "--":
        word = words.pop(0).strip("[]")
        if word.startswith("-"):
            options = {name: one for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
            name = word.partition("=")[0]
            if name not in options:
                return name
            takes_a_value = not options[name].is_flag and "=" not in word
            words = words[1:] if takes_a_value else words
        elif hasattr(command, "get_command") and not word.isupper() and word.strip("…"):
            names = word.split("|")
            missing = [name for name in names if command.get_command(context, name) is None]
            if missing or len(names) > 1:
                return "".join(missing)
            command = command.get_command(context, word)
            context = type(context)(command, info_name=word, parent=context)
        elif isinstance(command, LiteralCommand):
            return ""  # the rest is the command's own
    return ""


@pytest.mark.parametrize("page", OF_USERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_a_pages_text_are_there_with_their_options(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for shown in re.findall(r"`(?:\w+=\S* )*runvoy ([^`]+)`", text):
        assert not unknown_in(shown), f"`runvoy {shown}`: there is no {unknown_in(shown)}"


def test_what_the_program_does_not_have_is_found_in_text():
    for shown in (
        "locks list|show NAME",
        "--profile prod whoami",
        "submit --bulk FILE|-",
        "run -- x --y",
        "run sh --z",
        "local …",
    ):
        assert unknown_in(shown) == "", shown
    for shown, unknown in (("locks shwo NAME", "shwo"), ("run --lokc a x", "--lokc"), ("keys list|mend", "mend")):
        assert unknown_in(shown) == unknown


def test_a_command_line_is_found_wherever_it_stands_in_a_shells_line():
    assert command_lines("ID=$(runvoy submit --lock a -- b c) && A=1 runvoy wait $ID; echo $?") == [
        ["submit", "--lock", "a", "--", "b", "c"],
        ["wait", "$ID"],
    ]
    assert command_lines("printf x | runvoy secrets create a B --share '*' < file") == [
        ["secrets", "create", "a", "B", "--share", "*"]
    ]


def test_what_the_program_does_not_take_is_found():
    parse(["run", "--timeout", "10m", "terraform", "plan"])
    for words in (["run", "--tiemout", "1s", "x"], ["locks", "shwo", "a"], ["run", "--timeout", "soon", "x"]):
        with pytest.raises(Exception, match=r"tiemout|shwo|soon"):
            parse(words)


PAGE = """
```console
$ runvoy submit 'x'
01a21371cf6a7a8e850d215e39c0763a
$ runvoy wait 01a21371cf6a7a8e850d215e39c0763a; echo $?
runvoy: 01a21371cf6a7a8e850d215e39c0763a FAILED, exit code 7, 1.0s
7
```
"""


def ran(*outputs):
    console = [block for block in TRANSCRIPTS.sessions(PAGE) if block.kind == "console"]
    found = iter(outputs)
    return [[TRANSCRIPTS.Step(step.command, next(found)) for step in TRANSCRIPTS.steps(block)] for block in console]


def test_ids_and_times_may_differ_but_nothing_else():
    one, other = "0" * 32, "f" * 32
    good = ran((one,), (f"runvoy: {one} FAILED, exit code 7, 2m03.5s", "7"))
    assert TRANSCRIPTS.differences(PAGE, good) == {}
    assert TRANSCRIPTS.fill(PAGE, good) == PAGE
    for bad in (
        ran((one,), (f"runvoy: {other} FAILED, exit code 7, 1.0s", "7")),
        ran((one,), (f"runvoy: {one} FAILED, exit code 8, 1.0s", "8")),
        ran((one,), ("7",)),
        ran((), (f"runvoy: {one} FAILED, exit code 7, 1.0s", "7")),
    ):
        assert list(TRANSCRIPTS.differences(PAGE, bad)) == [0]
        assert TRANSCRIPTS.differences(TRANSCRIPTS.fill(PAGE, bad), bad) == {}


def test_three_dots_stand_for_any_lines():
    page = "```console\n$ x\nfirst\n…\nlast\n```\n"
    step = TRANSCRIPTS.Step
    assert TRANSCRIPTS.differences(page, [[step("x", ("first", "a", "b", "last"))]]) == {}
    assert list(TRANSCRIPTS.differences(page, [[step("x", ("first", "a", "b"))]])) == [0]


def test_a_block_says_what_it_is():
    page = "a\n\n    $ indented\n\nb\n\n<!-- not run: needs AWS -->\n\n    runvoy x\n\n<!-- file: a/b.yml -->\n```yaml\nc: d\n```\n"
    found = [(block.kind, block.word, block.lines[0]) for block in TRANSCRIPTS.blocks(page)]
    assert found == [
        ("other", "", "$ indented"),
        ("not run", "needs AWS", "runvoy x"),
        ("file", "a/b.yml", "c: d"),
    ]
