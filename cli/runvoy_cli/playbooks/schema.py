"""The JSON Schema of playbooks, for editors: docs/playbook.schema.json, made by docs/generate.py.

It says what can be said of a value without knowing the others; `runvoy playbook show` says the rest.
"""

from __future__ import annotations

from runvoy_cli.playbooks.reader import FIELDS, PARAMETER_FIELDS, TYPES
from runvoy_protocol.patterns import MAX_LENGTH
from runvoy_protocol.playbooks import MAX_PARAMETERS
from runvoy_protocol.requests import MAX_LABELS, MAX_LOCKS, MAX_SECRETS

_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}$"
# Names that the reader refuses: what the deployment reserves, and the parameters' own.
_VARIABLE_PATTERN = "^(?!RUNVOY_|ECS_|AWS_CONTAINER_|PARAM_)[A-Za-z_][A-Za-z0-9_]{0,254}$"


def schema() -> dict[str, object]:
    """The schema as a JSON document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runvoy playbook",
        "type": "object",
        "additionalProperties": False,
        "required": ["commands"],
        "properties": {field: _PROPERTIES[field] for field in FIELDS},
        "$defs": {"text": _TEXT, "value": _VALUE, "parameter": _parameter()},
    }


def _parameter() -> dict[str, object]:
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {field: _PARAMETER_PROPERTIES[field] for field in PARAMETER_FIELDS},
        "allOf": [
            {"if": {"required": [field]}, "then": {"properties": {"type": {"const": "string"}}}}
            for field in ("enum", "pattern")
        ]
        + [
            {"not": {"type": "object", "required": ["enum", "pattern"]}},
            *(
                {"not": {"type": "object", "required": ["default", flag], "properties": {flag: {"const": True}}}}
                for flag in ("secret", "required")
            ),
        ],
    }


def _names(most: int, what: str) -> dict[str, object]:
    name = {"type": ["string", "number", "boolean"], "pattern": _NAME_PATTERN}
    several = {"type": "array", "maxItems": most, "uniqueItems": True, "items": name}
    return {"description": what, "anyOf": [name, several]}


def _text(what: str) -> dict[str, object]:
    return {"description": what, "$ref": "#/$defs/text"}


def _fixed(what: str) -> dict[str, object]:
    return {**_text(what), "not": {"type": "string", "pattern": r"\$\{\{"}}


# What stands there is text, whatever YAML takes it for: `1.10`, `yes` and `2026-01-31` are fine without quotes.
_VALUE: dict[str, object] = {"type": ["string", "number", "boolean"]}
_TEXT: dict[str, object] = {"type": ["string", "number", "boolean"], "pattern": r"\S"}

_PROPERTIES: dict[str, dict[str, object]] = {
    "description": _text("What it does, in a line."),
    "image": _fixed("The image to run in; without it the deployment's default."),
    "commands": {
        "description": "Run one after another, up to the first that fails: a line for /bin/sh, or a list of words.",
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [
                {"$ref": "#/$defs/text"},
                {
                    "type": "array",
                    "minItems": 1,
                    "prefixItems": [{"$ref": "#/$defs/text", "not": {"type": "string", "pattern": "^-"}}],
                    "items": {"$ref": "#/$defs/value"},
                },
            ]
        },
    },
    "env": {
        "description": "Variables for the commands. A value may have ${{ parameter }} in it.",
        "type": "object",
        "propertyNames": {"pattern": _VARIABLE_PATTERN},
        "additionalProperties": {"$ref": "#/$defs/value"},
    },
    "secrets": _names(MAX_SECRETS, "Secrets to put into the commands' environment."),
    "locks": _names(MAX_LOCKS, "Locks to hold while it runs; all are taken at once."),
    "timeout": _fixed("The deadline of all commands together: 30s, 10m, 1h30m, or seconds. 10m without it."),
    "cpu": _fixed("vCPUs, like 0.5 or 2, or units like 512 (1,024 a vCPU)."),
    "memory": _fixed("Memory, like 512m or 2g, or MiB: 512."),
    "git_repo": _fixed("A repository to clone first; the commands run in it."),
    "git_ref": _fixed("The branch, tag or full SHA to check out."),
    "git_path": _fixed("The folder of the repository to run in."),
    "labels": {
        "description": "Labels to find its executions by. A value may have ${{ parameter }} in it.",
        "type": "object",
        "maxProperties": MAX_LABELS,
        "propertyNames": {"pattern": _NAME_PATTERN},
        "additionalProperties": {"$ref": "#/$defs/value", "maxLength": 256},
    },
    "parameters": {
        "description": "What the caller chooses: --param NAME=VALUE. The commands have it as ${{ name }} and $PARAM_NAME.",
        "type": "object",
        "maxProperties": MAX_PARAMETERS,
        "propertyNames": {"pattern": "^[a-z][a-z0-9_]{0,63}$"},
        "additionalProperties": {"$ref": "#/$defs/parameter"},
    },
}
_PARAMETER_PROPERTIES: dict[str, dict[str, object]] = {
    "type": {"description": "What a value must be; string without it.", "enum": list(TYPES)},
    "description": _text("What it is for, in a line."),
    "enum": {
        "description": "Every value there is.",
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"$ref": "#/$defs/text"},
    },
    "pattern": {**_text("A POSIX extended regular expression for the whole value."), "maxLength": MAX_LENGTH + 2},
    "default": {"description": "The value if none is given.", "$ref": "#/$defs/value"},
    "required": {"description": "Whether one must be given; true without a default.", "type": "boolean"},
    "secret": {"description": "Whether its value is hidden where runvoy shows requests.", "type": "boolean"},
}
