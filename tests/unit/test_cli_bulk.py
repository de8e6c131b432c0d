"""The file of `submit --bulk`: what it may hold, and that every mistake is told with its line."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runvoy_cli.bulk import reader
from runvoy_cli.bulk.reader import BadBulk, Problem
from runvoy_cli.bulk.requests import FIELDS, Maker
from runvoy_cli.deployment.target import Target
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import ids
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.requests import GitSource, RunRequest

KEY = SigningKey(bytes(range(32)))
TARGET = Target("https://x.example", "there", KEY)
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
BASE = RunRequest(
    version=1,
    deployment_id="here",
    request_id=ids.uuid7(NOW, bytes(10)),
    issued_at=NOW,
    expires_at=NOW + timedelta(minutes=15),
    command=("true",),
    env={"STAGE": "test", "A": "base"},
    labels={"team": "data"},
    locks=("prod",),
    timeout_seconds=90,
)


def read(
    text: str, name: str = "f", prefix: str | None = None, default: int | None = None
) -> tuple[list[RunRequest], list[Problem]]:
    problems: list[Problem] = []
    maker = Maker(BASE, prefix)
    entries = reader.parse(text, name, problems)
    made = [maker.make(entry, number, problems) for number, entry in enumerate(entries, start=1)]
    return [one.addressed(TARGET, NOW, default) for one in made if one is not None], problems


FULL = {
    "command": ["sh", "-c", "exit 3"],
    "image": "tools",
    "env": {"A": "1"},
    "secrets": ["db"],
    "locks": ["a", "b"],
    "if_locked": "fail",
    "timeout": "1m",
    "queue_timeout": 600,
    "cpu": 0.5,
    "memory": "2g",
    "git_repo": "https://x.example/r",
    "git_ref": "main",
    "labels": {"n": "1"},
    "name": "nightly",
    "isolation": "container",
    "id": "job-1",
}


@pytest.mark.parametrize(
    "text", [json.dumps(FULL), json.dumps(FULL, indent=1)], ids=["JSON line", "YAML in flow style"]
)
def test_every_field_and_the_command_line_s_defaults(text: str) -> None:
    [request], problems = read(text, "f.yaml" if "\n" in text else "f")
    assert problems == []
    assert request.command == ("sh", "-c", "exit 3")
    assert (request.image, request.secrets, request.locks) == ("tools", ("db",), ("a", "b"))
    assert (request.timeout_seconds, request.queue_timeout_seconds, request.if_locked) == (60, 600, "fail")
    assert (request.cpu, request.memory_mib) == (512, 2048)
    assert request.git == GitSource("https://x.example/r", "main")
    assert request.env == {"STAGE": "test", "A": "1"}, "what the line sets comes on top"
    assert request.labels == {"team": "data", "n": "1"}
    assert request.request_id == KEY.execution_id_of("job-1"), "the id is the one of `submit --id`"


def test_what_a_line_leaves_out_is_the_command_line_s() -> None:
    [request], _ = read('{"command": "echo hi", "image": null}')
    assert (request.command, request.locks, request.timeout_seconds) == ("echo hi", ("prod",), 90)


def test_the_configured_timeout_is_for_what_says_nothing_of_it() -> None:
    found, _ = read('{"command": "a"}\n{"command": "b", "timeout": "1m"}', default=30)
    assert [one.timeout_seconds for one in found] == [30, 60]


def test_each_run_is_addressed_to_the_deployment_and_new_without_an_id() -> None:
    found, _ = read('{"command": "a"}\n{"command": "a"}')
    assert {one.deployment_id for one in found} == {"there"}
    assert len({one.request_id for one in found}) == 2


def test_yaml_documents_hold_texts_as_they_stand() -> None:
    found, problems = read(
        "command: [echo, on, 1.0]\nenv: {A: yes}\n---\n# nothing\n---\ncommand: |\n  a\n  b\nlocks: x\n"
    )
    assert problems == []
    assert [one.command for one in found] == [("echo", "on", "1.0"), "a\nb\n"]
    assert found[0].env["A"] == "yes"
    assert found[1].locks == ("x",)


def test_every_mistake_is_told_with_its_line() -> None:
    lines = [
        '{"command": "true", "imge": "x"}',
        "",
        "{broken",
        "[1]",
        '{"env": {"A": 1}}',
        '{"command": "true", "timeout": true, "timeout_seconds": 3}',
        '{"command": "true", "id": "same"}',
        '{"command": "true", "id": "same"}',
        '{"command": ["a", 1]}',
        '{"command": "true", "labels": {"bad name": "x"}}',
        '{"command": ""}',
        '{"command": "true", "git_ref": "x"}',
        '{"command": "true", "memory": "much", "if_locked": "maybe"}',
        '{"command": "\\ud800"}',
    ]
    _, problems = read("\n".join(lines))
    told = {}
    for line, text in problems:
        told.setdefault(line, []).append(text)
    assert sorted(told) == [1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
    [imge] = told[1]
    assert imge.startswith("a run has no 'imge'. Did you mean 'image'? It has: command, image, ")
    assert told[12] == ["git_ref and git_path need git_repo"]
    assert told[8] == ["its id is that of line 7"]
    assert len(told[5]) == 2  # no command, and a variable that is no text
    assert len(told[13]) == 2


def test_a_misspelt_command_of_a_run_is_one_mistake() -> None:
    [(line, text)] = read('{"comand": "true"}')[1]
    assert line == 1
    assert text.startswith("a run has no 'comand'. Did you mean 'command'?")


def test_a_mistake_in_yaml_is_told_with_its_own_line() -> None:
    _, problems = read("command: a\ntimeout: 5x\n---\n\nlock: x\ncommand: b\n---\n- a\n")
    assert sorted(one.line for one in problems) == [2, 5, 8]
    for text in ("a: &x 1\nb: *x\n", "a: " + "[" * 50, "a: [", "command: a\ncommand: b\n", "\x00"):
        _, problems = read(text, "f.yml")
        assert problems, text


def test_an_id_for_the_whole_file_numbers_its_runs() -> None:
    found, _ = read('{"command": "a"}\n{"command": "b", "id": "own"}\n', prefix="nightly")
    assert [one.request_id for one in found] == [KEY.execution_id_of("nightly/1"), KEY.execution_id_of("own")]


def test_the_error_has_all_and_shows_some() -> None:
    error = BadBulk("f", [Problem(line, "wrong") for line in range(200, 0, -1)])
    assert error.message.splitlines()[0] == "f has 200 mistakes; nothing was submitted"
    assert error.message.splitlines()[1] == "f:1: wrong"
    assert error.message.splitlines()[-1] == "… and 150 more"
    assert len(error.details["problems"]) == 200  # type: ignore[arg-type]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be read"):
        reader.read(str(tmp_path / "none"))
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UsageProblem, match="UTF-8"):
        reader.read(str(tmp_path / "latin"))


def test_the_fields_are_the_request_s() -> None:
    of_a_file = {field for field, _ in FIELDS.values()}
    made_otherwise = {"version", "deployment_id", "issued_at", "expires_at", "playbook"}
    assert of_a_file | made_otherwise == set(RunRequest.__struct_fields__)
