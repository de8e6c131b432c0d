"""Hints name a field of a run request as its place spells it: an option on the command line, a field in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runvoy_cli import app
from runvoy_cli.bulk.requests import FIELDS
from runvoy_cli.input.advice import OPTIONS, in_options
from runvoy_protocol.errors import ERRORS
from runvoy_protocol.explanations import HINTS

WRITTEN = {
    "Add `isolation: process` to run it.": "Add `--isolation process` to run it.",
    "Submit it without `if_locked: fail`.": "Submit it without `--if-locked fail`.",
    "Give it a longer `queue_timeout`; `runvoy locks list` tells.": "Give it a longer `--queue-timeout`; `runvoy locks list` tells.",
    "one of its `secrets`, `env`": "one of its `--secret`, `--env`",
    "Give `params: {stage: …}`; stage takes a or b.": "Give `--param stage=…`; stage takes a or b.",
    "Give `params: {a: …, b: …}`.": "Give `--param a=… --param b=…`.",
    "`command` is missing": "`command` is missing",
    "see `runvoy images list`, timeout, `timeouts`, `x: timeout`": "see `runvoy images list`, timeout, `timeouts`, `x: timeout`",
    "": "",
}


@pytest.mark.parametrize(("hint", "shown"), WRITTEN.items())
def test_a_field_is_shown_as_the_option(hint: str, shown: str) -> None:
    assert in_options(hint) == shown
    assert in_options(shown) == shown


def test_each_field_of_a_request_has_an_option_that_there_is() -> None:
    there_are = {option for name in ("run", "playbook") for option in _options(name)}
    assert set(OPTIONS.values()) <= there_are
    assert set(FIELDS) | {"params"} == set(OPTIONS) | {"command"}


def _options(name: str) -> set[str]:
    command = app._load(name)
    commands = [command, *getattr(command, "commands", {}).values()]
    return {option for one in commands for parameter in one.params for option in parameter.opts}


def test_what_a_deployment_says_of_a_request_names_fields_alone() -> None:
    """It is read beside a file, in a browser, and by other clients too."""
    hints = [spec.hint for spec in ERRORS.values()] + list(HINTS.values())
    judging = Path(__file__).parents[2] / "agent/runvoy_agent/core"
    hints += [(judging / f"{name}.py").read_text() for name in ("admission", "secrets", "limits")]
    options = "|".join(OPTIONS.values())
    for hint in hints:
        assert re.search(rf"(?<![\w-])({options})\b", hint) is None, hint
