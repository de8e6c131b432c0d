"""What `just bundle` made and the wheel carries: the template, the functions' code, and what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from runvoy_protocol.errors import ErrorCode, RunvoyError

FOLDER = Path(__file__).parent / "bundle"
TEMPLATE = "template.json"
CODE = "functions.zip"
MANIFEST = "bundle.json"


class Bundle(NamedTuple):
    """`template` is the text as it is uploaded."""

    version: str
    architecture: str
    python: str
    template: str
    code: bytes


def load(folder: Path = FOLDER) -> Bundle:
    """The bundle of this installation; UNAVAILABLE if it was installed without one."""
    manifest = json.loads(_read(folder / MANIFEST))
    return Bundle(
        version=manifest["version"],
        architecture=manifest["architecture"],
        python=manifest["python"],
        template=load_template(folder),
        code=_read(folder / CODE),
    )


def load_template(folder: Path = FOLDER) -> str:
    return _read(folder / TEMPLATE).decode()


def parameters_of(template: str) -> dict[str, dict[str, Any]]:
    """The template's parameters by name, as it declares them."""
    declared: dict[str, dict[str, Any]] = json.loads(template)["Parameters"]
    return declared


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"this installation has no bundle to deploy: {path} is missing",
            "Install a released wheel, or run `just bundle` in a checkout.",
        ) from error
