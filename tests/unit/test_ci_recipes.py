"""The recipes of docs/ci are what the two systems take, and call runvoy as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.test_cli_docs import COMMANDS, options_of

RECIPES = Path(__file__).parents[2] / "docs" / "ci"
SCHEMAS = {
    "github-actions.yml": ["--builtin-schema", "vendor.github-workflows"],
    "gitlab-ci.yml": ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}


def test_every_recipe_has_a_schema() -> None:
    assert {path.name for path in RECIPES.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_recipe_is_what_its_system_takes(name: str) -> None:
    program = [sys.executable, "-m", "check_jsonschema", *SCHEMAS[name], str(RECIPES / name)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in texts(value)]
    if isinstance(node, list):
        return [text for value in node for text in texts(value)]
    return [node] if isinstance(node, str) else []


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_recipe_calls_runvoy_as_it_is(name: str) -> None:
    script = "\n".join(texts(yaml.safe_load((RECIPES / name).read_text())))
    calls = re.findall(r"^(?:if .*then )?runvoy ([a-z]+) (.*)$", script, re.MULTILINE)
    assert {command for command, _ in calls} >= {"run", "submit", "wait", "kill"}
    for command, rest in calls:
        options = set(re.findall(r"(?<= )--[a-z][a-z-]*", f" {rest.partition(' -- ')[0]}"))
        assert options <= options_of(COMMANDS[f"runvoy {command}"]), (command, options)
