"""The page's module of playbooks against the command line's: the same values are right, and the request is the very same."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runvoy_cli.playbooks import compiling, reader
from runvoy_protocol import requests
from runvoy_protocol.playbooks import Parameter

DOCS = Path(__file__).parents[2] / "docs" / "playbooks"
GIVEN = {
    "database-restore": {"database": "shop", "day": "2030-01-31", "jobs": "8"},
    "image-build": {"service": "api", "tag": "1.4.2", "build_arg": "a=b\nc 'd' \"e\" é $(x)"},
    "log-query": {"service": "web", "text": "-- 😀"},
    "rolling-restart": {"namespace": "shop", "deployment": "cart-api", "undo": "no"},
    "secret-rotation": {"service": "api", "value": "correct horse"},
    "terraform": {"action": "apply"},
}
ID = "019ab1c2d3e47f0089abcdef01234567"


@pytest.mark.parametrize("name", GIVEN)
def test_the_page_s_request_is_the_command_line_s(module_page: Any, name: str) -> None:
    path = DOCS / f"{name}.yml"
    playbook = reader.read(name, path, path.read_text())
    wanted = compiling.to_request(playbook, playbook.values_of(GIVEN[name]))
    published = msgspec.json.encode(compiling.compiled(playbook, "host:~/x")).decode()
    script = """async ([published, given, id, now]) => {
      const [values, envelope, bytes] = await Promise.all(
        ["playbook_values", "envelope", "bytes"].map((name) => import(`/web/${name}.js`)));
      const playbook = JSON.parse(published);
      const found = values.valuesOf(playbook, new Map(Object.entries(given)));
      const request = values.requestOf(playbook, found.values, { deploymentId: "dep", requestId: id, now });
      return [found.problems, bytes.toBase64(envelope.encodeRunRequest(request))]; }"""
    problems, encoded = module_page.evaluate(script, [published, GIVEN[name], ID, 1_770_091_506_789])
    made = requests.decode(base64.b64decode(encoded))
    assert problems == []
    of_the_call = {"deployment_id": "dep", "request_id": ID, "issued_at": made.issued_at, "expires_at": made.expires_at}
    assert made == msgspec.structs.replace(wanted, **of_the_call)
    assert made.expires_at - made.issued_at == timedelta(minutes=15)
    known = compiling.pin(playbook)
    assert requests.playbook_digest(made, known.parameters) == known.digest


PARAMETERS = [
    Parameter(name="a"),
    Parameter(name="a", required=True),
    Parameter(name="a", default="x"),
    Parameter(name="a", enum=("test", "prod"), required=True),
    Parameter(name="a", enum=("test", "prod")),
    Parameter(name="a", type="int", required=True),
    Parameter(name="a", type="int"),
    Parameter(name="a", type="bool", required=True),
    Parameter(name="a", type="bool"),
    *(
        Parameter(name="a", pattern=pattern, required=True)
        for pattern in (
            *(
                "[a-z0-9.-]+",
                "..",
                "a|bc|d",
                "(ab){2,3}",
                "[^a-z]*",
                "x*",
                "a.c",
                r"1\.4",
                "[0-9]{4}-[0-9]{2}",
                "[-a]",
                "[a-]",
            ),
            *(
                "(a|ab)(c|bcd)(d*)",
                ".{2,4}",
                "[$^.]+",
                r"\$\(x\)",
                "[a-zA-Z0-9_.-]+(/[a-z]+)?",
                "(a?){3}",
                "a{1}b",
                "[ /:]+",
                "(a+)+b",
                "(a|a)*b",
                "((a?)?)",
                "x{2,}|a*",
            ),
        )
    ),
]
TEXTS = [
    "",
    "a",
    "x",
    "ab",
    "abab",
    "ababab",
    "abcd",
    "abc",
    "bc",
    "test",
    "TEST",
    "prod ",
    "0",
    "-1",
    "-0",
    "007",
    "1e3",
    "١",
]
TEXTS += [
    "9" * 18,
    "9" * 19,
    "true",
    "Yes",
    "off",
    "2",
    "constructor",
    "é",
    "😀",
    "\n",
    "a\n",
    "a\r",
    "a\u2028",
    "a\0b",
    "1.4",
    "1x4",
]
TEXTS += ["2030-01", "-", "$(x)", "a c", "a/b", "$^.", "b", " /:", "aaa", "aaaa", "a\\c"]


def test_the_same_values_are_right_in_the_same_words(module_page: Any) -> None:
    script = """async ([parameters, texts]) => {
      const { exact, objection } = await import("/web/playbook_values.js");
      return parameters.map((parameter) => texts.map((text) => objection(parameter, exact(parameter, text)))); }"""
    told = module_page.evaluate(script, [[msgspec.to_builtins(one) for one in PARAMETERS], TEXTS])
    wanted = [[one.objection(one.exact(text)) for text in TEXTS] for one in PARAMETERS]
    for parameter, found, right in zip(PARAMETERS, told, wanted, strict=True):
        assert dict(zip(TEXTS, found, strict=True)) == dict(zip(TEXTS, right, strict=True)), parameter


def test_what_is_missing_and_what_has_a_default(module_page: Any) -> None:
    script = """async ([parameters, given, withoutSecrets]) => {
      const { valuesOf } = await import("/web/playbook_values.js");
      return valuesOf({ parameters }, new Map(Object.entries(given)), withoutSecrets); }"""
    parameters = [
        {"name": "stage", "enum": ["test"], "required": True},
        {"name": "who", "required": True},
        {"name": "copies", "type": "int", "default": "2"},
        {"name": "token", "required": True, "secret": True},
        {"name": "note"},
    ]
    found = module_page.evaluate(script, [parameters, {"copies": "x"}, False])
    assert found["problems"] == [
        ["stage", "is needed: it must be test"],
        ["who", "is needed"],
        ["copies", "must be a whole number such as 42 or -1, of 18 digits at most"],
        ["token", "is needed"],
    ]
    found = module_page.evaluate(script, [parameters, {"stage": "test", "who": "", "token": "s3cret"}, True])
    assert found == {"values": {"stage": "test", "who": "", "copies": "2", "token": "", "note": ""}, "problems": []}
