"""docs/cli.md knows every command and every option of the program, and none that does not exist."""

import json
import re
from pathlib import Path

import pytest

from runvoy_cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OF_EVERY_COMMAND = SECTIONS["Options of every command"]


def commands():
    """Every command by its full name."""
    waiting = [(f"runvoy {name}", app._load(name)) for name in app.COMMANDS]
    found = {}
    while waiting:
        name, command = waiting.pop()
        found[name] = command
        waiting.extend((f"{name} {child}", one) for child, one in getattr(command, "commands", {}).items())
    return found


COMMANDS = commands()


def options_of(command):
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts) if option.startswith("-")}


def documented(section):
    rows = re.findall(r"^\| (`-.*?) \| ", section, re.MULTILINE)
    return {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}


GLOBAL = documented(OF_EVERY_COMMAND)


def test_the_page_has_a_section_for_every_command_and_no_other():
    assert {name for name in SECTIONS if name.startswith("runvoy ")} == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_options_of_a_command_are_those_of_the_page(name):
    assert documented(SECTIONS[name]) == options_of(COMMANDS[name]) - GLOBAL


def test_the_options_of_every_command_are_really_those_of_each():
    for name, command in COMMANDS.items():
        missing = GLOBAL - {"--help", "-h"} - options_of(command)
        assert not missing, name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_that_prints_has_its_json_documented(name):
    blocks = re.findall(r"```json\n(.*?)```", SECTIONS[name], re.DOTALL)
    is_only_a_group = name in ("runvoy locks", "runvoy local", "runvoy infra")
    assert bool(blocks) != is_only_a_group
    for line in "".join(blocks).splitlines():
        json.loads(line)


def test_no_line_of_the_page_is_too_long_to_be_read_in_a_diff():
    in_block = False
    for line in PAGE.splitlines():
        in_block ^= line.startswith("```")
        assert in_block or line.startswith("|") or len(line) <= 130, line
