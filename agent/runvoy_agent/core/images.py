"""Which image a run uses, and what it may be: names, Fargate's sizes, task roles."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from runvoy_agent.core.model import Image
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.images import short_names
from runvoy_protocol.requests import RunRequest

MOST_NAMED = 10
_LIKENESS = 0.5
_COMPARED_CHARACTERS = 48
_GIB = 1024


def _gib(first: int, last: int, step: int = 1) -> range:
    return range(first * _GIB, last * _GIB + 1, step * _GIB)


FARGATE_SIZES: Mapping[int, Sequence[int]] = {
    256: (512, 1024, 2048),
    512: _gib(1, 4),
    1024: _gib(2, 8),
    2048: _gib(4, 16),
    4096: _gib(8, 30),
    8192: _gib(16, 60, 4),
    16384: _gib(32, 120, 8),
}
"""The memory in MiB that goes with each number of CPU units: what a task on Fargate can have."""


DEFAULT_SIZE = (256, 512)
"""CPU units and MiB of memory of what asks for neither: the least that Fargate has."""


class Registered(NamedTuple):
    """What is known of a deployment's images: those that a request may mean, and the default one."""

    images: tuple[Image, ...] = ()
    default: Image | None = None


class Choice(NamedTuple):
    """The image of a run: as it is registered, or a bare reference."""

    reference: str
    image: Image | None

    @property
    def name(self) -> str | None:
        return None if self.image is None else self.image.name


def choose(request: RunRequest, registered: Registered, *, may_use_any: bool) -> Choice | None:
    """The image that a request runs in; None if it is to run in none, or names none and there is no default.

    IMAGE_NOT_FOUND if what it names is not registered, unless the member may use any image.
    """
    if request.isolation == "process":
        return None
    if request.image is None:
        default = registered.default
        return None if default is None else Choice(default.reference, default)
    found = _meant(request.image, registered.images)
    if len(found) == 1:
        return Choice(found[0].reference, found[0])
    if not found and may_use_any:
        return Choice(request.image, None)
    raise not_found(request.image, registered.images)


def resolve(asked: str, images: Collection[Image]) -> Image:
    """The image that is meant by a name, a reference or a short form of one; IMAGE_NOT_FOUND if it is none or several."""
    found = _meant(asked, images)
    if len(found) != 1:
        raise not_found(asked, images)
    return found[0]


def _meant(asked: str, images: Collection[Image]) -> list[Image]:
    """Those that `asked` may mean: the one of that name; if there is none, those of that reference; else those that it is short
    for."""
    return (
        [image for image in images if image.name == asked]
        or [image for image in images if image.reference == asked]
        or [image for image in images if asked in short_names(image.reference)]
    )


def not_found(asked: str, images: Collection[Image]) -> RunvoyError:
    """The error for a text that means no registered image, or several; it names which may have been meant."""
    several = _meant(asked, images)
    if len(several) > 1:
        return RunvoyError(
            ErrorCode.IMAGE_NOT_FOUND,
            f"the image {asked[:128]!r} may be {_listed(image.name for image in several)}",
            "Give the name of one of them.",
        )
    if not images:
        return RunvoyError(
            ErrorCode.IMAGE_NOT_FOUND,
            f"no image is registered as {asked[:128]!r}, nor is any other",
            "An operator or an admin registers images: `runvoy images register`.",
        )
    nearest = _nearest(asked, images)
    told = f"; the nearest: {', '.join(nearest)}" if nearest else ""
    return RunvoyError(ErrorCode.IMAGE_NOT_FOUND, f"no image is registered as {asked[:128]!r}{told}")


