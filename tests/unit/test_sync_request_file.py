"""Request files: every field, and every mistake with its line."""

import json
from pathlib import Path

import pytest

from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.requests import GitSource
from runvoy_sync.names import MAX_REQUEST_BYTES
from runvoy_sync.request_file import BadRequest, read

FULL = """\
# a comment
command: [terraform, plan, "-out=a b"]
image: terraform
env: {TF_IN_AUTOMATION: "1", EMPTY: ''}
secrets: [deployer]
locks: [prod, "shop/db"]
if_locked: fail
timeout: 1h30m
queue_timeout: 600
cpu: 0.5
memory: 2g
git_repo: https://git.example.com/infra
git_ref: main
git_path: stacks/shop
labels: {team: data, "on": yes}
name: Plan the shop
id: plan-42
isolation: container
"""


def test_every_field_reaches_the_request():
    wanted = read(Path("inbox/a.yml"), FULL.encode())
    request = wanted.request
    assert wanted.chosen_id == "plan-42"
    assert request.command == ("terraform", "plan", "-out=a b")
    assert request.env == {"TF_IN_AUTOMATION": "1", "EMPTY": ""}
    assert (request.image, request.secrets, request.locks) == ("terraform", ("deployer",), ("prod", "shop/db"))
    assert (request.if_locked, request.timeout_seconds, request.queue_timeout_seconds) == ("fail", 5400, 600)
    assert (request.cpu, request.memory_mib, request.isolation) == (512, 2048, "container")
    assert request.git == GitSource("https://git.example.com/infra", "main", "stacks/shop")
    assert (request.labels, request.name) == ({"team": "data", "on": "yes"}, "Plan the shop")


def test_json_is_read_as_json():
    wanted = read(Path("a.json"), b'\xef\xbb\xbf{\r\n\t"command": "echo \\ud83d\\ude00 \\\\ud83d \\/",\t"timeout": 60}')
    assert wanted.request.command == "echo \U0001f600 \\ud83d /"
    assert wanted.request.timeout_seconds == 60


@pytest.mark.parametrize("character", '\x7f\x80\x85\x9f\xa0\u2028\u2029\ufeff\ufffd\ufffe\uffff\U00010000\\"/')
@pytest.mark.parametrize("is_escaped", [True, False])
def test_json_keeps_every_character(character, is_escaped):
    """YAML takes some for the end of a line, which it folds, and refuses others."""
    command = f"echo 'a{character} {character}b'"
    raw = json.dumps({"command": command}, ensure_ascii=is_escaped).encode()
    assert read(Path("a.json"), raw).request.command == command


def test_the_machine_has_no_part_in_a_request(monkeypatch):
    monkeypatch.setenv("RUNVOY_USER_A", "b")
    assert read(Path("a.yml"), b"command: x\n").request.env == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1, column 1: the file is empty"),
        ("- a\n", "line 1, column 1"),
        ("name: x\n", "`command` is missing"),
        ("command: x\ncomand: y\n", "line 2, column 1: a request has no 'comand' (Did you mean 'command'?"),
        ("command: x\n\ntimeout: soon\n", "line 3, column 10: timeout: 'soon' is no duration"),
        ("command: x\ntimeout: 0\n", "line 2, column 10: timeout is 0"),
        ("command: x\nlocks: {}\n", "line 2, column 8: locks must be a name or a list"),
        ("command: x\nlocks: [a, a]\n", "line 2, column 12: 'a' stands here a second time"),
        ("command: x\nlocks: ['a b']\n", "line 2, column 9"),
        ("command: []\n", "line 1, column 10: the command is empty"),
        ("command: {a: b}\n", "line 1, column 10: the command must be text"),
        ("command: x\nenv: {1A: b}\n", "line 2, column 7"),
        ("command: x\nenv: {RUNVOY_A: b}\n", "is reserved"),
        ("command: x\ngit_ref: main\n", "line 2, column 10: git_ref needs git_repo"),
        ("command: x\nif_locked: maybe\n", "line 2, column 12"),
        ("command: x\ncommand: y\n", "line 2, column 1: 'command' stands here a second time"),
        ("command: &a x\nname: *a\n", "anchors (&a) are not allowed"),
        ("command: !!python/object/apply:os.system [x]\n", "tags"),
        ("command: x\n---\ncommand: y\n", "line 2"),
        ("command: 'x\n", "no valid YAML"),
        ("command: x\ntimeout: 9999999\n", "timeout_seconds must be"),
        ("playbook: nowhere\n", "there is no playbook 'nowhere'"),
        ("playbook: a\ncommand: x\n", "line 2, column 1: a playbook call has no 'command'"),
    ],
)
def test_a_mistake_is_told_with_its_line(text, said):
    with pytest.raises(BadRequest) as caught:
        read(Path("inbox/a.yml"), text.encode())
    assert said in caught.value.message
    assert caught.value.message.startswith("inbox/a.yml, line ")


@pytest.mark.parametrize(
    "text",
    [b"{", b'{"command": "\\ud83d"}', b"[" * 100_000, b"\xff", b"{'command': 'x'}", b'{"command": "a\\u0000b"}']
    + [b'{"command": "x", "timeout": ' + b"9" * 5000 + b"}"],
)
def test_json_that_is_none_is_refused(text):
    with pytest.raises(BadRequest, match=r"a\.json, line 1"):
        read(Path("a.json"), text)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"command: " + b"x" * MAX_REQUEST_BYTES, b"a: " * 10_000, b"\0", b"%YAML 9\n"]
)
def test_hostile_yaml_is_refused_at_once(text):
    with pytest.raises(UsageProblem):
        read(Path("a.yml"), text)


def test_a_misspelt_command_is_one_mistake():
    with pytest.raises(UsageProblem) as caught:
        read(Path("a.yml"), b"comand: x\n")
    (line,) = caught.value.message.splitlines()
    assert "a request has no 'comand' (Did you mean 'command'?" in line


def test_a_call_is_told_which_field_a_parameter_goes_into(tmp_path, monkeypatch):
    (tmp_path / ".runvoy").mkdir()
    text = "parameters: {stage: {enum: [test, prod]}, tag: {}}\ncommands: ['deploy ${{ stage }} ${{ tag }}']\n"
    (tmp_path / ".runvoy/deploy.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem) as caught:
        read(Path("a.yml"), b"playbook: deploy\n")
    assert "Give `params: {stage: …, tag: …}`; stage must be test or prod" in caught.value.message
