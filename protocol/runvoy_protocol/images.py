"""Registered images: what runs may use, by name, and the bodies of the routes about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.instants import Instant

PLATFORMS = ("linux/arm64", "linux/amd64")
MAX_REFERENCE_LENGTH = 512
MAX_NAME_LENGTH = 500
"""Of what an image is registered as. It stands in its place in an index twice, and DynamoDB takes no place over 1,024 bytes."""

MAX_DESCRIPTION_LENGTH = 512
MAX_TASK_ROLE_LENGTH = 512

# The grammar of the distribution specification: [HOST[:PORT]/]PATH[:TAG][@DIGEST].
_HOST_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"{_HOST_PART}(?:\.{_HOST_PART})*(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,})?\Z"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]*\Z")

_Size = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class RegisterImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST images: register an image under a name (its reference, without one), or replace what is registered under it.

    `cpu` is in units (1,024 are one vCPU). `is_default` None leaves it as it is whether runs without an image use this one.
    `version` is that of the image seen under the name, 0 for none: CONFLICT if it is not that any more.
    """

    reference: str
    name: str | None = None
    cpu: _Size | None = None
    memory_mib: _Size | None = None
    platform: str | None = None
    task_role: str | None = None
    is_default: bool | None = None
    description: str = ""
    version: int = 0


class ImageAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registered image. `version` rises with each change; at most one image of a deployment is the default."""

    name: str
    reference: str
    registered_by: str
    registered_at: Instant
    updated_by: str
    updated_at: Instant
    version: int
    is_default: bool = False
    cpu: int | None = None
    memory_mib: int | None = None
    platform: str | None = None
    task_role: str | None = None
    description: str = ""


class ImagesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET images, by name."""

    images: tuple[ImageAnswer, ...]


def check(image: RegisterImage) -> None:
    """INVALID_REQUEST, naming every problem, for what no deployment would register."""
    problems = list(_problems(image))
    if problems:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            "; ".join(problems[:5]),
            "An image is written [HOST/]PATH[:TAG][@DIGEST], for example docker.io/hashicorp/terraform:1.9.",
        )


def _problems(image: RegisterImage) -> Iterator[str]:
    if len(image.reference) > MAX_REFERENCE_LENGTH or not _REFERENCE.match(image.reference):
        yield f"{image.reference[:128]!r} is no reference of an image"
    if image.name is not None and not is_image_name(image.name):
        yield f"{image.name[:128]!r} is no name for an image (letters, digits and ._/:@+-)"
    elif len(image.name or image.reference) > MAX_NAME_LENGTH:
        yield f"{(image.name or image.reference)[:128]!r}… is over {MAX_NAME_LENGTH} characters: register it under a shorter name"
    if image.platform is not None and image.platform not in PLATFORMS:
        yield f"the platform must be {' or '.join(PLATFORMS)}, not {image.platform[:64]!r}"
    if image.task_role is not None and not _is_text(image.task_role, MAX_TASK_ROLE_LENGTH, least=1):
        yield "the task role is empty, too long or not printable"
    if not _is_text(image.description, MAX_DESCRIPTION_LENGTH):
        yield f"the description is over {MAX_DESCRIPTION_LENGTH} characters or not printable"


def is_image_name(text: str) -> bool:
    """Whether an image can be registered under this name; each reference is such a name."""
    return len(text) <= MAX_REFERENCE_LENGTH and _NAME.match(text) is not None


def _is_text(text: str, most: int, least: int = 0) -> bool:
    return least <= len(text) <= most and text.isprintable()


def short_names(reference: str) -> frozenset[str]:
    """What a reference may be called for short: its trailing path components, with or without tag and digest.

    `docker.io/hashicorp/terraform:1.9` is `terraform`, `terraform:1.9`, `hashicorp/terraform`, … and itself.
    """
    plain, at, digest = reference.partition("@")
    head, slash, last = plain.rpartition("/")
    last, colon, tag = last.partition(":")
    endings = {"", colon + tag, at + digest, colon + tag + at + digest}
    components = (head + slash + last).split("/")
    paths = ["/".join(components[start:]) for start in range(len(components))]
    return frozenset(path + ending for path in paths for ending in endings)