def _nearest(asked: str, images: Collection[Image]) -> list[str]:
    """The names of at most three images that are spelled much like what was asked for: by name, by reference, or by its last
    part.

    Only the last characters are compared, because the time that it takes grows with the square of the length.
    """
    spelled: dict[str, str] = {}
    for image in sorted(images, key=lambda image: image.name):
        last = image.reference.partition("@")[0].rpartition("/")[2]
        for text in (image.name, image.reference, last, last.partition(":")[0]):
            spelled.setdefault(text.lower()[-_COMPARED_CHARACTERS:], image.name)
    end = asked.lower()[-_COMPARED_CHARACTERS:]
    matches = difflib.get_close_matches(end, spelled, n=2 * MOST_NAMED, cutoff=_LIKENESS)
    return list(dict.fromkeys(spelled[match] for match in matches))[:3]


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    told = ordered[:MOST_NAMED]
    if len(ordered) > MOST_NAMED:
        told.append(f"{len(ordered) - MOST_NAMED} more")
    return " or ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def size_of_run(request: RunRequest, image: Image | None, *, on_fargate: bool) -> tuple[int | None, int | None]:
    """CPU units and MiB of memory of a run in a container: what it asks for, over what the image is registered with; on
    Fargate the default of both, if neither says."""
    cpu = request.cpu if request.cpu is not None or image is None else image.cpu
    memory_mib = request.memory_mib if request.memory_mib is not None or image is None else image.memory_mib
    if not on_fargate:
        return cpu, memory_mib
    return DEFAULT_SIZE if cpu is None and memory_mib is None else fargate_size(cpu, memory_mib)


def fargate_size(cpu: int | None, memory_mib: int | None) -> tuple[int | None, int | None]:
    """The size, completed where one half is missing: the least memory of the CPU, the least CPU for the memory. None of
    both stays so. INVALID_REQUEST, with the valid choices, for what Fargate does not have."""
    if cpu is None:
        return (None, None) if memory_mib is None else (_least_cpu(memory_mib), memory_mib)
    choices = FARGATE_SIZES.get(cpu)
    if choices is None:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"cpu must be one of {', '.join(map(str, FARGATE_SIZES))} units (1,024 are one vCPU), not {cpu}",
            "Give one of these, as on Fargate.",
        )
    if memory_mib is None:
        return cpu, choices[0]
    if memory_mib not in choices:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"with cpu {cpu} memory must be {_memory_text(choices)}, not {memory_mib} MiB",
            "Give one of these, as on Fargate, or another cpu.",
        )
    return cpu, memory_mib


def _least_cpu(memory_mib: int) -> int:
    for cpu, choices in FARGATE_SIZES.items():
        if memory_mib in choices:
            return cpu
    every = sorted({choice for choices in FARGATE_SIZES.values() for choice in choices})
    below = [choice for choice in every if choice < memory_mib][-1:]
    above = [choice for choice in every if choice > memory_mib][:1]
    raise RunvoyError(
        ErrorCode.INVALID_REQUEST,
        f"no cpu goes with {memory_mib} MiB of memory; the nearest that one goes with: "
        f"{' and '.join(f'{choice} MiB' for choice in below + above)}",
        "Give one of these, as on Fargate.",
    )


def _memory_text(choices: Sequence[int]) -> str:
    if not isinstance(choices, range):
        return f"{', '.join(map(str, choices[:-1]))} or {choices[-1]} MiB"
    return f"{choices[0] // _GIB} to {choices[-1] // _GIB} GiB in steps of {choices.step // _GIB}"


def task_role_of(asked: str | None, allowed: Collection[str]) -> str | None:
    """The ARN of the task role that is meant: by its ARN or, of those that the deployment hands out, by its name, with or
    without its path. INVALID_REQUEST, with the choices, where that is none or several."""
    if asked is None or asked in allowed:
        return asked
    meant = sorted(arn for arn in allowed if asked in _names_of_role(arn))
    if len(meant) > 1:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"{asked[:128]!r} is the name of several task roles: {', '.join(meant)}",
            "Give the ARN of the one that is meant.",
        )
    if not meant:
        check_task_role(asked, allowed)
    return meant[0]


def _names_of_role(arn: str) -> tuple[str, ...]:
    """`team/deploy` and `deploy` of arn:aws:iam::123456789012:role/team/deploy."""
    _, _, with_path = arn.partition(":role/")
    return (with_path, with_path.rpartition("/")[2]) if with_path else ()


def check_task_role(task_role: str | None, allowed: Collection[str]) -> None:
    """INVALID_REQUEST, with the valid choices, for a role that the deployment does not hand to tasks."""
    if task_role is None or task_role in allowed:
        return
    if not allowed:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"this deployment has no task roles, so no image can have {task_role[:128]!r}",
            "Leave --task-role out.",
        )
    raise RunvoyError(
        ErrorCode.INVALID_REQUEST,
        f"the task role must be one of {', '.join(sorted(allowed))}, not {task_role[:128]!r}",
        "An admin adds roles to the deployment.",
    )
