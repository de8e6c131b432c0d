"""Compiled playbooks: what is none, and the values that parameters take."""

import msgspec
import pytest

from runvoy_protocol import playbooks, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.playbooks import CompiledPlaybook, Parameter, ParameterValue

STAGE = Parameter(name="stage", enum=("test", "prod"), required=True)
NOTE = Parameter(name="note", default="none")
TOKEN = Parameter(name="token", secret=True)
WHOLE = CompiledPlaybook(
    name="deploy",
    command="# playbook deploy\nmake deploy",
    source="laptop:~/shop",
    description="Deploy\nthe shop",
    parameters=(STAGE, NOTE, TOKEN),
    image="alpine",
    env={"TOOL": "make"},
    secrets=("deployer",),
    locks=("shop",),
    timeout_seconds=90,
    cpu=256,
    memory_mib=512,
    git=requests.GitSource("https://git.example.com/shop", "main"),
    labels={"stage": ("on ", ParameterValue(parameter="stage"), "!"), "team": ("core",), "none": ()},
)


def test_a_whole_one_is_right_and_comes_back_from_json():
    playbooks.check([WHOLE])
    assert msgspec.json.decode(msgspec.json.encode(WHOLE), type=CompiledPlaybook) == WHOLE


def test_its_request_has_all_that_it_fixes_and_the_values_where_they_belong():
    made = playbooks.to_request(WHOLE, {"stage": "prod", "note": "", "token": "s"})
    assert made.env == {"TOOL": "make", "PARAM_STAGE": "prod", "PARAM_NOTE": "", "PARAM_TOKEN": "s"}
    assert made.labels == {"stage": "on prod!", "team": "core", "none": ""}
    for field in ("command", "image", "secrets", "locks", "timeout_seconds", "cpu", "memory_mib", "git"):
        assert getattr(made, field) == getattr(WHOLE, field)
    assert (made.playbook, made.name) == ("deploy", "deploy")


def test_its_digest_is_that_of_every_request_made_of_it():
    pin = playbooks.pin(WHOLE)
    for values in ({"stage": "prod", "note": "x", "token": ""}, {"stage": "", "note": "", "token": "y"}):
        made = playbooks.to_request(WHOLE, values)
        assert requests.playbook_digest(made, pin.parameters) == pin.digest
    other = playbooks.to_request(msgspec.structs.replace(WHOLE, cpu=512), values)
    assert requests.playbook_digest(other, pin.parameters) != pin.digest


def with_parameter(**fields: object) -> dict[str, object]:
    return {"parameters": (msgspec.structs.replace(STAGE, **fields), NOTE, TOKEN)}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "../x"}, "no playbook's name"),
        ({"name": ""}, "no playbook's name"),
        ({"source": "x" * 257}, "source"),
        ({"source": "a\nb"}, "source"),
        ({"command": ""}, "the command is empty"),
        ({"command": "a\0b"}, "NUL"),
        ({"env": {"PARAM_STAGE": "x"}}, "begins with PARAM_"),
        ({"env": {"RUNVOY_X": "x"}}, "reserved"),
        ({"locks": ("a", "a")}, "twice"),
        ({"image": ""}, "image"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"parameters": (STAGE, STAGE, TOKEN)}, "two of one name"),
        ({"labels": {"a": (ParameterValue(parameter="other"),)}}, "'other'"),
        ({"labels": {"a": (ParameterValue(parameter="token"),)}}, "'token'"),
        ({"labels": {"bad name": ("x",)}}, "label"),
        (with_parameter(name="Stage"), "a name that is none"),
        (with_parameter(enum=()), "enum"),
        (with_parameter(enum=("a", "a")), "enum"),
        (with_parameter(enum=("",)), "enum"),
        (with_parameter(pattern="[a-z]+"), "enum"),
        (with_parameter(type="int"), "strings alone"),
        (with_parameter(enum=None, pattern="(?i)x"), "pattern that is none"),
        (with_parameter(default="test"), "required or secret"),
        (with_parameter(default="other", required=False), "no value of it"),
        (with_parameter(enum=None, type="bool", default="yes", required=False), "written otherwise"),
        (with_parameter(enum=None, type="int", default="1e3", required=False), "no value of it"),
    ],
)
def test_what_no_client_compiled(fields, told):
    with pytest.raises(RunvoyError, match=told) as refused:
        playbooks.check([msgspec.structs.replace(WHOLE, **fields)])
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert len(refused.value.message) < 2_000


def test_a_pattern_of_somebody_else_is_read_and_never_matched():
    """One that takes for ever would take the deployment with it."""
    slow = Parameter(name="x", pattern="(a+)+b", default="a" * 5_000)
    playbooks.check([CompiledPlaybook(name="p", command="true", parameters=(slow,))])


@pytest.mark.parametrize(
    ("parameter", "text", "told"),
    [
        (STAGE, "test", ""),
        (STAGE, "dev", "must be test or prod"),
        (STAGE, "", "must be test or prod"),
        (NOTE, "", ""),
        (NOTE, "a\0", "holds a NUL character"),
        (Parameter(name="n", type="int"), "", ""),
        (Parameter(name="n", type="int", required=True), "", "whole number"),
        (Parameter(name="n", type="int"), "007", "whole number"),
        (Parameter(name="n", type="int"), "-0", "whole number"),
        (Parameter(name="n", type="int"), "-12", ""),
        (Parameter(name="n", type="int"), "9" * 19, "whole number"),
        (Parameter(name="p", pattern="[a-z]{2,3}"), "abc", ""),
        (Parameter(name="p", pattern="[a-z]{2,3}"), "abcd", "as a whole"),
        (Parameter(name="p", pattern=".."), "é", ""),  # by bytes, as grep does
        (Parameter(name="b", type="bool"), "YES", ""),
        (Parameter(name="b", type="bool"), "maybe", "must be true or false"),
    ],
)
def test_values(parameter, text, told):
    why = parameter.objection(parameter.exact(text))
    assert told in why
    assert bool(why) == bool(told)
