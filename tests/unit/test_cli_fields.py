"""One vocabulary: a field has the same name in a line of `submit --bulk`, a request file of `runvoy sync` and a playbook, and an
option is that name (its singular where it is repeated)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.test_cli_bulk import read as read_bulk

from runvoy_cli import app
from runvoy_cli.bulk import reader as bulk_reader
from runvoy_cli.bulk.requests import FIELDS as BULK
from runvoy_cli.input import yaml_nodes
from runvoy_cli.playbooks import reader as playbook_reader
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_sync import request_file

PLAYBOOK_ONLY = {"description", "commands", "parameters"}
CALL_ONLY = {"playbook", "params"}
OTHER_NAMES = {
    "lock": "locks",
    "secret": "secrets",
    "label": "labels",
    "envs": "env",
    "images": "image",
    "timeout_seconds": "timeout",
    "memory_mib": "memory",
    "cpus": "cpu",
    "git": "git_repo",
    "repo": "git_repo",
    "ref": "git_ref",
}


def test_bulk_lines_and_request_files_have_the_very_same_fields() -> None:
    assert tuple(BULK) == request_file.FIELDS


def test_playbooks_and_their_calls_add_only_what_is_theirs() -> None:
    assert set(playbook_reader.FIELDS) - set(BULK) == PLAYBOOK_ONLY
    assert set(request_file.CALL_FIELDS) - set(BULK) == CALL_ONLY


def test_the_schema_of_playbooks_has_the_reader_s_fields() -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs/playbook.schema.json").read_text())
    assert set(schema["properties"]) == set(playbook_reader.FIELDS)


def test_an_option_is_a_field_s_name_or_its_singular() -> None:
    options = {parameter.name for parameter in app._load("submit").params}
    for name in set(BULK) - {"command"}:
        assert name in options or name.removesuffix("s") in options, name


@pytest.mark.parametrize(("written", "meant"), OTHER_NAMES.items())
def test_another_name_is_refused_and_the_right_one_told(written: str, meant: str, tmp_path: Path) -> None:
    told = f"Did you mean '{meant}'?"
    _, problems = read_bulk(json.dumps({"command": "true", written: "x"}))
    assert told in problems[0].text
    with pytest.raises(RunvoyError, match=written) as refused:
        request_file.read(tmp_path / "a.yml", f"command: 'true'\n{written}: x\n".encode())
    assert told in refused.value.message
    with pytest.raises(RunvoyError, match=written) as refused:
        playbook_reader.read("a", tmp_path / "a.yml", f"commands: ['true']\n{written}: x\n")
    assert told in refused.value.message


def test_a_run_has_a_command_and_a_playbook_commands(tmp_path: Path) -> None:
    assert "'command'" in yaml_nodes.did_you_mean("commands", BULK)
    with pytest.raises(RunvoyError, match="Did you mean 'commands'"):
        playbook_reader.read("a", tmp_path / "a.yml", "command: 'true'\n")


def test_a_value_that_a_line_and_a_request_file_share_means_the_same(tmp_path: Path) -> None:
    fields = {
        "command": ["sh", "-c", "exit 3"],
        "image": "tools",
        "env": {"A": "1"},
        "secrets": ["db"],
        "locks": ["a", "b"],
        "if_locked": "fail",
        "timeout": "1m",
        "queue_timeout": "10m",
        "cpu": "0.5",
        "memory": "2g",
        "git_repo": "https://x.example/r",
        "git_ref": "main",
        "git_path": "a/b",
        "labels": {"team": "data"},
        "name": "nightly",
        "id": "job-1",
        "isolation": "container",
    }
    assert tuple(fields) == request_file.FIELDS
    problems: list[bulk_reader.Problem] = []
    [line], problems = read_bulk(json.dumps(fields))
    assert problems == []
    wanted = request_file.read(tmp_path / "a.json", json.dumps(fields).encode())
    assert wanted.chosen_id == "job-1"
    for field in set(line.__struct_fields__) - {"deployment_id", "request_id", "issued_at", "expires_at", "env"}:
        assert getattr(line, field) == getattr(wanted.request, field), field
    assert line.env["A"] == wanted.request.env["A"] == "1"


@pytest.mark.parametrize("field", ["locks", "secrets"])
@pytest.mark.parametrize(
    "value", ["prod", ["prod"], ["a", "b"], [], {}, {"a": "b"}, ["a", ["b"]], ["a", "a"], "", "no name"]
)
def test_names_are_one_or_a_list_of_them_wherever_they_stand(field: str, value: object, tmp_path: Path) -> None:
    """In a line, in a request file and in a playbook: what one takes the others take, and as the same."""

    def taken(read: Callable[[], object]) -> object:
        try:
            return getattr(read(), field)
        except RunvoyError:
            return None

    def of_a_line() -> object:
        lines, problems = read_bulk(json.dumps({"command": "true", field: value}))
        if problems:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, problems[0].text)
        return lines[0]

    of_line = taken(of_a_line)
    raw = json.dumps({"command": "true", field: value}).encode()
    assert taken(lambda: request_file.read(tmp_path / "a.json", raw).request) == of_line
    text = json.dumps({"commands": ["true"], field: value})
    assert taken(lambda: playbook_reader.read("a", tmp_path / "a.yml", text)) == of_line
    is_good = value in ("prod", ["prod"], ["a", "b"], [])
    assert of_line == (((value,) if isinstance(value, str) else tuple(value)) if is_good else None)  # type: ignore[arg-type]
