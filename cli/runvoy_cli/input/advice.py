"""Hints that name a field of a run request, in the words of the place where the request was written.

A hint has the field as request files have it, in backticks: `timeout`, `isolation: process`, `params: {stage: …}`. So it is right
as it stands for a file, a line of a bulk and any other client; where the command line made the request, these are options.
"""

from __future__ import annotations

import re

_REPEATED = {"secrets": "--secret", "locks": "--lock", "env": "--env", "labels": "--label", "params": "--param"}
_SINGLE = (
    *("image", "if_locked", "timeout", "queue_timeout", "cpu", "memory", "git_repo", "git_ref", "git_path"),
    *("name", "id", "isolation"),
)
OPTIONS = {field: f"--{field.replace('_', '-')}" for field in _SINGLE} | _REPEATED
_FIELD = re.compile(rf"`({'|'.join(OPTIONS)})(?:: (?:\{{([^`{{}}]+)\}}|([^`{{}}\[\]]+)))?`")


def in_options(hint: str) -> str:
    """The hint with the options of `runvoy run` in place of the fields."""
    return _FIELD.sub(_as_options, hint)


def _as_options(found: re.Match[str]) -> str:
    field, pairs, value = found.groups()
    option = OPTIONS[field]
    if pairs is not None:
        return "`" + " ".join(f"{option} {pair.replace(': ', '=', 1)}" for pair in pairs.split(", ")) + "`"
    return f"`{option} {value}`" if value is not None else f"`{option}`"
