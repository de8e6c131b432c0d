"""A playbook's text: what is one, and what is told of what is none. The schema for editors judges the same texts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import reader
from runvoy_cli.playbooks.reader import BadPlaybook
from runvoy_protocol.requests import GitSource

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "playbook.schema.json").read_text())
WHOLE = """\
description: Everything there is
image: alpine
commands:
  - echo ${{ word }}
  - [printf, "%s", "${{ word }}", 1, true, ""]
env: {PLAIN: yes, NUMBER: 1.10, EMPTY: "", MADE: "<${{ word }}>"}
secrets: [a, b]
locks: [prod]
timeout: 1h30m
cpu: 0.5
memory: 2g
git_repo: https://git.example.com/r
git_ref: main
git_path: infra
labels: {team: data, word: "${{ word }}", run: 7}
parameters:
  word: {description: A word, pattern: "^[a-z]+$"}
  stage: {enum: [test, prod, 3], default: test}
  count: {type: int, default: 3}
  sure: {type: bool, required: false}
  token: {secret: true}
  bare:
"""


def read(text):
    return reader.read("demo", Path("demo.yml"), text)


def problems(text):
    with pytest.raises(BadPlaybook) as caught:
        read(text)
    return caught.value.problems


def validator():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_every_field():
    found = read(WHOLE)
    assert (found.description, found.image) == ("Everything there is", "alpine")
    assert found.fixed_env == {"PLAIN": "yes", "NUMBER": "1.10", "EMPTY": ""}
    assert found.exports == {"MADE": "'<'\"${PARAM_WORD}\"'>'"}
    assert (found.secrets, found.locks, found.timeout_seconds) == (("a", "b"), ("prod",), 5400)
    assert (found.cpu, found.memory_mib) == (512, 2048)
    assert found.git == GitSource("https://git.example.com/r", "main", "infra")
    assert found.labels == {"team": "data", "word": "${{ word }}", "run": "7"}
    assert found.commands[0].source == "echo ${{ word }}"
    assert found.commands[1].source == ("printf", "%s", "${{ word }}", "1", "true", "")
    parameters = found.parameters
    assert {name: one.required for name, one in parameters.items()} == {
        "word": True,
        "stage": False,
        "count": False,
        "sure": False,
        "token": True,
        "bare": True,
    }
    assert parameters["word"].pattern == "[a-z]+"
    assert parameters["stage"].enum == ("test", "prod", "3")
    assert (parameters["count"].default, parameters["sure"].default, parameters["token"].secret) == ("3", None, True)


RIGHT = {
    "all": WHOLE,
    "least": "commands: [make]",
    "list of words": "commands: [[make, test]]",
    "block": "commands:\n  - |\n    a\n    b\n",
    "seconds": "commands: [a]\ntimeout: 600\ncpu: 1024\nmemory: 512",
    "no parameters": "commands: [a]\nparameters: {}",
    "byte order mark": "\ufeffcommands: [a]",
    "comments": "# x\ncommands: [a] # y\n",
    "placeholder in a description": "description: 'x ${{ y }}'\ncommands: [a]",
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_right_to_the_schema_too(name):
    read(RIGHT[name])
    validator().validate(yaml.safe_load(RIGHT[name].lstrip("\ufeff")))


# Text, the place and what is told of the problem; whether the schema can see it, too.
WRONG = [
    ("", (1, 1), "`commands` is missing", True),
    ("[a]", (1, 1), "`name: value` pairs are expected", True),
    ("description: x", (1, 1), "`commands` is missing", True),
    ("commands: []", (1, 11), "a list of one command or more", True),
    ("commands: make", (1, 11), "a list of one command or more", True),
    ("commands:\n  - {run: x}", (2, 5), "a command must be text", True),
    ("commands:\n  - ''", (2, 5), "a command is empty", True),
    ("commands:\n  -\n  - a", (2, 4), "a command is empty", True),
    ("commands:\n  - [-x]", (2, 5), "first word must be a program", True),
    ("commands:\n  - [a, {b: c}]", (2, 9), "a word of a command must be text", True),
    ("commands: [a]\ncomands: [b]", (2, 1), "has no 'comands'", True),
    ("commands: [a]\ntimeout: soon", (2, 10), "'soon' is no duration", False),
    ("commands: [a]\ntimeout: 8d", (1, 1), "timeout_seconds must be from 1", False),
    ("commands: [a]\ncpu: lots", (2, 6), "no amount of CPU", False),
    ("commands: [a]\nmemory: 1.001g", (2, 9), "no whole number of MiB", False),
    ("commands: [a]\nmemory: 1m", (1, 1), "memory_mib must be from 64", False),
    ("commands: [a]\nimage: [x]", (2, 8), "image must be text", True),
    ("commands: [a]\nimage:", (2, 7), "image is empty", True),
    ("commands: [a]\nlocks: {}", (2, 8), "locks must be a name or a list", True),
    ("commands: [a]\nlocks: ['a b']", (2, 9), "'a b' is no valid name", True),
    ("commands: [a]\nlocks: [x, y, x]", (2, 15), "'x' stands here a second time", True),
    (f"commands: [a]\nlocks: {list('abcdefghi')}", (2, 8), "9 locks are named; at most 8", True),
    ("commands: [a]\nenv: {1A: x}", (2, 7), "no name for an environment variable", True),
    ("commands: [a]\nenv: {RUNVOY_A: x}", (2, 7), "reserved", True),
    ("commands: [a]\nenv: {PARAM_A: x}", (2, 7), "are the parameters", True),
    ("commands: [a]\nenv: {A: }", (2, 10), "the value of A is empty", True),
    ("commands: [a]\nenv: {A: [x]}", (2, 10), "the value of A must be text", True),
    ("commands: [a]\nlabels: {'a b': x}", (2, 10), "no label's name", True),
    (f"commands: [a]\nlabels: {{a: {'x' * 257}}}", (2, 13), "over 256 characters", True),
    ("commands: [a]\ngit_path: ../up", (1, 1), "git_path", False),
    ("commands: [a]\ngit_repo: -x", (1, 1), "begins with a dash", False),
    ("commands: [a]\nimage: 'x:${{ a }}'\nparameters: {a: }", (2, 11), "no parameter can stand here", True),
    ("commands: [a]\nlocks: ['x-${{ a }}']\nparameters: {a: }", (2, 12), "no parameter can stand here", True),
    ("commands: [a]\nparameters: [x]", (2, 13), "`name: value` pairs are expected", True),
    ("commands: [a]\nparameters: {X: }", (2, 14), "no parameter's name", True),
    ("commands: [a]\nparameters: {x: string}", (2, 17), "`name: value` pairs are expected", True),
    ("commands: [a]\nparameters: {x: {typ: int}}", (2, 18), "has no 'typ'", True),
    ("commands: [a]\nparameters: {x: {type: text}}", (2, 24), "type is 'text'", True),
    ("commands: [a]\nparameters: {x: {enum: a}}", (2, 24), "enum must be a list", True),
    ("commands: [a]\nparameters: {x: {enum: []}}", (2, 24), "enum must be a list", True),
    ("commands: [a]\nparameters: {x: {enum: [a, a]}}", (2, 24), "enum lists one value twice", True),
    ("commands: [a]\nparameters: {x: {type: int, enum: [1]}}", (2, 35), "for strings alone", True),
    ("commands: [a]\nparameters: {x: {type: bool, pattern: a}}", (2, 39), "for strings alone", True),
    ("commands: [a]\nparameters: {x: {enum: [a], pattern: a}}", (2, 38), "says nothing more", True),
    ("commands: [a]\nparameters: {x: {pattern: '\\d'}}", (2, 27), "write [0-9]", False),
    ("commands: [a]\nparameters: {x: {enum: [a], default: b}}", (2, 38), "must be a, not 'b'", False),
    ("commands: [a]\nparameters: {x: {enum: [a], default: ''}}", (2, 38), "must be a, not ''", False),
    ("commands: [a]\nparameters: {x: {pattern: a+, default: ''}}", (2, 40), "must match a+", False),
    ("commands: [a]\nparameters: {x: {type: int, default: 1x}}", (2, 38), "whole number", False),
    ("commands: [a]\nparameters: {x: {type: bool, default: 2}}", (2, 39), "must be true or false", False),
    ("commands: [a]\nparameters: {x: {secret: true, default: b}}", (2, 41), "a secret parameter has no default", True),
    ("commands: [a]\nparameters: {x: {required: true, default: b}}", (2, 28), "is never missing", True),
    ("commands: [a]\nparameters: {x: {required: maybe}}", (2, 28), "must be true or false", True),
    ("commands: [a]\nparameters: {x: {secret: true}}\nlabels: {a: '${{ x }}'}", (3, 14), "x is secret", False),
    ("commands: [a]\nlabels: {a: '${{ x }}'}", (2, 14), "no parameter 'x'", False),
    ("commands: [a]\nparameters: {x: }\nenv: {PATH: '${{ x }}'}", (3, 13), "decides what code runs", False),
    ("commands: [a]\nenv: {A: '1 ${{ x }}'}", (2, 13), "no parameter 'x'", False),
    ("parameters: {x: }\ncommands:\n  - echo '${{ x }}'", (3, 11), "in single quotes", False),
    ("parameters: {x: }\ncommands:\n  - |\n    echo hi\n    echo '${{ x }}'", (5, 11), "in single quotes", False),
    ("parameters: {x: }\ncommands:\n  - >-\n    echo ${{ x }}\n    '${{ x }}'", (5, 6), "in single quotes", False),
    ('parameters: {x: }\ncommands:\n  - "echo ä \\"é\\" \'${{ x }}\'"', (3, 20), "in single quotes", False),
    ("parameters: {x: }\ncommands:\n  - [sh, -c, 'a ${{ x }}']", (3, 17), "a shell takes", False),
]


def test_misspelt_commands_are_one_mistake():
    (only,) = problems("comands: [a]")
    assert (only.place, only.hint.startswith("Did you mean 'commands'?")) == ((1, 1), True)


@pytest.mark.parametrize(("text", "place", "told", "seen"), WRONG)
def test_what_is_wrong_is_told_with_its_place(text, place, told, seen):
    found = problems(text)
    assert any(told in one.text and one.place == place for one in found), found
    assert validator().is_valid(yaml.safe_load(text)) != seen


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("commands: [a", (2, 1), "no valid YAML"),
        ("commands: [a]\ncommands: [b]", (2, 1), "'commands' stands here a second time"),
        ("commands: [a]\nenv: {A: 1, A: 2}", (2, 13), "'A' stands here a second time"),
        ("commands: &x [a]", (1, 11), "anchors (&x)"),
        ("commands: [a]\nenv: *x", (2, 6), "aliases (*x)"),
        ("commands: !!python/tuple [a]", (1, 11), "tags (tag:yaml.org,2002:python/tuple)"),
        ("commands: [!!str a]", (1, 12), "tags (tag:yaml.org,2002:str)"),
        ("commands: [! a]", (1, 12), "tags (!)"),
        ("commands: [a]\nenv:\n  <<: {A: b}", (3, 3), "no name for an environment variable"),
        ("commands: [a]\n---\ncommands: [b]", (2, 1), "no valid YAML"),
        ("commands: [a]\n? [x]\n: y", (2, 3), "a name is expected here"),
        (f"commands: {'[' * 2000}", (1, 26), "nests too deep"),
        (f"commands: [a]\ndescription: {'x' * 65_536}", (1, 1), "over 65,536 characters"),
        ('commands: ["a\\0b"]', (1, 12), "holds a NUL character"),
        ("commands: [a\x07]", (1, 1), "not allowed"),
        ("commands: [a]\nlabels: {x: ${{ y }}}", (2, 17), "no valid YAML"),
        ("commands:\n\t- a", (2, 1), "a tab stands here"),
        ("commands: [a]\nenv:\n \tA: b", (3, 1), "a tab stands here"),
        ("commands: [a]\n---\ncommands: [b]", (2, 1), "a second document begins here"),
        ("commands:\n  - 'x\n  - b", (3, 6), "a quoted text that begins in line 2 does not end"),
        ("commands:\n  - echo a: b: c", (2, 12), "a text with `: ` in it needs quotes"),
        ("commands: [@x]", (1, 12), "a text that begins with this character needs quotes"),
        ("commands:\n  - a\n b: c", (3, 2), "not indented as what it belongs to"),
        ("commands: [a\nenv: {}", (2, 4), "the list that begins in line 1 does not end with ]"),
        ("commands: [a]\nenv: {A: b\nlabels: {}", (3, 7), "the mapping that begins in line 2 does not end with }"),
    ],
)  # fmt: skip
def test_no_yaml_of_the_plain_sort(text, place, told):
    found = problems(text)
    assert any(told in one.text for one in found), found
    if "not allowed" not in told or "(" in told:
        assert found[0].place[0] == place[0], found


def test_every_problem_is_listed_in_the_order_of_the_file():
    text = (
        "desciption: x\ntimeout: soon\ncommands:\n  - echo ${{ nmae }} '${{ name }}'\nparameters: {name: {typ: int}}\n"
    )
    with pytest.raises(BadPlaybook) as caught:
        read(text)
    head, *lines = caught.value.message.splitlines()
    assert head == "the playbook demo has 5 problems:"
    assert [line.partition(": ")[0] for line in lines] == [
        "demo.yml, line 1, column 1",
        "demo.yml, line 2, column 10",
        "demo.yml, line 4, column 10",
        "demo.yml, line 4, column 23",
        "demo.yml, line 5, column 21",
    ]
    assert "Did you mean 'description'?" in lines[0]
    assert "Did you mean 'name'?" in lines[2]
    assert "Did you mean 'type'?" in lines[4]
    assert [problem["line"] for problem in caught.value.details["problems"]] == [1, 2, 4, 4, 5]  # type: ignore[attr-defined]


def test_a_placeholder_in_a_flow_of_braces_is_told_to_be_quoted():
    [problem] = problems("commands: [a]\nlabels: {x: ${{ y }}}")
    assert problem.hint == "Put a value with ${{ … }} in quotes."


# --- values -------------------------------------------------------------------------------------------------------------


def test_values_of_parameters():
    found = read(WHOLE)
    assert found.values_of({"word": "abc", "token": "t\n", "bare": "", "sure": "Yes", "count": "-7"}) == {
        "word": "abc",
        "stage": "test",
        "count": "-7",
        "sure": "true",
        "token": "t\n",
        "bare": "",
    }


@pytest.mark.parametrize(
    ("given", "told", "hint"),
    [
        (
            {},
            "needs the parameters word, token, bare",
            "Give `params: {word: …, token: …, bare: …}`; word must match",
        ),
        ({"wrod": "x"}, "no parameter 'wrod'", "Did you mean 'word'"),
        ({"word": "A"}, r"word must match \[a-z\]\+ as a whole, not 'A'", "A word"),
        ({"stage": "tset"}, "stage must be test or prod or 3, not 'tset'", ""),
        ({"count": "1.5"}, "count must be a whole number", ""),
        ({"count": "007"}, "count must be a whole number", ""),
        ({"sure": "maybe"}, "sure must be true or false", ""),
        ({"word": ""}, "word must match", ""),
        ({"count": ""}, "count must be", ""),
        ({"bare": "a\0b"}, "bare holds a NUL", ""),
    ],
)
def test_values_that_are_none(given, told, hint):
    with pytest.raises(UsageProblem, match=told) as caught:
        read(WHOLE).values_of(given)
    assert hint in caught.value.hint


def test_a_secret_value_is_never_shown():
    found = read("commands: [a]\nparameters: {token: {secret: true, pattern: '[a-z]+'}}")
    with pytest.raises(UsageProblem) as caught:
        found.values_of({"token": "S3CRET"})
    assert "S3CRET" not in caught.value.message + caught.value.hint
