"""docs/cli.md knows every command of the program, and what it prints; docs/reference.md, made from the program, has the options."""

import json
import re
from pathlib import Path

import pytest

from runvoy_cli import app
from runvoy_cli.home import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


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


def test_the_page_has_a_section_for_every_command_and_no_other():
    assert {name for name in SECTIONS if name.startswith("runvoy ")} == set(COMMANDS)


def test_the_reference_has_every_option_of_every_command():
    reference = (ROOT / "docs" / "reference.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL))
    of_every_command = re.findall(r"--[a-z-]+", sections["Options of every command"])
    for name, command in COMMANDS.items():
        if hasattr(command, "commands") and not command.invoke_without_command:
            continue
        rows = "\n".join(re.findall(r"^\| `(-.*?)` \| ", sections[name], re.MULTILINE))
        told = {*re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rows), *of_every_command}
        assert options_of(command) - told == set(), name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_that_prints_has_its_json_documented(name):
    blocks = re.findall(r"```json\n(.*?)```", SECTIONS[name], re.DOTALL)
    command = COMMANDS[name]
    is_only_a_group = hasattr(command, "commands") and not command.invoke_without_command
    assert bool(blocks) != is_only_a_group
    for line in "".join(blocks).splitlines():
        json.loads(line)


def test_the_variables_that_are_told_are_those_that_are_read():
    """Names in the program's text; what it sets for its own processes, and what names a secret, is told elsewhere."""
    of_others = {"RUNVOY_CONTAINER", "RUNVOY_GIT_TOKEN", "RUNVOY_GIT_SSH_KEY", "RUNVOY_GIT_KNOWN_HOSTS"}
    of_others |= {"RUNVOY_GIT_CERTIFICATES", "RUNVOY_FOLDER", "RUNVOY_NOTE", "RUNVOY_MARK"}
    folders = ["cli", "sync", "agent/runvoy_agent/local", "agent/runvoy_agent/runner", "agent/runvoy_agent/handlers"]
    texts = [path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = [text for text in texts if "docs/reference.md is made of them" not in text]
    named = set(re.findall(r'"(RUNVOY_[A-Z_]*[A-Z]|NO_COLOR|GITHUB_[A-Z_]+|TERM)"', "\n".join(texts)))
    told = {*environment.READ, *environment.GIVEN} - {"RUNVOY_USER_NAME"}
    assert named - of_others == told


def test_no_line_of_the_page_is_too_long_to_be_read_in_a_diff():
    in_block = False
    for line in PAGE.splitlines():
        in_block ^= line.startswith("```")
        assert in_block or line.startswith("|") or len(line) <= 130, line
